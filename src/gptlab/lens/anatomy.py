"""A pass through a model, step by step: every tensor in the order of computation, what the residual stream is the sum
of, and who writes how much into it.

T tokens, C model width, H heads, D head width, V vocabulary. Norms are Euclidean, in the units of the numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gptlab.lens.trace import Array, Trace
from gptlab.model import taps
from gptlab.model.block import Block
from gptlab.model.positions.base import Position
from gptlab.model.transformer import Stack, Transformer

NOTHING: Array = np.zeros(0)
# What a block's branches are called, in their order -> the tap of what they add.
WRITTEN = {"attention": "attention.out", "cross": "cross.out", "mlp": "mlp.down"}
# What the dimensions are, where it is not (tokens, width) or (heads, tokens, head_width).
AXES = {
    "ids": ("tokens",),
    "embedding_in": ("tokens", "width"),
    "qkv": ("tokens", "qkv"),
    "k": ("kv_heads", "tokens", "head_width"),
    "v": ("kv_heads", "tokens", "head_width"),
    "k_norm": ("kv_heads", "tokens", "head_width"),
    "pattern": ("heads", "tokens", "seen"),
    "up": ("tokens", "units"),
    "hidden": ("tokens", "units"),
    "embedding_out": ("tokens", "table_width"),
    "logits": ("tokens", "vocabulary"),
    "probabilities": ("tokens", "vocabulary"),
}


@dataclass(frozen=True)
class Step:
    """A tensor on the way: its name is that of model/taps.py; `ids`, `position` and `probabilities` are added here.

    array: (T,) ids, (T, n), or (H, T, n); read: whose tokens its rows are, "decoder" or "encoder".
    """

    name: str
    array: Array
    read: str = "decoder"

    @property
    def stack(self) -> str:
        """Where it is computed: "encoder" or "decoder"."""
        return "encoder" if self.name.startswith("encoder.") else "decoder"

    @property
    def layer(self) -> int | None:
        """The block that it is in; None before the first and after the last."""
        before, _, rest = self.name.removeprefix("encoder.").partition("blocks.")
        return int(rest.split(".")[0]) if rest and not before else None

    @property
    def part(self) -> str:
        """The name without stack and layer: attention.pattern."""
        name = self.name.removeprefix("encoder.")
        return name if self.layer is None else name.split(".", 2)[2]

    @property
    def kind(self) -> str:
        """The last name that is no number: pattern; norms."""
        return next(name for name in reversed(self.name.split(".")) if not name.isdigit())

    @property
    def axes(self) -> tuple[str, ...]:
        """What each dimension is."""
        usual = ("heads", "tokens", "head_width")[-self.array.ndim :] if self.array.ndim == 3 else ("tokens", "width")
        return AXES.get(self.kind, usual)

    @property
    def norms(self) -> Array:
        """The norm of each token's numbers, in all heads together: (T,); of ids, which measure nothing, (0,)."""
        if self.array.ndim == 1:
            return NOTHING
        squares: Array = np.square(self.array.astype(np.float64))
        axes = tuple(axis for axis in range(squares.ndim) if axis != squares.ndim - 2)
        return np.sqrt(squares.sum(axes))


def walk(model: Transformer, trace: Trace) -> list[Step]:
    """All that was computed, in the order of computation, from ids to the probabilities of the next token.

    trace: a whole one, of this model. Modules that only hold others give out what their last part did, and are left
    out. The steps that no tap records: `ids`; `position`, (T, C), what is added to the embedding, where the encoding
    adds something there; `probabilities`, (T, V), softmax(logits).
    """
    steps: list[Step] = []
    stacks: dict[str, Stack] = {"encoder.": model.encoder} if model.encoder is not None else {}
    stacks[""] = model
    begun: set[str] = set()
    names = list(trace)
    for at, name in enumerate(names):
        if any(earlier.startswith(f"{name}.") for earlier in names[:at]):
            continue
        prefix = "encoder." if name.startswith("encoder.") else ""
        read = "encoder" if prefix or name.endswith(("cross.k", "cross.v", "cross.k_norm")) else "decoder"
        if prefix not in begun:
            begun.add(prefix)
            ids = trace.source_ids if prefix else trace.ids
            assert ids is not None
            steps.append(Step(f"{prefix}ids", ids, read))
        steps.append(Step(name, trace[name], read))
        if name == f"{prefix}embed" and (added := positions(stacks[prefix], trace[name])) is not None:
            steps.append(Step(f"{prefix}position", added, read))
    steps.append(Step("probabilities", softmax(trace["logits"])))
    return steps


