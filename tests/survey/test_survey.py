"""The models as they are shown: the table against published facts, one model's numbers, the drawing against a real
forward pass."""

import re
import string
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import gptlab
from gptlab.config import ACTIVATIONS, NORMS, POSITIONS, RESIDUALS
from gptlab.messages import LANGUAGES, catalogue
from gptlab.model import kernels, taps
from gptlab.model.block import Block
from gptlab.model.count import count
from gptlab.model.residuals import PreNorm
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from gptlab.survey import table
from gptlab.survey.diagram import Join, draw, way_through
from gptlab.survey.fit import check_memory, fitting
from gptlab.survey.summary import Summary
from tests.test_cli import gptlab as command

MINIATURES = [name for name in SIZES if name.endswith("-mini")]
GB = 10**9


@pytest.fixture(scope="module")
def rows() -> dict[str, table.Row]:
    return {row.name: row for row in table.rows()}


# The table


def test_published(shared: Path, rows: dict[str, table.Row]) -> None:
    """Labels, numbers, what they count, and the surveyed sizes are those of the table of published facts."""
    facts = tomllib.loads((shared / "architectures.toml").read_text(encoding="utf-8"))["models"]
    named = {"nanogpt-seed-cpu": "gptlab-cpu", "nanogpt-seed-gpu": "gptlab-gpu"}
    for name, listed in facts.items():
        if name == "nanogpt-seed-gpu-shakespeare":
            continue
        row = rows[named.get(name, name)]
        published = row.published
        assert published is not None
        assert (published.label, published.parameters) == (listed["published_label"], listed["published_params"])
        assert published.counts == listed["published_counts"]
        assert row.parameters == listed["computed_params"]
        surveyed = listed["survey_row"] != "not in the table" and name != "nanogpt-seed-cpu"
        assert published.surveyed == surveyed, name


def test_what_differs_is_explained(rows: dict[str, table.Row]) -> None:
    """Where what the label counts is more than half a percent off, a note says why, in every language."""
    for row in rows.values():
        if row.published is None:
            continue
        counted = row.parameters if row.published.counts == "total" else row.non_embedding
        if abs(counted / row.published.parameters - 1) > 0.005:
            assert all(row.note(lang) for lang in LANGUAGES), row.name


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_fits_into_a_terminal(rows: dict[str, table.Row], lang: str) -> None:
    """79 columns; every model once, in a group; with --wide every number whole."""
    text = table.printed(list(rows.values()), lang, wide=False, notes=True)
    assert max(map(len, text.splitlines())) <= 79
    for name in SIZES:
        assert len(re.findall(rf"^{name}(?: |$)", text, re.MULTILINE)) == 1
    wide = table.printed(list(rows.values()), lang, wide=True, notes=False)
    assert max(map(len, wide.splitlines())) <= 220
    for row in rows.values():
        assert table.filled("{n:,}", lang, n=row.parameters) in wide


def test_the_parts_are_told(rows: dict[str, table.Row]) -> None:
    """Norm, biases and layers of models whose parts are well known."""
    assert rows["gpt2-124m"].norm[0] == "Pre LN" and rows["gpt2-124m"].bias == "yes"
    assert rows["llama-65b"].norm[0] == "Pre RMS" and rows["llama-65b"].bias == "no"
    assert rows["gptlab-gpu"].bias == "qkv" and rows["t5-11b"].layers == "24+24"
    assert (rows["opt-350m"].norm[0], rows["glm-130b"].norm[0]) == ("Post LN", "Deep LN")
    assert [rows[name].group for name in ("gptlab-cpu", "palm-540b", "glm-130b", "t5-11b", "t5-mini")] == [
        *table.GROUPS
    ]


