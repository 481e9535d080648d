"""How weights are drawn before training: every parameter by exactly one rule, from (seed, its name) alone.

A parameter's draw does not depend on which others there are, nor on the order in which a model makes them.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model.attention import Attention
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


def rules(config: ModelConfig, scheme: str) -> dict[str, Draw]:
    """Pattern of a parameter's name -> how it is drawn.

    gpt2: N(0, 0.02), and N(0, 0.02 / sqrt(2 layers)) for the projections onto the residual stream, since each layer
    adds two branches whose variances add up (Radford et al. 2019, section 2.3).

    scaled: matrices by fan-in, whatever the width; projections onto the residual stream start at zero, so that a new
    block passes its input on unchanged (Zhang et al. 2019, arXiv 1901.09321). Tables as in gpt2 up to a width of 128,
    and beyond it smaller: with the blocks passing on the embedding, a tied head begins by giving each token the logit
    std * width of its own repetition, which must not outweigh all others together.

    copying: as scaled, but that each head begins by repeating what it looks at (see `repeat`).
    """
    if scheme not in SCHEMES:
        raise unknown("initialisation", scheme, SCHEMES)
    inner, outer = normal(0.02), normal(0.02 / math.sqrt(2 * (config.n_layers + config.n_encoder_layers)))
    std = 0.02
    if scheme in ("scaled", "copying"):
        inner, outer = fan_in(1.0), constant(0.0)
        std = min(std, 0.02 * 128 / config.d_embedding)
    # Where the architecture makes logits small by a factor, the table makes up for it. With PaLM's and T5's own N(0, 1)
    # every token would foretell itself at first, far above the loss of guessing.
    table = normal(std / config.logit_scale)
    return {
        "*bias": constant(0.0),
        "*norm*.weight": constant(1.0),
        "embedding": table,
        "head": table,
        "query": normal(std),
        "*position.weight": normal(std),
        "*position.buckets": normal(0.02),
        "embedding_in.weight": fan_in(1.0),
        "embedding_out.weight": fan_in(1.0),
        "*attention.qkv.weight": inner,
        "*cross.qkv.weight": inner,
        "*relative.weight": inner,
        "*mlp.up.weight": inner,
        "*attention.out.weight": outer,
        "*cross.out.weight": outer,
        "*mlp.down.weight": outer,
    }


SCHEMES = ("gpt2", "scaled", "copying")
REPEATED = 0.5  # of copying: how much of what a head looks at it adds to its own token


def initialise(model: nn.Module, config: ModelConfig, *, seed: int, scheme: str = "gpt2") -> None:
    """Draw all parameters; ValueError for an unknown scheme, AssertionError for a parameter without one rule."""
    drawn = rules(config, scheme)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matching = [pattern for pattern in drawn if fnmatch.fnmatchcase(name, pattern)]
            assert len(matching) == 1, f"parameter {name} has {len(matching)} rules: {matching}"
            if parameter.is_meta:
                continue
            generator = torch.Generator().manual_seed(key(seed, "init", name))  # on the CPU: the same draw everywhere
            parameter.copy_(drawn[matching[0]](torch.empty(parameter.shape), generator))
        for name, parameter in model.named_parameters():
            for part, gain in gains(name, parameter, config):
                part.mul_(gain)
        if scheme == "copying":
            for module in model.modules():
                if isinstance(module, Attention) and not module.out.weight.is_meta:
                    repeat(module)


def repeat(attention: Attention) -> None:
    """Attention's output matrix from its values', so that each head begins as REPEATED times a projection of what it
    looks at: out_h = REPEATED W_v^T, out_h W_v ~ REPEATED times the identity on average over the heads.

    Small models otherwise take hundreds of steps to find that a text repeats its names (the jump of Olsson et al. 2022,
    arXiv 2209.11895); this is our way to have them begin with it, found on the fables (bench/results.md).
    """
    values = attention.qkv.weight[sum(attention.sections[:2]) :].unflatten(0, (attention.n_kv_heads, -1))
    each = values.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=0)  # (H, D, C)
    attention.out.weight.copy_(REPEATED * each.flatten(0, 1).T)


def gains(name: str, parameter: Tensor, config: ModelConfig) -> Iterator[tuple[Tensor, float]]:
    """What an architecture draws smaller than the scheme says: parts of a parameter, and by which factor."""
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    if name.endswith("qkv.weight") and config.attention_scale == "none":
        # Scores that are not divided by sqrt(D): the queries are drawn so much smaller (T5).
        yield parameter[:q], config.head_dim**-0.5
    if config.norm_placement == "post-deepnorm":
        # Wang et al. 2022, arXiv 2203.00555: (2 layers)^-1/2 on values, attention outputs and MLPs (GLM-130B's form).
        gain = (2 * config.n_layers) ** -0.5
        if name.endswith("qkv.weight"):
            yield parameter[q + kv :], gain
        elif name.endswith((".out.weight", "mlp.up.weight", "mlp.down.weight")):
            yield parameter, gain
