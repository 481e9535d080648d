"""A lesson as a Jupyter notebook: a first cell makes ready what the others use; from there on the code is the lesson's.

The file is nbformat 4.5 (JSON; https://nbformat.readthedocs.io), written by ourselves: to write one, no Jupyter need be
there. A text cannot compute, so its numbers are those of the time when the notebook was written.
"""

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gptlab import files
from gptlab.experiments import figures
from gptlab.messages import language
from gptlab.report.figures import LOOK
from gptlab.teach import model, prose
from gptlab.teach.drawings import Svg, Table, localize
from gptlab.teach.exercises import RIGHT, readings, verdict
from gptlab.teach.lesson import LESSONS, Lesson, Unit, find, load
from gptlab.teach.prose import Code, Formula, Link, Piece, Term, Text, Value
from gptlab.teach.session import SEED, Played, namespace, play
from gptlab.teach.words import say

SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>#|$"})
FORMAT = {"nbformat": 4, "nbformat_minor": 5}


def write(
    number: int,
    lang: str,
    out: Path | None = None,
    *,
    run: str | Path | None = None,
    own: bool = True,
    root: Path = LESSONS,
) -> Path:
    """Write a lesson's notebook and return its path; default NN-name.ipynb, here. run and own: as of model.find."""
    lesson = load(find(number, root), language(lang))
    lab = model.find(lesson.lang, run, own=own) if number >= model.FIRST else None
    path = out or Path(f"{lesson.slug}.ipynb")
    # The model is named, and the small one asked for, so that the notebook looks at what its text was written about.
    named = None if lab is None or model.is_small(lab) else lab.run.path.resolve()
    made = notebook(play(lesson, lab), run=named, root=root)
    files.write_text(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return path


def notebook(played: Played, *, run: Path | None = None, root: Path = LESSONS) -> dict[str, Any]:
    """A lesson that was run, as the object that the file holds; run: the model it looked at, None for the small one."""
    lesson = played.lesson
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "title": lesson.title,
    }
    return {"cells": Writer(played, run, root).cells(), "metadata": about, **FORMAT}


class Writer:
    """The cells of a lesson's notebook."""

    def __init__(self, played: Played, run: Path | None = None, root: Path = LESSONS) -> None:
        self.lesson, self.run, self.root = played.lesson, run, root

    def cells(self) -> list[dict[str, Any]]:
        lesson, lang = self.lesson, self.lesson.lang
        head = (
            f"# {lesson.number}. {lesson.title}\n\n*{say('minutes', lang, minutes=lesson.minutes)}.* {lesson.summary}"
        )
        notes = f"{say('notebook_begin', lang)} {say('notebook_numbers', lang)}"
        cells = [markdown("title", head), markdown("notes", notes), code("begin", self.begin())]
        number = 0
        for unit in lesson.units:
            if unit.kind in ("cell", "output"):
                hidden = {"jupyter": {"source_hidden": True}} if unit.kind == "output" else {}
                cells.append(code(unit.id, lesson.cells[unit.name].code, hidden))
            elif unit.kind == "exercise":
                number += 1
                title = f"**{say('exercise_number', lang, number=number)}**"
                question = self.text(lesson.exercises[unit.name].question)
                cells.append(markdown(unit.id, f"{title}\n\n{question}\n\n*{say('notebook_check', lang)}*"))
                cells.append(code(f"{unit.id}-answer", f'check("{unit.name}", answer=...)'))
            else:
                cells.append(markdown(unit.id, self.block(unit)))
        if lesson.terms:
            terms = [
                f"- **{term}**: {self.text(prose.read(definition, lesson.path, 1))}"
                for term, definition in lesson.terms.values()
            ]
            cells.append(markdown("terms", "\n".join([f"## {say('glossary', lang)}", "", *terms])))
        return cells

    def begin(self) -> str:
        """The line that makes ready; what is as usual is not named."""
        given = [str(self.lesson.number), json.dumps(self.lesson.lang)]
        if self.lesson.number >= model.FIRST:
            given.append("own=False" if self.run is None else f"run={str(self.run)!r}")
        if self.root != LESSONS:
            given.append(f"root={str(self.root)!r}")
        return f"from gptlab.teach.notebook import begin\n\nglobals().update(begin({', '.join(given)}))"

    def block(self, unit: Unit) -> str:
        if unit.kind == "heading":
            return f"## {self.text(unit.text)}"
        if unit.kind == "code":
            return f"```{unit.name}\n{unit.text[0]}\n```"
        return self.text(unit.text)

    def text(self, text: Text) -> str:
        return prose.joined(text, self.piece)

    def piece(self, piece: Piece) -> str:
        """A piece as Jupyter's Markdown, with LaTeX for its MathJax."""
        match piece:
            case Value():
                return prose.powers(piece.text).translate(SPECIAL)
            case Code():
                return prose.span(piece)
            case Formula():
                return f"$${prose.tex(piece)}$$" if piece.display else f"${prose.tex(piece)}$"
            case Term():
                return self.text(piece.words)
            case Link():
                kind, _, number = piece.target.partition(":")
                words = self.text(piece.words)
                return f"{words} (`gptlab lesson {number}`)" if kind == "lesson" else f"[{words}]({piece.target})"
        raise AssertionError(f"{piece!r} is not evaluated")


