"""The walk through a model: what it says and shows is what flows, and every step is explained in every language."""

import base64
import csv
import re
import zlib
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.experiments import base
from gptlab.experiments.anatomy import LONGEST, Explainer, cut, powered
from gptlab.experiments.base import Words, passage, traced
from gptlab.lab import Lab
from gptlab.lens import anatomy
from gptlab.lens.trace import Trace
from gptlab.messages import LANGUAGES, catalogue
from gptlab.registry import ACTIVATIONS, NORMS, POSITIONS, RESIDUALS
from tests.experiments.conftest import conducted, page_data, texts
from tests.lens.test_anatomy import MODELS, passed

TEXT = "the tired old fox"
OPTIONS: dict[str, dict[str, Any]] = {
    "chars": {"text": "era uma vez", "layer": 2},
    "pieces": {"text": TEXT, "layer": 1},
    "t5": {"text": TEXT, "layer": 2},
    "glm": {"text": TEXT, "layer": 4},
}
SECTIONS: dict[str, dict[str, Any]] = {}


def walked(of_kind: Any, kind: str) -> tuple[Lab, dict[str, Any], Trace]:
    """A run with its section, conducted once, and the trace of what it has read."""
    loaded = of_kind(kind)
    if kind not in SECTIONS:
        SECTIONS[kind] = conducted(loaded, "anatomy", **OPTIONS[kind])
    return loaded, SECTIONS[kind], traced(loaded, passage(loaded, OPTIONS[kind]["text"], LONGEST))


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_is_shown_is_what_flows(of_kind: Any, kind: str) -> None:
    """Table, CSV, NPZ and page of a section, against the tensors themselves; and the next token, against the model when
    nobody listens."""
    loaded, section, trace = walked(of_kind, kind)
    layer, folder = OPTIONS[kind]["layer"] - 1, loaded.run.section_path("anatomy")

    with (folder / "steps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["step"] in trace:
            x = trace[row["step"]].astype(float)
            lengths = np.linalg.norm(x if x.ndim == 2 else x.swapaxes(0, 1).reshape(x.shape[1], -1), axis=1)
            wanted = [lengths.mean(), lengths.min(), lengths.max(), x.mean(), x.std()]
            got = [float(row[name]) for name in ("norm_mean", "norm_min", "norm_max", "mean", "std")]
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
            assert row["shape"] == " × ".join(map(str, x.shape)) and row["dimensions"].count("×") == x.ndim - 1

    [table] = [block for block in section["blocks"] if block["kind"] == "table"]
    prefix = f"blocks.{layer}."
    own = [row for row in rows if row["step"].startswith(prefix)]
    assert [cells[0] for cells in table["rows"]["en"]] == [row["step"].removeprefix(prefix) for row in own]
    np.testing.assert_allclose([cells[2] for cells in table["rows"]["en"]], [float(row["norm_mean"]) for row in own])
    with np.load(folder / "layer.npz") as arrays:
        assert all(np.array_equal(arrays[name], trace[prefix + name]) for name in arrays.files) and arrays.files

    data, cards = page_data(loaded.run, "anatomy"), []
    for group in data["groups"]:
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(group["packed"])), "<i2")
        for card in group["cards"]:
            cards.append(card["name"])
            if "limit" in card:
                size = int(np.prod(card["kept"]))
                shown, numbers = numbers[:size].reshape(card["kept"]) / 32767 * card["limit"], numbers[size:]
                if card["name"] in trace:
                    wanted = cut(trace[card["name"]], data["columns"])
                    np.testing.assert_allclose(shown, wanted, atol=card["limit"] / 32767)
            if "terms" in card.get("sum", {}):
                total = sum(factor * value for factor, value in card["sum"]["terms"])
                assert total == pytest.approx(card["sum"]["result"], abs=1e-5)
        assert not len(numbers)
    assert cards == [row["step"] for row in rows]

    inputs = {"prefix": torch.tensor([trace.prefix])} if trace.prefix else {}
    if trace.source_ids is not None:
        inputs["source"] = torch.as_tensor(trace.source_ids)[None]
    with torch.inference_mode():
        chances = loaded.model(torch.as_tensor(trace.ids)[None], **inputs)[0, -1].double().softmax(-1)
    best = chances.topk(2)
    assert f"{100 * best.values[0]:.1f}%" in texts(section) and f"{100 * best.values[1]:.1f}%" in texts(section)
    assert [p for _, p in data["top"][-1]] == pytest.approx(chances.topk(8).values.tolist(), abs=1e-4)
    choices = float((-(chances * chances.log()).sum()).exp())
    assert f"among {choices:,.{1 if choices >= 1.5 else 2}f} equally" in texts(section)


