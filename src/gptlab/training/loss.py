"""Cross-entropy in nats: minus the log of the probability that the model gave to what came.

B batch, T tokens, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from gptlab.text.objectives import IGNORED


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over all positions of -ln softmax(logits)[target], a scalar; logits (B, T, V), targets (B, T), those
    that are IGNORED left out.

    A sum, for the caller divides by the number of targets of the whole step, over micro-batches together.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
