"""A block: its branches, joined by a residual layout."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from gptlab.model.attention import Attention, Scene
from gptlab.model.mlps import MLP
from gptlab.model.residuals import Branch
from gptlab.model.taps import tap


class Block(nn.Module):
    """Attention moves information between tokens, the MLP works on each; (B, T, C) -> (B, T, C).

    cross: a second attention, of a decoder that also looks at what an encoder read.
    """

    def __init__(self, *, attention: Attention, mlp: MLP, residual: nn.Module, cross: Attention | None = None) -> None:
        super().__init__()
        self.attention, self.cross, self.mlp, self.residual = attention, cross, mlp, residual

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        tap(self, "resid_pre", x)
        x = self.residual(x, self.branches(scene))
        tap(self, "resid_post", x)
        return x

    def branches(self, scene: Scene) -> Sequence[Branch]:
        attention = partial(self.attention, scene=scene)
        if self.cross is None:
            return attention, self.mlp
        return attention, partial(self.cross.cross, scene=scene), self.mlp


class QueryBlock(Block):
    """PanGu-alpha's last block: the question is not what a token is, but which position is to be foretold.

    a = attention(q = p W_q, k = y W_k, v = y W_v), y = norm(x), p a table of its own by position; p is neither normed
    nor in the residual. Zeng et al. 2021, arXiv 2104.12369, section 3.2.
    """

    def branches(self, scene: Scene) -> Sequence[Branch]:
        assert scene.query is not None
        return partial(self.attention.ask, scene.query, scene=scene), self.mlp
