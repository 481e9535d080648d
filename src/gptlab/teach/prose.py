"""What stands within the sentences of a lesson: code, numbers that are computed, formulas, terms, links.

    `code`   {{ expression:.2f }}   $formula$   $$formula by itself$$   [[term-id|words]]   [words](target)

The rest is CommonMark, and is left to whoever shows it. A piece is taken out before Markdown is read, so that a `|` or
a `*` within it is none of a table's or an emphasis's.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE = re.compile(
    r"""(?P<ticks>`+)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)
    | \{\{(?!\{)(?P<number>.+?)\}\}
    | (?<![\\$])\$\$(?P<display>.+?)\$\$
    | (?<![\\$])\$(?![\s$])(?P<formula>[^$]+?)(?<![\s\\])\$(?!\d)
    | \[\[(?P<id>[\w-]+)\|(?P<words>.+?)\]\]
    | (?<![\[!])\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)""",
    re.DOTALL | re.VERBOSE,
)
SCIENTIFIC = re.compile(r"([-+]?\d[\d.,]*)e([-+]?\d+)")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TARGET = re.compile(r"lesson:\d+|https://\S+")
# What is left of a piece that was not well formed, and what has no place in a lesson.
LEFT = (
    (re.compile(r"\{\{|\}\}"), "a number is written {{ expression }} or {{ expression:.2f }}"),
    (re.compile(r"\[\[|\]\]"), "a term is written [[term-id|words]], and lists of lists as `code`"),
    (re.compile(r"(?<!\\)\$"), "a $ without its partner: a formula is written $…$, a dollar \\$"),
    (re.compile(r"!\[|\]\("), "pictures come from cells, and links are written [words](lesson:3) or (https://…)"),
    (re.compile(r"</?[A-Za-z!][^>]*>"), "HTML has no place in a lesson; code is set in `backticks`"),
    (re.compile("[\ue000-\uf8ff]"), "a character of the private use area"),
)


@dataclass(frozen=True)
class Code:
    """Between backticks."""

    parts: "Text"


@dataclass(frozen=True)
class Number:
    """An expression, to be evaluated where it stands, and how its value is written."""

    expression: str
    spec: str
    line: int


@dataclass(frozen=True)
class Value:
    """A number that has been evaluated, as the language writes it."""

    text: str


@dataclass(frozen=True)
class Formula:
    """LaTeX, as far as matplotlib's mathtext knows it; display: on a line of its own."""

    parts: "Text"
    display: bool = False


@dataclass(frozen=True)
class Term:
    """Words that the glossary explains."""

    id: str
    words: "Text"


@dataclass(frozen=True)
class Link:
    """target: "lesson:3", or an address."""

    words: "Text"
    target: str


Piece = str | Code | Number | Value | Formula | Term | Link
Text = tuple[Piece, ...]


def read(source: str, path: Path, line: int) -> Text:
    """The pieces of a text that begins at a line of a file; ValueError, with file and line, for what is malformed."""
    found: list[Piece] = []
    at = 0

    def here(position: int) -> int:
        return line + source.count("\n", 0, position)

    def plain(start: int, end: int) -> None:
        if start < end:
            for wrong, advice in LEFT:
                if bad := wrong.search(source, start, end):
                    raise ValueError(f"{path}:{here(bad.start())}: {bad[0]!r}: {advice}")
            found.append(source[start:end])

    for match in PIECE.finditer(source):
        plain(at, match.start())
        at = match.end()
        part, starts = match.lastgroup, here(match.start())
        if part == "code":
            found.append(Code(inner(match["code"], path, starts)))
        elif part == "number":
            found.append(number(match["number"], path, starts))
        elif part in ("display", "formula"):
            found.append(Formula(inner(match[part], path, starts), display=part == "display"))
        elif part == "words":
            found.append(Term(match["id"], read(match["words"], path, starts)))
        else:
            if not TARGET.fullmatch(match["target"]):
                raise ValueError(f"{path}:{starts}: link to {match['target']!r}: write lesson:3 or https://…")
            found.append(Link(read(match["text"], path, starts), match["target"]))
    plain(at, len(source))
    return tuple(found)


def inner(source: str, path: Path, line: int) -> Text:
    """Within code and formulas there are numbers alone."""
    found: list[Piece] = []
    for i, part in enumerate(re.split(r"\{\{(?!\{)(.+?)\}\}", source, flags=re.DOTALL)):
        if part:
            found.append(number(part, path, line) if i % 2 else part)
    return tuple(found)


def number(source: str, path: Path, line: int) -> Number:
    """`x:.2f`: all is the expression if Python reads it as one, else what stands before the last colon."""
    expression, spec = source.strip(), ""
    for attempt in (0, 1):
        try:
            ast.parse(expression, mode="eval")
            return Number(expression, spec.strip(), line)
        except SyntaxError:
            expression, _, spec = (part.strip() for part in source.rpartition(":"))
            if attempt or not expression:
                break
    raise ValueError(f"{path}:{line}: {{{{{source}}}}} is no expression of Python")


def walk(text: Text) -> Iterator[Piece]:
    """All pieces, those within others, too, in order."""
    for piece in text:
        yield piece
        if isinstance(piece, Code | Formula):
            yield from walk(piece.parts)
        elif isinstance(piece, Term | Link):
            yield from walk(piece.words)


def mapped(text: Text, change: Callable[[Number], Value]) -> Text:
    """The same text with its numbers evaluated, in order."""

    def changed(piece: Piece) -> Piece:
        match piece:
            case Number():
                return change(piece)
            case Code():
                return Code(mapped(piece.parts, change))
            case Formula():
                return Formula(mapped(piece.parts, change), piece.display)
            case Term():
                return Term(piece.id, mapped(piece.words, change))
            case Link():
                return Link(mapped(piece.words, change), piece.target)
        return piece

    return tuple(changed(piece) for piece in text)


def typeset(text: Text, lang: str) -> Text:
    """With the spaces of French and Polish that no line may break at; of other languages, as it is."""
    if lang not in TYPESET:
        return text
    changed: list[Piece] = []
    for piece in text:
        match piece:
            case str():
                changed.append(TYPESET[lang](piece))
            case Term():
                changed.append(Term(piece.id, typeset(piece.words, lang)))
            case Link():
                changed.append(Link(typeset(piece.words, lang), piece.target))
            case _:
                changed.append(piece)
    return tuple(changed)


def french(text: str) -> str:
    """Before : and within « » a no-break space, before ; ? ! a narrow one, wherever a space was typed."""
    text = re.sub(r" (?=[;?!](?:[\s)*_»]|$))", "\N{NARROW NO-BREAK SPACE}", text)
    return re.sub(r" (?=:(?:[\s)*_]|$)|»)|(?<=«) ", "\N{NO-BREAK SPACE}", text)


def polish(text: str) -> str:
    """No line ends with a word of one letter: a, i, o, u, w, z."""
    return re.sub(r"(?<![^\s(„])([aiouwzAIOUWZ]) (?=\S)", "\\1\N{NO-BREAK SPACE}", text)


TYPESET = {"fr": french, "pl": polish}


def joined(text: Text, shown: Callable[[Piece], str]) -> str:
    """The text as one string: plain strings as they are, and what `shown` makes of every other piece."""
    return "".join(piece if isinstance(piece, str) else shown(piece) for piece in text)


def raw(text: Text) -> str:
    """Code or a formula as it was written, with its values."""

    def shown(piece: Piece) -> str:
        if isinstance(piece, Value):
            return piece.text
        assert isinstance(piece, Number)
        return f"{{{{ {piece.expression}{':' if piece.spec else ''}{piece.spec} }}}}"

    return joined(text, shown)


def span(code: Code) -> str:
    """Code within a line of Markdown, between marks that it does not hold."""
    inside = raw(code.parts)
    return f"``{inside}``" if "`" in inside else f"`{inside}`"


def powers(text: str) -> str:
    """A number as a sentence or a table has it: -1.2e-13 as −1.2 × 10⁻¹³, and minus zero as zero."""
    if re.match(r"-[0.,]*$", text) and "0" in text:
        return text[1:]
    if not (found := SCIENTIFIC.fullmatch(text)):
        return re.sub(r"^-(?=\d)", "−", text)
    if not found[1].strip("-+0.,"):
        return "0"
    power = f"{int(found[2])}".translate(RAISED)
    return f"{powers(found[1])}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{power}"


def tex(formula: Formula) -> str:
    """A formula's LaTeX on one line. A decimal comma is no list's, and gets no space; nor do thousands."""

    def shown(piece: Piece) -> str:
        assert isinstance(piece, Value), "a number that was not evaluated"
        if powers(piece.text) == "0":
            return "0"
        if found := SCIENTIFIC.fullmatch(piece.text):
            return rf"{shown(Value(found[1]))} \times 10^{{{int(found[2])}}}"
        return re.sub(r"[\u00a0\u202f]", r"\\,", re.sub(r"(?<=\d),(?=\d)", "{,}", piece.text))

    return " ".join(joined(formula.parts, shown).split())


def words(text: Text) -> str:
    """What a reader reads as words: no code, no formulas, no numbers that are computed, no marks of Markdown."""

    def shown(piece: Piece) -> str:
        return words(piece.words) if isinstance(piece, Term | Link) else " "

    return re.sub(r"[*_|#\\]+|^\s*(?:[-*]|\d+\.)\s", " ", joined(text, shown), flags=re.MULTILINE)
