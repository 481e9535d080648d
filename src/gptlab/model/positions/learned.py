"""Learned absolute positions: a second embedding table, added to the first. GPT-2; Gehring et al. 2017."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.positions.base import Position


class Learned(Position):
    """x + table[position + offset]; OPT's offset is 2, and its first two rows are not used."""

    def __init__(self, *, context: int, d_model: int, position_offset: int) -> None:
        super().__init__()
        self.offset = position_offset
        self.weight = nn.Parameter(torch.empty(context + position_offset, d_model))

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        return x + F.embedding(pos + self.offset, self.weight)
