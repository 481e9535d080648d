"""Tasks made of fables, whose answers are known exactly, since a fable's choices are: no download, no annotator.

mood            does the fable end well? The label is one of its choices
translation     the same choices told in another language
conditions      a request for a fable with some choices, and a fable that has them
"""

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

from gptlab.config import FinetuneConfig
from gptlab.finetuning.data import Example, Examples
from gptlab.text.batches import generator
from gptlab.text.fables import Choices, draw
from gptlab.text.fables.corpus import FIRST_VALIDATION, TRAINING, VALIDATION
from gptlab.text.fables.grammar import grammar

ASKED = ("hero", "place", "trait", "thing", "mood")  # the choices that a request can name
MOST = 4  # of them, at most, in one request


def make(config: FinetuneConfig, languages: tuple[str, ...]) -> Examples:
    """The examples of a built-in task; languages: those of the text that the model was trained on.

    Training examples are the corpus's own training stories, and validation its validation stories: no story that is
    asked was ever seen. ValueError for languages that do not fit the task.
    """
    wanted = 2 if config.kind == "translate" else 1
    langs = config.languages or languages[:wanted]
    if not langs:
        raise ValueError(
            "this model was trained on no fables: say in which language those of the task should be, by --languages "
            + " ".join(("en", "pt")[:wanted])
        )
    if len(set(langs)) != len(langs):
        raise ValueError(f"to translate, there must be two languages, not {' '.join(langs)}")
    if len(langs) < wanted:
        first = langs[0]
        second = "pt" if first == "en" else "en"
        raise ValueError(
            "to translate, a model must know two languages, and this one was trained on one. Pretrain on both, by "
            f"`gptlab train fables:{first}+{second}`, and say which two are meant, by --languages {first} {second}"
        )
    told = TOLD[config.task]
    train = [told(index, langs) for index in range(min(TRAINING, config.examples or TRAINING))]
    val = [told(index, langs) for index in held_out(TRAINING, FIRST_VALIDATION, VALIDATION)]
    return Examples(train, val, ("bad", "good") if config.kind == "classify" else ())


@cache
def held_out(training: int, first: int, validation: int) -> tuple[int, ...]:
    """The numbers of the validation stories, from `first` on, none of which is told in training, in any language."""
    known = {tuple(draw(0, index).values()) for index in range(training)}
    fresh = (index for index in count(first) if tuple(draw(0, index).values()) not in known)
    return tuple(islice(fresh, validation))


def mood(index: int, langs: tuple[str, ...]) -> Example:
    choices = draw(0, index)
    return Example(grammar(langs[0]).tell(choices), choices["mood"], choices=choices)


def translation(index: int, langs: tuple[str, ...]) -> Example:
    choices = draw(0, index)
    source, target = (grammar(lang).tell(choices) for lang in langs)
    return Example(source, target, choices=choices)


def conditions(index: int, langs: tuple[str, ...]) -> Example:
    """A request that names one to MOST of a fable's choices, in any order, and the fable."""
    choices = draw(0, index)
    rng = generator(0, "conditions", index)
    names = rng.permutation(len(ASKED))[: rng.integers(1, MOST + 1)]
    asked = {ASKED[i]: choices[ASKED[i]] for i in names}
    return Example(request(asked, langs[0]), grammar(langs[0]).tell(choices), choices=asked)


TOLD: dict[str, Callable[[int, tuple[str, ...]], Example]] = {
    "mood": mood,
    "translation": translation,
    "conditions": conditions,
}


@cache
def words(lang: str) -> Mapping[str, Any]:
    """How a language asks for a fable."""
    return tomllib.loads((Path(__file__).parent / "words" / f"{lang}.toml").read_text(encoding="utf-8"))


def request(asked: Choices, lang: str) -> str:
    """A fable with a fox, a river and patience: the choices in their order, in a language."""
    told = words(lang)
    phrases = [told[name][value] for name, value in asked.items()]
    *first, last = phrases
    listed = told["comma"].join(first) + told["and"] + last if first else last
    return str(told["request"].format(list=listed))


def judged(text: str, wanted: Choices, lang: str) -> tuple[dict[str, bool], bool]:
    """Of each wanted choice, whether a text tells it; and whether it is a whole fable, without a fault."""
    try:
        found, whole = grammar(lang).parse(text), True
    except ValueError:
        found, whole = grammar(lang).parse(text, partial=True), False
    return {name: found.get(name) == value for name, value in wanted.items()}, whole
