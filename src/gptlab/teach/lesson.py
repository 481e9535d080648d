"""A lesson as it is written: code once, in cells.py, and prose in a file for each language; read, and checked.

    lessons/03_attention/cells.py     `# %% name` begins a cell, `# %% exercise name` what an exercise asks
    lessons/03_attention/en.md        front matter (TOML) between +++ lines, then CommonMark with directives
    glossary.toml                     [term-id], and for each language ["term", "definition"]

A directive stands on a line of its own: `::: cell NAME`, `::: output NAME` (what the cell gives, without its code), and
`::: exercise NAME` up to `:::`, with the question, a `hint MISTAKE: …` for each mistake, `hint other: …` and `key: …`.
Nothing is run here, and neither torch nor matplotlib is imported.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from gptlab.messages import LANGUAGES
from gptlab.registry import unknown
from gptlab.teach import prose
from gptlab.teach.prose import Text

LESSONS = Path(__file__).parent / "lessons"
FOLDER = re.compile(r"(\d\d)_([a-z0-9_]+)")
SECTION = re.compile(r"# %%(.*)")
NAME = re.compile(r"(exercise )?([a-z][a-z0-9_]*)")
DIRECTIVE = re.compile(r":::(?: (cell|output|exercise) ([a-z][a-z0-9_]*))?")
ANSWER = re.compile(r"(?:hint ([a-z][a-z0-9_]*)|(key)):(?:\s+|$)(.*)")
RESERVED = ("right", "other")  # no mistake is called so
FIELDS: dict[str, type] = {"title": str, "minutes": int, "summary": str, "words": dict, "typed": list}
NEEDED = ("title", "minutes", "summary")


@dataclass(frozen=True)
class Cell:
    """A section of cells.py; line: where its code begins."""

    name: str
    code: str
    line: int
    words: tuple[str, ...] = ()  # that it asks for by t("…")
    mistakes: tuple[str, ...] = ()  # of an exercise


@dataclass(frozen=True)
class Exercise:
    """A question, what is said to each wrong answer, and what a teacher is told."""

    name: str
    line: int
    question: Text
    hints: Mapping[str, Text]
    key: Text


@dataclass(frozen=True)
class Unit:
    """A block of the prose. kind: heading, paragraph, list, table, formula, code, cell, output or exercise.

    id: the same in all languages, so that a link to it leads to the same paragraph; name: of a cell or an exercise, the
    language of code.
    """

    kind: str
    id: str
    line: int
    text: Text = ()
    name: str = ""


@dataclass(frozen=True)
class Lesson:
    """A lesson in one language."""

    number: int
    name: str
    lang: str
    path: Path  # of the prose
    title: str
    minutes: int  # of reading and running
    summary: str
    units: tuple[Unit, ...]
    cells: Mapping[str, Cell]
    questions: Mapping[str, Cell]  # what exercises compute
    exercises: Mapping[str, Exercise]
    words: Mapping[str, str]  # of figures and tables
    typed: tuple[str, ...]  # decimal numbers that the prose may hold although no cell computes them
    terms: Mapping[str, tuple[str, str]]  # id -> (term, definition) of those it uses, in order

    @property
    def slug(self) -> str:
        """03-attention: how its files are called."""
        return f"{self.number:02}-{self.name.replace('_', '-')}"

    def texts(self) -> Iterator[tuple[int, Text]]:
        """(line, text) of all prose: units, questions, hints and keys; not the front matter."""
        for unit in self.units:
            if unit.kind == "exercise":
                exercise = self.exercises[unit.name]
                for text in (exercise.question, *exercise.hints.values(), exercise.key):
                    yield unit.line, text
            elif unit.kind != "code":
                yield unit.line, unit.text


def folders(root: Path = LESSONS) -> dict[int, Path]:
    """The lessons that there are, by number."""
    found = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if (match := FOLDER.fullmatch(path.name)) and (path / "cells.py").is_file():
            found[int(match[1])] = path
    return found


def find(number: int, root: Path = LESSONS) -> Path:
    """A lesson's folder; ValueError for a number that none has."""
    known = folders(root)
    if number not in known:
        raise unknown("lesson", number, map(str, known))
    return known[number]


def languages(folder: Path) -> list[str]:
    """Those in which a lesson is told."""
    return [lang for lang in LANGUAGES if (folder / f"{lang}.md").is_file()]


