"""Is an answer right, and if not, which mistake is it? An answer is typed, and never run.

What is typed can often be read in more than one way ("1,5" is a number in French, and two numbers to Python), so all
readings are tried. Of what an answer comes near to, the right answer and each mistake, the nearest is what it is.
"""

import ast
import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlab.teach.drawings import scalar

RIGHT, OTHER = "right", "other"
TOLERANCE = 0.01  # relative; of a whole number that is asked for none, unless the exercise says so
SMALLEST = 1e-9  # what a tolerance is relative to, where 0 is right
YES = ("true", "yes", "sim", "tak", "sì", "si", "oui", "verdadeiro", "prawda", "vero", "vrai")
NO = ("false", "no", "não", "nao", "nie", "non", "falso", "fałsz", "faux")
SPACES = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ", "−": "-"})


@dataclass(frozen=True)
class Asked:
    """What an exercise takes for right, and each likely mistake: a value, or a function that tells it."""

    right: Any
    mistakes: Mapping[str, Any]
    tolerance: float | None = None


def plain(value: Any) -> Any:
    """Numbers and arrays of NumPy and torch as Python's; a tuple as a list."""
    value = scalar(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def readings(text: str, lang: str) -> list[Any]:
    """All that a typed answer may mean: a truth value, a number, a list of them, and always the words themselves."""
    text = text.translate(SPACES).strip()
    found: list[Any] = []
    if text.casefold() in YES + NO:
        found.append(text.casefold() in YES)
    found += numbers(text, lang)
    bare = re.sub(r"^[\[(]\s*|\s*[\])]$", "", text)
    for separator in (r"\s*;\s*", r"\s*,\s+", r"\s+"):
        parts = [numbers(part, lang) for part in re.split(separator, bare) if part]
        if len(parts) > 1 and all(parts):
            found.append([part[0] for part in parts])
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        found.append(plain(ast.literal_eval(text)))
    return [*found, re.sub(r"""^(['"])(.*)\1$""", r"\2", text)]


def numbers(text: str, lang: str) -> list[int | float]:
    """The numbers that a word may be, the likelier one first: with the language's marks, and as Python writes them."""
    mark, thousands = (".", ",") if lang == "en" else (",", ".")
    found: list[int | float] = []
    grouped = rf"[-+]?\d{{1,3}}(?:([{thousands} ])\d{{3}})(?:\1\d{{3}})*(?:{re.escape(mark)}\d+)?"
    if mark == "," and re.fullmatch(r"[-+]?\d+,\d+", text):
        found.append(float(text.replace(",", ".")))
    if re.fullmatch(r"[-+]?\d+", text):
        found.append(int(text))
    elif re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE):
        found.append(float(text))
    if re.fullmatch(grouped, text):
        digits = text.replace(thousands, "").replace(" ", "").replace(mark, ".")
        found.append(float(digits) if "." in digits else int(digits))
    return found


def distance(answer: Any, value: Any, tolerance: float | None) -> float | None:
    """How far an answer is from a value, None where it is another: 0 is the value itself."""
    if isinstance(value, list):
        if not isinstance(answer, list) or len(answer) != len(value):
            return None
        each = [distance(a, v, tolerance) for a, v in zip(answer, value, strict=True)]
        return None if any(d is None for d in each) else max((d for d in each if d is not None), default=0.0)
    if isinstance(value, bool) or isinstance(answer, bool):
        return 0.0 if answer is value else None
    if isinstance(value, int | float):
        if not isinstance(answer, int | float) or not math.isfinite(answer):
            return None
        if isinstance(value, int) and isinstance(answer, int) and tolerance is None:
            return 0.0 if answer == value else None
        off = abs(answer - value) / max(abs(value), SMALLEST)
        return off if off <= (TOLERANCE if tolerance is None else tolerance) else None
    if isinstance(value, str) and isinstance(answer, str):
        if answer == value:
            return 0.0
        return TOLERANCE if answer.strip().casefold() == value.strip().casefold() else None
    return None


def told(function: Any, answer: Any) -> bool:
    """Whether a function says yes; of an answer that it cannot read, it says no."""
    try:
        return bool(function(answer))
    except Exception:
        return False


def verdict(asked: Asked, answers: list[Any]) -> str:
    """What an answer is, given all its readings: RIGHT, the name of a mistake, or OTHER."""
    answers = [plain(answer) for answer in answers]
    if callable(asked.right) and any(told(asked.right, answer) for answer in answers):
        return RIGHT
    near: list[tuple[float, str]] = []
    for name, value in {RIGHT: asked.right, **asked.mistakes}.items():
        if not callable(value):
            found = [d for answer in answers if (d := distance(answer, value, asked.tolerance)) is not None]
            near += [(min(found), name)] if found else []
    if near:
        return min(near, key=lambda pair: pair[0])[1]
    for name, value in asked.mistakes.items():
        if callable(value) and any(told(value, answer) for answer in answers):
            return name
    return OTHER


def data(asked: Asked) -> dict[str, Any] | None:
    """What a page needs to judge by itself, as course.js reads it; None where only a function can say what is right."""
    if callable(asked.right):
        return None
    mistakes = [(name, coded(value)) for name, value in asked.mistakes.items() if not callable(value)]
    return {"right": coded(asked.right), "mistakes": mistakes, "tolerance": asked.tolerance, "usual": TOLERANCE}


def coded(value: Any) -> Any:
    """For JavaScript, which does not tell 2 from 2.0: a number says whether it is a whole one."""
    if isinstance(value, list):
        return [coded(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"value": value, "int": isinstance(value, int)}
    return value
