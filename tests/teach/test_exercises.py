"""Answers: read in every way they may be meant, and judged by what they come nearest to; the page judges as we do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gptlab.messages import LANGUAGES
from gptlab.teach import pages
from gptlab.teach.exercises import OTHER, RIGHT, Asked, data, readings, verdict
from gptlab.teach.pages import shown_answer
from gptlab.teach.session import Played

SCRIPT = Path(pages.__file__).parent / "templates" / "course.js"
MEAN = Asked(4.0, {"sum": 12.0, "middle": 3.0})
COUNT = Asked(1024, {"half": 512, "near": 1023})
WORD = Asked("softmax", {"other_function": "sigmoid"})
TRUTH = Asked(True, {"contrary": False})
LIST = Asked([0.5, 0.25], {"turned": [0.25, 0.5], "longer": [0.5, 0.25, 0.25]})
MATRIX = Asked([[1, 2], [3, 4]], {"turned": [[1, 3], [2, 4]]})
LOOSE = Asked(100, {"double": 200}, tolerance=0.2)
CASES: list[tuple[Asked, str, str, str]] = [
    (MEAN, "4", "en", RIGHT),
    (MEAN, "4.03", "en", RIGHT),
    (MEAN, "4,03", "pt", RIGHT),
    (MEAN, " 12 ", "pl", "sum"),
    (MEAN, "3,0", "fr", "middle"),
    (MEAN, "5", "en", OTHER),
    (MEAN, "four", "en", OTHER),
    (MEAN, "4e0", "en", RIGHT),
    (MEAN, "−4", "en", OTHER),
    (COUNT, "1024", "en", RIGHT),
    (COUNT, "1,024", "en", RIGHT),
    (COUNT, "1.024", "pt", RIGHT),
    (COUNT, "1 024", "pl", RIGHT),
    (COUNT, "1\u202f024", "fr", RIGHT),
    (COUNT, "1023", "en", "near"),
    (COUNT, "1025", "en", OTHER),
    (COUNT, "1.024e3", "en", RIGHT),
    (COUNT, "512", "it", "half"),
    (WORD, "softmax", "en", RIGHT),
    (WORD, " 'Softmax' ", "en", RIGHT),
    (WORD, "SIGMOID", "en", "other_function"),
    (WORD, "7", "en", OTHER),
    (TRUTH, "True", "en", RIGHT),
    (TRUTH, "tak", "pl", RIGHT),
    (TRUTH, "Não", "pt", "contrary"),
    (TRUTH, "sì", "it", RIGHT),
    (TRUTH, "1", "en", OTHER),
    (LIST, "0.5, 0.25", "en", RIGHT),
    (LIST, "[0.5, 0.25]", "en", RIGHT),
    (LIST, "(0.5,0.25)", "en", RIGHT),
    (LIST, "0,5; 0,25", "pt", RIGHT),
    (LIST, "0.25 0.5", "en", "turned"),
    (LIST, "0.5, 0.25, 0.25", "en", "longer"),
    (LIST, "0.5", "en", OTHER),
    (MATRIX, "[[1, 2], [3, 4]]", "en", RIGHT),
    (MATRIX, "((1, 3), (2, 4))", "en", "turned"),
    (LOOSE, "110", "en", RIGHT),
    (LOOSE, "190", "en", "double"),
    (LOOSE, "150", "en", OTHER),
]


@pytest.mark.parametrize(("asked", "typed", "lang", "expected"), CASES)
def test_answers_are_what_they_come_near_to(asked: Asked, typed: str, lang: str, expected: str) -> None:
    assert verdict(asked, readings(typed, lang)) == expected


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "value",
    [4, 27648, -0.269479, 1e-7, True, "softmax", [1, 3, 5], [0.5, -0.25], [[1, 2], [3, 4]], [[0.5, 1.5], [2.0, 1e-7]]],
)
def test_what_the_key_shows_is_right(value: Any, lang: str) -> None:
    """The teacher's answer, typed as it is printed, is taken for right in every language."""
    assert verdict(Asked(value, {}), readings(shown_answer(value, lang), lang)) == RIGHT


def test_rules_may_judge() -> None:
    """A function says what is right, or which mistake it is; one that cannot read an answer says no."""
    asked = Asked(lambda n: n % 7 == 0, {"near": lambda n: n % 7 == 1, "six": 6})
    found = [verdict(asked, readings(typed, "en")) for typed in ("21", "22", "6", "5", "seven")]
    assert found == [RIGHT, "near", "six", OTHER, OTHER]
    assert data(asked) is None


def test_values_go_before_rules() -> None:
    """A mistake that is a value is that, even where a rule would take it, too."""
    asked = Asked(10, {"any": lambda n: n > 0, "two": 2})
    assert [verdict(asked, [n]) for n in (10, 2, 3)] == [RIGHT, "two", "any"]


def test_nothing_typed_is_run() -> None:
    """Code is a word, however it looks."""
    assert readings("__import__('os').getcwd()", "en") == ["__import__('os').getcwd()"]


def test_exercises_know_their_mistakes(played: dict[str, Played]) -> None:
    """In the small course every mistake is told from the others, in each language."""
    for lang, each in played.items():
        for name, asked in each.asked.items():
            for mistake, value in {RIGHT: asked.right, **asked.mistakes}.items():
                if not callable(value):
                    assert verdict(asked, [value]) == mistake, (lang, name)
    assert verdict(played["pt"].asked["words"], readings("Lugar", "pt")) == RIGHT


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to run the page's script outside of a browser")
def test_the_page_judges_alike(tmp_path: Path) -> None:
    """course.js comes to the same verdicts as exercises.py, where a page judges at all."""
    script = SCRIPT.read_text(encoding="utf-8")
    rules = re.search(r"^// 3\..*?(?=^for \(const form)", script, re.DOTALL | re.MULTILINE)
    assert rules
    cases: list[dict[str, Any]] = [{"asked": data(asked), "typed": t, "lang": lang} for asked, t, lang, _ in CASES]
    judged = "console.log(JSON.stringify(CASES.map(c => verdict(c.asked, readings(c.typed, c.lang)))));"
    file = tmp_path / "judge.js"
    file.write_text(f"{rules[0]}\nconst CASES = {json.dumps(cases)};\n{judged}\n", encoding="utf-8")
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [(t, lang, f) for (_, t, lang, _), f in zip(CASES, found, strict=True)] == [
        (t, ln, e) for _, t, ln, e in CASES
    ]
