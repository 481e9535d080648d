"""The format of a lesson: what it is read as, and that each way of breaking it is said, with file and line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.messages import LANGUAGES
from gptlab.teach import lesson as lessons
from gptlab.teach.prose import Code, Formula, Link, Number, Term, french, polish, powers, read, tex, words
from tests.teach.conftest import SMALL, edited

HERE = Path("lesson.md")


def test_a_lesson_is_read_as_it_is_written() -> None:
    """Front matter, units in order with their kinds and ids, cells, exercises, terms."""
    lesson = lessons.load(SMALL / "00_small", "en")
    assert (lesson.number, lesson.name, lesson.slug, lesson.minutes) == (0, "small", "00-small", 3)
    assert lesson.words["place"] == "place" and list(lesson.terms) == ["mean"]
    assert list(lesson.cells) == ["numbers", "average", "picture", "board", "drawing"]
    kinds = [(unit.id, unit.kind) for unit in lesson.units[:7]]
    assert kinds == [
        ("s0-1", "paragraph"),
        ("s1", "heading"),
        ("cell-numbers", "cell"),
        ("s1-1", "paragraph"),
        ("s1-2", "list"),
        ("s1-3", "formula"),
        ("cell-average", "cell"),
    ]
    assert {"table", "output", "code", "exercise"} <= {unit.kind for unit in lesson.units}
    exercise = lesson.exercises["average"]
    assert list(exercise.hints) == ["sum", "middle", "nothing", "other"] and words(exercise.key).startswith("The sum")
    assert lesson.cells["numbers"].code.startswith("x = torch") and lesson.cells["numbers"].line == 2


@pytest.mark.parametrize("lang", LANGUAGES)
def test_ids_are_the_same_in_all_languages(lang: str) -> None:
    """So a link to a paragraph leads to the same one; no id occurs twice."""
    ids = [unit.id for unit in lessons.load(SMALL / "00_small", lang).units]
    assert ids == [unit.id for unit in lessons.load(SMALL / "00_small", "en").units] and len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "message"),
    [
        ("en.md", "+++\n", "", 1, "no front matter"),
        ("en.md", "minutes = 3\n", "", 1, "lacks 'minutes'"),
        ("en.md", "minutes = 3", 'minutes = "3"', 1, "minutes is '3'"),
        ("en.md", 'title = "A small lesson"', 'title = ""', 1, "title is ''"),
        ("en.md", "minutes = 3", "minutes = 3\nminute = 4", 1, "Did you mean 'minutes'?"),
        ("en.md", "minutes = 3", "minutes 3", 3, "no TOML"),
        ("en.md", 'place = "place"\n', "", 1, "'place', which cell 'picture' asks for"),
        ("en.md", "::: cell average\n", "::: cell numbers\n", 26, "was called in line 17 already"),
        ("en.md", "::: output drawing\n", "", 27, "cell 'drawing' is never called"),
        ("en.md", "::: cell average\n", "::: cell avarage\n", 26, "Did you mean 'average'?"),
        ("en.md", "::: cell numbers", "::: cell average", 17, "'numbers' comes first"),
        ("en.md", "::: cell numbers", "::: cells numbers", 17, "directives are"),
        ("en.md", "[[mean|", "[[men|", 13, "unknown term 'men'"),
        ("en.md", "hint sum:", "hint some:", 53, "no hint for the mistake 'sum'"),
        ("en.md", "hint sum: ", "hint sum:\nhint sun: ", 55, "hint sum is empty"),
        ("en.md", "hint middle:", "hint sum:", 56, "two of 'hint sum'"),
        ("en.md", "hint other: Add", "Add", 53, "no hint for other"),
        ("en.md", "key: The sum is 12", "The sum is 12", 53, "no key"),
        ("en.md", "::: exercise words", "::: exercise wards", 62, "Did you mean 'words'?"),
        ("en.md", "## Pictures", "### Pictures", 30, "headings are written ##"),
        ("en.md", "{{ x.sum():.1f}}", "{{ x.sum( }}", 19, "no expression"),
        ("en.md", "{{ x.sum():.1f}}", "{{ x.sum():.1f }", 19, "a number is written"),
        ("en.md", "$\\bar{x} = \\frac{1}{n}\\sum_{i=1}^{n} x_i$.", "$\\bar{x}.", 19, "without its partner"),
        ("en.md", "(lesson:1)", "(other:1)", 28, "write lesson:3 or https"),
        ("en.md", "*large*", "<b>large</b>", 22, "HTML has no place"),
        ("en.md", "*large*", "![large](x.png)", 22, "pictures come from cells"),
        ("en.md", "- The last", "\n  - The last", 23, "a block begins at the margin"),
        ("en.md", "}}$$\n", "}}\n", 24, "the formula has no end"),
        ("en.md", "```sh\ngptlab lesson 0\n```", "```sh\ngptlab lesson 0", 47, "no end"),
        ("cells.py", "# %% average", "# %% Average", 7, "no name of a cell"),
        ("cells.py", "# %% average", "# %% numbers", 7, "two sections"),
        ("cells.py", "# %% numbers\n", "x = 1\n# %% numbers\n", 1, "before the first cell"),
        ("cells.py", "return values", "return return values", 9, "invalid syntax"),
        ("cells.py", "right = True", "wright = True", 38, "sets no `right`"),
        (
            "cells.py",
            'mistakes = {"contrary": False, "number": 1}',
            "mistakes = dict(contrary=False)",
            38,
            "no `mistakes",
        ),
        ("cells.py", '"contrary": False', '"other": False', 39, "none is called right or other"),
    ],
)
def test_what_breaks_the_format_is_said(copied: Path, file: str, old: str, new: str, line: int, message: str) -> None:
    """A ValueError with the file, the line and what is wrong."""
    path = copied / "00_small" / file
    edited(path, old, new)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        lessons.load(copied / "00_small", "en")
    place = re.match(r"(.*?):(\d+): ", str(caught.value), re.DOTALL)
    assert place and Path(place[1]).parent == path.parent and int(place[2]) == line, str(caught.value)


def test_a_language_that_lacks_is_said(copied: Path) -> None:
    (copied / "00_small" / "pl.md").unlink()
    with pytest.raises(ValueError, match=r"not told in 'pl'.*en, pt, it, fr"):
        lessons.load(copied / "00_small", "pl")
    with pytest.raises(ValueError, match="unknown lesson 7"):
        lessons.find(7, copied)


def test_a_term_needs_the_language(copied: Path) -> None:
    edited(copied.parent / "glossary.toml", 'it = ["media"', 'it_ = ["media"')
    with pytest.raises(ValueError, match="unknown language 'it_'"):
        lessons.load(copied / "00_small", "it")


def test_pieces_of_a_sentence() -> None:
    """Code, numbers, formulas, terms and links are taken apart, one within another; dollars may be escaped."""
    text = read("`a|b` {{ d[1:2]:.2f }} $x_1$ [[mean|the *mean* of `x`]] [see {{ n }}](lesson:3) costs \\$5", HERE, 4)
    kinds = [type(piece) for piece in text if not isinstance(piece, str)]
    assert kinds == [Code, Number, Formula, Term, Link]
    assert text[2] == Number("d[1:2]", ".2f", 4) and text[-1] == " costs \\$5"
    assert read("{{ {'a': 1}['a'] }}", HERE, 1) == (Number("{'a': 1}['a']", "", 1),)
    assert read("{{ f(x, y=2):,.1f }}", HERE, 1) == (Number("f(x, y=2)", ",.1f", 1),)
    [formula] = read("$\\frac{{{ a:.1f }}}{2}$", HERE, 1)
    assert isinstance(formula, Formula) and formula.parts == ("\\frac{", Number("a", ".1f", 1), "}{2}")


def test_lines_are_counted() -> None:
    """A number knows its line, for the message if it cannot be evaluated."""
    numbers = [piece for piece in read("a\n{{ b }}\n`c {{ d }}`", HERE, 10) if isinstance(piece, Number)]
    assert numbers == [Number("b", "", 11)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("-0.5", "−0.5"),
        ("-1,5e-13", "−1,5\u00a0×\u00a010⁻¹³"),
        ("2e+03", "2\u00a0×\u00a010³"),
        ("-0.00", "0.00"),
        ("0e+00", "0"),
        ("--seed", "--seed"),
        ("-", "-"),
    ],
)
def test_numbers_have_their_signs(text: str, told: str) -> None:
    """A minus is one, and zero has none; what is no number stays as it is."""
    assert powers(text) == told


def test_polish_lines_end_with_words() -> None:
    """A word of one letter stands with the next one, at the beginning, too, and after another such word."""
    assert (
        polish("A w tym i u niej (o tym) a-b 5 z 7")
        == "A\u00a0w\u00a0tym i\u00a0u\u00a0niej (o\u00a0tym) a-b 5 z\u00a07"
    )


def test_french_has_its_spaces() -> None:
    """No line of French begins with a mark; code and alignments are left alone."""
    assert french("Quoi ? « Oui » : non !") == "Quoi\u202f? «\u00a0Oui\u00a0»\u00a0: non\u202f!"
    assert french("|a | :-- |\n|b?c:d|") == "|a | :-- |\n|b?c:d|"


def test_numbers_in_formulas_are_latex() -> None:
    """A decimal comma is no list's, thousands are parted by a thin space, and powers of ten are powers."""
    from gptlab.teach.prose import Value

    told = [tex(Formula((Value(text),))) for text in ("1,5", "12\u202f345", "1.2e-07", "0.0e+00")]
    assert told == ["1{,}5", r"12\,345", r"1.2 \times 10^{-7}", "0"]


def test_reading_lessons_needs_no_torch() -> None:
    """The list of lessons is there at once."""
    code = "import sys; from gptlab.teach import contents, options; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