def test_who_writes_most(of_kind: Any) -> None:
    """The branch that is named has the longest vectors, summed over layers; the stream's ends and the cosines are those
    of the tensors."""
    _, section, trace = walked(of_kind, "pieces")

    def length(x: Any) -> float:
        return float(np.linalg.norm(x, axis=-1).mean())

    first, last = length(trace.resid_pre[0]), length(trace.resid_post[-1])
    assert f"{first:.3g}" in texts(section) and f"{last:.3g}" in texts(section)
    totals = {"Attention": sum(map(length, trace.attn_out)), "The MLP": sum(map(length, trace.mlp_out))}
    most, least = sorted(totals, key=lambda name: -totals[name])
    ratio = totals[most] / totals[least]
    assert (f"{most} writes most" in texts(section)) == (ratio >= 1.15)
    cosines = [
        float(torch.cosine_similarity(torch.as_tensor(a), torch.as_tensor(x), -1).mean())
        for a, x in zip(trace.attn_out, trace.resid_pre, strict=True)
    ]
    chance = trace.embed.shape[1] ** -0.5
    mixed = min(cosines) < -chance and max(cosines) > chance
    assert (f"{min(cosines):.2f} in layer" if mixed else f"attention {np.mean(cosines):.2f}") in texts(section)
    share = (trace["blocks.0.mlp.up"] > 0).mean() * 100
    assert f"switches on {share:.0f}%" in texts(section)


@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_explained(name: str) -> None:
    """Each tap of each architecture has sentences, in all languages, filled in."""
    model, _, trace = passed(name)
    explain = Explainer(model, trace)
    words = [Words("anatomy", lang) for lang in LANGUAGES]
    for step in anatomy.walk(model, trace):
        sentences = explain(step)
        assert sentences, f"{step.name} has no explanation: write say_{step.kind} in experiments/anatomy.py"
        for one in words:
            for entry, values in sentences:
                assert "{" not in one(entry, **values)
            assert all(f"axis_{axis}" in one.entries for axis in step.axes)


def test_every_explanation_is_used() -> None:
    """Each sentence on a step is said of some architecture, and each part that can be chosen has its own."""
    entries = list(catalogue("en", base.HERE / "prose" / "anatomy"))
    used = set()
    for name in MODELS:
        model, _, trace = passed(name)
        used |= {entry for step in anatomy.walk(model, trace) for entry, _ in Explainer(model, trace)(step)}
    assert set(entries[entries.index("ids") :]) == used
    wanted = {f"norm_{name}" for name in (*NORMS, *RESIDUALS)}
    for position in POSITIONS:
        wanted.add(f"position{'' if position in ('learned', 'sinusoidal') else 's'}_{position}")
    assert wanted <= used


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_has_its_formula(activation: str) -> None:
    """The formula of an activation, computed as it is written, gives what the model computed."""
    MODELS["activation"] = ("gpt2-mini", {"activation": activation, "n_layers": 1})
    try:
        model, found, trace = passed("activation")
    finally:
        del MODELS["activation"]
    step = next(step for step in anatomy.walk(model, trace) if step.kind == "hidden")
    [(_, values)] = Explainer(model, trace)(step)
    up = found["blocks.0.mlp.up"]
    g, u = up.chunk(2, -1) if values["formula"].startswith("g") else (None, up)
    functions = {"Φ": torch.special.ndtr, "σ": torch.sigmoid, "max": lambda x, _: x.clamp(min=0), "g": g, "u": u}
    formula = re.sub(r"(\w) ([Φσ])", r"\1 * \2", values["formula"]).replace(" · ", " * ").replace("²", "**2")
    torch.testing.assert_close(eval(formula, {}, functions), found["blocks.0.mlp.hidden"], atol=2e-3, rtol=0)


def test_a_text_and_a_layer_of_ones_own(of_kind: Any) -> None:
    """A text that is given is what is read; a layer that does not exist is named with those that do."""
    loaded, section, _ = walked(of_kind, "chars")
    assert "e r a ␣ u m a ␣ v e z" in texts(section) and "Layer 2" in section["blocks"][2]["caption"]["en"]
    with pytest.raises(ValueError, match=r"from 1 to 4\b.*not 5"):
        base.conduct("anatomy", loaded, lang="en", text=None, layer=5)


def test_powers_of_ten() -> None:
    """Small numbers are written to be read in a sentence, in one piece."""
    assert [powered(x) for x in (0, 4.2e-8, 1e-12)] == ["0", "4\xa0·\xa010⁻⁸", "1\xa0·\xa010⁻¹²"]


def test_wide_tensors_are_cut() -> None:
    """Columns are cut, and of heads as many whole ones as fit, but never all."""
    assert cut(np.zeros((5, 900)), 512).shape == (5, 512) and cut(np.zeros((5, 90)), 512).shape == (5, 90)
    assert cut(np.zeros((12, 5, 64)), 512).shape == (8, 5, 64) and cut(np.zeros((12, 5, 64)), 32).shape == (1, 5, 32)
    assert cut(np.zeros(900), 512).shape == (900,)
