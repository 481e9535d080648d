"""How weights are drawn before training: every parameter by exactly one rule, from (seed, its name) alone.

A parameter's draw does not depend on which others there are, nor on the order in which a model makes them.
"""

import fnmatch
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptlab.registry import unknown
from gptlab.seeds import key

Draw = Callable[[Tensor, torch.Generator], Tensor]


def normal(std: float) -> Draw:
    return lambda p, g: p.normal_(0.0, std, generator=g)


def constant(value: float) -> Draw:
    return lambda p, g: p.fill_(value)


def fan_in(gain: float) -> Draw:
    """N(0, gain / sqrt(inputs)): keeps the size of what passes through at `gain`."""
    return lambda p, g: p.normal_(0.0, gain / math.sqrt(p.shape[-1]), generator=g)


VECTORS: dict[str, Draw] = {"*bias": constant(0.0), "*norm*.weight": constant(1.0)}


def gpt2(n_layers: int) -> dict[str, Draw]:
    """N(0, 0.02), and N(0, 0.02 / sqrt(2 layers)) for the projections onto the residual stream.

    Radford et al. 2019, section 2.3: each layer adds two branches, whose variances add up.
    """
    return VECTORS | {
        "embedding": normal(0.02),
        "head": normal(0.02),
        "position.weight": normal(0.02),
        "*attention.qkv.weight": normal(0.02),
        "*mlp.up.weight": normal(0.02),
        "*attention.out.weight": normal(0.02 / math.sqrt(2 * n_layers)),
        "*mlp.down.weight": normal(0.02 / math.sqrt(2 * n_layers)),
    }


def scaled(n_layers: int) -> dict[str, Draw]:
    """Matrices by fan-in, whatever the width; projections onto the residual stream start at zero, so that a new
    block passes its input on unchanged (Zhang et al. 2019, arXiv 1901.09321). Tables as in gpt2: a tied head of
    larger rows would begin by predicting that every token repeats itself."""
    return gpt2(n_layers) | {
        "*attention.qkv.weight": fan_in(1.0),
        "*mlp.up.weight": fan_in(1.0),
        "*attention.out.weight": constant(0.0),
        "*mlp.down.weight": constant(0.0),
    }


SCHEMES = {"gpt2": gpt2, "scaled": scaled}


def initialise(model: nn.Module, *, n_layers: int, seed: int, scheme: str = "gpt2") -> None:
    """Draw all parameters; ValueError for an unknown scheme, AssertionError for a parameter without one rule."""
    if scheme not in SCHEMES:
        raise unknown("initialisation", scheme, SCHEMES)
    rules = SCHEMES[scheme](n_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matching = [pattern for pattern in rules if fnmatch.fnmatchcase(name, pattern)]
            assert len(matching) == 1, f"parameter {name} has {len(matching)} rules: {matching}"
            if parameter.is_meta:
                continue
            generator = torch.Generator().manual_seed(key(seed, "init", name))  # on the CPU: the same draw everywhere
            parameter.copy_(rules[matching[0]](torch.empty(parameter.shape), generator))
