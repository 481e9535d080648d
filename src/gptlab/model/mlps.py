"""The MLP of a block, and the activations between its two projections."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return F.relu(x)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function. Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, the approximation of GELU that GPT-2 uses."""
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """down(activation(up(x))): (B, T, C) -> (B, T, C) by way of d_ff."""

    def __init__(
        self, *, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias)
        self.down = nn.Linear(d_ff, d_model, bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(x))))
