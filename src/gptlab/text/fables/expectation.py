"""What a fable may go on with, exactly: the distribution of the next character, or token, after any beginning.

A reader follows every way in which the text read so far can be told. Each is a row of choices, made as far as the text
needs them, and has the probability of that row, the open choices being summed over. Two ways differ in some choice,
hence exclude each other: what they say next adds up to the probability of each next character. Nothing is estimated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gptlab.messages import LANGUAGES
from gptlab.text.fables import SEPARATOR
from gptlab.text.fables.choices import CHOICES, Choice, Choices
from gptlab.text.fables.grammar import Grammar, Slot, grammar

BREAKS = " \n"  # a token begins at one of these before a character that is no white space, in every tokenizer of ours
Owner = tuple[str, ...]  # the names of choices


class Encoder(Protocol):
    """As much of a tokenizer as is needed here."""

    pieces: list[bytes]

    def encode(self, text: str) -> np.ndarray: ...


class Odds:
    """p(some choices | others), the rest being summed over."""

    def __init__(self, order: Sequence[Choice] = CHOICES) -> None:
        self.order = order
        # Choices that depend on each other, directly or over others: these alone must be weighed together.
        self.kin: dict[str, frozenset[str]] = {choice.name: frozenset({choice.name}) for choice in order}
        for choice in order:
            together = frozenset().union(*(self.kin[name] for name in (choice.name, *parents(choice))))
            self.kin |= dict.fromkeys(together, together)
        self.weight = cache(self._weight)

    def _weight(self, known: frozenset[tuple[str, str]], names: frozenset[str]) -> float:
        """p(known) of choices that all are among `names`, which depend on no others."""
        fixed, order = dict(known), [choice for choice in self.order if choice.name in names]

        def total(number: int, row: Choices) -> float:
            if number == len(order):
                return 1.0
            choice = order[number]
            return sum(
                p * total(number + 1, {**row, choice.name: value})
                for value, p in choice.distribution(row).items()
                if fixed.get(choice.name, value) == value
            )

        return total(0, {})

    def __call__(self, more: Choices, known: Choices) -> float:
        """p(more | known)."""
        names = frozenset().union(*(self.kin[name] for name in more))
        before = frozenset((name, value) for name, value in known.items() if name in names)
        return self.weight(before | frozenset(more.items()), names) / self.weight(before, names)


def parents(choice: Choice) -> tuple[str, ...]:
    return (*choice.other_than, *([choice.given] if choice.odds else []))


@dataclass(frozen=True)
class Way:
    """One way to tell what was read: the choices made by then, and what comes for certain before the next."""

    teller: Grammar | None  # None: no story has begun since the last one
    weight: float
    known: Choices = field(default_factory=dict)
    part: int = 0  # of the story
    pieces: tuple[str | Slot, ...] = ()  # that are left of the part's telling, behind `certain`
    certain: str = ""
    told: frozenset[str] = frozenset()  # the choices whose own words stood in the text, or by which a part was told
    by: Owner = ()  # the choices that this part tells by how it is told
    past: tuple[tuple[Owner, int], ...] = ()  # what was told: of which choices, in so many characters

    def telling(self, text: str, owner: Owner, **new: Any) -> "Way":
        """The same way, which now tells a text for certain."""
        return replace(self, certain=text, past=(*self.past, (owner, len(text))), **new)


class Tales:
    """How stories follow each other in a corpus: in which languages, by which grammar, with which probabilities."""

    def __init__(self, grammars: dict[str, Grammar], order: Sequence[Choice] = CHOICES) -> None:
        """grammars: by the mark that stands before a story of that language, "" where there is one language only."""
        self.grammars, self.odds = grammars, Odds(order)

    @classmethod
    def of(cls, langs: Sequence[str]) -> Self:
        """Those of a corpus in some languages, as in corpus.stories. ValueError for a language that we lack."""
        return cls({f"{LANGUAGES[lang]}\n" if len(langs) > 1 else "": grammar(lang) for lang in langs})

    def start(self) -> "Reader":
        """A reader that stands behind a separator, where a story begins."""
        return Reader(self, (Way(None, 1.0),))

    def between(self) -> "Reader":
        """A reader that stands before a separator."""
        return Reader(self, (Way(None, 1.0).telling(SEPARATOR, ()),))

    def opened(self, way: Way) -> Iterator[Way]:
        """The ways to go on, each certain of its next character."""
        if way.certain:
            yield way
        elif way.teller is None:
            weight = way.weight / len(self.grammars)
            for mark, teller in self.grammars.items():
                yield from self.told(way.telling(mark, ("language",), teller=teller, weight=weight), 0)
        elif not way.pieces:
            yield from self.told(way, way.part + 1)
        else:
            grammar_, (piece, *rest) = way.teller, way.pieces
            way = replace(way, pieces=tuple(rest))
            if isinstance(piece, str):
                yield way.telling(piece, way.by)
                return
            new = [(name,) for name in (piece.choice, piece.agrees) if name and name not in way.told]
            owner = new[0] if new else way.by
            for known, weight in self.ways(way, piece.needs):
                text = grammar_.form(piece, known)
                told = way.told | {piece.choice} if text else way.told  # French says an adjective before or behind
                yield from self.opened(way.telling(text, owner, known=known, weight=weight, told=told))

    def told(self, way: Way, number: int) -> Iterator[Way]:
        """The ways to tell the part of that number, which comes next; behind the last one a separator."""
        assert way.teller is not None
        if number == len(way.teller.parts):
            yield Way(None, way.weight, past=way.past).telling(SEPARATOR, ())
            return
        part = way.teller.parts[number]
        by = tuple(name for name in part.by if name not in way.told)
        way = replace(way, part=number, by=by, told=way.told | {*part.by})
        for known, weight in self.ways(way, part.by):
            telling = part.tellings[tuple(known[name] for name in part.by)]
            here = replace(way, known=known, pieces=telling, weight=weight)
            yield from self.opened(here.telling(" ", ()) if number else here)

    def ways(self, way: Way, names: Sequence[str]) -> Iterator[tuple[Choices, float]]:
        """The choices, once those of these names are made, and the weight of that way."""
        assert way.teller is not None
        open_ = [name for name in dict.fromkeys(names) if name not in way.known]
        if not open_:
            yield way.known, way.weight
            return
        for values in product(*(way.teller.choices[name].values for name in open_)):
            more = dict(zip(open_, values, strict=True))
            if weight := way.weight * self.odds(more, way.known):
                yield {**way.known, **more}, weight


@dataclass(frozen=True)
class Reader:
    """Somewhere in a text of stories. Weights are relative to what was read: they sum to one."""

    tales: Tales
    ways: tuple[Way, ...]

    @cached_property
    def next(self) -> dict[str, float]:
        """The probability of each next character."""
        found: dict[str, float] = {}
        for way in self.open:
            found[way.certain[0]] = found.get(way.certain[0], 0.0) + way.weight
        return found

    @cached_property
    def open(self) -> tuple[Way, ...]:
        return tuple(more for way in self.ways for more in self.tales.opened(way))

    def after(self, character: str) -> "Reader":
        """One character further. ValueError for one that cannot come."""
        p = self.next.get(character)
        if p is None:
            raise ValueError(f"no fable goes on with {character!r} here, but with one of {''.join(self.next)!r}")
        going = (way for way in self.open if way.certain[0] == character)
        return Reader(self.tales, tuple(replace(way, certain=way.certain[1:], weight=way.weight / p) for way in going))

    def read(self, text: str) -> Iterator["Reader"]:
        """The reader before each character of a text, and behind the last one.

        Raises ValueError, with the position, where no fable goes on like this.
        """
        reader = self
        yield reader
        for at, character in enumerate(text):
            try:
                reader = reader.after(character)
            except ValueError as error:
                raise ValueError(f"not a fable from position {at} on: {error}") from None
            yield reader

    def words(self) -> dict[str, float]:
        """How the text may go on up to the next break: a space, or a newline, before a character that is none."""
        found: dict[str, float] = {}
        left = [("", 1.0, self)]
        while left:
            text, p, reader = left.pop()
            for character, chance in reader.next.items():
                then = reader.after(character)
                # No telling leaves open whether more white space follows.
                if text and character in BREAKS and not any(following.isspace() for following in then.next):
                    found[text] = found.get(text, 0.0) + p * chance
                else:
                    left.append((text + character, p * chance, then))
        return found

    @property
    def owners(self) -> list[Owner]:
        """Whose choices each character told that was read, by the likeliest way to tell it.

        Of a choice's first word, that choice; elsewhere, the choices by which that part of the story is told.
        """
        past = max(self.ways, key=lambda way: way.weight).past
        return [owner for owner, length in past for _ in range(length)]


@dataclass(frozen=True)
class TrueTokens:
    """The true distribution of each of T tokens, and of the one behind them, given all tokens before it.

    rows: T + 1 times id -> probability; nats (T,): -ln p of each token; entropy (T + 1,), in nats; owners: T times the
    names of the choices that a token tells, () where no other token was possible.
    """

    rows: list[dict[int, float]] = field(repr=False)
    nats: NDArray[np.float64]
    owners: list[Owner]

    @property
    def entropy(self) -> NDArray[np.float64]:
        return np.array([-sum(p * math.log(p) for p in row.values()) for row in self.rows]).clip(0)


def true_tokens(tales: Tales, text: str, tokenizer: Encoder) -> TrueTokens:
    """The exact distribution of every token of SEPARATOR + text, those of the separator included.

    A word's tokens depend on that whole word and on nothing else: so a token is as probable as are, together, the words
    that begin with the tokens before it in its word, and have it next. Raises ValueError for a text with which no fable
    begins, or that ends within a word, and for a tokenizer that joins what stands on both sides of a break.
    """
    whole = SEPARATOR + text
    readers = list(tales.between().read(whole))
    breaks = [0, *(at for at in range(1, len(whole) - 1) if whole[at] in BREAKS and not whole[at + 1].isspace())]
    came: list[int] = []

    def ids_of(some: str) -> list[int]:
        return [int(i) for i in tokenizer.encode(some)]

    def words(at: int) -> list[Word]:
        """Those that may begin at a break."""
        return [Word(ids_of(word), p, len(word)) for word, p in readers[at].words().items() if word[0] in BREAKS]

    rows = [following(words(0), [], [])]
    for start, stop in zip(breaks, [*breaks[1:], len(whole)], strict=True):
        ids, here = ids_of(whole[start:stop]), words(start)
        for at in range(1, len(ids) + 1):
            ended = [word.length for word in here if word.ids == ids[:at]]
            rows.append(following(here, ids[:at], words(start + ended[0]) if ended else []))
        came += ids
    if any(i not in row for i, row in zip(came, rows, strict=False)) or not rows[-1]:
        raise ValueError(f"the text ends within a word, {whole[breaks[-1] :]!r}")
    if came != ids_of(whole):
        raise ValueError("this tokenizer joins what stands on two sides of a space")
    whose = told_by(whole, readers[-1].owners, tokenizer, came)
    owners = [owner if len(row) > 1 else () for owner, row in zip(whose, rows, strict=False)]
    nats = [-math.log(row[i]) for row, i in zip(rows, came, strict=False)]
    return TrueTokens(rows, np.array(nats).clip(0), owners)


def told_by(text: str, owners: Sequence[Owner], tokenizer: Encoder, ids: Sequence[int]) -> Iterator[Owner]:
    """Whose choices each token tells: the owner of its last letter; of mere space, that of the letter behind it."""
    spelled = b""
    for i in ids:
        spelled += tokenizer.pieces[i]
        end = len(spelled.decode(errors="ignore")) or 1
        if tokenizer.pieces[i].isspace():
            end += len(text[end:]) - len(text[end:].lstrip()) + 1
        else:
            end = len(text[:end].rstrip())
        yield owners[min(end, len(text)) - 1]


@dataclass(frozen=True)
class Word:
    """What stands between two breaks: its tokens, its probability, and its length in characters."""

    ids: list[int]
    p: float
    length: int


def following(words: Sequence[Word], before: list[int], then: Sequence[Word]) -> dict[int, float]:
    """The distribution of the token behind others of a word: more of that word, or, if it ends, of those after it."""
    row: dict[int, float] = {}
    after = sum(word.p for word in then)
    for word in words:
        if word.ids == before:
            for other in then:
                row[other.ids[0]] = row.get(other.ids[0], 0.0) + word.p * other.p / after
        elif word.ids[: len(before)] == before:
            row[word.ids[len(before)]] = row.get(word.ids[len(before)], 0.0) + word.p
    total = sum(row.values())
    return {i: p / total for i, p in row.items()}