def markdown(name: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}


def code(name: str, source: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    lines = source.splitlines(keepends=True)
    return {
        "cell_type": "code", "execution_count": None, "id": name[:64], "metadata": metadata or {}, "outputs": [],
        "source": lines,
    }  # fmt: skip


# Within a notebook


def begin(
    number: int, lang: str, run: str | Path | None = None, *, own: bool = True, root: str | Path = LESSONS
) -> dict[str, Any]:
    """The names that the cells of a lesson use; and from here on, figures, tables and drawings are shown as they should
    be. The first line of a lesson's notebook is `globals().update(begin(3, "pt"))`."""
    import random

    import matplotlib
    import numpy as np
    import torch

    lesson = load(find(number, Path(root)), language(lang))
    lab = model.find(lesson.lang, run, own=own) if number >= model.FIRST else None
    matplotlib.rcParams.update(LOOK)
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    show_as_lessons_do(lesson.lang)
    names = namespace(lesson, lab)
    del names["__name__"]
    return {**names, "check": checker(lesson, lab)}


def shell() -> Any:
    """IPython's shell, where this runs in one; else None."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def show_as_lessons_do(lang: str) -> None:
    """Teach IPython to show what cells give; elsewhere, nothing is to be done."""
    if (here := shell()) is None:
        return

    def drawn(made: Figure) -> str:
        localize(made, lang)
        return figures.svg(made)

    formatters = here.display_formatter.formatters
    formatters["image/svg+xml"].for_type(Figure, drawn)
    formatters["image/svg+xml"].for_type(Svg, lambda shown: shown.text)
    formatters["text/html"].for_type(Table, lambda shown: html_of(shown, lang))


def html_of(table: Table, lang: str) -> str:
    def row(cells: list[str], tag: str) -> str:
        align = ["right" if numeric else "left" for numeric in table.numeric]
        told = zip(cells, align, strict=True)
        return "".join(f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>' for cell, side in told)

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.written(lang))
    return f"<table><thead><tr>{row(list(table.head), 'th')}</tr></thead><tbody>{body}</tbody></table>"


def checker(lesson: Lesson, lab: Any) -> Callable[..., None]:
    """check("name", answer=…): whether an answer is right, and else a hint to the mistake that it is.

    The lesson is run anew for it, once, so that it does not matter what was changed or left out in the notebook.
    """
    kept: list[Played] = []

    def check(name: str, answer: Any = ...) -> None:
        if name not in lesson.exercises:
            raise ValueError(f"there is no exercise {name!r}; there are {', '.join(lesson.exercises)}")
        if answer is ...:
            print(say("notebook_unanswered", lesson.lang))
            return
        if not kept:
            kept.append(play(lesson, lab))
        played = kept[0]
        given = readings(answer, lesson.lang) if isinstance(answer, str) else [answer]
        found = verdict(played.asked[name], given)
        if found == RIGHT:
            print(f"✓ {say('correct', lesson.lang)}")
            return
        hint = Writer(played).text(played.lesson.exercises[name].hints[found])
        show(f"→ **{say('not_yet', lesson.lang)}** {hint}")

    return check


def show(text: str) -> None:
    """Markdown shown as such in a notebook, and printed without its marks elsewhere."""
    if shell() is None:
        print(re.sub(r"[*`\\]", "", text))
        return
    from IPython.display import Markdown, display

    display(Markdown(text))
