"""A lesson on the terminal: read there, its exercises answered there, its key printed there."""

import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table as Grid
from rich.text import Text as Line

from gptlab import files
from gptlab.experiments import figures
from gptlab.messages import language
from gptlab.registry import unknown
from gptlab.teach import formula, model, prose
from gptlab.teach.contents import console
from gptlab.teach.drawings import Svg, Table
from gptlab.teach.exercises import OTHER, RIGHT, readings, verdict
from gptlab.teach.lesson import Lesson, Unit, find, load
from gptlab.teach.pages import shown_answer
from gptlab.teach.prose import Code, Formula, Link, Piece, Term, Text, Value
from gptlab.teach.session import Played, Printed, Shown, play
from gptlab.teach.words import say

SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>#|"})


def opened(number: int, lang: str | None, run: str | Path | None = None, *, own: bool = True) -> Played:
    """A lesson in a language, run; which model it looks at is said, if it is the reader's own."""
    lesson = load(find(number), language(lang))
    lab = None
    if number >= model.FIRST:
        lab = model.find(lesson.lang, run, own=own)
        parameters = sum(p.numel() for p in lab.model.parameters())
        print(say("model_own", lesson.lang, run=lab.run.path, parameters=parameters), file=sys.stderr)
    print(say("playing", lesson.lang, number=number), file=sys.stderr)
    return play(lesson, lab)


def show(played: Played, folder: Path | None = None, *, page: bool = False) -> None:
    """Print a lesson; folder: where its pictures go; page: wait after each section."""
    lesson, out = played.lesson, console()
    printer = Printer(played, folder or files.cache_dir() / "course" / lesson.lang / "figures" / lesson.slug)
    out.print(Rule(f"{lesson.number}. {lesson.title}", style="bold"))
    out.print(Line(f"{say('minutes', lesson.lang, minutes=lesson.minutes)} · {lesson.summary}", "dim"))
    asking = page and sys.stdin.isatty() and out.is_terminal
    for unit in lesson.units:
        if asking and unit.kind == "heading" and unit.id != "s1":
            out.print(Line(say("go_on", lesson.lang), "dim"))
            if input().strip() == "q":
                return
        out.print()
        out.print(printer.unit(unit))
    if lesson.terms:
        out.print()
        out.print(Rule(say("glossary", lesson.lang), style="dim"))
        for term, definition in lesson.terms.values():
            out.print(printer.markdown(("**", term, "**: ", *prose.read(definition, lesson.path, 1))))
    if lesson.exercises:
        out.print()
        out.print(Line(say("check_how", lesson.lang, number=lesson.number), "dim"))


class Printer:
    """Units of a lesson as rich prints them."""

    def __init__(self, played: Played, folder: Path) -> None:
        self.played, self.lesson, self.folder = played, played.lesson, folder
        self.order = [unit.name for unit in self.lesson.units if unit.kind == "exercise"]

    def markdown(self, text: Text) -> Markdown:
        return Markdown(prose.joined(text, self.piece), code_theme="ansi_dark")

    def piece(self, piece: Piece) -> str:
        """A piece as Markdown."""
        match piece:
            case Value():
                return prose.powers(piece.text).translate(SPECIAL)
            case Code():
                return prose.span(piece)
            case Formula():
                return formula.text(prose.tex(piece)).translate(SPECIAL)
            case Term():
                return prose.joined(piece.words, self.piece)
            case Link():
                words = prose.joined(piece.words, self.piece)
                kind, _, number = piece.target.partition(":")
                return f"{words} (`gptlab lesson {number}`)" if kind == "lesson" else f"{words} ({piece.target})"
        raise AssertionError(f"{piece!r} is not evaluated")

    def unit(self, unit: Unit) -> RenderableType:
        match unit.kind:
            case "heading":
                return Rule(prose.joined(unit.text, self.plain), align="left", style="bold")
            case "formula":
                return Padding(Line(prose.joined(unit.text, self.plain), "bold"), (0, 4))
            case "code":
                return Padding(Line(str(unit.text[0])), (0, 4))
            case "cell" | "output":
                shown = [self.shown(given, unit.name) for given in self.played.shown[unit.name]]
                if unit.kind == "output":
                    return Group(*shown)
                code = Syntax(
                    self.lesson.cells[unit.name].code,
                    "python",
                    theme="ansi_dark",
                    background_color="default",
                    word_wrap=True,
                )
                return Group(Padding(code, (0, 2)), *(Padding(given, (1, 2, 0, 2)) for given in shown))
            case "exercise":
                title = say("exercise_number", self.lesson.lang, number=self.order.index(unit.name) + 1)
                return Group(Line(title, "bold"), self.markdown(self.lesson.exercises[unit.name].question))
        return self.markdown(unit.text)

    def plain(self, piece: Piece) -> str:
        """A piece where no Markdown is read."""
        match piece:
            case Value():
                return prose.powers(piece.text)
            case Code():
                return prose.raw(piece.parts)
            case Formula():
                return formula.text(prose.tex(piece))
            case Term() | Link():
                return prose.joined(piece.words, self.plain)
        raise AssertionError(f"{piece!r} is not evaluated")

    def shown(self, shown: Shown, name: str) -> RenderableType:
        match shown:
            case Printed():
                return Line(shown.text, "green", overflow="fold")
            case Table():
                grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
                for title, numeric in zip(shown.head, shown.numeric, strict=True):
                    grid.add_column(title, justify="right" if numeric else "left")
                for row in shown.written(self.lesson.lang):
                    grid.add_row(*(Line(cell) for cell in row))
                return grid
            case Svg():
                path = self.folder / f"{name}.svg"
                files.write_text(path, shown.text)
                return self.picture(path, shown.alt)
        path = self.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figures.png(shown.made, path)
        return self.picture(path, shown.alt)

    def picture(self, path: Path, alt: str) -> RenderableType:
        place = Line(say("figure_file", self.lesson.lang, path=path), "cyan", overflow="fold")
        return Group(place, Line(alt, "dim"))


