"""Residual layouts: where the norms stand around a block's branches (attention, MLP)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Branch = Callable[[Tensor], Tensor]


class PreNorm(nn.Module):
    """x + f(norm(x)), branch after branch: GPT-2's (Radford et al. 2019, section 2.3)."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        for norm, branch in zip(self.norms, branches, strict=True):
            x = x + branch(norm(x))
        return x
