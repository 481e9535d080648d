"""Examples as ids, and several of them in a batch: beside each other, or packed into rows, none seeing another.

B rows, T tokens that the decoder reads, S that an encoder reads.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptlab.config import ModelConfig
from gptlab.finetuning.data import Example
from gptlab.text.objectives import IGNORED, Batch
from gptlab.text.tokenizer import END, START, Tokenizer, special_id, without

Ids = NDArray[np.int64]
# Rows with one example each need no mask, and have the faster kernel; packing is worth it where it saves this much.
PACKED = 0.7


def label_token(label: str) -> str:
    """The special token whose row is the linear head's row for a label."""
    return f"<label:{label}>"


@dataclass(frozen=True)
class Row:
    """One example: what is given, what should follow the bridge, and how much that counts."""

    given: Ids
    answer: Ids
    weight: float = 1.0


class Coder:
    """Puts examples to a model: given + bridge + answer, or given to an encoder and bridge + answer to the decoder.

    What the vocabulary cannot spell is left out, and what is too long for the context is cut at its end; `warn` says
    how often that was.
    """

    def __init__(
        self, tokenizer: Tokenizer, config: ModelConfig, *, lead: Ids | None = None, labels: Sequence[str] = ()
    ) -> None:
        """lead: what stands before every text that the model reads; labels: of a head."""
        self.tokenizer, self.config = tokenizer, config
        self.bridge = np.array(config.bridge, np.int64)
        self.lead = np.zeros(0, np.int64) if lead is None else lead.astype(np.int64)
        self.end = np.array([special_id(tokenizer, END)])
        self.encoded = config.category == "encoder-decoder"
        self.labels = {label: special_id(tokenizer, label_token(label)) for label in labels}
        self.lost: set[str] = set()
        self.longest: tuple[int, str] = (0, "")
        self.shortest, self.cut, self.seen = 1 << 62, 0, 0

    def prompt(self, text: str) -> Ids:
        """The ids of what is given; one id at least, for a model must have something to read."""
        given = np.concatenate([self.lead, self.ids(text)])
        return given if len(given) else np.zeros(1, np.int64)

    def ids(self, text: str) -> Ids:
        missing = self.tokenizer.unknown(text)
        self.lost |= {*missing}
        return self.tokenizer.encode(without(text, missing)).astype(np.int64)

    def row(self, example: Example, weight: float = 1.0, *, answer: str | None = None) -> Row:
        """answer: another one than the example's."""
        text = example.output if answer is None else answer
        given = self.prompt(example.input)
        if self.labels:
            follows = np.array([self.labels[text]])
        else:
            follows = np.concatenate([self.ids(text), self.end])
        bridge, context = len(self.bridge), self.config.context
        # The last token of an answer is foretold and not read.
        if self.encoded:
            length = max(len(given) + bridge - 1, bridge + len(follows) - 1)
            most_answer = context - bridge + 1
        else:
            length = len(given) + bridge + len(follows) - 1
            most_answer = context - bridge  # and one token that is given
        self.seen += 1
        self.shortest = min(self.shortest, length)
        if length > context:
            self.cut += 1
            self.longest = max(self.longest, (length, example.where))
            follows = follows[:most_answer]
            given = given[: self.room(len(follows))]
        return Row(given, follows, weight)

    def room(self, answer: int) -> int:
        """How many tokens of what is given are read before so many of an answer."""
        bridge, context = len(self.bridge), self.config.context
        return context - (bridge - 1) if self.encoded else context - bridge - answer + 1

    def warn(self) -> None:
        """Say what was left out and cut since the beginning."""
        context = self.config.context
        if self.cut:
            length, where = self.longest
            at = f", {where}," if where else ""
            warnings.warn(
                f"{self.cut:,} of {self.seen:,} examples are longer than the context of {context} tokens and are cut "
                f"at their end; the longest{at} has {length:,}",
                stacklevel=2,
            )
        if self.lost:
            listed = ", ".join(map(repr, sorted(self.lost)[:10]))
            warnings.warn(f"not in the model's vocabulary, and left out of the examples: {listed}", stacklevel=2)

    # Batches

    def sizes(self, row: Row) -> tuple[int, int]:
        """Tokens that the decoder, and the encoder, read."""
        bridge = len(self.bridge)
        if self.encoded:
            return bridge + len(row.answer) - 1, len(row.given) + bridge - 1
        return len(row.given) + bridge + len(row.answer) - 1, 0

    def batch(self, rows: Sequence[Row], *, packed: bool = True) -> Batch:
        """Some rows as a batch. packed: several of them share a row of the batch where that saves enough."""
        bins = [[row] for row in rows]
        if packed:
            shared = self.shared(rows)
            alone = max(map(sum, map(self.sizes, rows))) * len(rows)
            if max(sum(sum(self.sizes(row)) for row in some) for some in shared) * len(shared) <= PACKED * alone:
                bins = shared
        return self.filled(bins)

    def shared(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows put together, the longest first, each where it fits first."""
        bins: list[list[Row]] = []
        left: list[list[int]] = []
        for row in sorted(rows, key=lambda row: -sum(self.sizes(row))):
            sizes = self.sizes(row)
            for some, room in zip(bins, left, strict=True):
                if all(size <= free for size, free in zip(sizes, room, strict=True)):
                    some.append(row)
                    room[:] = [free - size for size, free in zip(sizes, room, strict=True)]
                    break
            else:
                bins.append([row])
                left.append([self.config.context - size for size in sizes])
        return bins

    def filled(self, bins: Sequence[Sequence[Row]]) -> Batch:
        """Rows as arrays, filled up behind their ends, where no token looks that comes earlier."""
        B = len(bins)
        T, S = (max(sum(self.sizes(row)[side] for row in some) for some in bins) for side in (0, 1))
        ids, targets = np.zeros((B, T), np.int64), np.full((B, T), IGNORED)
        segments, positions, prefix = (np.zeros((B, T), np.int64) for _ in range(3))
        weights = np.ones((B, T))
        source, source_positions = np.zeros((B, S), np.int64), np.zeros((B, S), np.int64)
        source_segments = np.full((B, S), -1)  # what fills up is no text, and nobody looks at it
        bridge = len(self.bridge)
        for b, some in enumerate(bins):
            at = read = 0
            for number, row in enumerate(some):
                before = self.bridge if self.encoded else np.concatenate([row.given, self.bridge])
                whole = np.concatenate([before, row.answer[:-1]])
                here = slice(at, at + len(whole))
                ids[b, here], segments[b, here], positions[b, here] = whole, number, np.arange(len(whole))
                asked = slice(at + len(before) - 1, here.stop)
                targets[b, asked], weights[b, asked] = row.answer, row.weight
                prefix[b, here] = len(row.given) + max(0, bridge - 1)
                if self.encoded:
                    seen = np.concatenate([row.given, self.bridge[1:]])
                    there = slice(read, read + len(seen))
                    source[b, there], source_segments[b, there] = seen, number
                    source_positions[b, there] = np.arange(len(seen))
                    read = there.stop
                at = here.stop
            # Behind the last text it goes on, so that whatever fills up has something to look at.
            segments[b, at:], prefix[b, at:] = segments[b, at - 1], prefix[b, at - 1]
            positions[b, at:] = positions[b, at - 1] + 1 + np.arange(T - at)
        more: dict[str, Any] = {}
        if any(len(some) > 1 for some in bins) or self.encoded:
            more = {"segments": segments, "positions": positions}
        if self.encoded:
            more |= {"source": source, "source_segments": source_segments, "source_positions": source_positions}
        if self.config.category == "prefix":
            more["prefix"] = prefix if "segments" in more else prefix[:, 0]
        if any(row.weight != 1 for some in bins for row in some):
            more["weights"] = weights
        return Batch(ids, targets, **more)


def bridged(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model with a bridge between what is given and what follows: its own, or the token <start>."""
    return config if config.bridge else config.but(bridge=(special_id(tokenizer, START),))
