"""What texts and the distributions that they were drawn from are like, in numbers.

N texts side by side, G tokens that are given, T that follow, V vocabulary, K measures. Probabilities are in nats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab.model.layouts import begin
from gptlab.model.transformer import Transformer
from gptlab.text.batches import generator

Array = NDArray[Any]
MEASURES = ("distinct_1", "distinct_2", "distinct_3", "repeated_4", "logprob", "entropy")
AT_ONCE = 1 << 24  # logits: bounds memory, not the result
BLOCKS = 200  # of draws that are averaged at most


@torch.inference_mode()
def foretold(model: Transformer, given: Array, follows: Array) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, logits): what a model foretells each token of `follows` from, (n, t, V) in float32.

    given (N, G), follows (N, T). The windows are those in which `gptlab sample` writes: past the context, the newer
    half of it is read anew from position 0. So a text that was written has the logits that it was drawn from. Other
    kinds than plain decoders have one window: the text that is given, and all that follows.

    Raises ValueError where such a model has no room for T tokens.
    """
    device = model.embedding.device
    first, rest = (torch.as_tensor(np.asarray(ids, dtype=np.int64), device=device) for ids in (given, follows))
    context, before, total = model.context, first.shape[1], first.shape[1] + rest.shape[1]
    causal = model.config.category == "causal"
    if not causal and (room := context - begin(model.config, first)["ids"].shape[1] + 1) < rest.shape[1]:
        raise ValueError(f"after {before} tokens, this model can go on for {room}, not {rest.shape[1]}")
    length = min(total, context) if causal else rest.shape[1]
    at_once = max(1, AT_ONCE // (length * model.vocab_size))
    for top in range(0, len(first), at_once):
        rows = slice(top, min(top + at_once, len(first)))
        if not causal:
            inputs = begin(model.config, first[rows])
            inputs["ids"] = torch.cat([inputs["ids"], rest[rows, :-1]], 1)
            yield rows, slice(0, rest.shape[1]), model(**inputs)[:, -rest.shape[1] :].float()
            continue
        ids = torch.cat([first[rows], rest[rows]], 1)
        start, asked = max(0, before - context), before
        while asked < total:
            last = min(start + context, total - 1)  # the window ends before it, and foretells it
            logits = model(ids[:, start:last])[:, asked - 1 - start :].float()
            yield rows, slice(asked - before, last + 1 - before), logits
            start, asked = start + context + 1 - max(1, context // 2), last + 1


def entropy(logits: Tensor) -> Tensor:
    """-sum p ln p of softmax(logits) over the last dimension, in nats; -inf is a probability of 0."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def read(model: Transformer, given: Array, follows: Array) -> tuple[Array, Array]:
    """ln p of each token that follows, and the entropy of what was expected there: two arrays (N, T), in nats.

    Of the model itself, at temperature 1 and with nothing cut, however the text came about.
    """
    logprobs, entropies = np.zeros(follows.shape), np.zeros(follows.shape)
    for rows, columns, logits in foretold(model, given, follows):
        asked = torch.as_tensor(np.asarray(follows[rows, columns], dtype=np.int64), device=logits.device)
        found = logits.log_softmax(-1).gather(2, asked[..., None])[..., 0]
        logprobs[rows, columns], entropies[rows, columns] = found.cpu().numpy(), entropy(logits).cpu().numpy()
    return logprobs, entropies


def distinct(ids: Sequence[int] | Array, n: int) -> float:
    """Different n-grams over all n-grams of a text, from 0 to 1; 1 where it is shorter than n.

    Li et al. 2016, arXiv 1510.03055. It falls with the length of a text: only texts of equal length compare.
    """
    ids = np.asarray(ids)
    if len(ids) < n:
        return 1.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, n)
    return len(np.unique(grams, axis=0)) / len(grams)


def repeated(ids: Sequence[int] | Array, n: int) -> float:
    """The share of n-grams that stood in the same text before: 1 - distinct. Welleck et al. 2019, arXiv 1908.04319."""
    return 1 - distinct(ids, n)


def measures(ids: Array, logprobs: Array, entropies: Array) -> Array:
    """MEASURES of N texts, all arrays (N, T) -> (N, K): four of variety, the mean ln p, the mean entropy."""
    variety = [[distinct(row, 1), distinct(row, 2), distinct(row, 3), repeated(row, 4)] for row in ids]
    return np.column_stack([variety, logprobs.mean(1), entropies.mean(1)])


class Loop(NamedTuple):
    """A text's end that repeats itself: tokens[start:] is tokens[start : start + period], `times` times."""

    start: int
    period: int
    times: float


def loop(ids: Sequence[int] | Array, *, times: int = 3, least: int = 12) -> Loop | None:
    """The loop in which a text ends, of the shortest period; None where it ends in none.

    The period must be gone through at least `times` times, in at least `least` tokens.
    """
    ids = np.asarray(ids)
    for period in range(1, len(ids) // times + 1):
        differs = np.flatnonzero(ids[period:] != ids[:-period])
        start = int(differs[-1]) + 1 if len(differs) else 0
        if len(ids) - start >= max(times * period, least):
            return Loop(start, period, (len(ids) - start) / period)
    return None


def distance(written: Array, corpus: Array, spread: Array | None = None) -> Array:
    """How far texts are from a corpus's: root mean square over measures of the differences of means, in spreads.

    written (..., N, K), corpus (..., M, K) -> (...): sqrt(mean over k of ((mean written_k - mean corpus_k) / s_k)^2),
    s (K,) being the standard deviation between the corpus's pieces. A measure that is the same in all of them is left
    out. Two sets of N independent pieces of the corpus itself are sqrt(2 / N) apart by chance.
    """
    spread = corpus.std(-2, ddof=1) if spread is None else spread
    some = spread > 1e-12
    gaps = (written.mean(-2) - corpus.mean(-2))[..., some] / spread[some]
    return np.sqrt((gaps**2).mean(-1)) if some.any() else np.zeros(gaps.shape[:-1])


@dataclass(frozen=True)
class Nearest:
    """Which of S settings writes most like a corpus."""

    distances: Array  # (S,)
    low: Array  # (S,), the 5th and the 95th percentile of the bootstrap
    high: Array
    best: int
    plausible: Array  # (S,), how often each was the nearest in the bootstrap


def nearest(written: Array, corpus: Array, *, rounds: int = 1000, seed: int = 0) -> Nearest:
    """Compare S settings with a corpus, written (S, N, K), corpus (N, K), row i of each going on from beginning i.

    The uncertainty is that of the choice of beginnings: they are drawn anew, with repetition, `rounds` times, the same
    ones for all settings and for the corpus.
    """
    distances, spread = distance(written, corpus), corpus.std(0, ddof=1)
    chosen = generator(seed, "bootstrap").integers(0, len(corpus), (rounds, len(corpus)))
    again = np.stack([distance(some[chosen], corpus[chosen], spread) for some in written], 1)  # (rounds, S)
    low, high = np.percentile(again, [5, 95], axis=0)
    won = np.bincount(again.argmin(1), minlength=len(written)) / rounds
    return Nearest(distances, low, high, int(distances.argmin()), won)


class Fit(NamedTuple):
    """A chi-squared test of counts: the statistic, how many cells it is of, and the probability of a larger one."""

    statistic: float
    cells: int
    p: float


def fit(counts: Array, probabilities: Array, *, least: float = 5) -> Fit | None:
    """Pearson's chi-squared test of counts (V,) of draws against the probabilities (V,) that they were drawn by.

    Tokens of an expected count below `least` are one cell, with the next likeliest where they are still too few
    together. None where fewer than two cells are left.
    """
    from scipy.stats import chisquare

    expected = counts.sum() * probabilities / probabilities.sum()
    order = np.argsort(-expected, kind="stable")
    alone = int((expected >= least).sum())
    if 0 < alone < len(order) and expected[order[alone:]].sum() < least:
        alone -= 1
    observed, expected = (
        np.append(x[order[:alone]], x[order[alone:]].sum()) if alone < len(order) else x[order]
        for x in (counts, expected)
    )
    if len(expected) < 2 or expected.min() < least:
        return None
    found = chisquare(observed, expected * (observed.sum() / expected.sum()))
    return Fit(float(found.statistic), len(expected), float(found.pvalue))


def deviations(draws: Array, probabilities: Array, sizes: Sequence[int]) -> Array:
    """For each size n, the largest |count / n - p| over all tokens, averaged over blocks of n draws: (sizes,)."""
    found = []
    for n in sizes:
        blocks = [draws[i * n : (i + 1) * n] for i in range(min(len(draws) // n, BLOCKS))]
        shares = (np.bincount(block, minlength=len(probabilities)) / n for block in blocks)
        found.append(np.mean([np.abs(share - probabilities).max() for share in shares]))
    return np.array(found)
