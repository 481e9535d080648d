"""A model without its weights: the kinds of its blocks, and the shape of all that flows through it, at any size.

The model is built on the meta device, and one block of each kind is run: 118 equal ones would say the same.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from gptlab.config import ModelConfig
from gptlab.model.block import Block
from gptlab.model.kernels import sdpa
from gptlab.model.masks import Mask
from gptlab.model.taps import record
from gptlab.model.transformer import Stack, Transformer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """Equal blocks of a stack."""

    block: Block  # one of them
    layers: tuple[int, ...]  # where they stand
    shapes: dict[str, Shape]  # of what it gives out, by the names of `taps` without "blocks.0."
    kept: int  # numbers that each layer's backward pass needs of its forward pass

    @property
    def span(self) -> str:
        """The layers in short: 0-62, or 1, 3, …, 95."""
        first, last = self.layers[0], self.layers[-1]
        if len(self.layers) == 1:
            return f"{first}"
        if len(self.layers) == last - first + 1:
            return f"{first}–{last}"
        few = len(self.layers) <= 3
        return ", ".join(map(str, self.layers)) if few else f"{first}, {self.layers[1]}, …, {last}"


@dataclass(frozen=True)
class Outline:
    """A model's stacks, and what flows between them, for a batch of texts of one length."""

    model: Transformer  # on the meta device
    shapes: dict[str, Shape]  # of what flows outside blocks, by the names of `taps`
    kept: int  # numbers that the backward pass of all of it needs
    decoder: tuple[Kind, ...]
    encoder: tuple[Kind, ...]


def outline(config: ModelConfig, *, batch: int = 1, length: int | None = None) -> Outline:
    """The outline of a model as it reads `batch` texts of `length` tokens (default: the context).

    An encoder reads sources of the same length. ValueError for a length that the model cannot read.
    """
    length = config.context if length is None else length
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if not 1 <= length <= config.context:
        raise ValueError(f"length must be from 1 to the context of {config.context}, not {length}")
    with torch.device("meta"):
        model = Transformer(config).eval()
        ids = torch.zeros(batch, length, dtype=torch.long)
    stacks: list[Stack] = [model] if model.encoder is None else [model, model.encoder]
    every = {stack: stack.blocks for stack in stacks}
    kinds = {stack: kinds_of(stack.blocks) for stack in stacks}
    for stack in stacks:
        stack.blocks = nn.ModuleList(stack.blocks[layers[0]] for layers in kinds[stack])
    kept: dict[str, dict[StorageWeakRef, int]] = defaultdict(dict)
    weights = {StorageWeakRef(p.untyped_storage()) for p in model.parameters()}
    with record(model, kernel=fused) as found:

        def keep(x: Tensor) -> Tensor:
            last = next(reversed(found), "")  # the tap passed last says where we are
            inside = "blocks." in last and not last.endswith("resid_post")
            storage = StorageWeakRef(x.untyped_storage())  # views of one tensor have one storage
            if x.is_floating_point() and storage not in weights:
                kept[prefix_of(last) if inside else ""][storage] = x.untyped_storage().nbytes() // x.element_size()
            return x

        with saved_tensors_hooks(keep, lambda x: x):
            logits = model(ids, source=None if model.encoder is None else ids)
            F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    for stack in stacks:
        stack.blocks = every[stack]

    def described(stack: Stack, before: str) -> tuple[Kind, ...]:
        result = []
        for number, layers in enumerate(kinds[stack]):
            prefix, block = f"{before}blocks.{number}.", stack.blocks[layers[0]]
            assert isinstance(block, Block)
            shapes = {name.removeprefix(prefix): tuple(x.shape) for name, x in found.items() if name.startswith(prefix)}
            result.append(Kind(block, layers, shapes, sum(kept[prefix].values())))
        return tuple(result)

    decoder = described(model, "")
    encoder = () if model.encoder is None else described(model.encoder, "encoder.")
    outside = {name: tuple(x.shape) for name, x in found.items() if "blocks." not in name}
    total = sum(kept[""].values()) + sum(len(kind.layers) * kind.kept for kind in (*decoder, *encoder))
    return Outline(model, {"ids": (batch, length), **outside}, total, decoder, encoder)


def prefix_of(name: str) -> str:
    """encoder.blocks.0.mlp.up -> encoder.blocks.0."""
    before, _, rest = name.rpartition("blocks.")
    return f"{before}blocks.{rest.split('.')[0]}."


class Fused(torch.autograd.Function):
    """Attention as a fused kernel keeps it for the backward pass: what comes in and goes out, and no pattern."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


def fused(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, scale: float, dropout: float
) -> tuple[Tensor, Tensor | None]:
    """Shapes only, that of the pattern too; a bias that is learned has no fused kernel."""
    pattern = q.new_empty(*q.shape[:-1], k.shape[-2])
    if bias is not None and bias.requires_grad:
        return sdpa(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)[0], pattern
    return Fused.apply(q, k, v), pattern


def kinds_of(blocks: Iterable[nn.Module]) -> list[tuple[int, ...]]:
    """The layers of each kind of block: equal ones have the same class, band and parameters."""
    kinds: dict[object, list[int]] = {}
    for layer, block in enumerate(blocks):
        assert isinstance(block, Block)
        parameters = tuple((name, p.shape) for name, p in block.named_parameters())
        kinds.setdefault((type(block), block.attention.band, parameters), []).append(layer)
    assert all(len({b - a for a, b in pairwise(layers)}) <= 1 for layers in kinds.values()), "layers without a rule"
    return [tuple(layers) for layers in kinds.values()]