@torch.inference_mode()
def positions(stack: Stack, embed: Array) -> Array | None:
    """What the position encoding adds to embeddings (T, C) of a text that begins at position 0; None if nothing."""
    if type(stack.position).embed is Position.embed:
        return None
    device = next(stack.parameters()).device
    nothing = torch.zeros(1, *embed.shape, device=device)
    added: Array = stack.position.embed(nothing, torch.arange(len(embed), device=device)[None])[0].cpu().numpy()
    return added


def softmax(logits: Array) -> Array:
    """exp(x) / sum of exp(x), over the last dimension, in float64."""
    x = logits.astype(np.float64)
    powers = np.exp(x - x.max(-1, keepdims=True))
    probabilities: Array = powers / powers.sum(-1, keepdims=True)
    return probabilities


# What is the sum of what: a residual layout is run on symbols.


@dataclass(frozen=True)
class Sum:
    """name = the sum of factor times term; with `norm`, that norm of the sum."""

    name: str
    terms: Mapping[str, float]  # names of taps (or `position`) -> factors
    norm: str = ""  # the module

    @property
    def formula(self) -> str:
        """In plain text, by names without the block's: resid_mid = resid_pre + attention.out"""
        layer = Step(self.name, NOTHING).layer
        terms = " + ".join(
            ("" if factor == 1 else f"{factor:.3g} ") + short(name, layer) for name, factor in self.terms.items()
        )
        return f"{short(self.name, layer)} = {f'norm({terms})' if self.norm else terms}"


def short(name: str, layer: int | None) -> str:
    """A step's name as it is called within a layer; of another layer, in full."""
    step = Step(name, NOTHING)
    return step.part.removeprefix("residual.") if step.layer in (layer, None) else name


class Symbol:
    """A value of which only is known what it is the sum of: factors by name."""

    def __init__(self, of: Mapping[str, float]) -> None:
        self.of = dict(of)

    def __add__(self, other: "Symbol") -> "Symbol":
        names = dict.fromkeys([*self.of, *other.of])
        return Symbol({name: self.of.get(name, 0.0) + other.of.get(name, 0.0) for name in names})

    def __mul__(self, factor: float) -> "Symbol":
        return Symbol({name: factor * value for name, value in self.of.items()})

    __rmul__ = __mul__


class SymbolicNorm(nn.Module):
    """Stands for a norm, and notes what it was given."""

    def __init__(self, name: str, found: list[Sum]) -> None:
        super().__init__()
        self.name, self.found = name, found

    def forward(self, x: Symbol) -> Symbol:
        self.found.append(Sum(self.name, dict(x.of), self.name))
        return Symbol({self.name: 1.0})


def block_sums(block: Block, prefix: str) -> list[Sum]:
    """The sums and norms of a block, in the order of computation, found by running its layout on symbols."""
    layout, found = block.residual, list[Sum]()
    parts = [name for name in WRITTEN if name != "cross" or block.cross is not None]
    branches = [lambda _, name=name: Symbol({f"{prefix}{WRITTEN[name]}": 1.0}) for name in parts]

    def name_it(name: str, x: Symbol) -> None:
        found.append(Sum(f"{prefix}{name}", dict(x.of)))
        x.of = {f"{prefix}{name}": 1.0}

    def listen(module: nn.Module, name: str, x: Tensor | Symbol) -> None:
        if module is layout and isinstance(x, Symbol):
            name_it(name, x)

    norms = layout.norms
    taps.LISTENERS.append(listen)
    try:
        layout.norms = nn.ModuleList(SymbolicNorm(f"{prefix}residual.norms.{i}", found) for i in range(len(norms)))  # type: ignore[arg-type]
        name_it("resid_post", layout(Symbol({f"{prefix}resid_pre": 1.0}), branches))
    finally:
        layout.norms = norms
        taps.LISTENERS.remove(listen)
    return found


