"""A course of two small lessons in five languages, for the laws of the engine, and one small model for all lessons."""

import os
import shutil
from pathlib import Path

import filelock
import pytest

from gptlab import lab
from gptlab.teach import lesson as lessons
from gptlab.teach import session

SMALL = Path(__file__).parent / "course" / "lessons"
QUICK = {"preset": "gpt2-mini", "tokenizer": "char", "steps": 40, "batch": 16, "eval_windows": 16, "sample_every": 0}
REAL = lessons.folders()
TOLD = [(number, lang) for number, folder in REAL.items() for lang in lessons.languages(folder)]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one pytest share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "gptlab-course"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def one_cache(hermetic: None, shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fables are told once for all these tests, and the kernels compiled once."""
    cache = shared_folder / "cache"
    with filelock.FileLock(shared_folder / "lock"):
        if not cache.exists():
            cache.mkdir()
            (cache / "native").symlink_to((Path(os.environ["GPTLAB_CACHE"]) / "native").resolve())
    monkeypatch.setenv("GPTLAB_CACHE", str(cache))


@pytest.fixture
def run(shared_folder: Path, one_cache: None) -> Path:
    """The run that lessons look at in these tests, trained once: quickly, and not well."""
    path = shared_folder / "run"
    with filelock.FileLock(shared_folder / "run.lock", timeout=300):
        if not (path / "model.safetensors").is_file():
            lab.train("fables", out=path, device="cpu", **QUICK)
    return path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the small course, to be broken: its folder of lessons."""
    shutil.copytree(SMALL.parent, tmp_path / "course")
    return tmp_path / "course" / "lessons"


@pytest.fixture(scope="session")
def played() -> dict[str, session.Played]:
    """The first small lesson, run in every language."""
    return {lang: session.play(lessons.load(SMALL / "00_small", lang), narrow=True) for lang in ("en", "pt", "fr")}


def edited(path: Path, old: str, new: str) -> None:
    """Put something else in the place of a text that a file has."""
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
