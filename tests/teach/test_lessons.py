"""The course itself: every lesson in every language, in step, translated, its numbers computed, its exercises sound."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gptlab import lab
from gptlab.messages import LANGUAGES
from gptlab.teach import lesson as lessons
from gptlab.teach import model, notebook, parity, session
from gptlab.teach.prose import Number, Text, Value, mapped
from tests.teach.conftest import REAL, TOLD
from tests.teach.test_notebook import executed

NUMBERS = sorted(REAL)


def test_the_lessons_are_all_there() -> None:
    """0 to 10, without a gap."""
    assert list(range(11)) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_languages_are_in_step(number: int) -> None:
    """The same units, cells, exercises, hints, terms, numbers and links in all five; none lacks."""
    assert parity.out_of_step(REAL[number]) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_no_paragraph_is_left_untranslated(number: int) -> None:
    assert parity.untranslated(REAL[number]) == []


def test_the_glossary_is_complete() -> None:
    """Every term in five languages, and each is used by some lesson."""
    assert parity.missing_terms() == []
    used = {term for number, lang in TOLD if lang == "en" for term in lessons.load(REAL[number], lang).terms}
    assert set(lessons.glossary()) - used == set()


@pytest.mark.parametrize(("number", "lang"), TOLD)
def test_prose_keeps_to_the_rules(number: int, lang: str) -> None:
    """Enough headings, exercises and mistakes; no result is typed; every formula can be set."""
    lesson = lessons.load(REAL[number], lang)
    assert [*parity.too_few(lesson), *parity.typed_numbers(lesson), *parity.not_set(lesson)] == []


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lesson_runs(number: int, run: Path) -> None:
    """From first to last, in English: every number in its prose can be computed, every exercise knows its mistakes; and
    the other languages' notebooks hold the same code."""
    looked_at = lab.load(run, device="cpu") if number >= model.FIRST else None
    played = session.play(lessons.load(REAL[number], "en"), looked_at)
    assert parity.confused(played.lesson, dict(played.asked)) == []
    code = [cell.code for cell in played.lesson.cells.values()]
    for lang in LANGUAGES:
        if lang in lessons.languages(REAL[number]):
            made = notebook.notebook(session.Played(blank(lessons.load(REAL[number], lang)), {}, {}))
            sources = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
            assert [source for source in sources[1:] if not source.startswith("check(")] == code


def run_as_notebook(number: int, run: Path, folder: Path) -> None:
    """On the run that these tests share. Its texts are not asked for here: numbers need no second computation."""
    lesson = blank(lessons.load(REAL[number], "en"))
    path = folder / f"{lesson.slug}.ipynb"
    path.write_text(json.dumps(notebook.notebook(session.Played(lesson, {}, {}), run=run)), encoding="utf-8")
    cells = executed(path)
    assert len([cell for cell in cells if cell["cell_type"] == "code"]) > len(lesson.cells)


def blank(lesson: lessons.Lesson) -> lessons.Lesson:
    """A lesson that was not run, with a word in the place of each number."""

    def value(number: Number) -> Value:
        return Value("0")

    def text(some: Text) -> Text:
        return mapped(some, value)

    exercises = {
        name: replace(e, question=text(e.question), hints={m: text(h) for m, h in e.hints.items()}, key=text(e.key))
        for name, e in lesson.exercises.items()
    }
    return lessons.evaluated(lesson, {unit.id: text(unit.text) for unit in lesson.units}, exercises)