def sums(model: Transformer) -> list[Sum]:
    """All sums and norms that the residual stream goes through, from embedding to final norm, as the layout says.

    Everything else in a model is what the branches compute of it, and the head.
    """
    found: list[Sum] = []
    stacks: list[tuple[str, Stack]] = (
        [("", model)] if model.encoder is None else [("encoder.", model.encoder), ("", model)]
    )
    for prefix, stack in stacks:
        stream = {f"{prefix}embed": 1.0}
        if type(stack.position).embed is not Position.embed:
            stream[f"{prefix}position"] = 1.0
        if not isinstance(stack.embedding_norm, nn.Identity):
            name = f"{prefix}embedding_norm"
            found.append(Sum(name, stream, name))
            stream = {name: 1.0}
        for layer, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            found.append(Sum(f"{prefix}blocks.{layer}.resid_pre", stream))
            found += block_sums(block, f"{prefix}blocks.{layer}.")
            stream = {f"{prefix}blocks.{layer}.resid_post": 1.0}
        if not isinstance(stack.norm, nn.Identity):
            found.append(Sum(f"{prefix}norm", stream, f"{prefix}norm"))
    return found


@torch.inference_mode()
def misfit(total: Sum, model: Transformer, arrays: Mapping[str, Array]) -> float:
    """How far a sum, computed again from its terms, is from what the model had: the largest difference, relative to the
    model's largest absolute value. Rounding in float32 leaves some 1e-7.

    arrays: {step.name: step.array for step in walk(...)}
    """
    again: Array = sum(factor * arrays[name].astype(np.float64) for name, factor in total.terms.items())  # type: ignore[assignment]
    if total.norm:
        weights = next(model.parameters())
        again = model.get_submodule(total.norm)(torch.as_tensor(again).to(weights)).cpu().numpy()
    had = arrays[total.name]
    return float(np.abs(again - had).max() / max(np.abs(had).max(), np.finfo(np.float32).tiny))


# Who writes into the stream


@dataclass(frozen=True)
class Write:
    """What a branch adds to the stream, token by token, each (T,): norms of both, and the cosine between them."""

    stack: str  # encoder or decoder
    layer: int
    branch: str  # attention, cross or mlp
    added: Array
    stream: Array  # of what it is added to, with the factor of the layout
    cosine: Array  # 0 where one of the two is 0


def writes(found: Sequence[Sum], arrays: Mapping[str, Array]) -> Iterator[Write]:
    """Every branch that adds to the stream, in order. found: `sums`; arrays: as `misfit`'s."""
    for total in found:
        own = [name for name in total.terms if name.endswith(tuple(WRITTEN.values()))]
        passing = [factor * arrays[name] for name, factor in total.terms.items() if name not in own]
        for name in own:
            stream = np.sum(passing, 0, dtype=np.float64)
            added = total.terms[name] * arrays[name].astype(np.float64)
            step = Step(name, added)
            lengths = np.linalg.norm(added, axis=-1), np.linalg.norm(stream, axis=-1)
            product = lengths[0] * lengths[1]
            cosine = np.divide((added * stream).sum(-1), product, out=np.zeros_like(product), where=product > 0)
            assert step.layer is not None
            yield Write(step.stack, step.layer, step.part.split(".")[0], *lengths, cosine)


def active(up: Array, units: int) -> Array:
    """Which part of an MLP's hidden units each token switches on: those with a pre-activation (of gated ones: a gate)
    above 0, from 0 to 1, (T,).

    up (T, units or 2 units): what the activation is given; the first half are the gates.
    """
    share: Array = (up[:, :units] > 0).mean(-1)
    return share
