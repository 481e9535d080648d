"""What experiments share: a folder that is filled, and a section of the report that is left there.

An experiment is a file with `conduct(lab, section, **options)`, a dataclass in options.py, and a folder of prose, a
catalogue for each language. It takes arrays from `lens/`, says and draws through its `Section`, and computes nothing
that a notebook would want to have by itself.
"""

import csv
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from gptlab import files
from gptlab.config import TrainConfig
from gptlab.experiments import figures
from gptlab.experiments.options import EXPERIMENTS
from gptlab.lab import Lab
from gptlab.lens.trace import Trace
from gptlab.messages import LANGUAGES, catalogue, filled
from gptlab.model import layouts
from gptlab.model.transformer import build
from gptlab.registry import unknown
from gptlab.report import page
from gptlab.report.figures import LOOK
from gptlab.text import corpora
from gptlab.text.fables import SEPARATOR, Fables
from gptlab.text.tokenizer import prompt_ids

HERE = Path(__file__).parent


class Words:
    """An experiment's catalogue in one language: words("entry", value=…)."""

    def __init__(self, name: str, lang: str) -> None:
        self.lang, self.entries = lang, catalogue(lang, HERE / "prose" / name)

    def __call__(self, entry: str, /, **values: object) -> str:
        return filled(self.entries[entry], self.lang, **values)

    def number(self, value: float, spec: str = ",.3g") -> str:
        return filled(f"{{value:{spec}}}", self.lang, value=value)


@dataclass(frozen=True)
class Number:
    """A cell of a table: as the language writes it on a page, as every program reads it in a CSV file."""

    value: float
    spec: str

    def __call__(self, words: Words) -> str:
        return words.number(self.value, self.spec)

    def plain(self) -> str:
        return format(self.value, self.spec.replace(",", ""))


class Section:
    """What one experiment leaves. Every method adds a block to the report, in order, but for `data` and `csv`.

    Entries are those of prose/NAME/LANG.toml. "title" is the section's; a figure x has x_caption and x_alt (what it
    shows, in words, for who cannot see it), a table x has x_head, its cells parted by " | "; a page x has x_title.
    """

    def __init__(self, name: str, folder: Path, lang: str, *, every_language: bool = False) -> None:
        """lang: of what is drawn; every_language: figures are drawn in all five, so that the report has them."""
        self.name, self.folder, self.lang = name, folder, lang
        self.drawn_in = tuple(LANGUAGES) if every_language else (lang,)
        self.words = {code: Words(name, code) for code in LANGUAGES}
        self.blocks: list[dict[str, Any]] = []
        self.report: Path | None = None  # written at the end

    def said(self, entry: str, /, **values: Any) -> dict[str, str]:
        """An entry in all languages. A value may be a function of Words, for what differs by language."""
        return {
            lang: words(entry, **{k: v(words) if callable(v) else v for k, v in values.items()})
            for lang, words in self.words.items()
        }

    def text(self, entry: str, /, **values: Any) -> None:
        """A paragraph."""
        self.blocks.append({"kind": "text", "text": self.said(entry, **values)})

    def figure(
        self,
        name: str,
        draw: Callable[[Words, str], Figure],
        *,
        shapes: Sequence[str] = tuple(figures.SHAPES),
        wordless: bool = False,
        **values: Any,
    ) -> None:
        """A figure: draw(words, shape) makes it, in each shape. NAME.png, to print, is of the first of them.

        wordless: it is the same in all languages; values: what caption and alt name.
        """
        drawn: dict[str, dict[str, str]] = {}
        for lang in (self.lang,) if wordless else self.drawn_in:
            for shape in shapes:
                with rc_context(LOOK):
                    made = draw(self.words[lang], shape)
                    file = f"{name}.{lang}.{shape}.svg"
                    (self.folder / file).write_text(figures.svg(made), encoding="utf-8", newline="\n")
                    if lang == self.lang and shape == shapes[0]:
                        figures.png(made, self.folder / f"{name}.png")
                drawn.setdefault(lang, {})[shape] = file
        words_of = {part: self.said(f"{name}_{part}", **values) for part in ("caption", "alt")}
        self.blocks.append({"kind": "figure", "file": drawn, **words_of})

    def film(self, name: str, poster: str, **values: Any) -> None:
        """A film that was written as NAME.mp4, with a picture for where nothing moves."""
        words_of = {part: self.said(f"{name}_{part}", **values) for part in ("caption", "alt")}
        self.blocks.append({"kind": "film", "file": f"{name}.mp4", "poster": poster, **words_of})

    def table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """A table, and NAME.csv. Cells are numbers, a Number, strings, or functions of Words."""
        head = {lang: cells.split(" | ") for lang, cells in self.said(f"{name}_head").items()}
        told = {
            lang: [[cell(words) if callable(cell) else cell for cell in row] for row in rows]
            for lang, words in self.words.items()
        }
        both = [list(zip(row, words, strict=True)) for row, words in zip(rows, told[self.lang], strict=True)]
        plain = [[cell.plain() if isinstance(cell, Number) else word for cell, word in row] for row in both]
        self.csv(name, head[self.lang], plain)
        self.blocks.append({"kind": "table", "head": head, "rows": told})

    def csv(self, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with (self.folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows])

    def data(self, name: str, **arrays: Any) -> None:
        """Arrays as NAME.npz."""
        np.savez_compressed(self.folder / f"{name}.npz", **arrays)

    def page(self, name: str, data: Mapping[str, Any], *, height: int, **values: Any) -> None:
        """A page that is alive, NAME.html, from pages/NAME.html: it has `DATA`, and `words` of all languages.

        height: pixels of the window that the report gives it.
        """
        words = {lang: words.entries for lang, words in self.words.items()}
        html = (
            templates()
            .get_template(f"{name}.html")
            .render(
                lang=self.lang,
                data=as_script(data),
                words=as_script(words),
                title=self.words[self.lang](f"{name}_title"),
            )
        )
        (self.folder / f"{name}.html").write_text(html, encoding="utf-8", newline="\n")
        title = self.said(f"{name}_title", **values)
        self.blocks.append({"kind": "page", "file": f"{name}.html", "title": title, "height": height})

    def finish(self) -> None:
        order = list(EXPERIMENTS).index(self.name)
        section = {"order": order, "title": self.said("title"), "blocks": self.blocks}
        text = json.dumps(section, indent=1, ensure_ascii=False, default=plain) + "\n"
        (self.folder / "section.json").write_text(text, encoding="utf-8", newline="\n")


