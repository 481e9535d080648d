"""The fables as a text like any other: written once into the cache, from there on a file.

Training and validation stories are numbered apart, and a validation story that would stand among the training
stories is passed over. The split is between two stories.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files as resources
from itertools import count, islice

from gptlab.files import cache_dir, write_whole
from gptlab.messages import LANGUAGES
from gptlab.messages.progress import progress
from gptlab.registry import unknown
from gptlab.seeds import key
from gptlab.text.fables import SEPARATOR, Choices, draw, surprisal
from gptlab.text.fables.choices import CHOICES
from gptlab.text.fables.grammar import grammar
from gptlab.text.reading import Text, scan

TRAINING, VALIDATION = 16_000, 400  # stories
FIRST_VALIDATION = 1 << 40  # its numbers begin where no training reaches
FORMAT = "fables 1"


@dataclass(frozen=True)
class Story:
    """A story as it stands in a corpus, its separator left out, and what it is of."""

    text: str
    lang: str
    choices: Choices
    nats: float  # -ln p of the language, where there are several, and of the choices


def languages(source: str) -> tuple[str, ...]:
    """fables -> en; fables:pt -> pt; fables:en+pt -> en, pt. ValueError for a language that we lack."""
    langs = tuple((source.partition(":")[2] or "en").split("+"))
    for lang in langs:
        if lang not in LANGUAGES:
            raise unknown("language of fables", lang, LANGUAGES)
    if len(set(langs)) != len(langs):
        raise ValueError(f"{source} names a language twice")
    return langs


def stories(langs: tuple[str, ...], *, seed: int = 0, first: int = 0) -> Iterator[Story]:
    """The stories of a corpus from number `first` on, without end; with several languages, their name comes first."""
    for index in count(first):
        lang, choices = drawn(langs, seed, index)
        mark = f"{LANGUAGES[lang]}\n" if len(langs) > 1 else ""
        yield Story(mark + grammar(lang).tell(choices), lang, choices, math.log(len(langs)) + surprisal(choices))


def drawn(langs: tuple[str, ...], seed: int, index: int) -> tuple[str, Choices]:
    """The language of a story, and its choices."""
    return langs[key(seed, "language", index) % len(langs)], draw(seed, index)


def validation(langs: tuple[str, ...], *, seed: int = 0) -> list[Story]:
    """The stories that a corpus keeps for validation, none of which it trains on."""

    def named(lang: str, choices: Choices) -> tuple[str, ...]:
        return lang, *choices.values()  # one text has one row of choices, and these need not be told

    known = {named(*drawn(langs, seed, index)) for index in range(TRAINING)}
    held_out = stories(langs, seed=seed, first=FIRST_VALIDATION)
    return list(islice((story for story in held_out if named(story.lang, story.choices) not in known), VALIDATION))


def floor(held_out: list[Story]) -> float:
    """-ln p(stories) over their characters, separators included: no model can do better, in nats per character."""
    return sum(story.nats for story in held_out) / sum(len(story.text) + len(SEPARATOR) for story in held_out)


def find(source: str, *, seed: int = 0) -> Text:
    """The corpus of that name as a text; written into the cache when it is first asked for."""
    langs = languages(source)
    here = resources("gptlab.text.fables")
    told_by = [(here / f"{lang}.toml").read_text(encoding="utf-8") for lang in langs]
    made_from = json.dumps([FORMAT, TRAINING, VALIDATION, seed, langs, repr(CHOICES), told_by])
    folder = cache_dir() / "fables" / f"{'+'.join(langs)}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    if not (folder / "cut").is_file():
        with write_whole(folder) as temporary, progress(f"write {source}", TRAINING) as advance:
            temporary.mkdir()
            characters = 0
            with (temporary / "fables.txt").open("w", encoding="utf-8", newline="\n") as file:
                for story in islice(stories(langs, seed=seed), TRAINING):
                    characters += file.write(story.text + SEPARATOR)
                    advance(1)
                for story in validation(langs, seed=seed):
                    file.write(story.text + SEPARATOR)
            (temporary / "cut").write_text(str(characters), encoding="ascii")
    cut = int((folder / "cut").read_text(encoding="ascii"))
    name = "fables" if source == "fables" else f"fables-{'+'.join(langs)}"
    return scan(name, [folder / "fables.txt"], cut=cut)
