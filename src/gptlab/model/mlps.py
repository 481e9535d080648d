"""The MLP of a block, and the activations between its two projections.

A gated activation takes twice the width that it gives: the first half is the gate, the second what it lets through
(Shazeer 2020, arXiv 2002.05202).
"""

from collections.abc import Callable
from functools import wraps

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import native
from gptlab.model.taps import tap


def fast(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same by the compiled kernel of its name, where that is for this; as written here, it is `__wrapped__`."""

    @wraps(function)
    def either(x: Tensor) -> Tensor:
        return native.activation(function.__name__, x) if native.usable("activation", x) else function(x)

    return either


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return F.relu(x)


@fast
def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function. Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    return F.gelu(x)


@fast
def gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, the approximation of GELU that GPT-2 uses."""
    return F.gelu(x, approximate="tanh")


@fast
def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2. So et al. 2021, arXiv 2109.08668."""
    return F.relu(x).square()


@fast
def swiglu(x: Tensor) -> Tensor:
    """gate sigmoid(gate) * value"""
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


@fast
def geglu(x: Tensor) -> Tensor:
    """GELU(gate) * value"""
    gate, value = x.chunk(2, -1)
    return F.gelu(gate) * value


@fast
def geglu_tanh(x: Tensor) -> Tensor:
    """The same with the tanh form of GELU."""
    gate, value = x.chunk(2, -1)
    return F.gelu(gate, approximate="tanh") * value


GATED = (swiglu, geglu, geglu_tanh)


def plain(name: str, x: Tensor) -> Tensor:
    """An activation by its name, in PyTorch: what the compiled one is tested against."""
    function: Callable[[Tensor], Tensor] = globals()[name].__wrapped__
    return function(x)


class MLP(nn.Module):
    """down(activation(up(x))): (B, T, C) -> (B, T, C) by way of d_ff.

    `up` holds gate and value, one below the other, where the activation is gated.
    """

    def __init__(
        self, *, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.sections: tuple[int, ...] = (d_ff, d_ff) if activation in GATED else (d_ff,)
        self.up = nn.Linear(d_model, sum(self.sections), bias)
        self.down = nn.Linear(d_ff, d_model, bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.up(x))
        tap(self, "hidden", hidden)
        return self.dropout(self.down(hidden))
