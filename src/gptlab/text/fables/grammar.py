"""The engine: choices -> text by a language's tellings, and text -> choices by the same tellings.

A language file has a lexicon (choice -> value -> forms) and the parts of a story, each with a telling for every
combination of the choices that it goes by. In a telling,

    {hero.the}            the form "the" of the hero's word; {place}: a word that has one form only
    {look.acc:thing}      the form "acc_f" of an adjective, f being the gender of the thing's word
    {:hero|his|her}       text by the gender of the hero's word, in the order of the file's `genders`
    {^place}              any of them with a capital letter

Parsing follows the tellings from left to right, and tries every form that may stand where a choice is still open. It
is strict: the choices that it returns tell exactly the text that was read.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from gptlab.messages import LANGUAGES
from gptlab.registry import unknown
from gptlab.text.fables.choices import CHOICES, Choice, Choices

BRACES = re.compile(r"\{(\^?)([a-z]\w*)?(?:\.(\w+))?(?::(\w+))?(?:\|([^{}]*))?\}")


@dataclass(frozen=True)
class Slot:
    """A place in a telling where a choice is told, or text that follows a word's gender."""

    choice: str  # whose word; "" for text by gender
    form: str
    agrees: str  # the choice whose word's gender counts; "" for none
    texts: tuple[str, ...]  # text by gender
    capital: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """The choices that must be known to tell it."""
        return tuple(name for name in (self.agrees, self.choice) if name)


@dataclass(frozen=True)
class Part:
    """A part of the story, told in one way for each combination of values of the choices `by`."""

    by: tuple[str, ...]
    tellings: dict[tuple[str, ...], tuple[str | Slot, ...]]


