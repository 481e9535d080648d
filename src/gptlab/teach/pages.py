"""The course as static pages: a folder that any browser reads, without a network.

    index.html  style.css  course.js
    pt/index.html  pt/03-attention.html  pt/key.html        and so for each language

Formulas are drawn (formula.py), and figures stand in the page as SVG, for wide and for narrow screens. Where course.js
may not run, a page can be read all the same: terms lead to the glossary at its end.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from gptlab import files
from gptlab.messages import LANGUAGES
from gptlab.report.figures import inlined
from gptlab.teach import formula, model, prose
from gptlab.teach.drawings import Svg, Table, written
from gptlab.teach.exercises import Asked, data
from gptlab.teach.lesson import LESSONS, Cell, Lesson, Unit, folders, languages, load
from gptlab.teach.prose import Code, Formula, Link, Piece, Term, Text, Value
from gptlab.teach.session import Played, Printed, Shown, play
from gptlab.teach.words import say

HERE = Path(__file__).parent / "templates"
BESIDE = ("style.css", "course.js")
MARK = re.compile("\ue000(\\d+)\ue001")
TOGETHER = re.compile(r'([(“„«]?<svg class="math"(?:(?!</svg>).)*</svg>[-,.;:)!?%’”»]+)')
BLOCK = re.compile(r"<(p|ul|ol|blockquote)(?=[ >])")
LARGE = 420  # px: drawings wider than this can be moved sideways on a phone, where there is no narrow one
UNBROKEN = 24  # characters: shorter code stays on one line
WRAPPED = 100  # characters: lines longer than this are broken
POINT = 96 / 72  # px


@cache
def templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def build(
    out: Path,
    langs: Sequence[str] = tuple(LANGUAGES),
    numbers: Sequence[int] = (),
    *,
    run: str | Path | None = None,
    root: Path = LESSONS,
) -> list[Path]:
    """Write the course, or some of its lessons, in some languages; returns the pages' paths.

    run: the model of the lessons; default the small one of each language, which is trained where it is not there. A
    lesson that a language lacks is left out of it. ValueError for what breaks the format of a lesson, and for a cell
    that fails.
    """
    known = folders(root)
    if missing := [number for number in numbers if number not in known]:
        raise ValueError(f"unknown lesson {missing[0]}. Known: {', '.join(map(str, known))}")
    chosen = {number: known[number] for number in (numbers or known)}
    lessons = {lang: [load(folder, lang) for folder in chosen.values() if lang in languages(folder)] for lang in langs}
    lessons = {lang: some for lang, some in lessons.items() if some}
    if not lessons:
        raise ValueError(f"no lesson is told in {', '.join(langs)} yet")
    for name in BESIDE:
        files.write_text(out / name, (HERE / name).read_text(encoding="utf-8"))
    paths = []
    for lang, some in lessons.items():
        site = Site(lang, some, lessons)
        lab = model.find(lang, run, own=False) if any(lesson.number >= model.FIRST for lesson in some) else None
        for lesson in some:
            played = play(lesson, lab if lesson.number >= model.FIRST else None, narrow=True)
            paths.append(out / lang / f"{lesson.slug}.html")
            files.write_text(paths[-1], site.lesson(played))
        for name, content in (("index", site.index()), ("key", site.key())):
            paths.append(out / lang / f"{name}.html")
            files.write_text(paths[-1], content)
    told = [(lang, LANGUAGES[lang], say("course", lang), say("course_about", lang)) for lang in lessons]
    files.write_text(out / "index.html", templates().get_template("root.html").render(languages=told))
    return [out / "index.html", *paths]


@dataclass
class Site:
    """All pages of a language."""

    lang: str
    lessons: Sequence[Lesson]
    everywhere: Mapping[str, Sequence[Lesson]]  # language -> its lessons

    def __post_init__(self) -> None:
        self.keys: list[tuple[Lesson, list[dict[str, Any]]]] = []
        self.slugs = {lesson.number: lesson.slug for lesson in self.lessons}

    def render(self, template: str, name: str, **values: Any) -> str:
        """name: of the page, by which its counterparts in other languages are found."""
        switch = [
            {"lang": lang, "name": LANGUAGES[lang], "href": f"../{lang}/{name}.html"}
            for lang, lessons in self.everywhere.items()
            if name in ("index", "key") or name in [lesson.slug for lesson in lessons]
        ]
        page = templates().get_template(template)
        return page.render(
            lang=self.lang, switch=switch, version=version("gptlab"), say=self.say, inline=self.inline, **values
        )

    def say(self, entry: str, **values: object) -> str:
        return say(entry, self.lang, **values)

    def inline(self, text: str) -> Markup:
        """`names in backticks` as code."""
        return Markup(re.sub(r"`(.*?)`", r"<code>\1</code>", escape(text, quote=False)))

    def index(self) -> str:
        return self.render("index.html", "index", lessons=self.lessons)

    def key(self) -> str:
        return self.render("key.html", "key", lessons=self.keys)

    def lesson(self, played: Played) -> str:
        """The page of a lesson; keeps its exercises for the key."""
        lesson = played.lesson
        page = Page(self, played)
        body = Markup("\n").join(page.unit(unit) for unit in lesson.units)
        at = [other.number for other in self.lessons].index(lesson.number)
        self.keys.append((lesson, [page.key(name) for name in page.order]))
        terms = [
            (name, term, page.words(prose.read(definition, lesson.path, 1), linked=False))
            for name, (term, definition) in lesson.terms.items()
        ]
        return self.render(
            "lesson.html",
            lesson.slug,
            lesson=lesson,
            body=body,
            terms=terms,
            headings=[(u.id, page.words(u.text, linked=False)) for u in lesson.units if u.kind == "heading"],
            before=self.lessons[at - 1] if at else None,
            after=self.lessons[at + 1] if at + 1 < len(self.lessons) else None,
        )


class Page:
    """One lesson as HTML."""

    def __init__(self, site: Site, played: Played) -> None:
        self.site, self.played, self.lesson = site, played, played.lesson
        self.drawn = 0
        self.order = [unit.name for unit in self.lesson.units if unit.kind == "exercise"]

    # Text

    def blocks(self, text: Text, *, linked: bool = True) -> Markup:
        """Blocks of Markdown, as HTML."""
        return self.rendered(text, linked, markdown().render)

    def words(self, text: Text, *, linked: bool = True) -> Markup:
        """Markdown within a line, as HTML. linked: with links, which cannot stand in another link."""
        return self.rendered(text, linked, markdown().renderInline)

    def rendered(self, text: Text, linked: bool, render: Any) -> Markup:
        pieces: list[Markup] = []

        def kept(piece: Piece) -> str:
            pieces.append(self.piece(piece, linked))
            return f"\ue000{len(pieces) - 1}\ue001"

        html = render(prose.joined(text, kept))
        html = MARK.sub(lambda match: str(pieces[int(match[1])]), html)
        # No line begins with the mark that ends a formula.
        html = TOGETHER.sub(r'<span class="nowrap">\1</span>', html)
        html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
        return Markup(re.sub(r'<t([hd]) style="text-align:right"', r'<t\1 class="value"', html))

    def piece(self, piece: Piece, linked: bool) -> Markup:
        match piece:
            case Value():
                return Markup(escape(prose.powers(piece.text), quote=False))
            case Code():
                code = prose.raw(piece.parts)
                whole = Markup(' class="whole"') if len(code) <= UNBROKEN else ""
                return Markup("<code{}>{}</code>").format(whole, code)
            case Formula():
                if not piece.display:
                    return formula.svg(prose.tex(piece))
                # Several side by side go one below another where there is no room.
                parts = [formula.svg(part, display=True) for part in prose.tex(piece).split(r"\qquad") if part.strip()]
                return Markup('<span class="formula">{}</span>').format(Markup(" ").join(parts))
            case Term():
                words = self.words(piece.words, linked=False)
                if not linked:
                    return words
                return Markup('<a class="term" href="#term-{0}" aria-describedby="term-{0}">{1}</a>').format(
                    piece.id, words
                )
            case Link():
                words, target = self.words(piece.words, linked=False), self.target(piece.target)
                return Markup('<a href="{}">{}</a>').format(target, words) if linked and target else words
        raise AssertionError(f"{piece!r} is not evaluated")

    def target(self, target: str) -> str | None:
        """A link's address; None for a lesson that is not among the pages."""
        kind, _, number = target.partition(":")
        if kind != "lesson":
            return target
        slug = self.site.slugs.get(int(number))
        return f"{slug}.html" if slug else None

    # Units

    def unit(self, unit: Unit) -> Markup:
        match unit.kind:
            case "heading":
                return Markup('<h2 id="{}">{}</h2>').format(unit.id, self.words(unit.text))
            case "formula":
                return Markup('<div id="{}">{}</div>').format(unit.id, self.words(unit.text))
            case "code":
                code = str(unit.text[0])
                return Markup('<div class="code-block" id="{}"><pre tabindex="0"><code>{}</code></pre></div>').format(
                    unit.id, highlighted(code) if unit.name == "python" else code
                )
            case "cell" | "output":
                return self.cell(unit)
            case "exercise":
                return self.exercise(unit)
            case "table":
                return Markup(str(self.blocks(unit.text)).replace("<div", f'<div id="{unit.id}"', 1))
        return Markup(BLOCK.sub(rf'<\1 id="{unit.id}"', str(self.blocks(unit.text)), count=1))

    def cell(self, unit: Unit) -> Markup:
        cell, shown = self.lesson.cells[unit.name], self.played.shown[unit.name]
        parts = [self.code(cell)] if unit.kind == "cell" else []
        parts += [self.shown(given) for given in shown]
        return Markup('<div class="cell" id="{}">\n{}\n</div>').format(unit.id, Markup("\n").join(parts))

    def code(self, cell: Cell) -> Markup:
        return Markup(
            '<div class="code"><span class="hidden">{}</span><pre tabindex="0"><code>{}</code></pre></div>'
        ).format(self.site.say("code"), highlighted(cell.code))

    def shown(self, shown: Shown) -> Markup:
        match shown:
            case Printed():
                long = " long" if max(map(len, shown.text.splitlines())) > WRAPPED else ""  # sentences, not columns
                return Markup(
                    '<div class="gives"><span class="hidden">{}</span>'
                    '<pre class="printed{}" tabindex="0">{}</pre></div>'
                ).format(self.site.say("output"), long, shown.text)
            case Table():
                return self.table(shown)
            case Svg():
                return self.figure(shown.text, shown.narrow, shown.alt, 1)
        return self.figure(shown.svg, shown.narrow, shown.alt, POINT)

    def figure(self, wide: str, narrow: str | None, alt: str, unit: float) -> Markup:
        """A drawing in its shapes; unit: px of what its size is in."""
        shapes = [("wide", wide), *([("narrow", narrow)] if narrow else [])]
        parts = []
        for shape, svg in shapes:
            self.drawn += 1
            drawn = inlined(svg, f"f{self.drawn}-", alt)
            width = unit * float(match[1]) if (match := re.search(r'viewBox="\S+ \S+ (\S+) \S+"', drawn)) else None
            large = ' class="large"' if width and width > LARGE and shape == "wide" else ""
            style = f' style="max-width:{width:.0f}px"' if width else ""
            drawn = Markup(str(drawn).replace("<svg", f"<svg{large}{style}", 1))
            scroll = Markup(' tabindex="0"') if large and len(shapes) == 1 else ""
            parts.append(Markup('<div class="{}"{}>{}</div>').format(shape, scroll, drawn))
        return Markup('<figure class="gives">{}</figure>').format(Markup("").join(parts))

    def table(self, table: Table) -> Markup:
        kinds = [Markup(' class="value"') if numeric else "" for numeric in table.numeric]
        head = Markup("").join(
            Markup('<th scope="col"{}>{}</th>').format(kind, cell) for kind, cell in zip(kinds, table.head, strict=True)
        )
        rows = Markup("\n").join(
            Markup("<tr>{}</tr>").format(
                Markup("").join(
                    Markup("<td{}>{}</td>").format(kind, cell) for kind, cell in zip(kinds, row, strict=True)
                )
            )
            for row in table.written(self.lesson.lang)
        )
        return Markup(
            '<div class="gives scroll" tabindex="0"><table>\n<thead><tr>{}</tr></thead>\n'
            "<tbody>\n{}\n</tbody>\n</table></div>"
        ).format(head, rows)

    # Exercises

    def exercise(self, unit: Unit) -> Markup:
        exercise, found = self.lesson.exercises[unit.name], data(self.played.asked[unit.name])
        hints = {name: self.blocks(hint, linked=False) for name, hint in exercise.hints.items()}
        return Markup(
            templates()
            .get_template("exercise.html")
            .render(
                unit=unit,
                number=self.order.index(unit.name) + 1,
                question=self.blocks(exercise.question),
                data=None if found is None else json.dumps(found, ensure_ascii=False, allow_nan=False),
                hints=hints.items(),
                command=f"gptlab lesson check {self.lesson.number}",
                say=self.site.say,
                inline=self.site.inline,
            )
        )

    def key(self, name: str) -> dict[str, Any]:
        """An exercise as the teacher's page has it."""
        exercise, asked = self.lesson.exercises[name], self.played.asked[name]
        hints = [
            (self.answer(asked, mistake), self.blocks(hint, linked=False)) for mistake, hint in exercise.hints.items()
        ]
        return {
            "name": name,
            "question": self.blocks(exercise.question, linked=False),
            "right": None if callable(asked.right) else shown_answer(asked.right, self.lesson.lang),
            "key": self.blocks(exercise.key, linked=False),
            "hints": hints,
        }

    def answer(self, asked: Asked, mistake: str) -> Markup:
        """A mistake's value; a rule has none, and is called by its name."""
        if mistake == "other":
            return Markup(escape(self.site.say("other_answer"), quote=False))
        value = asked.mistakes[mistake]
        if callable(value):
            return Markup(escape(self.site.say("by_rule"), quote=False))
        return Markup("<code>{}</code>").format(shown_answer(value, self.lesson.lang))


def shown_answer(value: Any, lang: str) -> str:
    """An answer as a learner may write it; lists within a list as Python does, for so alone they are read."""
    if isinstance(value, list):
        told = "en" if any(isinstance(item, list) for item in value) else lang
        apart = "; " if told != "en" and any(isinstance(item, float) for item in value) else ", "
        return f"[{apart.join(shown_answer(item, told) for item in value)}]"
    return written(value, lang, ".6g") if isinstance(value, float) else written(value, lang)


def highlighted(code: str) -> Markup:
    return Markup(highlight(code, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip("\n"))