def load(folder: Path, lang: str) -> Lesson:
    """A lesson in a language. ValueError, with file and line, for whatever breaks the format."""
    named = FOLDER.fullmatch(folder.name)
    if not named:
        raise ValueError(f"{folder}: a lesson's folder is called NN_name, as 03_attention")
    path = folder / f"{lang}.md"
    if not path.is_file():
        told = ", ".join(languages(folder)) or "no language yet"
        raise ValueError(f"lesson {int(named[1])} is not told in {lang!r}: there is no {path}. It is told in {told}")
    cells, questions = read_cells(folder / "cells.py")
    front, body, first = parted(path)
    units, exercises = Blocks(path, body, first, lang).read()
    terms = used_terms(units, exercises, glossary(folder.parents[1] / "glossary.toml"), path, lang)
    written = prose.french if lang == "fr" else str
    lesson = Lesson(
        number=int(named[1]),
        name=named[2],
        lang=lang,
        path=path,
        title=written(front["title"]),
        minutes=front["minutes"],
        summary=written(front["summary"]),
        units=tuple(units),
        cells=cells,
        questions=questions,
        exercises=exercises,
        words={key: written(word) for key, word in front.get("words", {}).items()},
        typed=tuple(map(str, front.get("typed", ()))),
        terms=terms,
    )
    check(lesson, folder / "cells.py")
    return lesson


# cells.py


def read_cells(path: Path) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """The cells of a lesson, and the sections of its exercises, each in order."""
    cells: dict[str, Cell] = {}
    questions: dict[str, Cell] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = [(i, match[1].strip()) for i, line in enumerate(lines) if (match := SECTION.match(line))]
    for i, line in enumerate(lines[: marks[0][0] if marks else None]):
        if line.strip() and not line.startswith("#"):
            raise ValueError(f"{path}:{i + 1}: code before the first cell: begin it with `# %% name`")
    for (start, title), (end, _) in zip(marks, [*marks[1:], (len(lines), "")], strict=True):
        named = NAME.fullmatch(title)
        if not named:
            raise ValueError(f"{path}:{start + 1}: {title!r} is no name of a cell: write [a-z_]+, or exercise and one")
        kind = questions if named[1] else cells
        if named[2] in kind:
            raise ValueError(f"{path}:{start + 1}: there are two sections {title!r}")
        body = lines[start + 1 : end]
        blank = next((i for i, line in enumerate(body) if line.strip()), len(body))
        kind[named[2]] = read_cell(path, named[2], "\n".join(body[blank:]).rstrip(), start + 2 + blank, bool(named[1]))
    if not cells:
        raise ValueError(f"{path}:1: there is no cell: begin one with `# %% name`")
    return cells, questions


def read_cell(path: Path, name: str, code: str, line: int, exercise: bool) -> Cell:
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"{path}:{line - 1 + (error.lineno or 1)}: cell {name!r}: {error.msg}") from None
    if not tree.body:
        raise ValueError(f"{path}:{line}: cell {name!r} is empty")
    words = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "t"
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Constant)
    ]
    mistakes: list[str] = []
    if exercise:
        set_here = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "right" not in {*set_here, *defined}:
            raise ValueError(f"{path}:{line}: exercise {name!r} sets no `right`")
        table = set_here.get("mistakes")
        if not isinstance(table, ast.Dict):
            raise ValueError(f"{path}:{line}: exercise {name!r} has no `mistakes = {{name: value, …}}`")
        for key in table.keys:
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)) or key.value in RESERVED:
                raise ValueError(
                    f"{path}:{line - 1 + (key or table).lineno}: exercise {name!r}: the names of mistakes are written "
                    f"out as strings, and none is called {' or '.join(RESERVED)}"
                )
            mistakes.append(key.value)
    return Cell(name, code, line, tuple(map(str, words)), tuple(mistakes))


# The prose


