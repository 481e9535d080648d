"""ids -> windows: each a function of (ids, seed, step), never of which batches came before.

B windows, T tokens each.
"""

import numpy as np
from numpy.typing import NDArray

from gptlab.seeds import key


def generator(*parts: int | str) -> np.random.Generator:
    """A generator whose draws depend on all parts, and on nothing else; see `seeds.key`."""
    return np.random.Generator(np.random.Philox(key(*parts)))


def windows(
    ids: NDArray[np.unsignedinteger],
    *,
    count: int,
    context: int,
    seed: int,
    step: int = 0,
    stream: str = "train",
    starts: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """`count` random windows of `context` tokens, and the token after each: (B, T + 1).

    ids: a text's tokens, at least context + 1 of them (a memory map is read only where windows fall); stream:
    keeps the draws of training and evaluation apart; starts: where windows may begin, by default anywhere. Every
    start is as likely as any other.
    """
    places = len(ids) - context if starts is None else len(starts)
    drawn = generator(seed, stream, step).integers(0, places, size=count)
    starts = drawn if starts is None else starts[drawn]
    return ids[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def beginnings(ids: NDArray[np.unsignedinteger], separator: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Where texts begin: the positions of the last token of each separator between them (see tokenizer.opening)."""
    return occurrences(ids, separator) + len(separator) - 1


def occurrences(ids: NDArray[np.unsignedinteger], pattern: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Where a short row of tokens stands in a long one: the positions of its first token."""
    found = np.flatnonzero(ids[: len(ids) - len(pattern) + 1] == pattern[0])
    for offset in range(1, len(pattern)):
        found = found[ids[found + offset] == pattern[offset]]
    return found
