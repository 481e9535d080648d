"""What the course's commands can be asked. A docstring is a command's help; nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gptlab.messages import LANGUAGES

Lang = Annotated[str | None, arg(metavar="{" + ",".join(LANGUAGES) + "}")]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Show a lesson of the course, computed as it is shown; without a number, the list of them.

    `gptlab lesson check N` asks its exercises, and `gptlab lesson key N` prints their key for the teacher.
    """

    number: Annotated[Positional[int | None], arg(name="N", metavar="[N]")] = None  # default: the list of lessons
    notebook: bool = False  # write it as a Jupyter notebook instead
    out: Path | None = None  # the notebook to write; default NN-name.ipynb
    figures: Path | None = None  # the folder to write its pictures into; default one in the cache
    page: bool = False  # wait for Enter after each section, on a terminal
    run: str | None = None  # the model to look at; default your latest pretrained causal run, else a small one
    own: bool = True  # look at your own latest run, if there is one
    lang: Lang = None  # the language of the lesson; default the locale's


@dataclass(frozen=True, kw_only=True)
class Check:
    """Answer a lesson's exercises: each mistake gets its own hint. An empty line goes on to the next exercise."""

    number: Annotated[Positional[int], arg(name="N", metavar="N")]
    answers: Path | None = None  # a TOML file of answers, name = value, instead of asking
    run: str | None = None  # the model to look at; default your latest pretrained causal run, else a small one
    own: bool = True  # look at your own latest run, if there is one
    lang: Lang = None  # the language of the lesson; default the locale's


@dataclass(frozen=True, kw_only=True)
class Key:
    """Print the key to a lesson's exercises, for the teacher."""

    number: Annotated[Positional[int], arg(name="N", metavar="N")]
    run: str | None = None  # the model to look at; default your latest pretrained causal run, else a small one
    own: bool = True  # look at your own latest run, if there is one
    lang: Lang = None  # the language of the lesson; default the locale's


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Build the course as pages that a browser reads without a network; without --html, list its lessons."""

    numbers: Annotated[Positional[tuple[int, ...]], arg(name="N", metavar="[N ...]")] = ()  # default: all lessons
    html: Path | None = None  # the folder to write
    lang: str = "all"  # all, or languages parted by commas: pt,it
    open: bool = False  # show it in the browser


LESSON = {"check": Check, "key": Key}
