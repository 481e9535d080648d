"""What a model is asked to foretell of a window of text, and what it is given for it.

All rows of a batch have the same lengths, so that nothing is padded: where a window is cut is drawn once for a batch.
B windows, N + 1 tokens each; special tokens are ids of the model's tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gptlab.registry import OBJECTIVES
from gptlab.text.tokenizer import Tokenizer, special_id

Rows = NDArray[np.int64]

# What a model of each category is trained for unless somebody says otherwise.
USUAL = {"causal": "next-token", "prefix": "blank-infilling", "encoder-decoder": "span-corruption"}
LEAST = 8  # tokens of context, so that there is something to hide and something to show
IGNORED = -100  # a target that is none: what is given and not asked
DENSITY, SPAN = 0.15, 3  # of span corruption: the part of a text that is hidden, and a span's mean length
TAILS = 0.7  # of blank infilling: how often the blank is the whole end of the text


@dataclass(frozen=True)
class Batch:
    """What a model reads, and what it should foretell after each of the ids."""

    ids: Rows  # (B, T)
    targets: Rows  # (B, T), IGNORED where nothing is asked
    source: Rows | None = None  # (B, S), for an encoder
    prefix: NDArray[np.int64] | None = None  # (B,), or (B, T) by token: tokens that see each other both ways
    # Where several texts share a row, (B, T) and of the source (B, S): the text that a token belongs to, and where it
    # stands there.
    segments: Rows | None = None
    positions: Rows | None = None
    source_segments: Rows | None = None
    source_positions: Rows | None = None
    weights: NDArray[np.float64] | None = None  # (B, T), of the targets, where they do not all count alike

    @property
    def asked(self) -> float:
        """How many targets there are; where they have weights, the sum of these."""
        asked = self.targets != IGNORED
        return float(asked.sum() if self.weights is None else self.weights[asked].sum())

    def split(self, parts: int) -> Iterator["Batch"]:
        """The same in so many smaller ones of equal size, if it can be divided; else the last is smaller."""
        rows = -(-len(self.ids) // parts)
        for first in range(0, len(self.ids), rows):
            some = {name: None if a is None else a[first : first + rows] for name, a in vars(self).items()}
            yield Batch(**some)  # type: ignore[arg-type]


class Objective(Protocol):
    """Made once for a tokenizer; `bridge` are the ids between what is given and what follows when it is applied."""

    categories: tuple[str, ...]  # of the models that can be trained for it
    bridge: tuple[int, ...]

    @staticmethod
    def specials(category: str, context: int) -> tuple[str, ...]:
        """The special tokens that it needs."""

    def __call__(self, rows: Rows, rng: np.random.Generator) -> Batch:
        """rows (B, N + 1), as long as a window and the token after it."""


class NextToken:
    """Every token from those before it."""

    categories: tuple[str, ...] = ("causal", "prefix")
    bridge: tuple[int, ...] = ()

    @staticmethod
    def specials(category: str, context: int) -> tuple[str, ...]:
        return ()

    def __init__(self, tokenizer: Tokenizer | None = None, category: str = "causal") -> None: ...

    def __call__(self, rows: Rows, rng: np.random.Generator) -> Batch:
        return Batch(rows[:, :-1], rows[:, 1:])


class Continuation:
    """The rest of a window from its beginning, which is seen both ways: as a prefix, or by an encoder.

    Raffel et al. 2019, arXiv 1910.10683, section 3.2.1 (prefix LM).
    """

    categories: tuple[str, ...] = ("prefix", "encoder-decoder")

    @staticmethod
    def specials(category: str, context: int) -> tuple[str, ...]:
        return ("<start>",) if category == "encoder-decoder" else ()

    def __init__(self, tokenizer: Tokenizer, category: str) -> None:
        self.encoded = category == "encoder-decoder"
        # A model from elsewhere may have no such token: T5 begins with id 0.
        start = special_id(tokenizer, "<start>") if "<start>" in tokenizer.specials else 0
        self.bridge = (start,) if self.encoded else ()

    def __call__(self, rows: Rows, rng: np.random.Generator) -> Batch:
        B, N = len(rows), rows.shape[1] - 1
        cut = int(rng.integers(1, N + 1))
        if self.encoded:
            given, rest = rows[:, :cut], rows[:, cut:]
            return Batch(after(self.bridge, rest), rest, source=given)
        targets = rows[:, 1:].copy()
        targets[:, : cut - 1] = IGNORED
        return Batch(rows[:, :-1], targets, prefix=np.full(B, cut))


class BlankInfilling:
    """A text with a blank, seen both ways, then what was in the blank. Du et al. 2021 (GLM), arXiv 2103.10360; in the
    proportions of Zeng et al. 2022 (GLM-130B), arXiv 2210.02414, section 2.2.

    Either the blank is the whole end of the text, A <gmask> <start> B <end>, or there are several short ones, A <mask>
    A <mask> … <start> B <start> B … <end>. Tokens of part A are not asked. Positions go on from A to B.
    """

    categories: tuple[str, ...] = ("prefix",)

    @staticmethod
    def specials(category: str, context: int) -> tuple[str, ...]:
        return ("<mask>", "<gmask>", "<start>", "<end>")

    def __init__(self, tokenizer: Tokenizer, category: str) -> None:
        names = self.specials(category, 0)
        self.mask, self.gmask, self.start, self.end = (special_id(tokenizer, name) for name in names)
        self.bridge = (self.gmask, self.start)

    def __call__(self, rows: Rows, rng: np.random.Generator) -> Batch:
        given, asked = self.tail(rows, rng) if rng.random() < TAILS else self.blanks(rows, rng)
        ids = np.concatenate([given, after((self.start,), asked, whole=True)], 1)
        ignored = np.full(given.shape, IGNORED)
        targets = np.concatenate([ignored, before(asked, self.end)], 1)
        return Batch(ids, targets, prefix=np.full(len(rows), given.shape[1]))

    def tail(self, rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Cut in two; <gmask> and <start> take the room of three tokens at the window's end."""
        text = rows[:, :-3]
        cut = int(rng.integers(1, text.shape[1]))
        return before(text[:, :cut], self.gmask), text[:, cut:]

    def blanks(self, rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Short spans taken out; each <mask> and each <start> takes the room of a token at the window's end."""
        room = rows.shape[1] - 1
        length = room - 2 * len(hidden(room, rng))
        given: list[Rows] = []
        asked: list[Rows] = []
        end = 0
        for first, size in hidden(length, rng):
            given.append(before(rows[:, end:first], self.mask))
            answer = rows[:, first : first + size]
            asked.append(after((self.start,), answer, whole=True) if asked else answer)
            end = first + size
        return np.concatenate([*given, rows[:, end:length]], 1), np.concatenate(asked, 1)


class SpanCorruption:
    """A text with spans hidden behind sentinels, to an encoder; each sentinel with its span, from the decoder.

    Raffel et al. 2019, arXiv 1910.10683, section 3.1.4: 15% of the tokens, spans of 3 on the mean.
    """

    categories: tuple[str, ...] = ("encoder-decoder",)

    @staticmethod
    def specials(category: str, context: int) -> tuple[str, ...]:
        spans = len(hidden(context, np.random.default_rng(0)))
        return ("<start>", "<end>", *(f"<span{i}>" for i in range(spans)))

    def __init__(self, tokenizer: Tokenizer, category: str) -> None:
        self.start, self.end = special_id(tokenizer, "<start>"), special_id(tokenizer, "<end>")
        names = [name for name in tokenizer.specials if name.startswith("<span")]
        self.sentinels = [special_id(tokenizer, name) for name in names]
        self.bridge = (self.start, self.sentinels[0])

    def __call__(self, rows: Rows, rng: np.random.Generator) -> Batch:
        text = rows[:, :-1]
        given: list[Rows] = []
        asked: list[Rows] = []
        end = 0
        for sentinel, (first, length) in zip(self.sentinels, hidden(text.shape[1], rng), strict=True):
            given.append(before(text[:, end:first], sentinel))
            asked.append(after((sentinel,), text[:, first : first + length], whole=True))
            end = first + length
        targets = before(np.concatenate(asked, 1), self.end)
        return Batch(after((self.start,), targets), targets, source=np.concatenate([*given, text[:, end:]], 1))


def chosen(name: str | None, category: str, context: int) -> str:
    """The objective of a model: as told, or what its category is made for; ValueError where they do not fit."""
    name = name or USUAL[category]
    fitting = [known for known in OBJECTIVES if category in OBJECTIVES[known].categories]
    if name not in fitting:
        raise ValueError(f"objective {name!r} is not for {category} models; these are: {', '.join(fitting)}")
    if name != "next-token" and context < LEAST:
        raise ValueError(f"objective {name!r} needs a context of at least {LEAST}, not {context}")
    return name


def hidden(length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(first token, length) of the spans that are hidden in a text: DENSITY of its tokens, in spans of SPAN on the
    mean; how many tokens and spans these are depends on the text's length alone. Something shows before each span, and
    behind the last."""
    tokens = max(1, round(length * DENSITY))
    spans = max(1, round(tokens / SPAN))
    lengths, gaps = parts(tokens, spans, rng), parts(length - tokens, spans + 1, rng)
    out, at = [], 0
    for gap, size in zip(gaps, lengths, strict=False):
        out.append((at + gap, size))
        at += gap + size
    return out


def parts(total: int, number: int, rng: np.random.Generator) -> list[int]:
    """`total` as a sum of so many positive integers, every one of the ways alike."""
    cuts = np.sort(rng.choice(np.arange(1, total), size=number - 1, replace=False))
    return np.diff([0, *cuts, total]).tolist()


def before(rows: Rows, token: int) -> Rows:
    """The rows, and a token behind them."""
    return np.concatenate([rows, np.full((len(rows), 1), token)], 1)


def after(tokens: tuple[int, ...], rows: Rows, *, whole: bool = False) -> Rows:
    """Tokens, and the rows behind them, less the last, which is only foretold (unless the whole is wanted)."""
    front = np.tile(np.array(tokens, np.int64), (len(rows), 1))
    return np.concatenate([front, rows if whole else rows[:, :-1]], 1)