# Exercises


def check(played: Played, given: Mapping[str, Any] | None = None, ask: Callable[[str], str] = input) -> int:
    """Ask a lesson's exercises, or judge the answers that are given; returns how many are right."""
    lesson, out = played.lesson, console()
    printer = Printer(played, Path())
    right = 0
    for number, name in enumerate(printer.order, 1):
        out.print()
        title = say("question_of", lesson.lang, number=number, count=len(printer.order))
        out.print(Rule(f"{title} ({name})", align="left", style="bold"))
        out.print(printer.markdown(lesson.exercises[name].question))
        if given is not None:
            if name not in given:
                out.print(Line(say("skipped", lesson.lang), "dim"))
                continue
            answers = readings(given[name], lesson.lang) if isinstance(given[name], str) else [given[name]]
            right += told(out, printer, name, answers)
            continue
        while answer := asked(ask, say("ask", lesson.lang)):
            if told(out, printer, name, readings(answer, lesson.lang)):
                right += 1
                break
    out.print()
    out.print(Line(say("score", lesson.lang, right=right, count=len(printer.order)), "bold"))
    return right


def asked(ask: Callable[[str], str], prompt: str) -> str:
    """What is typed; at the end of the input, nothing."""
    try:
        return ask(prompt).strip()
    except EOFError:
        return ""


def told(out: Console, printer: Printer, name: str, answers: list[Any]) -> bool:
    """Say what an answer is; whether it is right."""
    lesson = printer.lesson
    found = verdict(printer.played.asked[name], answers)
    if found == RIGHT:
        out.print(Line(f"✓ {say('correct', lesson.lang)}", "bold green"))
        return True
    out.print(Line(f"→ {say('not_yet', lesson.lang)}", "bold yellow"))
    out.print(printer.markdown(lesson.exercises[name].hints[found]))
    return False


def read_answers(path: Path, lesson: Lesson) -> dict[str, Any]:
    """Answers from a TOML file, name = value; ValueError for no such file, and for a name that no exercise has."""
    if not path.is_file():
        raise ValueError(
            f"there is no file {path} with answers: write one, with a line NAME = ANSWER for each exercise"
        )
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    for name in given:
        if name not in lesson.exercises:
            raise ValueError(f"{path}: {unknown(f'exercise of lesson {lesson.number}', name, lesson.exercises)}")
    return given


def key(played: Played) -> None:
    """Print what is right and why, and what is said to each mistake."""
    lesson, out = played.lesson, console()
    printer = Printer(played, Path())
    out.print(Rule(f"{say('key_title', lesson.lang)} · {lesson.number}. {lesson.title}", style="bold"))
    for number, name in enumerate(printer.order, 1):
        exercise, found = lesson.exercises[name], played.asked[name]
        out.print()
        title = say("exercise_number", lesson.lang, number=number)
        out.print(Rule(f"{title} ({name})", align="left", style="bold"))
        out.print(printer.markdown(exercise.question))
        rule = say("right_by_rule", lesson.lang)
        value = rule if callable(found.right) else shown_answer(found.right, lesson.lang)
        out.print(Line.assemble((f"{say('right_answer', lesson.lang)} ", "bold"), (value, "green")))
        out.print(Line(say("explanation", lesson.lang), "bold"), printer.markdown(exercise.key))
        out.print(Line(say("mistakes_title", lesson.lang), "bold"))
        for mistake, hint in exercise.hints.items():
            if mistake == OTHER:
                answer = say("other_answer", lesson.lang)
            elif callable(found.mistakes[mistake]):
                answer = say("by_rule", lesson.lang)
            else:
                answer = shown_answer(found.mistakes[mistake], lesson.lang)
            out.print(Padding(Group(Line(answer, "yellow"), printer.markdown(hint)), (0, 0, 0, 2)))
