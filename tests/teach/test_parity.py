"""What makes lessons be in step is noticed where it is not so."""

from pathlib import Path

import pytest

from gptlab.messages import LANGUAGES
from gptlab.teach import lesson as lessons
from gptlab.teach import parity, session
from gptlab.teach.exercises import Asked
from tests.teach.conftest import SMALL, edited


def test_the_small_course_is_in_step() -> None:
    """Nothing is said about it, but that the second lesson is short."""
    known = lessons.glossary(SMALL.parent / "glossary.toml")
    assert parity.everything(0, root=SMALL) == [] and parity.missing_terms(known) == []
    assert {line.partition(": ")[2].split(";")[0] for line in parity.everything(1, root=SMALL)} == {
        "1 headings",
        "1 exercises",
    }


def test_a_language_that_lacks_is_noticed(copied: Path) -> None:
    (copied / "00_small" / "it.md").unlink()
    assert any("not told in 'it'" in line for line in parity.out_of_step(copied / "00_small"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n\n## Pictures", "\n\nOne more paragraph.\n\n## Pictures", "units"),
        ("## Pictures", "Pictures", "heading"),
        ("[[mean|mean]]", "mean", "terms differ"),
        ("{{ average:.4f }}", "{{ average:.3f }}", "average:.3f"),
        ("(lesson:1)", "(lesson:0)", "(lesson:0)"),
        ("::: output drawing", "::: cell drawing", "cell"),
        ("gptlab lesson 0", "gptlab lesson 1", "gptlab lesson 1"),
        ('place = "place"', 'place = "place"\nmore = "more"', "[words] differ"),
        ("minutes = 3", "minutes = 4", "minutes is"),
        ("{{ right:.2f }}", "4", "right:.2f"),
    ],
)
def test_a_difference_is_noticed(copied: Path, old: str, new: str, message: str) -> None:
    edited(copied / "00_small" / "en.md", old, new)
    assert any(message in line for line in parity.out_of_step(copied / "00_small"))


@pytest.mark.parametrize("lang", [lang for lang in LANGUAGES if lang != "en"])
def test_what_is_left_in_english_is_noticed(copied: Path, lang: str) -> None:
    """A paragraph that is the same as the English one, and one that is English but other; a hint, and a word, too."""
    english = lessons.load(SMALL / "00_small", "en")
    own = lessons.load(SMALL / "00_small", lang)
    path = copied / "00_small" / f"{lang}.md"
    lines = dict(zip((u.id for u in own.units), (u.line for u in own.units), strict=True))
    text = path.read_text(encoding="utf-8").splitlines()
    source = (SMALL / "00_small" / "en.md").read_text(encoding="utf-8").splitlines()
    at = {unit.id: unit.line for unit in english.units}
    text[lines["s2-1"] - 1] = source[at["s2-1"] - 1]
    text[lines["s5-1"] - 1] = "And this is a paragraph that nobody has written in the language that it should be in."
    path.write_text("\n".join(text), encoding="utf-8")
    found = parity.untranslated(copied / "00_small")
    assert {line.split(": ")[1] for line in found} == {"s2-1", "s5-1"}
    assert any("are the same" in line for line in found) and any(f"{lang} reads like en" in line for line in found)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_languages_are_told_apart(lang: str) -> None:
    """Of the small course's paragraphs none is taken for another language, and nine of ten would be noticed there."""
    texts = list(parity.named_texts(lessons.load(SMALL / "00_small", lang)).values())
    long = [text for text in texts if len(parity.words_of(text)) >= parity.SHORT]
    assert len(long) > 12 and not [text for text in long if parity.foreign(text, lang)]
    noticed = [parity.foreign(text, other) == lang for text in long for other in LANGUAGES if other != lang]
    assert sum(noticed) > 0.9 * len(noticed)


@pytest.mark.parametrize(
    ("typed", "noticed"),
    [
        ("about 0.1234 of it", True),
        ("in `0.1234` and $0.1234$", False),
        ("the input 2.0 of the code", False),
        ("50,257 tokens in 2017", False),
        ("the rate 0,1234", True),
        ("the given 1.1", False),
        ("it is 3.14 and 4.", True),
    ],
)
def test_typed_numbers_are_noticed(copied: Path, typed: str, noticed: bool) -> None:
    """Decimal numbers in prose, but for literals of the code, what is declared, code and formulas."""
    path = copied / "00_small" / "en.md"
    edited(path, "minutes = 3", 'minutes = 3\ntyped = ["1.1"]')
    edited(path, "in the same order and on one scale", typed)
    assert bool(parity.typed_numbers(lessons.load(copied / "00_small", "en"))) == noticed


def test_a_confused_exercise_is_noticed() -> None:
    """One that takes a mistake for right, or two mistakes for each other."""
    lesson = lessons.load(SMALL / "00_small", "en")
    assert parity.confused(lesson, dict(session.play(lesson).asked)) == []
    wrong = parity.confused(lesson, {"average": Asked(4.0, {"sum": 4.001, "middle": 3.0, "nothing": 3.0})})
    assert len(wrong) == 1 and "nothing" in wrong[0]
    assert parity.confused(lesson, {"average": Asked(4.0, {"sum": 4.0})})
    assert parity.confused(lesson, {"rule": Asked(lambda answer: True, {})})


def test_a_formula_that_cannot_be_set_is_noticed(copied: Path) -> None:
    edited(copied / "00_small" / "en.md", "\\bar{x} = \\frac{1}{n}", "\\bars{x} = \\frac{1}{n}")
    assert parity.not_set(lessons.load(copied / "00_small", "en"))
