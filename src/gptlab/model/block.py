"""A block: its branches, joined by a residual layout."""

from functools import partial

from torch import Tensor, nn

from gptlab.model.attention import Attention, Scene
from gptlab.model.mlps import MLP


class Block(nn.Module):
    """Attention moves information between tokens, the MLP works on each; (B, T, C) -> (B, T, C)."""

    def __init__(self, *, attention: Attention, mlp: MLP, residual: nn.Module) -> None:
        super().__init__()
        self.attention, self.mlp, self.residual = attention, mlp, residual

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        return self.residual(x, (partial(self.attention, scene=scene), self.mlp))
