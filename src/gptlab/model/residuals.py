"""Residual layouts: where the norms stand around a block's branches (attention, cross-attention, MLP)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from gptlab.model.taps import tap

Branch = Callable[[Tensor], Tensor]
BETWEEN = ("resid_mid", "resid_mid_cross")  # the taps after the first branch, and after a second that is not the last


class Residual(nn.Module):
    """What the layouts share: a norm for each branch, or as many as `norms_for` says, and branch after branch."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    @staticmethod
    def norms_for(branches: int) -> int:
        return branches

    def forward(self, x: Tensor, branches: Sequence[Branch]) -> Tensor:
        for number, (norm, branch) in enumerate(zip(self.norms, branches, strict=True)):
            if number:
                tap(self, BETWEEN[number - 1], x)
            x = self.joined(x, norm, branch)
        return x

    def joined(self, x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
        """What a branch makes of the stream x."""
        raise NotImplementedError


class PreNorm(Residual):
    """x + f(norm(x)), branch after branch: GPT-2's (Radford et al. 2019, section 2.3)."""

    def joined(self, x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
        return x + branch(norm(x))


class PostNorm(Residual):
    """norm(x + f(x)), branch after branch: the first Transformer's (Vaswani et al. 2017, section 3.1)."""

    def joined(self, x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
        return norm(x + branch(x))


class DeepNorm(Residual):
    """h = norm(x); alpha h + f(h), branch after branch. Zeng et al. 2022 (GLM-130B), arXiv 2210.02414, section 2.1.

    This is DeepNet's norm(alpha x + f(x)) (Wang et al. 2022, arXiv 2203.00555) with each norm moved to the head of the
    next branch; the model's final norm is then the last one.
    """

    def __init__(self, norms: Sequence[nn.Module], residual_alpha: float) -> None:
        super().__init__(norms)
        self.alpha = residual_alpha

    def joined(self, x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
        h = norm(x)
        return self.alpha * h + branch(h)


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
