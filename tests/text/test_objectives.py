"""What is asked of a window: nothing of the text is lost, nothing is given away, and all rows fit the context."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.registry import OBJECTIVES
from gptlab.text.batches import generator
from gptlab.text.objectives import (
    DENSITY,
    IGNORED,
    LEAST,
    USUAL,
    BlankInfilling,
    Continuation,
    NextToken,
    SpanCorruption,
    chosen,
    hidden,
)
from gptlab.text.tokenizer import special_id, train

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(objective: type, category: str, context: int):
    return train("char", [LETTERS], None, objective.specials(category, context))


def rows(context: int, seed: int, count: int = 3) -> np.ndarray:
    return generator(seed, "rows").integers(0, len(LETTERS), (count, context + 1))


contexts = st.integers(LEAST, 70)
seeds = st.integers(0, 10_000)


def test_next_token() -> None:
    """Each token is foretold from those before it."""
    text = rows(9, 0)
    batch = NextToken()(text, generator(0))
    assert np.array_equal(batch.ids, text[:, :-1]) and np.array_equal(batch.targets, text[:, 1:])
    assert batch.source is None and batch.prefix is None


@settings(max_examples=60)
@given(context=contexts, seed=seeds)
def test_continuation_of_a_prefix(context: int, seed: int) -> None:
    """All of the window is read; of what lies behind the prefix each token is asked once, and nothing else."""
    text = rows(context, seed)
    batch = Continuation(tokenizer(Continuation, "prefix", context), "prefix")(text, generator(seed))
    assert batch.prefix is not None and len(set(batch.prefix)) == 1
    cut = batch.prefix[0]
    assert 1 <= cut <= context and np.array_equal(batch.ids, text[:, :-1])
    assert (batch.targets[:, : cut - 1] == IGNORED).all()
    assert np.array_equal(batch.targets[:, cut - 1 :], text[:, cut:])


@settings(max_examples=60)
@given(context=contexts, seed=seeds)
def test_continuation_of_a_source(context: int, seed: int) -> None:
    """The encoder's part and the decoder's are the window; the decoder reads what it foretold, one later."""
    text = rows(context, seed)
    known = tokenizer(Continuation, "encoder-decoder", context)
    batch = Continuation(known, "encoder-decoder")(text, generator(seed))
    assert batch.source is not None
    assert np.array_equal(np.concatenate([batch.source, batch.targets], 1), text)
    assert (batch.ids[:, 0] == special_id(known, "<start>")).all()
    assert np.array_equal(batch.ids[:, 1:], batch.targets[:, :-1])
    assert max(batch.source.shape[1], batch.ids.shape[1]) <= context


@settings(max_examples=120)
@given(context=contexts, seed=seeds)
def test_blank_infilling(context: int, seed: int) -> None:
    """With each blank filled by its answer, the text comes back; answers stand behind the prefix, each behind <start>,
    the last before <end>; only they are asked."""
    known = tokenizer(BlankInfilling, "prefix", context)
    mask, gmask, start, end = (special_id(known, name) for name in BlankInfilling.specials("prefix", context))
    text = rows(context, seed)
    batch = BlankInfilling(known, "prefix")(text, generator(seed))
    assert batch.prefix is not None and batch.ids.shape[1] <= context
    for row, ids, targets, prefix in zip(text, batch.ids.tolist(), batch.targets.tolist(), batch.prefix, strict=True):
        given, answered = ids[:prefix], ids[prefix:]
        assert targets == [IGNORED] * prefix + answered[1:] + [end]
        assert answered[0] == start
        answers: list[list[int]] = []
        for token in answered:
            answers.append([]) if token == start else answers[-1].append(token)
        blanks = [i for i, token in enumerate(given) if token in (mask, gmask)]
        assert len(blanks) == len(answers) and all(answers)
        assert given[-1] == gmask or gmask not in given
        filled = iter(answers)
        whole = [t for token in given for t in (next(filled) if token in (mask, gmask) else [token])]
        assert whole == row[: len(whole)].tolist()
        assert len(whole) >= context - 2 - 2 * len(blanks)  # what blanks and answers need beside the text, no more


def test_both_kinds_of_blank_occur() -> None:
    """The whole end of the text about 7 times in 10, short blanks else."""
    known = tokenizer(BlankInfilling, "prefix", 40)
    gmask, ask = special_id(known, "<gmask>"), BlankInfilling(known, "prefix")
    tails = sum(bool((ask(rows(40, 0), generator(i)).ids == gmask).any()) for i in range(1000))
    assert 650 < tails < 750


@settings(max_examples=120)
@given(context=contexts, seed=seeds)
def test_span_corruption(context: int, seed: int) -> None:
    """With each sentinel of the source replaced by the span that follows it in the targets, the window comes back."""
    known = tokenizer(SpanCorruption, "encoder-decoder", context)
    text = rows(context, seed)
    batch = SpanCorruption(known, "encoder-decoder")(text, generator(seed))
    assert batch.source is not None
    first = special_id(known, "<span0>")
    assert max(batch.source.shape[1], batch.ids.shape[1]) <= context
    assert np.array_equal(batch.ids[:, 1:], batch.targets[:, :-1])
    assert (batch.ids[:, 0] == special_id(known, "<start>")).all()
    assert (batch.targets[:, -1] == special_id(known, "<end>")).all()
    for row, source, targets in zip(text.tolist(), batch.source.tolist(), batch.targets.tolist(), strict=True):
        spans: dict[int, list[int]] = {}
        for token in targets[:-1]:
            if token >= first:
                current = spans[token] = []
            else:
                current.append(token)
        assert list(spans) == [first + i for i in range(len(spans))]
        assert [t for token in source for t in spans.get(token, [token])] == row[:-1]


@settings(max_examples=100)
@given(length=st.integers(4, 500), seed=seeds)
def test_hidden(length: int, seed: int) -> None:
    """Spans are in order and apart, something shows before each and behind the last, and how much is hidden follows
    from the length."""
    spans, again = hidden(length, generator(seed)), hidden(length, generator(seed, "other"))
    end = 0
    for first, size in spans:
        assert first > end or (end == 0 and first > 0)
        assert size > 0
        end = first + size
    assert end < length
    total = sum(size for _, size in spans)
    assert (total, len(spans)) == (sum(size for _, size in again), len(again))
    if length >= 20:
        assert abs(total - DENSITY * length) <= 0.5


@pytest.mark.parametrize("context", [LEAST, 64])
def test_the_generator_decides(context: int) -> None:
    """The same generator gives the same batch, another one another."""
    text = rows(context, 5)
    ask = SpanCorruption(tokenizer(SpanCorruption, "encoder-decoder", context), "encoder-decoder")
    batches = [ask(text, generator(seed)).targets.tolist() for seed in (1, 1, *range(2, 12))]
    assert batches[0] == batches[1] and any(batch != batches[0] for batch in batches[2:])


@pytest.mark.parametrize(("category", "usual"), USUAL.items())
def test_what_a_model_is_trained_for(category: str, usual: str) -> None:
    """Its category's own, or another that fits; one that does not fit, or a context with no room for it, is an error
    that names what would do."""
    assert chosen(None, category, 64) == usual
    for name in OBJECTIVES:
        if category in OBJECTIVES[name].categories:
            assert chosen(name, category, 64) == name
        else:
            with pytest.raises(ValueError, match=usual):
                chosen(name, category, 64)
    if usual != "next-token":
        for name in (None, usual):
            with pytest.raises(ValueError, match=f"at least {LEAST}, not 7"):
                chosen(name, category, 7)


def test_a_model_from_elsewhere_begins_with_id_0() -> None:
    """Where the tokenizer has no <start>, a continuation's decoder begins as T5's does."""
    batch = Continuation(train("char", [LETTERS]), "encoder-decoder")(rows(9, 0), generator(0))
    assert (batch.ids[:, 0] == 0).all()
