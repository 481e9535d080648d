"""Small models of several kinds, and the law that holds for every figure of every experiment."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from gptlab import lab
from gptlab.experiments import base, figures
from gptlab.messages import LANGUAGES
from gptlab.run import Run
from gptlab.text.fables import corpus as fables

SMALL = {"steps": 12, "batch": 8, "eval_windows": 8, "sample_every": 0, "eval_every": 6}
# name -> (text, settings): letters, pieces of words, an encoder with a decoder, a prefix both ways
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "chars": ("fables:pt", {"preset": "gptlab-cpu", "context": 48, "snapshots": 5}),
    "pieces": ("fables", {"preset": "gptlab-fables", "vocab_size": 300, "context": 32}),
    "t5": ("fables", {"preset": "t5-mini", "context": 32}),
    "glm": ("fables", {"preset": "glm-mini", "context": 32}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def small_corpora(hermetic: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fables of some hundred stories, kept for the session: telling all of them for each test takes longest."""
    monkeypatch.setenv("GPTLAB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(fables, "TRAINING", 400)
    monkeypatch.setattr(fables, "VALIDATION", 20)


@pytest.fixture
def of_kind(folder: Path) -> Any:
    """of_kind("t5"): the Lab of a small run of that kind, trained once in a session. It may be written to."""

    def made(kind: str) -> lab.Lab:
        path = folder / kind
        if not (path / "config.toml").is_file():
            text, settings = KINDS[kind]
            lab.train(text, out=path, **{**SMALL, **settings})
        return lab.load(path, device="cpu")

    return made


@pytest.fixture(autouse=True)
def legible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure that an experiment writes has no text cut off or covered by another."""
    save = figures.svg

    def checked(made: Figure) -> str:
        assert figures.clashes(made) == []
        return save(made)

    monkeypatch.setattr(figures, "svg", checked)


def check_section(run: Run, name: str) -> dict[str, Any]:
    """The section that an experiment left, once all that it names is there, in five languages, all filled in."""
    folder = run.section_path(name)
    [section] = [section for path, section in run.sections() if path == folder]
    for block in section["blocks"]:
        for part in ("text", "caption", "alt", "title", "head", "rows"):
            if part in block:
                assert list(block[part]) == list(LANGUAGES), (block["kind"], part)
                assert not re.search(r"\{\w*(:[^}]*)?\}", str(block[part]["en"])) or part == "rows"
        if block["kind"] == "figure":
            assert set(block["file"]) <= set(LANGUAGES)
            assert all((folder / file).is_file() for shapes in block["file"].values() for file in shapes.values())
        elif "file" in block:
            assert (folder / block["file"]).is_file()
    assert run.report.is_file() and section["title"]["en"] in run.report.read_text(encoding="utf-8")
    return section


def conducted(loaded: lab.Lab, name: str, **options: Any) -> dict[str, Any]:
    """Conduct an experiment in English, and check its section; of letters, figures are drawn in every language."""
    base.conduct(name, loaded, lang="en", every_language=loaded.run.name == "chars", **options)
    return check_section(loaded.run, name)


def texts(section: dict[str, Any], lang: str = "en") -> str:
    """The sentences of a section."""
    return "\n".join(block["text"][lang] for block in section["blocks"] if block["kind"] == "text")


def page_data(run: Run, name: str) -> dict[str, Any]:
    """What a live page was given."""
    html = (run.section_path(name) / f"{name}.html").read_text(encoding="utf-8")
    found = re.search(r"^const DATA = (.*);$", html, re.MULTILINE)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data
