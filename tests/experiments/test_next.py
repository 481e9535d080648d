"""What is said of the next token is so: against the model's own loss, and against what the grammar of fables says."""

import csv
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.experiments.next import lines, middle, read
from gptlab.text.fables import SEPARATOR, Fables, corpus
from gptlab.text.fables.expectation import Tales, true_tokens
from gptlab.text.tokenizer import prompt_ids
from gptlab.training.evaluate import story_nats
from tests.experiments.conftest import conducted


@pytest.mark.parametrize("kind", ["chars", "pieces", "t5", "glm"])
def test_its_numbers(kind: str, of_kind: Any) -> None:
    """The exact surprisal of what was predicted is that of its characters by the grammar, and decisions sum up to it;
    a model with two halves is asked the second alone, which begins between two words; and what a decoder pays is what
    the evaluation of whole stories says."""
    lab = of_kind(kind)
    conducted(lab, "next")
    found = np.load(lab.run.section_path("next") / "next.npz")
    given, text = int(found["given"]), lab.tokenizer.decode(found["ids"])
    before = lab.tokenizer.decode(found["ids"][:given])
    langs = corpus.languages(lab.run.train_config.corpus)
    assert next(corpus.stories(langs, first=corpus.FIRST_VALIDATION)).text.startswith(text)
    assert (given > 0) == (lab.config.category != "causal") and (not given or text[len(before)] == " ")

    readers = list(Tales.of(langs).start().read(text))
    nats = [-math.log(reader.next[c]) for reader, c in zip(readers, text, strict=False)]
    assert found["true_nats"].sum() == pytest.approx(sum(nats[len(before) :]), abs=1.0)
    exact = true_tokens(Tales.of(langs), text, lab.tokenizer)
    assert np.allclose(found["true_nats"], exact.nats[-len(found["true_nats"]) :])
    with (lab.run.section_path("next") / "decisions.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    tokens, true, paid = (sum(float(row[column]) for row in rows) for column in (1, 2, 3))
    assert tokens == len(found["ids"]) - given
    assert true == pytest.approx(found["true_nats"].sum(), abs=0.005 * len(rows))
    assert paid == pytest.approx(found["nats"].sum(), abs=0.005 * len(rows))
    assert rows[-1][0] == "what is certain" and float(rows[-1][2]) == 0
    assert np.allclose(np.exp(-found["nats"]), found["p"])
    if not given:
        assert found["nats"].sum() == pytest.approx(paid_for(lab, found["ids"]), rel=1e-4)


def paid_for(lab: Any, ids: Any) -> float:
    """Nats of a story's tokens, read behind what the model was trained to begin with, by the function that evaluates
    models."""
    separator = prompt_ids(lab.tokenizer, SEPARATOR)
    lead = separator[-1:] if lab.run.train_config.starts == "blank-lines" else separator
    row = torch.tensor(np.concatenate([lead, ids, separator]).astype(np.int64))
    with torch.inference_mode():
        logits = lab.model(row[None, :-1])[0].double()
    behind = F.cross_entropy(logits[-len(separator) :], row[-len(separator) :], reduction="sum")
    return story_nats(lab.model, [ids], separator, lead) - float(behind)


def test_texts_of_ones_own(of_kind: Any) -> None:
    """A fable has its truth, whoever wrote it down; another text has none, and that is said, with the place."""
    lab = of_kind("pieces")
    own = read(lab, next(Fables("en", seed=99))[0][:30].rpartition(" ")[0])
    assert own.truth is not None and own.why == "" and len(own.truth.rows[-1]) > 1
    section = conducted(lab, "next", text="Once upon a midnight dreary")
    said = [block["text"]["en"] for block in section["blocks"] if block["kind"] == "text"]
    assert any("not the beginning of a fable" in text and "position 7" in text for text in said)
    assert any("What comes after the text" in text for text in said)
    with pytest.raises(ValueError, match="longer one with --text"):
        read(of_kind("chars"), "")


@pytest.mark.parametrize("columns", [1, 7, 20, 80])
def test_lines(columns: int) -> None:
    """Whatever the width: every letter of every token stands somewhere, once, in order, within its line; and a word
    that fits is not broken."""
    tokens = [
        "Once",
        "␣there",
        "␣was",
        "␣a",
        "␣tor",
        "toise",
        ",",
        "↵",
        "↵",
        "␣",
        "␣",
        "incom",
        "prehensibilities",
        ".",
    ]
    placed = lines(tokens, columns)
    told = [""] * len(tokens)
    last = (-1, 0)
    for at, line, column, piece in placed:
        assert (line, column) >= last and column + len(piece.rstrip("↵")) <= columns
        last = (line, column + len(piece))
        told[at] += piece
    for token, shown in zip(tokens, told, strict=True):
        assert shown.replace(" ", "") == token.replace("␣", "")
    rows = {at: {line for number, line, _, piece in placed if number == at and piece} for at in range(len(tokens))}
    if columns >= 8:
        assert rows[4] == rows[5] and len(rows[4]) == 1


def test_the_middle() -> None:
    """The break between words that is nearest to half of the text; of a text without any, half its letters."""
    assert middle("one two three four") == 7 and middle("one twothreefourfive") == 3
    assert middle("abcdefgh") == 4 and middle("ab cd") == 2