class Grammar:
    """One language: `tell` and `parse` are each other's inverse. Raises ValueError for a file that is not whole."""

    def __init__(self, table: dict[str, Any], choices: Sequence[Choice] = CHOICES) -> None:
        self.choices = {choice.name: choice for choice in choices}
        self.genders: list[str] = table.get("genders", [""])
        self.lexicon: dict[str, dict[str, Any]] = dict(table["lexicon"])
        self.lexicon |= {name: self.lexicon[source] for name, source in table.get("same", {}).items()}
        self.parts = [
            Part(tuple(part["by"]), {tuple(k.split()): self.compiled(t) for k, t in part["tellings"].items()})
            for part in table["part"]
        ]
        for part in self.parts:
            wanted = set(product(*(self.choices[name].values for name in part.by)))
            if wanted != part.tellings.keys():
                raise ValueError(
                    f"the part by {part.by} lacks or has too many: {sorted(wanted ^ part.tellings.keys())}"
                )
        slots = [s for part in self.parts for telling in part.tellings.values() for s in telling if isinstance(s, Slot)]
        for slot in slots:  # every form must be there before the first story that needs it
            for values in product(*(self.choices[name].values for name in slot.needs)):
                self.form(slot, dict(zip(slot.needs, values, strict=True)))

    def compiled(self, text: str) -> tuple[str | Slot, ...]:
        pieces: list[str | Slot] = []
        end = 0
        for found in BRACES.finditer(text):
            capital, choice, form, agrees, texts = found.groups()
            slot = Slot(choice or "", form or "", agrees or "", tuple(texts.split("|")) if texts else (), bool(capital))
            if unknowns := [name for name in slot.needs if name not in self.choices]:
                raise unknown("choice", unknowns[0], self.choices)
            pieces += [text[end : found.start()], slot]
            end = found.end()
        pieces.append(text[end:])
        if any("{" in p or "}" in p for p in pieces if isinstance(p, str)):
            raise ValueError(f"cannot read the braces in {text!r}")
        return tuple(piece for piece in pieces if piece != "")

    def gender(self, choice: str, value: str) -> str:
        word = self.lexicon[choice][value]
        return word["g"] if isinstance(word, dict) else self.genders[0]

    def form(self, slot: Slot, known: Choices) -> str:
        """What a slot says, its choices being known."""
        gender = self.gender(slot.agrees, known[slot.agrees]) if slot.agrees else ""
        if not slot.choice:
            if len(slot.texts) != len(self.genders):
                raise ValueError(f"{slot} has {len(slot.texts)} texts for {len(self.genders)} genders")
            text = slot.texts[self.genders.index(gender)]
        else:
            word = self.lexicon.get(slot.choice, {}).get(known[slot.choice])
            key = "_".join(part for part in (slot.form, gender) if part)
            found = (
                word if isinstance(word, str) and not slot.form else word.get(key) if isinstance(word, dict) else None
            )
            if found is None:
                raise ValueError(f"{slot.choice} {known[slot.choice]!r} has no form {key!r}")
            text = found
        return text[:1].upper() + text[1:] if slot.capital else text

    def tell(self, choices: Choices) -> str:
        """The story, without a separator."""
        told = []
        for part in self.parts:
            telling = part.tellings[tuple(choices[name] for name in part.by)]
            told.append("".join(p if isinstance(p, str) else self.form(p, choices) for p in telling))
        return " ".join(told)

    def parse(self, text: str, *, partial: bool = False) -> Choices:
        """The choices that tell exactly this text.

        Raises ValueError, with the position up to which the text could be read. With partial, no error: the parts
        that can be read are, wherever they stand in their order, and only their choices are returned.
        """
        if partial:
            return self.recognised(text)
        furthest = [0]
        for choices in self.stories(text, 0, 0, {}, furthest):
            return choices
        at = furthest[0]
        raise ValueError(f"not a fable from position {at} on: {text[at : at + 40]!r}")

    def stories(self, text: str, number: int, at: int, known: Choices, furthest: list[int]) -> Iterator[Choices]:
        """All ways to read parts `number`, … from a position to the end of the text."""
        if number == len(self.parts):
            furthest[0] = max(furthest[0], at)
            if at == len(text):
                yield known
            return
        if number:
            if not text.startswith(" ", at):
                furthest[0] = max(furthest[0], at)
                return
            at += 1
        for end, more in self.readings(text, self.parts[number], at, known, furthest):
            yield from self.stories(text, number + 1, end, more, furthest)

    def readings(
        self, text: str, part: Part, at: int, known: Choices, furthest: list[int]
    ) -> Iterator[tuple[int, Choices]]:
        """All ways to read one part from a position on: where it ends, and the choices known by then."""
        for values, telling in part.tellings.items():
            told = dict(zip(part.by, values, strict=True))
            if all(known.get(name, value) == value for name, value in told.items()):
                yield from self.pieces(text, telling, at, {**known, **told}, furthest)

    def pieces(
        self, text: str, telling: tuple[str | Slot, ...], at: int, known: Choices, furthest: list[int]
    ) -> Iterator[tuple[int, Choices]]:
        for i, piece in enumerate(telling):
            if isinstance(piece, Slot) and (open_ := [name for name in piece.needs if name not in known]):
                for values in product(*(self.choices[name].values for name in open_)):
                    more = {**known, **dict(zip(open_, values, strict=True))}
                    form = self.form(piece, more)
                    if text.startswith(form, at) and self.possible(more, open_):
                        yield from self.pieces(text, telling[i + 1 :], at + len(form), more, furthest)
                furthest[0] = max(furthest[0], at)
                return
            form = piece if isinstance(piece, str) else self.form(piece, known)
            if not text.startswith(form, at):
                same = next(
                    (n for n, (a, b) in enumerate(zip(form, text[at:], strict=False)) if a != b), len(text) - at
                )
                furthest[0] = max(furthest[0], at + min(same, len(form)))
                return
            at += len(form)
        yield at, known

    def possible(self, known: Choices, names: Sequence[str]) -> bool:
        """Whether the named choices may have their values beside the others that are known."""
        return all(
            known[name] != known.get(other)
            for choice in self.choices.values()
            for name, other in ((choice.name, o) for o in choice.other_than)
            if name in known and (name in names or other in names)
        )

    def recognised(self, text: str) -> Choices:
        """What can be read of a text that is no whole fable."""
        known: Choices = {}
        at = 0
        starts = [0, *(found.end() for found in re.finditer(r"\s", text))]
        for part in self.parts:
            for start in starts:
                if start >= at and (reading := next(self.readings(text, part, start, known, [0]), None)):
                    at, known = reading
                    break
        return known


@cache
def grammar(lang: str) -> Grammar:
    """The grammar of a language; ValueError for one that we lack."""
    if lang not in LANGUAGES:
        raise unknown("language of fables", lang, LANGUAGES)
    return Grammar(tomllib.loads((Path(__file__).parent / f"{lang}.toml").read_text(encoding="utf-8")))
