"""Adapters of a model of ours <-> those of the same model in transformers, by the tables of families.py.

A matrix that is one with us and several there (q, k and v; gate and value) has one adapter with us: there, each part
gets the same A and its own rows of B. In the other direction, what were separate adapters becomes one of a higher rank,
their A one below the other, and B a block for each.

r rank, A (r, inputs), B (outputs, r).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.convert.families import TRANSPOSED, Operation
from gptlab.convert.hf import family_of, layers, shapes

Pair = tuple[Tensor, Tensor]  # A and B
Pairs = Mapping[str, Pair]


def to_theirs(config: ModelConfig, ours: Pairs) -> dict[str, Pair]:
    """By the names of their weights. ValueError for an architecture that transformers has no class for."""
    family, there = family_of(config)
    theirs: dict[str, Pair] = {}
    left = dict(ours)
    for names, target, operation in family.weights(there):
        for i in layers(there, target):
            if (pair := left.pop(target.format(i=i), None)) is not None:
                A, B = pair
                parts = rows_of(operation).part(there, B)
                theirs |= {name.format(i=i): (A, part) for name, part in zip(names, parts, strict=True)}
    assert not left, f"no row takes {sorted(left)}"
    return theirs


def transposed(config: ModelConfig) -> bool:
    """Whether the class there holds its matrices as (inputs, outputs)."""
    family, there = family_of(config)
    return any(operation is TRANSPOSED for *_, operation in family.weights(there))


def to_ours(config: ModelConfig, theirs: Pairs) -> dict[str, Pair]:
    """By the names of our weights. ValueError for an adapter of what has no place in this model."""
    family, there = family_of(config)
    sizes = shapes(there)
    ours: dict[str, Pair] = {}
    left = dict(theirs)
    for names, target, operation in family.weights(there):
        for i in layers(there, target):
            name = target.format(i=i)
            found = [left.pop(n.format(i=i), None) for n in names]
            if name in sizes and any(found):
                ours[name] = together(there, found, sizes[name][0], rows_of(operation))
    if left:
        known = [
            n.format(i=0) for names, target, _ in family.weights(there) for n in names if target.endswith("weight")
        ]
        raise ValueError(
            f"the adapter is for {sorted(left)[0]!r}, which {family.model} of this run has not; it has, in its first "
            f"layer: {', '.join(known)}"
        )
    return ours


def rows_of(operation: Operation) -> Operation:
    """What a row of weights does to B, whose rows are the weight's: all but a transposition, which peft has undone."""
    return Operation(lambda c, parts: parts[0], lambda c, x: [x]) if operation is TRANSPOSED else operation


def together(config: ModelConfig, pairs: list[Pair | None], outputs: int, operation: Operation) -> Pair:
    """Adapters of the parts of a matrix as one of the whole; None where a part has none."""
    there = [pair for pair in pairs if pair is not None]
    first = there[0][0]
    if len(there) == len(pairs) and all(torch.equal(A, first) for A, _ in there):
        return first, operation.join(config, [B for _, B in there])
    rank = sum(A.shape[0] for A, _ in there)
    sizes = [len(part) for part in operation.part(config, torch.zeros(outputs, 1))]
    parts, at = [], 0
    for pair, rows in zip(pairs, sizes, strict=True):
        block = torch.zeros(rows, rank, dtype=first.dtype)
        if pair is not None:
            A, B = pair
            block[:, at : at + len(A)] = B
            at += len(A)
        parts.append(block)
    return torch.cat([A for A, _ in there]), operation.join(config, parts)
