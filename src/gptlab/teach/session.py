"""A lesson run: its cells in one namespace, from first to last, as a notebook does, and the numbers of its prose.

Expressions and cells come from the lesson's own files alone; nothing that a reader types is ever run.
"""

import ast
import contextlib
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from gptlab.experiments.figures import figure
from gptlab.messages.progress import progress
from gptlab.report.figures import LOOK
from gptlab.teach import prose
from gptlab.teach.drawings import Drawing, Svg, Table, drawing, written
from gptlab.teach.exercises import Asked, plain
from gptlab.teach.lesson import Cell, Exercise, Lesson, evaluated
from gptlab.teach.prose import Number, Text, Value

if TYPE_CHECKING:
    from gptlab.lab import Lab

SEED = 0


@dataclass(frozen=True)
class Printed:
    """Text that a cell gives: what it prints, and its value where that is neither picture nor table."""

    text: str


Shown = Printed | Table | Svg | Drawing


@dataclass(frozen=True)
class Played:
    """A lesson that has been run. lesson: its texts with their numbers; shown: what each cell gives."""

    lesson: Lesson
    shown: Mapping[str, list[Shown]]
    asked: Mapping[str, Asked]


class Words:
    """t("key"): a word of figures and tables, in the reader's language."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def __call__(self, key: str) -> str:
        if key not in self.lesson.words:
            raise ValueError(f"{self.lesson.path}:1: the word {key!r} is not in [words]")
        return self.lesson.words[key]


def namespace(lesson: Lesson, lab: "Lab | None") -> dict[str, Any]:
    """What the cells of a lesson find: the names that every lesson has."""
    names: dict[str, Any] = {
        "__name__": "__main__",
        "torch": torch,
        "np": np,
        "F": F,
        "gptlab": import_module("gptlab"),  # the public names, as a notebook has them
        "plt_figure": figure,
        "t": Words(lesson),
        "lang": lesson.lang,
        "Table": Table,
        "Svg": Svg,
    }
    return names if lab is None else {**names, "lab": lab}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A lesson begins as every one does, and leaves no trace: seeds, threads, how numbers print, how figures look."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    printing = vars(torch._tensor_str.PRINT_OPTS).copy()
    with matplotlib.rc_context(LOOK), np.printoptions():
        try:
            torch.manual_seed(SEED)
            np.random.seed(SEED)
            random.seed(SEED)
            torch.set_grad_enabled(True)
            torch.set_printoptions(profile="default")
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            vars(torch._tensor_str.PRINT_OPTS).update(printing)


class Session:
    """The namespace of a lesson, and what is run in it."""

    def __init__(self, lesson: Lesson, lab: "Lab | None" = None, *, narrow: bool = False) -> None:
        """narrow: draw figures for a phone, too."""
        self.lesson, self.narrow = lesson, narrow
        self.code = lesson.path.with_name("cells.py")
        self.names = namespace(lesson, lab)

    def run(self, cell: Cell) -> list[Shown]:
        """Run a cell, and return what it shows. ValueError, with file and line, for one that fails."""
        value, out = None, io.StringIO()
        with self.telling(cell), contextlib.redirect_stdout(out):
            value = self.execute(cell, self.names)
        printed = out.getvalue()
        shown: list[Shown] = []
        with self.telling(cell):
            if isinstance(value, Figure):
                alt = Words(self.lesson)(f"alt_{cell.name}")
                shown = [drawing(value, self.lesson.lang, alt, narrow=self.narrow)]
            elif isinstance(value, Table | Svg):
                shown = [value]
            elif value is not None:
                printed += f"{value!r}\n"
        return [*([Printed(printed.rstrip("\n"))] if printed.strip() else []), *shown]

    def execute(self, cell: Cell, names: dict[str, Any]) -> Any:
        """The value of the cell's last expression, None where there is none, or where a semicolon ends it."""
        tree = ast.parse(cell.code)
        ast.increment_lineno(tree, cell.line - 1)
        last = None
        if isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        exec(compile(tree, str(self.code), "exec"), names)
        value = eval(compile(last, str(self.code), "eval"), names) if last is not None else None
        return None if cell.code.endswith(";") else value

    def value(self, number: Number, names: dict[str, Any]) -> Value:
        """An inline number, as the language writes it."""
        try:
            found = eval(compile(number.expression, str(self.lesson.path), "eval"), names)
            return Value(written(found, self.lesson.lang, number.spec))
        except Exception as error:
            raise ValueError(
                f"{self.lesson.path}:{number.line}: {{{{ {number.expression} }}}}: {type(error).__name__}: {error}"
            ) from error

    def text(self, text: Text, names: dict[str, Any] | None = None) -> Text:
        return prose.mapped(text, lambda number: self.value(number, self.names if names is None else names))

    def exercise(self, name: str) -> tuple[Asked, Exercise]:
        """What an exercise takes for right, and for which mistake, and its texts; to be called after all cells.

        The numbers of its texts may name what its own section sets, `right` and `mistakes` among it.
        """
        cell, exercise = self.lesson.questions[name], self.lesson.exercises[name]
        names = {name: value for name, value in self.names.items() if name not in ("right", "mistakes", "tolerance")}
        with self.telling(cell), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(SEED)
            self.execute(cell, names)
        mistakes = {mistake: plain(value) for mistake, value in names["mistakes"].items()}
        told = replace(
            exercise,
            question=self.text(exercise.question, names),
            hints={mistake: self.text(hint, names) for mistake, hint in exercise.hints.items()},
            key=self.text(exercise.key, names),
        )
        return Asked(plain(names["right"]), mistakes, names.get("tolerance")), told

    @contextlib.contextmanager
    def telling(self, cell: Cell) -> Iterator[None]:
        """Turn whatever a cell raises into a ValueError that says where."""
        try:
            yield
        except Exception as error:
            line, trace = cell.line, error.__traceback__
            while trace:
                if trace.tb_frame.f_code.co_filename == str(self.code):
                    line = trace.tb_lineno
                trace = trace.tb_next
            raise ValueError(f"{self.code}:{line}: cell {cell.name!r}: {type(error).__name__}: {error}") from error


def play(lesson: Lesson, lab: "Lab | None" = None, *, narrow: bool = False) -> Played:
    """Run a lesson from first to last. Numbers are evaluated after the cells that stand before them, those of exercises
    after all."""
    shown: dict[str, list[Shown]] = {}
    texts: dict[str, Text] = {}
    session = Session(lesson, lab, narrow=narrow)
    with undisturbed(), progress(lesson.title, len(lesson.cells)) as advance:
        for unit in lesson.units:
            if unit.kind in ("cell", "output"):
                shown[unit.name] = session.run(lesson.cells[unit.name])
                advance(1)
            elif unit.kind not in ("exercise", "code"):
                texts[unit.id] = session.text(unit.text)
        done = {name: session.exercise(name) for name in lesson.exercises}
    asked = {name: each for name, (each, _) in done.items()}
    exercises = {name: exercise for name, (_, exercise) in done.items()}
    return Played(evaluated(lesson, texts, exercises), shown, asked)
