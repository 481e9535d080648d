"""The experiment on decoding: its numbers against others' computation of them, in every kind of model."""

import csv
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptlab import lab
from gptlab.config import SampleConfig
from gptlab.experiments import base, decoding
from gptlab.generate import sampling
from gptlab.lens import decoding as lens
from gptlab.model import layouts
from gptlab.run import Run
from tests.experiments.conftest import conducted

SMALL = {"prompt": "Um dia, a ", "on": None, "samples": 3, "tokens": 14}
V = 40


@pytest.fixture
def loaded(of_kind: Any, request: pytest.FixtureRequest) -> lab.Lab:
    return of_kind(request.param)


@pytest.mark.parametrize("loaded", ["chars", "pieces", "t5", "glm"], indirect=True)
def test_numbers(loaded: lab.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """argmax takes the likeliest of a plain forward pass; log-probabilities and entropies are those of that pass; the
    distance, the temperature that is told and the corpus's row follow from the measures."""
    monkeypatch.setattr(decoding, "FINE", (0.0, 0.9, 1.0, 2.0))
    section = conducted(loaded, "decoding", **SMALL)
    folder = loaded.run.section_path("decoding")
    sweep = np.load(folder / "sweep.npz")
    given, ids, names = sweep["given"], sweep["ids"], list(sweep["measures"])
    words = loaded.tokenizer.vocab_size - len(loaded.tokenizer.specials)
    assert ids.shape[:2] == (4, 3) and ids.max() < words  # no special token is drawn

    inputs = layouts.begin(loaded.config, torch.from_numpy(given))
    inputs["ids"] = torch.cat([inputs["ids"], torch.from_numpy(ids[0, :, :-1])], 1)
    with torch.inference_mode():
        logits = loaded.model(**inputs)[:, -ids.shape[2] :]
    np.testing.assert_array_equal(logits[..., :words].argmax(-1), ids[0])
    p = logits.softmax(-1).numpy()
    taken = np.take_along_axis(p, ids[0][..., None], 2)[..., 0]
    for name, expected in (
        ("logprob", np.log(taken).mean(1)),
        ("entropy", -(p * np.log(p)).sum(-1).mean(1)),
        ("distinct_1", [len(set(row)) / len(row) for row in ids[0].tolist()]),
    ):
        np.testing.assert_allclose(sweep["written"][0, :, names.index(name)], expected, rtol=1e-4)

    corpus = sweep["corpus"]
    gaps = (sweep["written"].mean(1) - corpus.mean(0)) / np.where(
        corpus.std(0, ddof=1) > 1e-12, corpus.std(0, ddof=1), np.inf
    )
    measured = (corpus.std(0, ddof=1) > 1e-12).sum()
    distances = np.sqrt((gaps**2).sum(1) / measured)
    rows = list(csv.DictReader((folder / "sweep.csv").open(encoding="utf-8")))
    assert [row["temperature"] for row in rows] == ["0", "0.9", "1", "2", "corpus"]
    np.testing.assert_allclose([float(row["distance"]) for row in rows[:-1]], distances, atol=0.006)
    assert float(rows[-1]["entropy"]) == pytest.approx(corpus[:, names.index("entropy")].mean(), abs=1e-3)
    told = " ".join(block["text"]["en"] for block in section["blocks"] if block["kind"] == "text")
    best = (0.0, 0.9, 1.0, 2.0)[int(distances.argmin())]
    assert f"It is smallest at temperature {best:.1f}, namely {distances.min():.2f}" in told

    # A distribution after the beginning, and draws from it.
    numbers, bending = np.load(folder / "numbers.npz"), np.load(folder / "bending.npz")
    np.testing.assert_allclose(numbers["probabilities"], bending["probabilities"][4], atol=1e-9)
    assert numbers["counts_multinomial"].sum() == decoding.DRAWS
    assert abs(numbers["counts_multinomial"] / decoding.DRAWS - numbers["probabilities"]).max() < 0.008
    slope = np.polyfit(np.log(numbers["sizes_choose"]), np.log(numbers["deviations_choose"]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.08)
    assert bending["probabilities"][0].max() == 1 and (np.diff(bending["entropies"]) > 0).all()


@pytest.mark.parametrize("loaded", ["chars"], indirect=True)
def test_texts_are_those_of_generate(loaded: lab.Lab) -> None:
    """From one prompt, `Lab.generate` writes what the section shows; the loop that is told is in that text."""
    writer = decoding.Writer(loaded)
    begun = writer.beginning("Um dia")
    for settings in ({"temperature": 0.0, "window": "slide"}, {"temperature": 0.7, "frequency_penalty": 0.5}):
        written = loaded.tokenizer.decode(writer.write(begun, 80, 1, **settings)[0])
        assert written == loaded.generate("Um dia", tokens=80, **settings)


@pytest.mark.parametrize("loaded", ["chars"], indirect=True)
def test_rows_do_not_touch(loaded: lab.Lab) -> None:
    """A text that goes on from its own beginning, beside others, is the one that is written alone."""
    writer = decoding.Writer(loaded)
    given = np.random.default_rng(0).integers(0, writer.vocabulary, (3, 10))
    together = writer.write(given, 60, 3, temperature=0.9, repetition_penalty=1.4)
    np.testing.assert_array_equal(
        writer.write(given[0], 60, 1, temperature=0.9, repetition_penalty=1.4)[0], together[0]
    )
    np.testing.assert_array_equal(
        writer.write(given[2], 60, 3, temperature=0.9, repetition_penalty=1.4)[2], together[2]
    )


@pytest.mark.parametrize("loaded", ["pieces"], indirect=True)
def test_pieces_of_the_corpus(loaded: lab.Lab) -> None:
    """Of a model of stories, pieces begin with the blank line before one, and fit into its context; of another text by
    --on, all of it may be read. One that is too short is refused."""
    writer = decoding.Writer(loaded)
    _, pieces, before = decoding.cut_up(writer, "fables", 6, 500)
    separator = writer.separator
    assert len(separator) and (pieces[:, : len(separator)] == separator).all()
    assert before < pieces.shape[1] <= loaded.model.context + 1
    assert len(np.unique(pieces, axis=0)) == 6


def test_too_short(of_kind: Any, tmp_path: Path) -> None:
    """A text without two pieces of that length is refused, and so are too few samples or tokens."""
    text = tmp_path / "short.txt"
    text.write_text("Era uma vez uma raposa.", encoding="utf-8")
    loaded = of_kind("chars")
    with pytest.raises(ValueError, match="short gives 23 tokens to compare with"):
        decoding.cut_up(decoding.Writer(loaded), str(text), 4, 40)
    for name, value in (("samples", 1), ("tokens", 7)):
        with pytest.raises(ValueError, match=f"--{name} must be at least"):
            base.conduct("decoding", loaded, lang="en", **{**SMALL, name: value})


def test_imported(of_kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that names no text is compared with none, and the section says so."""
    monkeypatch.setattr(decoding, "FINE", (0.0, 1.0, 2.0))
    source = of_kind("chars")
    run = Run.create(tmp_path / "imported", source.config, source.tokenizer)
    run.save_weights(source.model)
    section = conducted(lab.load(run.path, device="cpu"), "decoding", **SMALL)
    told = " ".join(block["text"]["en"] for block in section["blocks"] if block["kind"] == "text")
    assert "--on names a text" in told and "The old GPTLab found that temperature" not in told
    assert "corpus" not in np.load(run.section_path("decoding") / "sweep.npz")
    assert "distance" not in (run.section_path("decoding") / "alone.csv").read_text(encoding="utf-8")


SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.35, "top_k": 7},
    {"temperature": 2.0, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 1.3, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_computes_what_sampling_does(tmp_path: Path) -> None:
    """The page's probabilities are the sampler's, for each slider and for all together; where rare tokens are in
    groups, those of the others are still right."""
    page = (Path(base.__file__).parent / "pages" / "decoding.html").read_text(encoding="utf-8")
    found = re.search(r"^function bend\(.*?^}$", page, re.DOTALL | re.MULTILINE)
    assert found
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for size in (V, 5 * decoding.ALONE):
        logits, seen = rng.normal(size=size) * 3, rng.random(size) < 0.1
        grouped = decoding.grouping(logits, seen)
        assert sum(grouped["counts"]) == size
        for settings in SETTINGS:
            counted = torch.from_numpy(seen).double()[None]
            bent = sampling.bent(
                torch.from_numpy(logits)[None], SampleConfig(**settings), bias={}, seen=counted, written=counted
            )[0]
            p = bent.softmax(-1).numpy()
            if settings.get("temperature") == 0:
                p = np.eye(size)[int(bent.argmax())]
            expected.append(p[grouped["ids"]])
            chosen = {"temperature": 1, "top_k": None, "top_p": None, "min_p": None}
            chosen |= {"penalty": settings.get("repetition_penalty", 1)}
            chosen |= {name: value for name, value in settings.items() if name != "repetition_penalty"}
            cases.append([grouped, chosen])
    script = tmp_path / "bend.js"
    print_all = f"console.log(JSON.stringify({json.dumps(cases)}.map(([data, chosen]) => bend(data, chosen))))"
    script.write_text(f"{found[0]}\n{print_all}", encoding="utf-8")
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=True)
    for theirs, p in zip(json.loads(done.stdout), expected, strict=True):
        np.testing.assert_allclose(theirs[: len(p)], p, atol=2e-4 if len(p) > V else 2e-5)
        assert math.fsum(theirs) == pytest.approx(1)


def test_grouping_is_exact_at_temperature_1() -> None:
    """Tokens in groups keep their probability together, and each token is in one place."""
    rng = np.random.default_rng(1)
    logits, seen = rng.normal(size=9_000) * 2, rng.random(9_000) < 0.01
    grouped = decoding.grouping(logits, seen)
    odds = np.array(grouped["counts"]) * np.exp(grouped["logits"])
    alone = len(grouped["ids"])
    assert decoding.ALONE <= alone <= decoding.ALONE + seen.sum() and sum(grouped["counts"]) == 9_000
    assert set(np.flatnonzero(seen)) <= set(grouped["ids"]) and sum(grouped["seen"]) == seen.sum()
    others = np.delete(np.exp(logits), grouped["ids"]).sum()
    assert odds[alone:].sum() == pytest.approx(others, rel=1e-4)


def test_default_beginning(of_kind: Any) -> None:
    """Without a prompt, the model goes on from the validation text's beginning, where it hesitates as among ten."""
    writer = decoding.Writer(of_kind("chars"))
    begun = writer.beginning(None)
    whole = base.passage(writer.lab, None, 48)
    assert whole.startswith(writer.spelled(begun)) and len(begun) >= 4
    ids = writer.tokenizer.encode(whole)
    wanted = [abs(float(lens.entropy(writer.next(ids[:n]))) - math.log(10)) for n in range(4, len(ids))]
    assert len(begun) == 4 + int(np.argmin(wanted))
