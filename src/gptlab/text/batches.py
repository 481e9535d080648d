"""ids -> batches: each a function of (ids, seed, step), never of which batches came before.

B windows, T tokens each.
"""

import numpy as np
from numpy.typing import NDArray

from gptlab.seeds import key


def windows(
    ids: NDArray[np.unsignedinteger],
    *,
    count: int,
    context: int,
    seed: int,
    step: int = 0,
    stream: str = "train",
    starts: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`count` random windows: inputs x and targets y, both (B, T), where y[:, t] follows x[:, t] in the text.

    ids: a text's tokens, at least context + 1 of them (a memory map is read only where windows fall); stream:
    keeps the draws of training and evaluation apart; starts: where windows may begin, by default anywhere. Every
    start is as likely as any other.
    """
    generator = np.random.Generator(np.random.Philox(key(seed, stream, step)))
    drawn = generator.integers(0, len(ids) - context if starts is None else len(starts), size=count)
    starts = drawn if starts is None else starts[drawn]
    rows = ids[starts[:, None] + np.arange(context + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]


def occurrences(ids: NDArray[np.unsignedinteger], pattern: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Where a short row of tokens stands in a long one: the positions of its first token."""
    found = np.flatnonzero(ids[: len(ids) - len(pattern) + 1] == pattern[0])
    for offset in range(1, len(pattern)):
        found = found[ids[found + offset] == pattern[offset]]
    return found
