"""The attention experiment: its numbers against the model's own patterns, its page, and one head beside many."""

import base64
import csv
import shlex
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gptlab import lab
from gptlab.experiments import attention, base
from gptlab.experiments.options import EXPERIMENTS, Attention
from gptlab.lab import Lab
from gptlab.lens.trace import trace
from gptlab.model.transformer import build
from gptlab.text import tokenizer as tokenizers
from tests.experiments.conftest import KINDS, SMALL, conducted, page_data


def rows_of(loaded: Lab, name: str) -> list[dict[str, str]]:
    with (loaded.run.section_path("attention") / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def patterns_of(loaded: Lab) -> dict[str, np.ndarray]:
    """The patterns of the text that the experiment read, (L, H, T, S), from another pass over its ids."""
    with np.load(loaded.run.section_path("attention") / "patterns.npz") as kept:
        ids, source = kept["ids"], kept.get("source_ids")
    extra = max(0, len(loaded.config.bridge) - 1)
    if source is not None:
        first = max(1, len(loaded.config.bridge))  # the bridge, or one beginning
        read = trace(loaded.model, loaded.tokenizer, source[: len(source) - extra], ids[first:])
        stacks = {"encoder": read.encoder.pattern, "decoder": read.pattern, "cross": read.cross_pattern}
        return {kind: np.stack(stack) for kind, stack in stacks.items()}
    if loaded.config.bridge:
        at = int(np.flatnonzero(ids == loaded.config.bridge[0])[0])
        return {"decoder": np.stack(trace(loaded.model, loaded.tokenizer, ids[:at], ids[at + extra + 1 :]).pattern)}
    return {"decoder": np.stack(trace(loaded.model, loaded.tokenizer, ids).pattern)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_the_models(of_kind: Any, kind: str) -> None:
    """Of every kind of model: patterns kept, bytes in the page and measures in the tables are what the model computes,
    and the roles are counted from them."""
    loaded = of_kind(kind)
    section = conducted(loaded, "attention", text=None, other=None)
    patterns, data, measured = patterns_of(loaded), page_data(loaded.run, "attention"), rows_of(loaded, "heads")
    assert list(patterns) == [some["kind"] for some in data["kinds"]]

    whole = np.frombuffer(zlib.decompress(base64.b64decode(data["packed"])), np.uint8)
    start = 0
    for some in data["kinds"]:
        pattern = patterns[some["kind"]]
        assert tuple(some["shape"]) == pattern.shape and len(some["queries"]) == pattern.shape[2]
        assert len(some["keys"]) == pattern.shape[3]
        byte = whole[start : start + pattern.size].reshape(pattern.shape)
        start += pattern.size
        np.testing.assert_allclose((byte / 255) ** 2, pattern, atol=1.01 / 255)
        # The rule by which the page leaves cells white.
        T, S = pattern.shape[2:]
        row, column = np.mgrid[:T, :S]
        seen = (column <= row) | (column < some["prefix"]) if some["back"] else np.ones((T, S), bool)
        assert ((pattern > 0) == seen).all()
    assert start == len(whole)

    now = [row for row in measured if row["model"] == "trained"]
    assert len(now) == len(measured) / 2 == sum(pattern[:, :, 0, 0].size for pattern in patterns.values())
    for row in now:
        pattern = patterns[row["heads"]][int(row["layer"]) - 1, int(row["head"]) - 1].astype(float)
        T, S = pattern.shape
        queries = [i for i in range(T) if (pattern[i] > 0).sum() > 1]
        nats = [-(pattern[i] * np.log(np.where(pattern[i] > 0, pattern[i], 1))).sum() for i in queries]
        assert float(row["entropy"]) == pytest.approx(np.mean(nats), rel=1e-4)
        if row["heads"] != "cross":
            before = [pattern[i, i - 1] for i in queries if i]
            assert float(row["previous"]) == pytest.approx(np.mean(before), rel=1e-4)

    counts = {"sharp": ("evenness", lambda x: x <= 0.5), "broad": ("evenness", lambda x: x >= 0.9)}
    counts |= {name: (name, lambda x: x >= 0.5) for name in ("previous", "first", "own", "next", "induction")}
    table = next(block for block in section["blocks"] if block["kind"] == "table" and len(block["rows"]["en"][0]) == 6)
    names = {base.Words("attention", "en")(f"role_{role}"): role for role in counts}
    expected = {}
    for one in table["rows"]["en"]:
        role_name, _, of = one[0].partition(" (")
        measure, fits = counts[names[role_name]]
        group = {"encoder": "encoder", "cross-attention": "cross"}.get(of.rstrip(")"), "decoder")
        for model, told in (("trained", one[2]), ("untrained", one[3])):
            values = [float(r[measure]) for r in measured if r["model"] == model and r["heads"] == group]
            expected[one[0], model] = (told, sum(map(fits, values)))
    assert expected and all(told == found for told, found in expected.values())


def test_the_control_is_the_beginning(of_kind: Any) -> None:
    """What the run is compared with are the very weights that its training began with."""
    loaded = of_kind("chars")
    first = loaded.run.snapshot(0)["embedding"]
    assert torch.equal(base.untrained(loaded).model.embedding, first)
    assert not torch.equal(loaded.model.embedding, first)


def test_one_head_beside_many(of_kind: Any, folder: Path, tmp_path: Path) -> None:
    """The command that the section gives trains the same model with one head, and --with puts the two side by side:
    their own losses, and that nothing else differs."""
    loaded = of_kind("chars")
    [train, look] = [row["command"] for row in rows_of_try(loaded)]
    words = shlex.split(train)
    assert words[:2] == ["gptlab", "train"] and words[words.index("--n-heads") + 1] == "1"
    assert "--with" in look and words[words.index("--out") + 1] == f"runs/{look.rpartition(' ')[2]}"
    out = folder / "one-head"
    if not out.exists():
        text, settings = KINDS["chars"]
        lab.train(text, out=out, **{**SMALL, **settings}, n_heads=1)
    section = base.Section("attention", tmp_path, "en")
    attention.tell_rival(
        loaded, attention.compared(loaded, lab.load(out, device="cpu")), section, "Era uma vez um rato."
    )
    [table] = [block["rows"]["en"] for block in section.blocks if block["kind"] == "table"]
    for row, run in zip(table, (loaded.run, lab.Run(out)), strict=True):
        best = min(record["val_loss"] for record in run.metrics() if "val_loss" in record)
        assert row[0] == run.name and row[1] == run.model_config.n_heads and row[4] == pytest.approx(best)
        assert row[1] * row[2] == run.model_config.d_model and row[5] == pytest.approx(best / np.log(2))
    told = "\n".join(block["text"]["en"] for block in section.blocks if block["kind"] == "text")
    assert "All other settings are the same" in told and (tmp_path / "rival.png").is_file()

    # The other way round it is the many heads that a command is given for.
    [train, _] = [row["command"] for row in rows_of_try(lab.load(out, device="cpu"))]
    assert "--n-heads" not in train


def rows_of_try(loaded: Lab) -> list[dict[str, str]]:
    """The table of commands; a section of its own is made for it, without figures."""
    section = base.Section("attention", loaded.run.path, "en")
    attention.tell_how(loaded, section)
    (loaded.run.path / "try.csv").unlink()
    [table] = [block for block in section.blocks if block["kind"] == "table"]
    return [dict(zip(table["head"]["en"], row, strict=True)) for row in table["rows"]["en"]]


def test_what_does_not_compare(of_kind: Any) -> None:
    """Models of two kinds, and a text with nothing to choose between, are the user's mistakes, and leave no section."""
    loaded = of_kind("chars")
    with pytest.raises(ValueError, match="encoder-decoder"):
        base.conduct("attention", loaded, lang="en", text=None, other=str(of_kind("t5").run.path))
    with pytest.raises(ValueError, match="longer one"):
        base.conduct("attention", loaded, lang="en", text="a", other=None)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="no tokens"):
        warnings.simplefilter("ignore")
        base.conduct("attention", loaded, lang="en", text="", other=None)


def test_verdicts_follow_the_numbers(of_kind: Any) -> None:
    """Where heads have a role, they are named with their values, the clearest first; where none has, the nearest is."""
    loaded = of_kind("chars")
    text = "Era uma vez um rato."
    found = attention.looked(loaded, text, None)
    section = base.Section("attention", loaded.run.path, "en")
    for values, entry in (([[0.2, 0.1], [0.3, 0.25]], "none"), ([[0.2, 0.75], [0.5, 0.9]], "some")):
        measured = {"decoder": {**found.measured["decoder"], "previous": np.array(values)}}
        attention.tell_role(section, "previous", attention.Looked(found.heads, measured), found)
        said = section.blocks[-1]["text"]
        assert ("L2H1" in said["en"] and "30%" in said["en"]) == (entry == "none")
        if entry == "some":
            assert "3 of 4, namely L2H2 (90%), L1H2 (75%), L2H1 (50%)." in said["en"]
            assert "L2H2 (90 %)" in said["fr"].replace("\N{NO-BREAK SPACE}", " ")


def test_no_room_for_induction(of_kind: Any, tmp_path: Path) -> None:
    """An imported model of a tiny context has no training to repeat and no test of induction, and still a section."""
    loaded = of_kind("chars")
    config = loaded.config.but(context=7)
    run = lab.Run.create(tmp_path / "tiny", config, loaded.tokenizer)
    run.save_weights(build(config))
    section = conducted(lab.load(run.path, device="cpu"), "attention", text="abc", other=None)
    told = "\n".join(block["text"]["en"] for block in section["blocks"] if block["kind"] == "text")
    assert "no test for induction" in told and "random weights" in told and "--n-heads" not in str(section)


@pytest.mark.parametrize("text", ["éé", "aéa", "🙂🙂🙂", "ab🙂", "plain text"])
def test_a_text_is_never_cut_within_a_character(text: str) -> None:
    """What an encoder reads and what a decoder foretells are, together, the text, though tokens are single bytes."""
    tokenizer = tokenizers.train("bpe", ["aaaa"], 256)
    seen: list[str] = []
    trace = lambda first, second, names: seen.extend([first, second])  # noqa: E731
    shape = SimpleNamespace(category="encoder-decoder")
    base.traced(SimpleNamespace(config=shape, tokenizer=tokenizer, trace=trace), text)  # type: ignore[arg-type]
    assert "".join(seen) == text and len(seen[0]) >= 1


def test_its_options() -> None:
    """--with is the name on the command line of what Python cannot call so."""
    assert EXPERIMENTS["attention"] is Attention
    assert Attention(other="runs/one").other == "runs/one"