def test_every_part_has_a_name(rows: dict[str, table.Row]) -> None:
    """What the registries know, the table can write."""
    assert set(table.POSITIONS) == set(POSITIONS) and set(table.NORMS) == set(NORMS)
    assert set(table.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(table.PLACEMENTS) == set(RESIDUALS)


# One model


def test_the_modules_hold_all_parameters() -> None:
    """Modules, each as often as its group says, have all of a model's parameters."""
    for name in [*MINIATURES, "gptlab-cpu", "opt-350m"]:
        summary = Summary(name, preset(name))
        total, times = 0, 1
        for module in summary.modules():
            if module.weights:
                total += module.parameters * (times if module.depth else 1)
            else:
                times = int(module.kind.split(" × ")[0])
        assert total == gptlab.count(preset(name)).total, name


def test_verdicts() -> None:
    """Fits; fits but for the activations; too large, and then the largest that would fit are named."""
    mini = preset("gpt2-mini")
    needed = Summary("", mini, batch=64).costs["to_train"]
    assert Summary("", mini, batch=64, memory=needed).verdict == "fits"
    assert Summary("", mini, batch=64, memory=needed - 1).verdict == "tight"
    assert Summary("", mini, memory=Summary("", mini).training.total - 1).verdict == "too_large"
    assert Summary("", mini).verdict == "unknown"
    large = Summary("", preset("palm-540b"), memory=25 * GB)
    assert large.others == fitting(25 * GB, "palm") == ("palm-mini", "gpt2-1558m")
    assert "palm-mini" in large.told("en") and "gpt2-1558m" in large.told("en")
    assert fitting(1000, "palm") == (None, None)


def test_the_memory_is_checked() -> None:
    """Training a model that cannot fit is refused with both sizes and what would fit; at the limit it is not."""
    config = preset("gpt3-175b")
    with pytest.raises(ValueError, match=r"174,604,259,328 parameters.*25\.0 GB here.*gpt3-mini or gpt2-1558m"):
        check_memory(config, 25 * GB, optimizer="muon")
    needed = Summary("", config).training.total
    check_memory(config, needed, optimizer="muon")
    check_memory(config, None, optimizer="muon")
    with pytest.raises(ValueError, match="one of your own"):
        check_memory(config, 1, optimizer="muon")
    weights = 4 * count(config).total
    check_memory(config, weights, optimizer=None)
    with pytest.raises(ValueError, match=r"needs 698\.4 GB for its weights alone.* here: take another$"):
        check_memory(config, weights - 1, optimizer=None, instead="take another")


@pytest.mark.parametrize(("batch", "length", "error"), [(0, 8, "batch"), (1, 0, "length"), (1, 65, "context of 64")])
def test_what_cannot_be_read(batch: int, length: int, error: str) -> None:
    """A batch of nothing, or a length that the model cannot read, is a ValueError."""
    with pytest.raises(ValueError, match=error):
        Summary("", preset("gpt2-mini"), batch=batch, length=length).told("en")


# The drawing


def drawn(svg: str) -> dict[str, tuple[int, ...]]:
    """The shapes in a drawing, by the names of taps; each is also written for people."""
    shapes = {}
    for group in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        texts = " ".join(text.text or "" for text in group.iter("{http://www.w3.org/2000/svg}text"))
        for entry in filter(None, group.get("data-shapes", "").split("; ")):
            name, shape = entry.split(" ", 1)
            shapes[name] = tuple(map(int, shape.split(" × ")))
            assert shape in texts or "resid_pre" in name
    return shapes


@pytest.mark.parametrize("name", [*MINIATURES, "opt-mini, as opt-350m"])
def test_the_drawing_tells_the_truth(name: str) -> None:
    """All shapes drawn, at a batch of 3 and 10 tokens, are those of a real forward pass on the CPU."""
    name, _, other = name.partition(",")
    changes: dict[str, Any] = {"d_embedding": 40, "norm_placement": "post", "final_norm": False} if other else {}
    config = preset(name, **changes)
    model, ids = build(config), torch.zeros(3, 10, dtype=torch.long)
    with torch.no_grad(), taps.record(model, kernel=kernels.reference) as found:
        model(ids, source=None if model.encoder is None else ids)
    shapes = drawn(draw(Summary(name, config, batch=3, length=10)))
    assert shapes.pop("ids") == (3, 10)
    assert shapes == {tap: tuple(found[tap].shape) for tap in shapes}
    needed = {"embed", "logits", "blocks.0.attention.pattern", "blocks.0.mlp.hidden", "blocks.0.resid_post"}
    needed |= {f"blocks.0.residual.norms.{i}" for i in range(len(model.blocks[0].residual.norms))}  # type: ignore
    assert needed <= set(shapes)


class Sandwich(PreNorm):
    """A layout that nobody has built: norms on both sides, x/2 + norm(f(norm(x)))."""

    def joined(self, x: Any, norm: Any, branch: Any) -> Any:
        return 0.5 * x + norm(branch(norm(x)))


def test_layouts_are_drawn_as_they_compute() -> None:
    """Norms, branches and sums stand where each formula has them, also in a layout of tomorrow."""

    def block(name: str) -> Block:
        with torch.device("meta"):
            model = Transformer(preset(name, n_layers=1))
        found = model.blocks[0]
        assert isinstance(found, Block)
        return found

    norm, other = "residual.norms.0", "residual.norms.1"
    pre = way_through(block("gpt2-mini"), ["f", "g"])
    assert pre == [Join(1.0, [], [[norm, "f"]]), Join(1.0, [], [[other, "g"]])]
    post = preset("gpt2-mini", norm_placement="post", n_layers=1)
    with torch.device("meta"):
        placed = Transformer(post).blocks[0]
    assert way_through(placed, ["f", "g"]) == [Join(1.0, [], [["f"]]), norm, Join(1.0, [], [["g"]]), other]  # type: ignore
    assert way_through(block("palm-mini"), ["f", "g"]) == [Join(1.0, [norm], [["f"], ["g"]])]
    alpha = 8**0.5
    assert way_through(block("glm-mini"), ["f", "g"]) == [
        norm,
        Join(alpha, [], [["f"]]),
        other,
        Join(alpha, [], [["g"]]),
    ]
    new = block("gpt2-mini")
    new.residual = Sandwich(list(new.residual.norms))  # type: ignore[arg-type]
    assert way_through(new, ["f", "g"]) == [
        Join(0.5, [], [[norm, "f", norm]]),
        Join(0.5, [], [[other, "g", other]]),
    ]


def test_kinds_of_layers_are_drawn() -> None:
    """GPT-3's banded layers are named beside the others, PanGu-alpha's query layer is drawn, T5 has two stacks."""
    gpt3 = draw(Summary("gpt3-175b", preset("gpt3-175b")))
    assert "× 48" in gpt3 and "layers 1, 3, …, 95" in gpt3 and "band of 256 tokens" in gpt3
    pangu = draw(Summary("pangu-alpha-207b", preset("pangu-alpha-207b")))
    assert "× 63" in pangu and "× 1<" in pangu and "layer 63" in pangu and "a query by position" in pangu
    t5 = drawn(draw(Summary("t5-11b", preset("t5-11b"), batch=2, length=100)))
    assert t5["encoder.blocks.0.attention.pattern"] == t5["blocks.0.cross.pattern"] == (2, 128, 100, 100)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_drawing_is_safe_and_in_every_language(lang: str) -> None:
    """It is well-formed whatever a run is called, loads nothing, and is labelled in the language asked for."""
    svg = draw(Summary('<b>&"', preset("t5-mini")), lang)
    root = ElementTree.fromstring(svg)
    assert '<b>&"' in (root.get("aria-label") or "")
    assert not re.search(r"<script|<style|href|url\(", svg)
    assert catalogue(lang, table.HERE)["decoder"] in svg


# Words and commands


def test_the_catalogues_are_in_step() -> None:
    """Each language has the same entries with the same values, and a note only for a model that exists."""

    def fields(text: str) -> list[str]:
        return sorted(f"{name}:{spec}" for _, name, spec, _ in string.Formatter().parse(text) if name)

    english = catalogue("en", table.HERE)
    for lang in LANGUAGES:
        other = catalogue(lang, table.HERE)
        assert list(other) == list(english)
        assert all(fields(text) == fields(english[entry]) for entry, text in other.items()), lang
    sources = "".join(path.read_text(encoding="utf-8") for path in table.HERE.glob("*.py"))
    said = ("part_", "mask_", "positions_")  # by f"mask_{…}"
    unused = [e for e in english if f'"{e}"' not in sources and e not in SIZES and not e.startswith(said)]
    assert set(unused) <= set(Summary("", preset("gpt2-mini")).costs) | {"fits", "tight"}


def test_commands(tmp_path: Path) -> None:
    """models and show print tables or JSON, name what is not known, and draw; a preset too large is not trained."""
    listed = command("models", "palm-540b", "--lang", "pt", cwd=tmp_path)
    assert listed.returncode == 0 and "540,36B" in listed.stdout and "52,3 bilhões" in listed.stdout
    assert "Did you mean 'palm-540b'" in command("models", "palm-540", cwd=tmp_path).stderr
    out = tmp_path / "model.svg"
    shown = command("show", "llama-mini", "--batch", "2", "--out", out, "--lang", "fr", cwd=tmp_path)
    assert shown.returncode == 0 and "833\N{NARROW NO-BREAK SPACE}408" in shown.stdout
    assert drawn(out.read_text(encoding="utf-8"))["logits"] == (2, 64, 115)
    assert "Did you mean 'llama-mini'" in command("show", "llama-min", cwd=tmp_path).stderr
    (tmp_path / "text.txt").write_text("Once upon a time there was a text of its own.\n" * 200)
    refused = command("train", "text.txt", "--preset", "palm-540b", "--context", "16", cwd=tmp_path)
    assert refused.returncode == 2 and "palm-mini" in refused.stderr and not (tmp_path / "runs").exists()