def parted(path: Path) -> tuple[dict[str, Any], list[str], int]:
    """Front matter, the lines behind it, and the number of the first of these."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != "+++":
        raise ValueError(f"{path}:1: no front matter: begin with a line +++")
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "+++"), None)
    if end is None:
        raise ValueError(f"{path}:1: the front matter has no end: a second line +++")
    try:
        front = tomllib.loads("\n".join(lines[1:end]))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        raise ValueError(f"{path}:{int(at[1]) + 1 if at else 1}: the front matter is no TOML: {error}") from None
    for field in NEEDED:
        if field not in front:
            raise ValueError(f"{path}:1: the front matter lacks {field!r}")
    for field, value in front.items():
        if field not in FIELDS:
            raise ValueError(f"{path}:1: {unknown('field', field, FIELDS)}")
        if not isinstance(value, FIELDS[field]) or (isinstance(value, str) and not value.strip()):
            raise ValueError(f"{path}:1: {field} is {value!r}: it is to be a {FIELDS[field].__name__}, and not empty")
    for key, value in front.get("words", {}).items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{path}:1: the word {key!r} is {value!r}: it is to be a string, and not empty")
    return front, lines[end + 1 :], end + 2


class Blocks:
    """Reads the blocks of a lesson's prose, in order."""

    def __init__(self, path: Path, lines: Sequence[str], first: int, lang: str) -> None:
        self.lang, self.path, self.lines, self.first = lang, path, [line.rstrip() for line in lines], first
        self.units: list[Unit] = []
        self.exercises: dict[str, Exercise] = {}
        self.section, self.within = 0, 0

    def read(self) -> tuple[list[Unit], dict[str, Exercise]]:
        at = 0
        while at < len(self.lines):
            line = self.lines[at]
            if not line:
                at += 1
            elif line.startswith(":::"):
                at = self.directive(at)
            elif line.startswith("#"):
                if not re.match(r"## \S", line):
                    raise self.wrong(at, "headings are written ## (the title is in the front matter)")
                self.section, self.within = self.section + 1, 0
                self.add("heading", at, line[3:], id=f"s{self.section}")
                at += 1
            elif line.startswith("```"):
                end = self.until(at + 1, "```", "the code has no end: a line ```")
                self.add("code", at, "\n".join(self.lines[at + 1 : end]), name=line[3:].strip())
                at = end + 1
            elif line.startswith("$$"):
                end = at if line.count("$$") == 2 else self.until(at + 1, "$$", "the formula has no end: $$", ends=True)
                if not re.fullmatch(r"\$\$.+?\$\$", block := "\n".join(self.lines[at : end + 1]), re.DOTALL):
                    raise self.wrong(at, "a formula in $$ stands by itself: a full stop goes into it")
                self.add("formula", at, block)
                at = end + 1
            elif line[0].isspace():
                raise self.wrong(
                    at, "a block begins at the margin; blank lines part blocks, and lists have none within"
                )
            else:
                end = at + 1
                while end < len(self.lines) and self.lines[end] and not self.lines[end].startswith((":::", "## ")):
                    end += 1
                kind = "table" if line.startswith("|") else "paragraph"
                kind = "list" if re.match(r"([-*+]|\d+[.)]) ", line) else kind
                self.add(kind, at, "\n".join(self.lines[at:end]))
                at = end
        return self.units, self.exercises

    def wrong(self, at: int, what: str) -> ValueError:
        return ValueError(f"{self.path}:{self.first + at}: {what}")

    def until(self, at: int, mark: str, missing: str, *, ends: bool = False) -> int:
        for i in range(at, len(self.lines)):
            if self.lines[i] == mark or (ends and self.lines[i].endswith(mark)):
                return i
        raise self.wrong(at - 1, missing)

    def add(self, kind: str, at: int, source: str, *, name: str = "", id: str = "") -> None:
        if not id:
            self.within += 1
            id = f"s{self.section}-{self.within}"
        text: Text = (source,) if kind == "code" else self.text(source, at)
        self.units.append(Unit(kind, id, self.first + at, text, name))

    def text(self, source: str, at: int) -> Text:
        return prose.typeset(prose.read(source, self.path, self.first + at), self.lang)

    def directive(self, at: int) -> int:
        match = DIRECTIVE.fullmatch(self.lines[at])
        if not match or not match[1]:
            raise self.wrong(at, f"{self.lines[at]!r}: directives are `::: cell|output|exercise NAME`")
        kind, name = match[1], match[2]
        line = self.first + at
        if kind != "exercise":
            self.units.append(Unit(kind, f"cell-{name}", line, name=name))
            return at + 1
        if name in self.exercises:
            raise self.wrong(at, f"the exercise {name!r} stands here a second time")
        end = self.until(at + 1, ":::", f"the exercise {name!r} has no end: a line :::")
        self.exercises[name] = self.exercise(name, at, end)
        self.units.append(Unit(kind, f"exercise-{name}", line, name=name))
        return end + 1

    def exercise(self, name: str, start: int, end: int) -> Exercise:
        parts: dict[str, tuple[int, list[str]]] = {"": (start + 1, [])}  # "": the question
        part = ""
        for at in range(start + 1, end):
            line = self.lines[at]
            if match := ANSWER.fullmatch(line):
                part = match[2] or f"hint {match[1]}"
                if part in parts:
                    raise self.wrong(at, f"exercise {name!r} has two of {part!r}")
                parts[part] = (at, [match[3]])
            elif line.startswith(("hint ", ":::")):
                raise self.wrong(at, f"{line!r}: a hint is written `hint mistake: …`, and exercises end with :::")
            else:
                parts[part][1].append(line)
        texts = {part: self.text("\n".join(lines).strip(), at) for part, (at, lines) in parts.items()}
        for needed, what in (("", "question"), ("hint other", "hint for other wrong answers"), ("key", "key")):
            if not texts.get(needed):
                raise self.wrong(start, f"exercise {name!r} has no {what}")
        for part, text in texts.items():
            if not text:
                raise self.wrong(parts[part][0], f"exercise {name!r}: {part} is empty")
        hints = {part.removeprefix("hint "): text for part, text in texts.items() if part.startswith("hint ")}
        return Exercise(name, self.first + start, texts[""], hints, texts["key"])


