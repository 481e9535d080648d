"""The embedding tables of a training at the moments that it kept: as arrays, and as pictures that move.

S snapshots, N points (tokens or positions), C width of a table.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptlab.lens.embeddings import aligned, directions, pca, tables_of, tsne
from gptlab.run import Run

Array = NDArray[Any]

PICTURES: dict[str, Callable[[Array, Array | None], Array]] = {
    "tsne": lambda x, before: tsne(x, init=before),
    "pca": lambda x, before: pca(x),
}


@dataclass(frozen=True)
class Snapshots:
    """steps (S,): steps that were done when each was taken; tokens (S, V, C); positions (S, context, C), None where the
    model learns no table of them."""

    steps: NDArray[np.int64]
    tokens: Array
    positions: Array | None


def snapshots(run: Run) -> Snapshots:
    """All snapshots of a run. ValueError for a run with fewer than two of them, or with a damaged one."""
    steps = run.snapshots()
    if len(steps) < 2:
        taken = "one snapshot" if steps else "no snapshots"
        raise ValueError(
            f"{run.path} has {taken} of its embeddings, and a film needs two: they are taken while a model is trained, "
            "by `gptlab train … --snapshots 60`"
        )
    config = run.model_config
    tables = [tables_of(run.snapshot(step), config) for step in steps]
    positions = None
    if config.position == "learned":
        positions = np.stack([table.positions for table in tables if table.positions is not None])
    return Snapshots(np.array(steps), np.stack([table.tokens for table in tables]), positions)


def motion(tables: Iterable[Array], picture: str = "tsne") -> Iterator[Array]:
    """Each table in turn in the plane, (N, C) -> (N, 2), so that points move and do not jump.

    picture: "tsne", each begun where the points are in the picture before, or "pca". Each is then turned, mirrored and
    moved, but not scaled, to be as near to the picture before as it can (`aligned`). They are pictures of directions:
    rows less their mean, at length 1 (`directions`), so near is what has a small cosine distance.
    """
    before: Array | None = None
    for table in tables:
        points = PICTURES[picture](directions(table), before).astype(np.float64)
        before = points if before is None else aligned(points, before)
        yield before


def between(pictures: Array, at: float) -> Array:
    """Where points are at a moment: pictures (S, N, 2), `at` from 0 to S - 1. At whole numbers it is a picture itself,
    and else on the line from one to the next."""
    low = min(int(at), len(pictures) - 2)
    part = at - low
    if part == 0:
        return pictures[low]
    if part == 1:
        return pictures[low + 1]
    return (1 - part) * pictures[low] + part * pictures[low + 1]
