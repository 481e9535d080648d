"""How much each part of a model learned, from what its training recorded of some of its steps.

S steps that were watched, P parts (`blocks.3.attention`, `embedding`, …).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gptlab.model.transformer import Transformer
from gptlab.run import Run

Array = NDArray[np.float64]

# The kinds of parts, in the order in which a text meets them.
KINDS = (
    "embedding",
    "embedding_in",
    "position",
    "embedding_norm",
    "attention",
    "cross",
    "mlp",
    "residual",
    "query",
    "norm",
    "embedding_out",
    "head",
    "head_bias",
)


@dataclass(frozen=True)
class Learning:
    """Each part in each step that was watched. Norms are Euclidean, over all of a part's parameters.

    steps (S,): their numbers, the first step of a training being 1; parts: P names, as a text meets them, and alike
    kinds together; sizes (P,): parameters; gradients (S, P): norms of the gradient of the training loss, in nats per
    token, before clipping; moves (S, P): norms of W' - W, weight decay included; weights (S, P): norms of W.
    """

    steps: NDArray[np.int64]
    parts: tuple[str, ...]
    sizes: NDArray[np.int64]
    gradients: Array
    moves: Array
    weights: Array

    @property
    def rms(self) -> Array:
        """(S, P) the root mean square of a gradient's entries, ‖g‖ / √n: it compares across parts of any size."""
        return self.gradients / np.sqrt(self.sizes)

    @property
    def relative(self) -> Array:
        """(S, P) how far a step goes, compared with what it changes: ‖W' - W‖ / ‖W‖; NaN where W is zero."""
        return np.divide(self.moves, self.weights, out=np.full_like(self.moves, np.nan), where=self.weights > 0)

    @property
    def path(self) -> Array:
        """(S, P) the way that a part has gone, all steps so far laid end to end, in lengths of W: the sum of
        `relative`. Steps that were not watched are taken to lie on a line between those that were."""
        speed = np.nan_to_num(self.relative)
        between = np.diff(self.steps)[:, None] * (speed[1:] + speed[:-1]) / 2
        return np.concatenate([speed[:1] * self.steps[0], between]).cumsum(0)

    def halfway(self) -> Array:
        """(P,) the step after which half of each part's way is done; NaN for a part that never moved."""
        path = self.path
        return np.array(
            [np.interp(way[-1] / 2, way, self.steps) if way[-1] > 0 else np.nan for way in path.T], dtype=np.float64
        )

    def span(self, first: float, last: float) -> NDArray[np.bool_]:
        """(S,) which steps lie between two fractions of the training; the nearest one, if none does."""
        at = self.steps / self.steps[-1]
        within = (first <= at) & (at <= last)
        return within if within.any() else np.arange(len(at)) == np.abs(at - (first + last) / 2).argmin()


def place(part: str) -> tuple[str, str, int | None]:
    """Where a part is: the stack ("encoder", or "" for the decoder), its kind, and its layer, None where it has none.

    >>> place("encoder.blocks.3.attention")
    ('encoder', 'attention', 3)
    """
    stack, rest = ("encoder", part.removeprefix("encoder.")) if part.startswith("encoder.") else ("", part)
    words = rest.split(".")
    return (stack, words[2], int(words[1])) if words[0] == "blocks" else (stack, words[0], None)


def order(part: str) -> tuple[int, int, int]:
    stack, kind, layer = place(part)
    shared = kind in KINDS[:2]
    number = KINDS.index(kind) if kind in KINDS else len(KINDS)
    return 0 if shared else 1 if stack else 2, number, -1 if layer is None else layer


def learning(run: Run) -> Learning:
    """What the training of a run recorded of its parts (training/layers.py; up to 60 steps, at first close together).

    Raises ValueError for a run without such records: an imported one, or one that an older version trained.
    """
    records = [record for record in run.metrics() if "layers" in record]
    if not records:
        how = "it was imported" if run.train_config is None else "it has done no step yet, or is of an older version"
        raise ValueError(
            f"{run.path} has no record of its gradients: {how}. Train a model with `gptlab train`, which keeps them "
            "by itself"
        )
    parts = tuple(sorted(records[0]["layers"], key=order))
    with torch.device("meta"):
        model = Transformer(run.model_config)
    sizes = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        sizes[max((part for part in parts if f"{name}.".startswith(f"{part}.")), key=len)] += parameter.numel()
    norms = np.array([[record["layers"][part] for part in parts] for record in records], dtype=np.float64)
    steps = np.array([record["step"] for record in records])
    return Learning(steps, parts, np.array(list(sizes.values())), *np.moveaxis(norms, 2, 0))
