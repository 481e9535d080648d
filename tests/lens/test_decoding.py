"""Measures of texts and of draws, against slow twins, and what must hold of them."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gptlab.config import SampleConfig
from gptlab.generate.generate import tokens
from gptlab.lens import decoding
from gptlab.model.transformer import build
from gptlab.presets import preset

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("name", "settings", "length"),
    [
        ("gptlab-cpu", {"context": 16}, 60),  # learned positions, past the context several times
        ("gptlab-fables", {"context": 7}, 30),
        ("gptlab-cpu", {"context": 1, "n_layers": 1}, 5),
        ("glm-mini", {"context": 32, "bridge": (38, 39)}, 12),
        ("t5-mini", {"context": 24, "bridge": (38, 39)}, 20),
    ],
)
def test_reading_is_as_in_writing(name: str, settings: dict[str, Any], length: int) -> None:
    """A text's log-probabilities are those that it was drawn by, token by token and with a cache, in any architecture;
    however many logits are held at once."""
    model = build(preset(name, vocab_size=40, **settings), seed=3).eval()
    begun = np.random.default_rng(0).integers(0, 38, (3, 9))
    steps = list(tokens(model, begun, SampleConfig(tokens=length, temperature=1.3, seed=1), n=3, bias={}))
    ids, logprobs = (torch.stack(parts, 1).numpy() for parts in zip(*steps, strict=True))
    found, entropies = decoding.read(model, begun, ids)
    np.testing.assert_allclose(found, logprobs, atol=2e-5)
    assert ids.shape == (3, length) and (entropies > 0).all() and (entropies <= math.log(40) + 1e-5).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "AT_ONCE", 1)
        np.testing.assert_allclose(decoding.read(model, begun, ids)[0], found, atol=1e-5)


def test_no_room() -> None:
    """An encoder-decoder has one window; a text that is longer is refused."""
    model = build(preset("t5-mini", vocab_size=40, context=8)).eval()
    with pytest.raises(ValueError, match="can go on for 8, not 9"):
        decoding.read(model, np.zeros((1, 4), int), np.zeros((1, 9), int))


def test_entropy() -> None:
    """ln V of equal logits, 0 of one, and scipy's of any; what is cut counts as nothing."""
    logits = torch.tensor([[1.0, 1, 1, 1], [0, -math.inf, -math.inf, -math.inf], [0.3, -1, 2, -math.inf]])
    expected = [math.log(4), 0.0, stats.entropy(logits[2].softmax(0).numpy())]
    np.testing.assert_allclose(decoding.entropy(logits).numpy(), expected, atol=1e-6)


@given(ids=IDS, n=st.integers(1, 4))
def test_distinct_and_repeated(ids: list[int], n: int) -> None:
    """As counted one by one: how many n-grams are different, and how many stood there before."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    before = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert decoding.distinct(ids, n) == pytest.approx(len(Counter(grams)) / len(grams) if grams else 1)
    assert decoding.repeated(ids, n) == pytest.approx(before / len(grams) if grams else 0)


@given(ids=IDS)
def test_loop_is_the_shortest(ids: list[int]) -> None:
    """As found by trying every start and period; nothing is found where there is nothing."""
    found = decoding.loop(ids, times=2, least=4)
    loops = [
        (period, start)
        for period in range(1, len(ids))
        for start in range(len(ids) - max(2 * period, 4) + 1)
        if all(ids[i] == ids[i - period] for i in range(start + period, len(ids)))
    ]
    assert (None if found is None else (found.period, found.start)) == min(loops, default=None)


def test_a_planted_loop() -> None:
    """A unit without inner repetition, gone through three times and a half behind other tokens, is found as it is; in
    two and a half it is not yet one."""
    unit, head = list(range(10, 20)), [1, 2, 3, 4, 19]
    # The head's last token is the unit's: the loop begins there.
    assert decoding.loop(head + unit * 3 + unit[:5]) == decoding.Loop(4, 10, 3.6)
    assert decoding.loop([1, 2] + unit * 2 + unit[:5]) is None
    assert decoding.loop([7] * 11) is None and decoding.loop([7] * 12) == decoding.Loop(0, 1, 12.0)


def test_distance() -> None:
    """0 from the corpus to itself, 1 where each mean lies one spread away; a measure without spread does not count."""
    corpus = np.random.default_rng(0).normal(size=(50, 4)) * [1, 10, 0.1, 0] + 3
    assert decoding.distance(corpus, corpus) == pytest.approx(0)
    assert decoding.distance(corpus + corpus.std(0, ddof=1) + [0, 0, 0, 9], corpus) == pytest.approx(1)


def test_by_chance() -> None:
    """Two sets of N independent pieces of one text are sqrt(2 / N) apart: as a root mean square of many trials."""
    draws = np.random.default_rng(1).normal(size=(2, 2000, 16, 3))
    apart = [decoding.distance(a, b, np.ones(3)) for a, b in zip(*draws, strict=True)]
    assert np.sqrt(np.mean(np.square(apart))) == pytest.approx(math.sqrt(2 / 16), rel=0.05)


def test_nearest() -> None:
    """Of settings that are ever farther off, the planted one is the nearest, in nearly all rounds; the same again."""
    draws = np.random.default_rng(2).normal(size=(30, 3))
    written = np.stack([draws + shift for shift in (2.0, 1.0, 0.1, -1.0)])
    found = decoding.nearest(written, draws)
    assert found.best == 2 and found.plausible[2] > 0.99 and found.plausible.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.distances, np.abs([2, 1, 0.1, -1]) / draws.std(0, ddof=1).mean(), rtol=0.1)
    assert (found.low <= found.distances + 1e-9).all() and (found.distances <= found.high + 1e-9).all()
    np.testing.assert_array_equal(found.plausible, decoding.nearest(written, draws).plausible)


def test_chi_squared() -> None:
    """Without rare tokens it is scipy's; with them, those expected fewer than five times are one cell, which the next
    likeliest joins where they are too few."""
    counts = np.array([30, 14, 34, 22])
    theirs = stats.chisquare(counts, [25] * 4)
    assert decoding.fit(counts, np.full(4, 0.25)) == (pytest.approx(theirs.statistic), 4, pytest.approx(theirs.pvalue))
    rare = decoding.fit(np.array([60, 30, 1, 9]), np.array([0.5, 0.4, 0.04, 0.06]))
    # Expected are 50, 40, 6 and 4: the 4 take in the 6, and are 10.
    joined = stats.chisquare([60, 30, 10], [50, 40, 10])
    assert rare == (pytest.approx(joined.statistic), 3, pytest.approx(joined.pvalue))
    assert decoding.fit(np.array([100, 0]), np.array([0.99, 0.01])) is None


def test_p_values() -> None:
    """Draws by the probabilities give p-values spread evenly from 0 to 1; draws by others do not."""
    rng, p = np.random.default_rng(3), np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01])
    fits = [decoding.fit(counts, p) for counts in rng.multinomial(5000, p, size=400)]
    assert stats.kstest([fit.p for fit in fits if fit], "uniform").pvalue > 0.01
    wrong = decoding.fit(rng.multinomial(5000, p[::-1]), p)
    assert wrong is not None and wrong.p < 1e-6


def test_deviations() -> None:
    """Of ones and zeros in turn: none in blocks of two, half a share in blocks of one."""
    draws = np.tile([0, 1], 50)
    np.testing.assert_allclose(decoding.deviations(draws, np.array([0.5, 0.5]), [1, 2, 4]), [0.5, 0, 0])
