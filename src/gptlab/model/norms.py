"""Normalisation over the width: each token's vector is centred or scaled by its own statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.Module):
    """What the norms share: `weight` (gain, from 1) and `bias` (from 0) of shape (C,), each if it is wanted."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, affine: str = "weight+bias") -> None:
        super().__init__()
        self.d_model, self.eps = d_model, eps
        self.weight = nn.Parameter(torch.empty(d_model)) if "weight" in affine else None
        self.bias = nn.Parameter(torch.empty(d_model)) if "bias" in affine else None

    def scaled(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)


class LayerNorm(Norm):
    """(x - mean) / sqrt(var + eps) * weight + bias, var with divisor C. Ba et al. 2016, arXiv 1607.06450."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.d_model,), self.weight, self.bias, self.eps)


class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * weight, without centring. Zhang and Sennrich 2019, arXiv 1910.07467.

    A bias is added where the configuration asks for one; no published model has it.
    """

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, (self.d_model,), self.weight, self.eps)
        return normed if self.bias is None else normed + self.bias


class SeedLayerNorm(Norm):
    """(x - mean) / (std + eps) * weight + bias, std with divisor C - 1: github wmelo52/GPTLab, nanoGPT.py."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        # By the norm of a vector: torch.std's kernel takes longer than all the rest of this together.
        std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) * (self.d_model - 1) ** -0.5
        return self.scaled(centred / (std + self.eps))
