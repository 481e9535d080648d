"""Multi-head attention: each token collects what it needs from the tokens that it may see.

B batch, T queries, S keys, C model width, H heads, K key and value heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.cache import Cache
from gptlab.model.kernels import Kernel
from gptlab.model.masks import Mask
from gptlab.model.positions.base import Position
from gptlab.model.taps import tap


@dataclass
class Scene:
    """What all layers of one forward pass share."""

    position: Position
    shared: Any  # what `position.once` gave
    make_mask: Callable[[int], Mask]  # by the width of the band, 0 for none
    cache: Cache | None = None
    memory: Tensor | None = None  # (B, S, C), what the encoder made of the source; None if the cache holds it
    memory_mask: Mask = Mask(False)  # noqa: RUF009 (it is frozen)
    query: Tensor | None = None  # (B or 1, T, C), what a query layer asks with
    masks: dict[int, Mask] = field(default_factory=dict)

    def mask(self, band: int) -> Mask:
        if band not in self.masks:
            self.masks[band] = self.make_mask(band)
        return self.masks[band]


class Attention(nn.Module):
    """out(softmax(q k^T scale) v) over H heads, (B, T, C) -> (B, T, C). Vaswani et al. 2017, section 3.2.

    Heads share keys and values in groups where K < H (Ainslie et al. 2023, arXiv 2305.13245). qk_norm: q and k of
    each head are normed before positions turn them (Henry et al. 2020, arXiv 2010.04245). band: as in `masks.mask`.
    """

    def __init__(
        self,
        *,
        layer: int,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        bias_qkv: bool,
        bias_out: bool,
        scaled: bool,
        dropout: float,
        kernel: Kernel,
        qk_norm: Callable[[], nn.Module] = nn.Identity,
        relative: nn.Module | None = None,
        band: int = 0,
    ) -> None:
        super().__init__()
        self.layer, self.n_heads, self.n_kv_heads, self.head_dim = layer, n_heads, n_kv_heads, head_dim
        # One matrix product instead of three; rows are all of q, then k, then v.
        self.sections: tuple[int, ...] = (n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim)
        self.qkv = nn.Linear(d_model, sum(self.sections), bias_qkv)
        self.out = nn.Linear(n_heads * head_dim, d_model, bias_out)
        self.q_norm, self.k_norm = qk_norm(), qk_norm()
        self.relative = relative
        self.dropout = nn.Dropout(dropout)
        self.kernel, self.band = kernel, band
        self.scale = head_dim**-0.5 if scaled else 1.0

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        """Self-attention."""
        q, k, v = self.heads(self.qkv(x)).split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        return self.attend(q, k, v, scene)

    def ask(self, query: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """The same, but with other vectors asking: queries (B or 1, T, C) look at x (B, T, C)."""
        k, v = self.keys_and_values(x)
        return self.attend(self.queries(query).expand(len(x), -1, -1, -1), k, v, scene)

    def cross(self, x: Tensor, scene: Scene) -> Tensor:
        """x looks at what was encoded: all of it, without positions. In the cache it is kept from the first time."""
        held = None if scene.cache is None else scene.cache.cross.get(self.layer)
        k, v = self.keys_and_values(scene.memory) if held is None else held
        if scene.cache is not None:
            scene.cache.cross[self.layer] = k, v
        return self.collect(self.q_norm(self.queries(x)), self.k_norm(k), v, scene.memory_mask, None)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scene: Scene) -> Tensor:
        q, k = scene.position.rotate(self.q_norm(q), self.k_norm(k), scene.shared)
        if scene.cache is not None:
            k, v = scene.cache.extend(self.layer, k, v)
        bias = scene.position.bias(q, k, scene.shared, self.relative)
        return self.collect(q, k, v, scene.mask(self.band), bias)

    def collect(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        out, pattern = self.kernel(q, k, v, mask=mask, bias=bias, scale=self.scale, dropout=dropout)
        for name, x in (("q", q), ("k", k), ("v", v), ("pattern", pattern), ("z", out)):
            if x is not None:
                tap(self, name, x)
        return self.dropout(self.out(out.transpose(1, 2).flatten(2)))

    def queries(self, x: Tensor) -> Tensor:
        rows = self.sections[0]
        return self.heads(F.linear(x, self.qkv.weight[:rows], None if self.qkv.bias is None else self.qkv.bias[:rows]))

    def keys_and_values(self, x: Tensor | None) -> tuple[Tensor, ...]:
        assert x is not None, "nothing was encoded"
        rows = self.sections[0]
        bias = None if self.qkv.bias is None else self.qkv.bias[rows:]
        return self.heads(F.linear(x, self.qkv.weight[rows:], bias)).chunk(2, dim=1)

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, heads D) -> (B, heads, T, D)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
