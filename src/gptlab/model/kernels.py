"""Scaled dot-product attention, three ways with one signature: by the formula, by PyTorch's fused kernel, and by ours.

B batch, H heads, K key and value heads (H a multiple of K), T queries, S keys, D head width.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import native
from gptlab.model.masks import Mask


class Kernel(Protocol):
    """q (B, H, T, D), k and v (B, K, S, D), bias (B or 1, H, T, S) -> out (B, H, T, D), pattern or None."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor | None]: ...


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, scale: float, dropout: float
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T scale + bias) v, and the pattern (B, H, T, S) itself. Vaswani et al. 2017, section 3.2.1.

    A query that may see nothing (padding before the first token) attends to nothing: its output is 0.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores + bias
    allowed = mask.allowed
    if mask.causal:
        allowed = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    pattern = scores.softmax(-1)
    if allowed is not None:
        pattern = pattern.masked_fill(~allowed, 0)  # softmax of nothing but -inf is NaN
    return F.dropout(pattern, dropout) @ v, pattern


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, scale: float, dropout: float
) -> tuple[Tensor, Tensor | None]:
    """The same function by torch's kernel, which never holds the pattern."""
    attention_mask = mask.allowed
    if bias is not None:
        attention_mask = bias
        if mask.causal:
            attention_mask = bias + torch.full(bias.shape[-2:], -math.inf, device=q.device).triu(1)
        elif mask.allowed is not None:
            attention_mask = bias.masked_fill(~mask.allowed, -math.inf)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=mask.causal and bias is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out, None


def compiled(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, scale: float, dropout: float
) -> tuple[Tensor, Tensor | None]:
    """The same by the compiled kernel where it is for this: a causal mask alone, on a CPU. Else as `sdpa`."""
    if native.attends(q, k, v, mask=mask, bias=bias, dropout=dropout):
        return native.Attention.apply(q, k, v, scale), None
    if q.device.type != "cpu" or v.dtype != torch.bfloat16:
        return sdpa(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)
    # PyTorch's backward pass in bfloat16 takes many times as long on a CPU as that in float32.
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        out, _ = sdpa(q.float(), k.float(), v.float(), mask=mask, bias=bias, scale=scale, dropout=dropout)
    return out.to(v.dtype), None
