"""Normalisation over the width: each token's vector is centred or scaled by its own statistics."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import native

Gain = Tensor | None


def layer_norm(x: Tensor, weight: Gain, bias: Gain, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, var with divisor C."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(x: Tensor, weight: Gain, bias: Gain, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight + bias"""
    normed = F.rms_norm(x, x.shape[-1:], weight, eps)
    return normed if bias is None else normed + bias


def seed_layer_norm(x: Tensor, weight: Gain, bias: Gain, eps: float) -> Tensor:
    """(x - mean) / (std + eps) * weight + bias, std with divisor C - 1."""
    centred = x - x.mean(-1, keepdim=True)
    # By the norm of a vector: torch.std's kernel takes longer than all the rest of this together.
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) * (x.shape[-1] - 1) ** -0.5
    out = centred / (std + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


FORMULAS: dict[str, Callable[[Tensor, Gain, Gain, float], Tensor]] = {
    "layernorm": layer_norm,
    "rmsnorm": rms_norm,
    "seed-layernorm": seed_layer_norm,
}


def plain(kind: str, x: Tensor, weight: Gain, bias: Gain, eps: float) -> Tensor:
    """A norm by its name, in PyTorch: what the compiled one is tested against."""
    return FORMULAS[kind](x, weight, bias, eps)


class Norm(nn.Module):
    """What the norms share: `weight` (gain, from 1) and `bias` (from 0) of shape (C,), each if it is wanted."""

    kind: str

    def __init__(self, d_model: int, *, eps: float = 1e-5, affine: str = "weight+bias") -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d_model)) if "weight" in affine else None
        self.bias = nn.Parameter(torch.empty(d_model)) if "bias" in affine else None

    def forward(self, x: Tensor) -> Tensor:
        compute = native.norm if native.usable("norm", x) else plain
        return compute(self.kind, x, self.weight, self.bias, self.eps)


class LayerNorm(Norm):
    """`layer_norm`: Ba et al. 2016, arXiv 1607.06450."""

    kind = "layernorm"


class RMSNorm(Norm):
    """`rms_norm`, without centring: Zhang and Sennrich 2019, arXiv 1910.07467.

    A bias is added where the configuration asks for one; no published model has it.
    """

    kind = "rmsnorm"


class SeedLayerNorm(Norm):
    """`seed_layer_norm`: github wmelo52/GPTLab, nanoGPT.py."""

    kind = "seed-layernorm"
