"""One model in numbers: its modules with their shapes, its parameters by part, and what it costs. `gptlab show`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from textwrap import fill
from typing import Any

from torch import nn

from gptlab.config import ModelConfig, TrainConfig
from gptlab.messages import catalogue, filled
from gptlab.model.cost import TRAINING, Memory, activation_bytes, cache_bytes, flops, size_of, training_memory
from gptlab.model.count import count
from gptlab.model.outline import Kind, Outline, Shape, outline
from gptlab.survey.fit import fitting

HERE = Path(__file__).parent
LINE = 79


@dataclass(frozen=True)
class Module:
    """A module with parameters of its own, or a group of blocks (then the next ones, further in, are of each)."""

    name: str
    kind: str
    weights: tuple[Shape, ...]
    gives: Shape | None  # None for what no tap records
    parameters: int  # of a group: of each of its blocks
    depth: int = 0


@dataclass(frozen=True)
class Summary:
    """A model's numbers for a batch of texts of one length, as long as its sources where it has an encoder.

    Raises ValueError, when a number is asked for, for a batch or a length that the model cannot read.
    """

    name: str
    config: ModelConfig
    batch: int = 1
    length: int | None = None  # None: the context
    precision: str = "fp32"  # fp32 or bf16
    memory: int | None = None  # bytes that this machine has
    optimizer: str = TrainConfig().optimizer

    @cached_property
    def outline(self) -> Outline:
        return outline(self.config, batch=self.batch, length=self.length)

    @property
    def tokens(self) -> int:
        return self.config.context if self.length is None else self.length

    @cached_property
    def training(self) -> Memory:
        """Bytes for weights, gradients and optimizer."""
        return training_memory(self.config, optimizer=self.optimizer, precision=self.precision)

    @cached_property
    def costs(self) -> dict[str, int]:
        """Operations and bytes, in the order in which they are shown."""
        per_token = flops(self.config, batch=self.batch, length=self.tokens) // (self.batch * self.tokens)
        cache = cache_bytes(self.config, self.precision)
        # An encoder-decoder keeps keys and values of the source, too.
        held = cache * self.batch * self.tokens * (2 if self.config.n_encoder_layers else 1)
        activations = activation_bytes(self.outline, self.precision)
        return {
            "forward": per_token,
            "training": TRAINING * per_token,
            "cache_token": cache,
            "cache": held,
            **asdict(self.training),
            "activations": activations,
            "to_train": self.training.total + activations,
            "to_run": count(self.config).total * size_of(self.precision) + held,
        }

    @property
    def verdict(self) -> str:
        """fits, tight (not with these activations) or too_large; unknown where the memory is."""
        if self.memory is None:
            return "unknown"
        if self.training.total > self.memory:
            return "too_large"
        return "fits" if self.costs["to_train"] <= self.memory else "tight"

    def modules(self) -> Iterator[Module]:
        """From the embedding to the head, equal blocks once."""
        found = self.outline
        yield from self.inside(found.model, "", found.shapes, ("embedding", "embedding_in", "position", "query"))
        if found.model.encoder is not None:
            encoder = found.model.encoder
            yield from self.inside(encoder, "encoder.", found.shapes, ("position", "embedding_norm"))
            yield from self.stack(found.encoder, "encoder.")
            yield from self.inside(encoder, "encoder.", found.shapes, ("norm",))
        yield from self.inside(found.model, "", found.shapes, ("embedding_norm",))
        yield from self.stack(found.decoder, "")
        yield from self.inside(found.model, "", found.shapes, ("norm", "embedding_out", "head", "head_bias"))

    def stack(self, kinds: Sequence[Kind], before: str) -> Iterator[Module]:
        for kind in kinds:
            total = sum(p.numel() for p in kind.block.parameters())
            name = f"{before}blocks.{kind.span}"
            yield Module(
                name, f"{len(kind.layers)} × {type(kind.block).__name__}", (), kind.shapes["resid_post"], total
            )
            yield from self.inside(kind.block, "", kind.shapes, tuple(n for n, _ in kind.block.named_children()), 1)

    def inside(
        self, parent: nn.Module, before: str, shapes: dict[str, Shape], names: Sequence[str], depth: int = 0
    ) -> Iterator[Module]:
        """Modules and bare parameters of these names, and the modules in them, that have parameters of their own."""
        outputs = {"embedding": "embed", "head": "logits"}
        for name in names:
            part = getattr(parent, name)
            if isinstance(part, nn.Parameter):
                gives = shapes.get(before + outputs.get(name, name))
                yield Module(before + name, "Parameter", (tuple(part.shape),), gives, part.numel(), depth)
            elif isinstance(part, nn.Module):
                for inner, module in part.named_modules():
                    own = list(module.parameters(recurse=False))
                    path = ".".join(filter(None, (name, inner)))
                    weights, total = tuple(tuple(p.shape) for p in own), sum(p.numel() for p in own)
                    if own:
                        kind = type(module).__name__
                        yield Module(before + path, kind, weights, shapes.get(before + path), total, depth)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: bytes and operations as whole numbers."""
        family, largest = self.others
        return {
            "name": self.name,
            "config": self.config.to_dict(),
            "batch": self.batch,
            "length": self.tokens,
            "precision": self.precision,
            "optimizer": self.optimizer,
            "modules": [asdict(module) for module in self.modules()],
            "parameters": {**asdict(count(self.config)), "total": count(self.config).total},
            "costs": self.costs,
            "memory": self.memory,
            "verdict": self.verdict,
            "fitting": {"family": family, "largest": largest},
        }

    @property
    def others(self) -> tuple[str | None, str | None]:
        """Where this model is too large: which of its family, and of all, would fit."""
        if self.verdict != "too_large" or self.memory is None:
            return None, None
        return fitting(self.memory, self.config.family, optimizer=self.optimizer)

    def told(self, lang: str) -> str:
        """The page that `gptlab show` prints."""

        def word(entry: str, **values: object) -> str:
            return filled(catalogue(lang, HERE)[entry], lang, **values)

        def number(n: int) -> str:
            return filled("{n:,}", lang, n=n)

        modules = [(word("modules"), "", word("gives"), word("parameters"))]
        for m in self.modules():
            weights = ", ".join("×".join(map(str, shape)) for shape in m.weights)
            gives = "×".join(map(str, m.gives or ())) or "–"
            modules.append((f"{'  ' * m.depth}{m.name}", f"{m.kind} {weights}".strip(), gives, number(m.parameters)))
        counted = count(self.config)
        parts = [(word(f"part_{part}"), number(n)) for part, n in asdict(counted).items() if n]
        parts.append((word("total"), number(counted.total)))
        costs = []
        for entry, n in self.costs.items():
            shown = short(n, "", lang) if entry in ("forward", "training") else short(n, "B", lang)
            costs.append((word(entry, optimizer=self.optimizer), shown))
        if self.memory is not None:
            costs.append((word("machine"), short(self.memory, "B", lang)))
        paragraphs = [
            self.name,
            lines(modules),
            "\n".join([word("parts"), lines(parts, indent=2)]),
            "\n".join([word("costs", **asked(self)), lines(costs, indent=2)]),
            fill(word("formula"), LINE),
        ]
        if self.precision != "fp32":
            paragraphs.append(fill(word("bf16"), LINE))
        if self.verdict == "too_large":
            family, largest = self.others
            only = family or largest
            entry = "would_fit_two" if family and largest != family else "would_fit"
            others = word(entry, family=only, largest=largest) if only else word("none_fits")
            paragraphs.append(fill(word("too_large", others=others), LINE))
        elif self.verdict != "unknown":
            paragraphs.append(fill(word(self.verdict), LINE))
        return "\n\n".join(paragraphs)


def asked(summary: Summary) -> dict[str, object]:
    return {"batch": summary.batch, "length": summary.tokens, "precision": summary.precision}


def lines(rows: Sequence[Sequence[str]], *, indent: int = 0) -> str:
    """Rows of cells in columns, numbers in the last one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " " * indent
        + "  ".join(
            cell.rjust(width) if i == len(widths) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def short(number: int, unit: str, lang: str) -> str:
    """1234 -> 1.23 k; with the unit B, 1.23 kB: powers of 1000."""
    value, prefixes = float(number), ["", "k", "M", "G", "T", "P", "E"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    digits = "{v:.0f}" if number < 1000 else "{v:.3g}" if value < 100 else "{v:.0f}"
    return f"{filled(digits, lang, v=value)} {prefixes[0]}{unit}".rstrip()
