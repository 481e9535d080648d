"""Learned absolute positions: a second embedding table, added to the first. GPT-2; Gehring et al. 2017."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.positions.base import Position


class Learned(Position):
    def __init__(self, *, context: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context, d_model))

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        return x + F.embedding(pos, self.weight)
