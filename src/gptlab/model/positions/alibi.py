"""ALiBi: nothing is added to the tokens; scores fall with distance, in every head at its own pace.

Press et al. 2021, arXiv 2108.12409. H heads, T queries, S keys.
"""

import torch
from torch import Tensor, nn

from gptlab.model.positions.base import Position


def slopes(heads: int) -> list[float]:
    """2^(-8/H), 2^(-16/H), … for a power of two; otherwise those of the next lower power of two, and then every other
    one of its double (the authors' code, github ofirpress/attention_with_linear_biases)."""
    lower = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8 * (h + 1) / lower) for h in range(lower)]
    return first + [2.0 ** (-8 * (h + 1) / (2 * lower)) for h in range(0, 2 * (heads - lower), 2)]


class ALiBi(Position):
    """bias = -slope_h |q_pos - k_pos|: keys ahead, where a query sees them, count as those behind."""

    def __init__(self, *, n_heads: int) -> None:
        super().__init__()
        self.slopes = slopes(n_heads)

    def once(self, q_pos: Tensor, k_pos: Tensor, dtype: torch.dtype) -> Tensor:
        distance = (q_pos[:, None, :, None] - k_pos[:, None, None, :]).abs().to(dtype)
        return -distance * torch.tensor(self.slopes, dtype=dtype, device=q_pos.device)[:, None, None]

    def bias(self, q: Tensor, k: Tensor, shared: Tensor, own: nn.Module | None) -> Tensor:
        return shared