def untrained(lab: Lab) -> Lab:
    """The same model as it was before training; of one from elsewhere, one of its shape with weights drawn anew."""
    drawn = lab.run.train_config or TrainConfig(init="gpt2")
    model = build(lab.config, seed=drawn.seed, init=drawn.init)
    return replace(lab, model=model.to(lab.model.embedding.device))


def passage(lab: Lab, text: str | None, tokens: int) -> str:
    """What a model is to read: the text that was given, else the beginning of its validation text (of an imported one,
    a fable), cut to so many tokens, and to its context; a warning says so where somebody's own text is cut."""
    own, config = text is not None, lab.run.train_config
    if text is None:
        if config is None:
            text = next(iter(Fables("en", seed=0)))[0]
        else:
            found = corpora.find(config.corpus)
            text = "".join(found.chunks(found.cut, min(found.characters, found.cut + 8 * tokens))).lstrip()
            if corpora.is_fables(config.corpus):
                text = text.partition(SEPARATOR)[0]
    # Some tokens go before it: a blank line, where texts are parted by them, and an architecture's own.
    room = layouts.room(lab.config) - 4
    ids = prompt_ids(lab.tokenizer, text)
    if own and len(ids) > min(tokens, room):
        warnings.warn(f"the text is {len(ids)} tokens long; the first {min(tokens, room)} are read", stacklevel=2)
    return lab.tokenizer.decode(ids[: min(tokens, room)]).rstrip("\N{REPLACEMENT CHARACTER}")


def traced(lab: Lab, text: str, *, names: Sequence[str] = ()) -> Trace:
    """A trace of a model that reads a text; one with an encoder or a prefix is given its first half, and foretells the
    second."""
    if lab.config.category == "causal":
        return lab.trace(text, names=names)
    ids = prompt_ids(lab.tokenizer, text)
    cut = len(ids) // 2
    while cut < len(ids) and lab.tokenizer.decode(ids[:cut]).endswith("\N{REPLACEMENT CHARACTER}"):
        cut += 1  # not within a character
    first, second = (lab.tokenizer.decode(some) for some in (ids[:cut], ids[cut:]))
    return lab.trace(first, second, names=names)


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def as_script(value: Any) -> Markup:
    """JSON that may stand in a script: no text in it can end the script."""
    text = json.dumps(value, ensure_ascii=False, default=plain, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def templates() -> Environment:
    return Environment(loader=FileSystemLoader(HERE / "pages"), autoescape=True, undefined=StrictUndefined)


def conduct(name: str, lab: Lab, *, lang: str, every_language: bool = False, **options: Any) -> Section:
    """Run an experiment on a model; its files are in RUN/sections/NAME/, and its section in the run's report.

    What was there of an earlier time is replaced when all is done. ValueError for an experiment that does not exist, or
    that the model cannot answer.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    module = import_module(f"gptlab.experiments.{name}")
    target = lab.run.section_path(name)
    with files.write_whole(target) as folder:
        folder.mkdir()
        section = Section(name, folder, lang, every_language=every_language)
        module.conduct(lab, section, **options)
        section.finish()
    section.folder, section.report = target, page.write(lab.run, lang)
    return section
