"""Little animal fables, written by a seeded grammar in five languages: a corpus whose entropy is known exactly.

A fable is a row of choices, drawn in a fixed order, each from a known distribution given the earlier ones; a
language only decides how choices are told. So the same seed tells the same fable in every language, and no model
can predict a fable better than by -ln p(choices).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from gptlab.seeds import key
from gptlab.text.fables.choices import CHOICES, Choice, Choices
from gptlab.text.fables.grammar import grammar

SEPARATOR = "\n\n"  # after every story


def draw(seed: int, index: int) -> Choices:
    """The choices of story `index` of a seed, a function of the two."""
    uniform = np.random.Generator(np.random.Philox(key(seed, "fable", index))).random(len(CHOICES))
    chosen: Choices = {}
    for choice, u in zip(CHOICES, uniform.tolist(), strict=True):
        total = 0.0
        for value, probability in choice.distribution(chosen).items():
            total += probability
            chosen[choice.name] = value
            if u < total:
                break
    return chosen


def surprisal(choices: Choices, order: Sequence[Choice] = CHOICES) -> float:
    """-ln p(choices), in nats: the sum over choices of -ln p(value | earlier values). ValueError if impossible."""
    total = 0.0
    for choice in order:
        probability = choice.distribution(choices).get(choices[choice.name])
        if probability is None:
            raise ValueError(f"{choice.name} = {choices[choice.name]!r} cannot be, given the choices before it")
        total -= math.log(probability)
    return total


class Fables:
    """Endless stories in one language: an iterator of (text, choices), and what is known about them."""

    def __init__(self, lang: str = "en", *, seed: int = 0) -> None:
        self.lang, self.seed, self.grammar = lang, seed, grammar(lang)
        self.numbers = count()

    def __iter__(self) -> Iterator[tuple[str, Choices]]:
        return self

    def __next__(self) -> tuple[str, Choices]:
        choices = draw(self.seed, next(self.numbers))
        return self.grammar.tell(choices), choices

    def surprisal(self, choices: Choices) -> float:
        """-ln p(choices), in nats."""
        return surprisal(choices)

    def parse(self, text: str, *, partial: bool = False) -> Choices:
        """The choices of a story; ValueError with the position for a text that is none. See Grammar.parse."""
        return self.grammar.parse(text, partial=partial)
