"""A block: its branches, joined by a residual layout."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import kernels, mlps, native, norms, taps
from gptlab.model.attention import Attention, Scene
from gptlab.model.masks import Mask
from gptlab.model.mlps import MLP
from gptlab.model.norms import Norm
from gptlab.model.positions import rope
from gptlab.model.positions.base import Position
from gptlab.model.positions.rope import RoPE
from gptlab.model.residuals import Branch, PreNorm
from gptlab.model.taps import tap

# The width up to which a block is computed as a whole. Beyond it products are most of the work, and PyTorch's faster.
WIDEST = 128


class Block(nn.Module):
    """Attention moves information between tokens, the MLP works on each; (B, T, C) -> (B, T, C).

    cross: a second attention, of a decoder that also looks at what an encoder read.
    """

    def __init__(self, *, attention: Attention, mlp: MLP, residual: nn.Module, cross: Attention | None = None) -> None:
        super().__init__()
        self.attention, self.cross, self.mlp, self.residual = attention, cross, mlp, residual
        self.whole = shape_of(self)  # for the kernel that computes all of it at once

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        if self.whole and self.computed_whole(x, scene):
            position = scene.position
            turned = (*scene.shared, position.interleaved) if isinstance(position, RoPE) else (None, None, True)
            a, m, (first, second) = self.attention, self.mlp, self.residual.norms  # type: ignore[misc]
            parts = (first, a.qkv, a.out, second, m.up, m.down)
            return native.block(x, self.whole, *turned, *(p for part in parts for p in (part.weight, part.bias)))
        tap(self, "resid_pre", x)
        x = self.residual(x, self.branches(scene))
        tap(self, "resid_post", x)
        return x

    def branches(self, scene: Scene) -> Sequence[Branch]:
        attention = partial(self.attention, scene=scene)
        if self.cross is None:
            return attention, self.mlp
        return attention, partial(self.cross.cross, scene=scene), self.mlp

    def computed_whole(self, x: Tensor, scene: Scene) -> bool:
        """Whether the compiled block is for this: a plain causal pass in float32 that nobody looks into."""
        position = type(scene.position)
        return (
            self.attention.kernel is kernels.compiled
            and len(x) >= torch.get_num_threads()  # which share out the texts
            and native.usable("block", x, self.attention.qkv.weight)
            and not (self.training and self.mlp.dropout.p)
            and scene.cache is None
            and scene.mask(0).causal
            and position.bias is Position.bias
            and (position.rotate is Position.rotate or position is RoPE)
            and not taps.LISTENERS
            and not any(part._forward_hooks or part._forward_pre_hooks for part in self.modules())
        )


def shape_of(block: Block) -> native.Shape | None:
    """What the compiled block must know; None for a block that is of another kind, or wide."""
    attention, mlp = block.attention, block.mlp
    activation = getattr(mlp.activation, "__name__", "")
    found = list(block.residual.norms) if isinstance(block.residual, PreNorm) else []
    widths = (mlp.up.in_features, mlp.down.in_features, attention.head_dim)
    if (
        type(block) is not Block
        or block.cross is not None
        or not found
        or not isinstance(attention.q_norm, nn.Identity)
        or attention.relative is not None
        or attention.band
        or activation not in native.ACTIVATIONS
        or any(width % native.LANE for width in widths)
        or mlp.up.in_features > WIDEST
    ):
        return None
    norm = found[0]
    assert isinstance(norm, Norm)
    heads = attention.n_heads, attention.n_kv_heads, attention.head_dim
    return native.Shape(*heads, norm.kind, norm.eps, attention.scale, activation)


def plain(
    x: Tensor,
    shape: native.Shape,
    cos: Tensor | None,
    sin: Tensor | None,
    neighbours: bool,
    *parameters: Tensor | None,
) -> Tensor:
    """A block in PyTorch, by its parameters (native.PARAMETERS): what the compiled one is tested against."""
    norm1, norm1_bias, qkv, qkv_bias, out, out_bias, norm2, norm2_bias, up, up_bias, down, down_bias = parameters
    assert qkv is not None and out is not None and up is not None and down is not None
    h = F.linear(norms.plain(shape.norm, x, norm1, norm1_bias, shape.eps), qkv, qkv_bias)
    heads = h.unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
    q, k, v = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
    if cos is not None and sin is not None:
        q, k = rope.plain(q, cos, sin, neighbours), rope.plain(k, cos, sin, neighbours)
    z, _ = kernels.reference(q, k, v, mask=Mask(True), bias=None, scale=shape.scale, dropout=0.0)
    x = x + F.linear(z.transpose(1, 2).flatten(2), out, out_bias)
    h = F.linear(norms.plain(shape.norm, x, norm2, norm2_bias, shape.eps), up, up_bias)
    return x + F.linear(mlps.plain(shape.activation, h), down, down_bias)


class QueryBlock(Block):
    """PanGu-alpha's last block: the question is not what a token is, but which position is to be foretold.

    a = attention(q = p W_q, k = y W_k, v = y W_v), y = norm(x), p a table of its own by position; p is neither normed
    nor in the residual. Zeng et al. 2021, arXiv 2104.12369, section 3.2.
    """

    def branches(self, scene: Scene) -> Sequence[Branch]:
        assert scene.query is not None
        return partial(self.attention.ask, scene.query, scene=scene), self.mlp
