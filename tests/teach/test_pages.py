"""The course as pages: complete, in step, loading nothing, and with every anchor where it should be."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gptlab.messages import LANGUAGES
from gptlab.teach import pages
from gptlab.teach.exercises import RIGHT
from tests.teach.conftest import SMALL


class Page(HTMLParser):
    """What a page holds: ids, links, what it loads, the elements that have an attribute."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.described: list[str] = []
        self.labels: list[str] = []
        self.language: str | None = None
        self.inputs: list[str] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "html":
            self.language = given.get("lang")
        if tag == "a":
            self.links.append(given["href"])
        if tag in ("link", "script", "img", "iframe", "source", "video", "audio", "object", "embed", "use"):
            self.loaded += [given[name] for name in ("href", "src", "data", "xlink:href") if name in given]
        self.described += [i for name in ("aria-describedby", "aria-labelledby") for i in given.get(name, "").split()]
        if tag == "label":
            self.labels.append(given["for"])
        if tag == "input":
            self.inputs.append(given["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first small lesson in all languages."""
    folder = tmp_path_factory.mktemp("site")
    pages.build(folder, numbers=[0], root=SMALL)
    return folder


def every(site: Path) -> list[Page]:
    return [Page(path) for path in sorted(site.rglob("*.html"))]


def test_the_pages_are_there(site: Path) -> None:
    """For each language a page for each lesson, an index and a key; one style and one script for all."""
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    names = {f"{lang}/{name}.html" for lang in LANGUAGES for name in ("index", "key", "00-small")}
    assert found == names | {"index.html", "style.css", "course.js"}
    assert [Page(site / lang / "00-small.html").language for lang in LANGUAGES] == list(LANGUAGES)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page and no style names anything but files beside it; links for a reader to follow are another matter."""
    for page in every(site):
        for address in page.loaded:
            assert not re.match(r"[a-z]+:|//", address), (page.path, address)
            assert (page.path.parent / address.partition("#")[0]).resolve().is_file() or address.startswith("#")
    style = (site / "style.css").read_text(encoding="utf-8")
    assert "@import" not in style and "url(" not in style and "@font-face" not in style
    assert "http" not in (site / "course.js").read_text(encoding="utf-8")


def test_every_anchor_leads_somewhere(site: Path) -> None:
    """Links within pages and between them, descriptions and labels; and no id stands twice on a page."""
    ids = {page.path.resolve(): set(page.ids) for page in every(site)}
    for page in every(site):
        assert len(page.ids) == len(set(page.ids)), page.path
        for link in page.links:
            file, _, anchor = link.partition("#")
            if re.match(r"https?:", link):
                continue
            target = (page.path.parent / file).resolve() if file else page.path.resolve()
            assert target in ids, (page.path, link)
            assert not anchor or anchor in ids[target], (page.path, link)
        assert set(page.described) <= set(page.ids) and page.labels == page.inputs


def test_languages_have_the_same_paragraphs(site: Path) -> None:
    """The ids that the language switch carries over are the same, in the same order, and each page leads to all."""
    found = {lang: Page(site / lang / "00-small.html") for lang in LANGUAGES}
    ids = {lang: [i for i in page.ids if not re.match(r"f\d+-", i)] for lang, page in found.items()}  # none of figures
    for lang, page in found.items():
        assert ids[lang] == ids["en"]
        assert {f"../{lang}/00-small.html" for lang in LANGUAGES} <= set(page.links)


def test_what_stands_on_a_page(site: Path) -> None:
    """Numbers as the language writes them, code, what it gives, figures in two shapes, formulas with their words."""
    text = Page(site / "pt" / "00-small.html").text
    assert "124.439.808" in text and "2,3333" in text and "{{" not in text and "\ue000" not in text
    assert '<span class="kn">' not in text and '<span class="n">x</span>' in text
    assert "sum 7.0\ntensor([1., 2., 4.])" in text
    assert '<div class="wide">' in text and '<div class="narrow">' in text
    assert 'aria-label="x̄ = 1/n ∑ᵢ₌₁ⁿxᵢ"' in text and "Dois painéis" in text
    assert '<td class="value">0,3333</td>' in text
    assert '<a class="term" href="#term-mean" aria-describedby="term-mean">média</a>' in text


def test_links_to_lessons_that_are_not_there_are_words(site: Path, run: Path, tmp_path: Path) -> None:
    """Lesson 1 is not among these pages; where it is, there are links, and next and previous."""
    assert "01-model" not in Page(site / "en" / "00-small.html").text
    pages.build(tmp_path, ["en", "fr"], run=run, root=SMALL)
    assert '<a href="01-model.html">the next lesson</a>' in Page(tmp_path / "en" / "00-small.html").text
    assert 'rel="next" class="after" href="01-model.html"' in Page(tmp_path / "fr" / "00-small.html").text
    assert 'rel="prev" href="00-small.html"' in Page(tmp_path / "fr" / "01-model.html").text


def test_exercises_are_answered_on_the_page(site: Path) -> None:
    """Values are there for the script, with a hint for each; what only a rule can judge is left to the terminal."""
    text = Page(site / "en" / "00-small.html").text
    asked = [json.loads(html.unescape(found)) for found in re.findall(r'data-asked="([^"]*)"', text)]
    assert len(asked) == 4
    assert asked[0]["right"] == {"value": 4.0, "int": False}
    assert asked[0]["mistakes"] == [["sum", {"value": 12.0, "int": False}], ["middle", {"value": 3.0, "int": False}]]
    hints = re.findall(r'<template data-hint="(\w+)">', text)
    assert hints[:5] == [RIGHT, "sum", "middle", "nothing", "other"]
    assert "gptlab lesson check 0" in text


def test_the_key_explains(site: Path) -> None:
    """What is right and why, and each mistake with its hint, in the page's language."""
    text = Page(site / "it" / "key.html").text
    assert (
        "La somma è 12" in text and "Questa è la somma" in text and "Lezione" not in re.findall("<h1>(.*?)</h1>", text)
    )
    assert "<code>[1, 4, 16]</code>" in text and "secondo una regola<" in text


def test_pages_that_lack_a_language_are_left_out(copied: Path, tmp_path: Path) -> None:
    (copied / "00_small" / "pl.md").unlink()
    pages.build(tmp_path / "out", ["pt", "pl"], [0], root=copied)
    assert not (tmp_path / "out" / "pl").exists() and "../pl/" not in Page(tmp_path / "out/pt/00-small.html").text
    with pytest.raises(ValueError, match="no lesson is told in pl"):
        pages.build(tmp_path / "out", ["pl"], [0], root=copied)
    with pytest.raises(ValueError, match="unknown lesson 5"):
        pages.build(tmp_path / "out", ["pt"], [5], root=copied)


def test_colours_can_be_read() -> None:
    """WCAG 2.1's contrast of 4.5 between text and ground, light and dark, code and hints among it."""
    style = (Path(pages.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    light, dark = (
        {**dict(re.findall(r"--([\w-]+): (#\w+);", part))}
        for part in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    )

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    texts = ("ink", "soft", "accent", "keyword", "string", "number-ink", "name", "comment", "builtin")
    for colors in (light, dark):
        pairs = [(text, ground) for text in texts for ground in ("paper", "pale")]
        pairs += [
            ("accent", "mark"),
            ("ink", "mark"),
            ("ink", "good-pale"),
            ("ink", "bad-pale"),
            ("good", "good-pale"),
            ("bad", "bad-pale"),
            ("paper", "accent"),
        ]
        assert not [pair for pair in pairs if contrast(colors[pair[0]], colors[pair[1]]) < 4.5]