# What must fit together


def check(lesson: Lesson, code: Path) -> None:
    """Cells are called once, in order; exercises, hints and words are there. ValueError with file and line."""
    path = lesson.path
    called: dict[str, int] = {}
    order = iter(lesson.cells)
    for unit in lesson.units:
        if unit.kind not in ("cell", "output"):
            continue
        if unit.name not in lesson.cells:
            raise ValueError(f"{path}:{unit.line}: {unknown('cell', unit.name, lesson.cells)}")
        if unit.name in called:
            raise ValueError(f"{path}:{unit.line}: cell {unit.name!r} was called in line {called[unit.name]} already")
        if (expected := next(order)) != unit.name:
            raise ValueError(
                f"{path}:{unit.line}: cell {unit.name!r} is called, but {expected!r} comes first in {code}"
            )
        called[unit.name] = unit.line
    if left := [name for name in lesson.cells if name not in called]:
        raise ValueError(f"{code}:{lesson.cells[left[0]].line}: cell {left[0]!r} is never called in {path}")
    for name, exercise in lesson.exercises.items():
        if name not in lesson.questions:
            raise ValueError(f"{path}:{exercise.line}: {unknown('exercise', name, lesson.questions)}")
        mistakes = lesson.questions[name].mistakes
        for mistake in mistakes:
            if mistake not in exercise.hints:
                raise ValueError(f"{path}:{exercise.line}: exercise {name!r} has no hint for the mistake {mistake!r}")
        for hint in exercise.hints:
            if hint != "other" and hint not in mistakes:
                raise ValueError(f"{path}:{exercise.line}: exercise {name!r}: {unknown('mistake', hint, mistakes)}")
    for name, question in lesson.questions.items():
        if name not in lesson.exercises:
            raise ValueError(f"{code}:{question.line}: exercise {name!r} is never asked in {path}")
    for cell in (*lesson.cells.values(), *lesson.questions.values()):
        for word in cell.words:
            if word not in lesson.words:
                raise ValueError(f"{path}:1: the word {word!r}, which cell {cell.name!r} asks for, is not in [words]")


# The glossary

Glossary = dict[str, dict[str, tuple[str, str]]]  # id -> language -> (term, definition)


@cache
def glossary(path: Path = LESSONS.parent / "glossary.toml") -> Glossary:
    """All terms; ValueError for one that is not a pair of words in a language that we have."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    terms: Glossary = {}
    for name, entries in found.items():
        terms[name] = {}
        for lang, pair in entries.items():
            if lang not in LANGUAGES:
                raise ValueError(f"{path}: {name}: {unknown('language', lang, LANGUAGES)}")
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) and p.strip() for p in pair)):
                raise ValueError(f'{path}: {name}: {lang} = {pair!r}: it is to be ["term", "definition"]')
            terms[name][lang] = (pair[0], pair[1])
    return terms


def used_terms(
    units: Sequence[Unit], exercises: Mapping[str, Exercise], known: Glossary, path: Path, lang: str
) -> dict[str, tuple[str, str]]:
    """The terms of a lesson in the order of their first use."""
    found: dict[str, tuple[str, str]] = {}
    for unit in units:
        texts = [unit.text] if unit.kind != "code" else []
        if unit.kind == "exercise":
            exercise = exercises[unit.name]
            texts = [exercise.question, *exercise.hints.values(), exercise.key]
        for piece in (piece for text in texts for piece in prose.walk(text)):
            if not isinstance(piece, prose.Term):
                continue
            if piece.id not in known:
                close = f" Did you mean {near[0]!r}?" if (near := get_close_matches(piece.id, known, n=1)) else ""
                raise ValueError(f"{path}:{unit.line}: unknown term {piece.id!r}: it is not in the glossary.{close}")
            if lang not in known[piece.id]:
                raise ValueError(f"{path}:{unit.line}: the glossary has no {lang!r} for the term {piece.id!r}")
            found[piece.id] = known[piece.id][lang]
    return found


def counterparts(lesson: Lesson) -> dict[str, str]:
    """What the same lesson is called in other languages: language -> title."""
    return {lang: parted(lesson.path.with_name(f"{lang}.md"))[0]["title"] for lang in languages(lesson.path.parent)}


def evaluated(lesson: Lesson, texts: Mapping[str, Text], exercises: Mapping[str, Exercise]) -> Lesson:
    """The lesson with other texts: those of units by id, and exercises."""
    units = tuple(replace(unit, text=texts.get(unit.id, unit.text)) for unit in lesson.units)
    return replace(lesson, units=units, exercises=exercises)
