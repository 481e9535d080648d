"""Residual layouts: where the norms stand around a block's branches (attention, cross-attention, MLP)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Branch = Callable[[Tensor], Tensor]


class Residual(nn.Module):
    """What the layouts share: a norm for each branch, or as many as `norms_for` says."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    @staticmethod
    def norms_for(branches: int) -> int:
        return branches


class PreNorm(Residual):
    """x + f(norm(x)), branch after branch: GPT-2's (Radford et al. 2019, section 2.3)."""

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        for norm, branch in zip(self.norms, branches, strict=True):
            x = x + branch(norm(x))
        return x


class PostNorm(Residual):
    """norm(x + f(x)), branch after branch: the first Transformer's (Vaswani et al. 2017, section 3.1)."""

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        for norm, branch in zip(self.norms, branches, strict=True):
            x = norm(x + branch(x))
        return x


class DeepNorm(Residual):
    """h = norm(x); alpha h + f(h), branch after branch. Zeng et al. 2022 (GLM-130B), arXiv 2210.02414, section 2.1.

    This is DeepNet's norm(alpha x + f(x)) (Wang et al. 2022, arXiv 2203.00555) with each norm moved to the head of the
    next branch; the model's final norm is then the last one.
    """

    def __init__(self, norms: Sequence[nn.Module], residual_alpha: float) -> None:
        super().__init__(norms)
        self.alpha = residual_alpha

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        for norm, branch in zip(self.norms, branches, strict=True):
            h = norm(x)
            x = self.alpha * h + branch(h)
        return x


class Parallel(Residual):
    """h = norm(x); x + f(h) + g(h) + …: all branches read the same (Chowdhery et al. 2022, arXiv 2204.02311)."""

    @staticmethod
    def norms_for(branches: int) -> int:
        return 1

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        h = self.norms[0](x)
        for branch in branches:
            x = x + branch(h)
        return x
