"""The optimizers: from gradients to steps. Every parameter is in exactly one group.

An optimizer here is `step(fraction)` (of the peak learning rate), `state()` and `load(state)`, named tensors.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from gptlab.config import TrainConfig
from gptlab.model.attention import Attention
from gptlab.model.mlps import MLP

Named = dict[str, nn.Parameter]
Shape = tuple[int, int, bool]


class Optimizer(Protocol):
    def step(self, fraction: float) -> None:
        """Move the parameters by their gradients, at this fraction of the peak learning rate."""

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on, beside weights and gradients, by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; KeyError for a state of other parameters."""


class AdamW:
    """torch's AdamW, with its state by parameter name. Loshchilov and Hutter 2017, arXiv 1711.05101."""

    def __init__(self, named: Named, *, lr: float, betas: tuple[float, float], decay: float, decay_all: bool) -> None:
        self.named, self.lr = named, lr
        decayed = [p for p in named.values() if decay_all or p.ndim >= 2]
        others = [p for p in named.values() if not (decay_all or p.ndim >= 2)]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        # Fused: one call for all parameters, a tenth of the time of a loop over them at small widths.
        self.inner = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
        for p in named.values():  # torch would make these at the first step; a state saved before it needs them, too
            self.inner.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def step(self, fraction: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = self.lr * fraction
        self.inner.step()

    def state(self) -> dict[str, Tensor]:
        return {f"{name}|{k}": v for name, p in self.named.items() for k, v in self.inner.state[p].items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, p in self.named.items():
            for k, tensor in self.inner.state[p].items():
                tensor.copy_(state[f"{name}|{k}"])


class Muon:
    """Momentum, then the nearest semi-orthogonal matrix as the step. Jordan et al. 2024, kellerjordan.github.io.

    Equal shapes are stacked and orthogonalised together: a few batched products instead of many small ones.
    The rows of q, k and v, or of gate and value, which are one parameter, are orthogonalised apart. A step is
    lr sqrt(max(1, rows / columns)) times the orthogonal matrix.
    """

    def __init__(
        self,
        named: Named,
        *,
        sections: Mapping[str, tuple[int, ...]],
        lr: float,
        momentum: float,
        decay: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        """sections: the numbers of rows of parameters that are several matrices in one; dtype: of the products, by
        default the parameters'."""
        self.named, self.lr, self.momentum, self.decay, self.dtype = named, lr, momentum, decay, dtype
        self.sections = {name: sections.get(name, (p.shape[0],)) for name, p in named.items()}
        # shape -> where the matrices of this shape are: a parameter, and which of its parts
        self.places: dict[Shape, list[tuple[str, int]]] = defaultdict(list)
        for name, p in named.items():
            for i, part in enumerate(p.split(self.sections[name])):
                self.places[shape_of(part)].append((name, i))
        self.weights = {shape: self.parts(shape, {n: p.detach() for n, p in named.items()}) for shape in self.places}
        self.velocity = {shape: torch.zeros_like(torch.stack(parts)) for shape, parts in self.weights.items()}

    def parts(self, shape: Shape, whole: Mapping[str, Tensor]) -> list[Tensor]:
        """The matrices of a shape, as views into what they are parts of, the shorter side first."""
        split = {
            name: whole[name].split(self.sections[name]) for name in dict.fromkeys(n for n, _ in self.places[shape])
        }
        return [split[name][i].T if shape[2] else split[name][i] for name, i in self.places[shape]]

    @torch.no_grad()
    def step(self, fraction: float) -> None:
        gradients = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        assert len(gradients) == len(self.named), "a parameter has no gradient"
        lr = self.lr * fraction
        for shape, weights in self.weights.items():
            short, long, tall = shape
            gradient, velocity = torch.stack(self.parts(shape, gradients)), self.velocity[shape]
            velocity.lerp_(gradient, 1 - self.momentum)
            direction = gradient.lerp_(velocity, self.momentum)  # Nesterov's look ahead
            steps = orthogonal(direction if self.dtype is None else direction.to(self.dtype))
            if self.decay:
                torch._foreach_mul_(weights, 1 - lr * self.decay)
            size = lr * (long / short if tall else 1.0) ** 0.5
            torch._foreach_add_(weights, steps.to(gradient.dtype).unbind(), alpha=-size)

    def state(self) -> dict[str, Tensor]:
        whole = {name: torch.empty_like(p) for name, p in self.named.items()}
        for shape, velocity in self.velocity.items():
            torch._foreach_copy_(self.parts(shape, whole), velocity.unbind())
        return {f"{name}|velocity": v for name, v in whole.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        whole = {name: state[f"{name}|velocity"] for name in self.named}
        for shape, velocity in self.velocity.items():
            torch.stack(self.parts(shape, whole), out=velocity)


def shape_of(matrix: Tensor) -> Shape:
    """The shorter side, the longer one, and whether rows are the longer one."""
    rows, columns = matrix.shape
    return min(rows, columns), max(rows, columns), rows > columns


def orthogonal(x: Tensor, steps: int = 4) -> Tensor:
    """The semi-orthogonal factor of each matrix in (N, rows, columns), roughly: singular values near 1.

    Newton-Schulz with the quintic a s + b s^3 + c s^5, whose coefficients make the smallest singular values
    grow fastest and let the others settle between 0.7 and 1.2 (Jordan et al. 2024, with five steps; four train as well,
    see bench/results.md).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Both:
    """Several optimizers as one; the parameters are shared out among them."""

    def __init__(self, members: Iterable[Optimizer]) -> None:
        self.members = list(members)

    def step(self, fraction: float) -> None:
        for member in self.members:
            member.step(fraction)

    def state(self) -> dict[str, Tensor]:
        return {key: value for member in self.members for key, value in member.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for member in self.members:
            member.load(state)


def trained(model: nn.Module) -> Named:
    """The parameters that learn, by name: not those that are frozen."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adamw(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW on everything, all at `lr`."""
    return AdamW(
        trained(model),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        decay=config.weight_decay,
        decay_all=config.decay_all,
    )


def muon(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Muon at `lr` on the matrices inside blocks, AdamW at `lr_adam` on tables, gains and biases."""
    named = trained(model)
    matrices = {name: p for name, p in named.items() if p.ndim == 2 and "blocks." in name}
    others = {name: p for name, p in named.items() if name not in matrices}
    sections: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            sections[f"{name}.qkv.weight"] = module.sections
        elif isinstance(module, MLP):
            sections[f"{name}.up.weight"] = module.sections
    return Both(
        [
            Muon(
                matrices,
                sections=sections,
                lr=config.lr,
                momentum=config.momentum,
                decay=config.weight_decay,
                dtype=torch.bfloat16 if config.precision == "bf16" else None,
            ),
            AdamW(
                others,
                lr=config.lr_adam,
                betas=(config.beta1, config.beta2),
                decay=config.weight_decay,
                decay_all=config.decay_all,
            ),
        ]
    )
