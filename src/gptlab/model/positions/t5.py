"""T5's relative positions: distances fall into buckets, and each bucket has a learned bias per head, which all layers
of a stack share. Raffel et al. 2019, arXiv 1910.10683, section 2.1.

H heads, T queries, S keys.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.positions.base import Position


def bucket(distance: Tensor, *, buckets: int, max_distance: int, both_ways: bool) -> Tensor:
    """The bucket of k_pos - q_pos: one for each of the nearest, then wider and wider ones, the last from max_distance
    on. both_ways: half of the buckets are for keys ahead; otherwise these share the bucket of distance 0."""
    first = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    # In float32, as T5 itself: at the borders of buckets another precision would round otherwise.
    wide = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact) * (buckets - exact)
    wide = (exact + wide.long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, wide)


class T5Relative(Position):
    """bias = buckets[bucket(k_pos - q_pos), head]"""

    def __init__(
        self, *, n_heads: int, relative_buckets: int, relative_max_distance: int, both_ways: bool = False
    ) -> None:
        super().__init__()
        self.buckets = nn.Parameter(torch.empty(relative_buckets, n_heads))
        self.max_distance, self.both_ways = relative_max_distance, both_ways

    def once(self, q_pos: Tensor, k_pos: Tensor, dtype: torch.dtype) -> Tensor:
        distance = k_pos[:, None, :] - q_pos[:, :, None]
        found = bucket(distance, buckets=len(self.buckets), max_distance=self.max_distance, both_ways=self.both_ways)
        return F.embedding(found, self.buckets).permute(0, 3, 1, 2)

    def bias(self, q: Tensor, k: Tensor, shared: Tensor, own: nn.Module | None) -> Tensor:
        return shared
