"""Cross-entropy in nats: minus the log of the probability that the model gave to what came.

B batch, T tokens, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from gptlab.model import native
from gptlab.text.objectives import IGNORED


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over all positions of -ln softmax(logits)[target], a scalar; logits (B, T, V), targets (B, T), those
    that are IGNORED left out.

    A sum, for the caller divides by the number of targets of the whole step, over micro-batches together.
    """
    compute = native.cross_entropy if native.usable("loss", logits) else plain
    return compute(logits.flatten(0, 1), targets.flatten(), IGNORED)


def plain(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """The same in PyTorch, of logits (N, V) and targets (N,): what the compiled one is tested against."""
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    return F.cross_entropy(logits, targets, ignore_index=ignored, reduction="sum")
