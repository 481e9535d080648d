"""The course on the command line: listed, read, answered, explained, written as notebook and pages."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptlab.messages import LANGUAGES, catalogue
from gptlab.teach import contents, model, terminal, words
from gptlab.teach import lesson as lessons
from gptlab.teach.session import Played
from tests.teach.conftest import SMALL
from tests.test_cli import gptlab
from tests.test_messages import fields


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's lessons are the small course's."""

    def find(number: int, root: Path = SMALL) -> Path:
        return lessons.folders(SMALL)[number]

    monkeypatch.setattr(terminal, "find", find)
    monkeypatch.setattr(lessons, "find", find)
    monkeypatch.setattr(contents, "folders", lambda: lessons.folders(SMALL))


@pytest.mark.parametrize("command", [("lesson",), ("lesson", "check"), ("lesson", "key"), ("lessons",)])
def test_help_needs_no_torch(command: tuple[str, ...], tmp_path: Path) -> None:
    """Every option is explained, and to do so neither torch nor matplotlib is imported."""
    code = (
        "import sys\nfrom gptlab.cli import main\n"
        f"try:\n    main([*{command!r}, '--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert f"gptlab {' '.join(command)}" in result.stdout and "--lang" in result.stdout


def test_the_list_of_lessons(small: None, tmp_path: Path) -> None:
    """Titles, summaries and minutes, in the language; without a number, `lessons` lists them, too."""
    listed = gptlab("lesson", "--lang", "fr", cwd=tmp_path).stdout
    assert "Une petite leçon" in listed and "Combien de nombres" in listed and "Minutes" in listed
    assert gptlab("lessons", "--lang", "fr", cwd=tmp_path).stdout == listed


def test_a_lesson_is_read(small: None, tmp_path: Path) -> None:
    """Text, code, what it gives, numbers in the language, formulas in Unicode, where pictures are, terms at the end."""
    result = gptlab("lesson", 0, "--lang", "it", "--figures", tmp_path / "pictures", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    flat = " ".join(result.stdout.split())
    for part in (
        "Una piccola lezione", "x = torch.tensor", "tensor([1., 2., 4.])", "2,3333", "x̄ = 1/n ∑", "50.257",
        "Due riquadri", "Esercizio 1", "media: La somma", "gptlab lesson check 0",
        "la prossima lezione (gptlab lesson 1)",
    ):  # fmt: skip
        assert part in flat, part
    assert (tmp_path / "pictures" / "picture.png").is_file() and (tmp_path / "pictures" / "drawing.svg").is_file()


def test_no_code_is_cut(small: None, tmp_path: Path) -> None:
    """On a narrow terminal, too, every line is there to its end."""
    result = gptlab("lesson", 0, "--lang", "en", "--figures", tmp_path, cwd=tmp_path, COLUMNS="40")
    told = "".join(result.stdout.split())
    lesson = lessons.load(SMALL / "00_small", "en")
    for unit in lesson.units:
        if unit.kind == "cell":
            assert "".join(lesson.cells[unit.name].code.split()) in told, unit.name


def test_a_lesson_looks_at_the_readers_run(small: None, run: Path, tmp_path: Path) -> None:
    """The one that is named, or the latest; and says which."""
    result = gptlab("lesson", 1, "--run", run, "--lang", "en", cwd=tmp_path)
    assert f"The model of this lesson: {run}" in result.stderr and "parameters in 4 layers" in result.stdout
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run, target_is_directory=True)
    assert "runs/mine" in gptlab("lesson", 1, "--lang", "en", cwd=tmp_path).stderr


def test_exercises_are_asked(small: None, tmp_path: Path) -> None:
    """Each mistake gets its own hint, one may try again, an empty line goes on, and the score is told."""
    typed = "12\n3,0\n4\nvalor\nlugar\n\n1, 4, 16\n22\n21\n"
    result = gptlab("lesson", "check", 0, "--lang", "pt", cwd=tmp_path, stdin=typed)
    told = result.stdout
    assert result.returncode == 0 and told.index("Esta é a soma") < told.index("Este é o número do meio")
    assert "Esta é a palavra ao lado" in told and "Quase: tire um" in told and "Certos: 4 de 5." in told


def test_answers_from_a_file(small: None, tmp_path: Path) -> None:
    """TOML: numbers, words, truth values and lists; what is left out is said, and an unknown name is an error."""
    answers = tmp_path / "answers.toml"
    answers.write_text('average = 4.0\nwords = "place"\ntruth = false\nlist = [1, 4, 16]\n', encoding="utf-8")
    result = gptlab("lesson", "check", 0, "--answers", answers, "--lang", "en", cwd=tmp_path)
    assert "Right: 3 of 5." in result.stdout and "Left out." in result.stdout
    assert "no number that is left out" in " ".join(result.stdout.split())
    answers.write_text("avarage = 4.0\n", encoding="utf-8")
    result = gptlab("lesson", "check", 0, "--answers", answers, "--lang", "en", cwd=tmp_path)
    assert result.returncode == 2 and "Did you mean 'average'?" in result.stderr and result.stdout == ""


def test_the_key_is_printed(small: None, tmp_path: Path) -> None:
    told = gptlab("lesson", "key", 0, "--lang", "pl", cwd=tmp_path).stdout
    assert "Suma to 12" in told and "Dobrze: [1, 4, 16]" in told and "To jest suma" in told


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("lesson", "99"), "unknown lesson 99"),
        (("lesson", "--notebook"), "needs the number"),
        (("lesson", "check", "three"), "three"),
        (("lesson", "check", "0", "--answers", "nothing.toml"), "there is no file nothing.toml with answers"),
        (("lessons", "--html", "out", "--lang", "pt,xx"), "unknown language 'xx'"),
        (("lessons", "--html", "out", "99"), "unknown lesson"),
        (("lesson", "0", "--lang", "de"), "de"),
    ],
)
def test_a_mistake_gets_one_message(args: tuple[str, ...], part: str, tmp_path: Path) -> None:
    result = gptlab(*args, cwd=tmp_path)
    flat = " ".join(result.stderr.replace("│", " ").split())
    assert result.returncode == 2 and part in flat and result.stdout == "" and "Traceback" not in result.stderr


def test_it_can_be_read_section_by_section(
    played: dict[str, Played], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a terminal, after each section it waits; q stops."""
    typed: Iterator[str] = iter(["", "q"])
    monkeypatch.setattr("builtins.input", lambda: next(typed))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal.Console, "is_terminal", True)
    terminal.show(played["en"], tmp_path, page=True)
    assert next(typed, "none left") == "none left"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_catalogues_are_in_step(lang: str) -> None:
    """What the course says around its lessons has the same entries and values in each language, and is translated."""
    english, other = catalogue("en", words.HERE), catalogue(lang, words.HERE)
    assert list(other) == list(english)
    for entry, text in other.items():
        assert fields(text) == fields(english[entry]) and text.strip(), entry
    if lang != "en":
        assert {entry for entry, text in other.items() if text == english[entry]} <= {
            "minutes",
            "minutes_title",
            "code",
        }


def test_a_model_of_another_kind_is_refused(run: Path, tmp_path: Path) -> None:
    """Named, it is an error; found, it is passed over, as are one that was fine-tuned and one that cannot be read."""
    shutil.copytree(run, tmp_path / "runs" / "other")
    config = tmp_path / "runs" / "other" / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('category = "causal"', 'category = "prefix"'), encoding="utf-8")
    with pytest.raises(ValueError, match="'prefix'"):
        model.find("en", tmp_path / "runs" / "other")
    assert model.latest(tmp_path / "runs") is None
    config.write_text(f'{text}\n[finetune]\ntask = "mood"\n', encoding="utf-8")
    assert model.latest(tmp_path / "runs") is None
    config.write_text(text, encoding="utf-8")
    found = model.latest(tmp_path / "runs")
    assert found and found.run.path == tmp_path / "runs" / "other"
    (tmp_path / "runs" / "other" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="is not looked at"):
        assert model.latest(tmp_path / "runs") is None


def test_the_small_model_is_trained_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the reader's language, in the cache; the second time it is there."""
    monkeypatch.setattr(model, "SETTINGS", {**model.SETTINGS, "steps": 2, "batch": 2, "context": 16, "eval_windows": 2})
    monkeypatch.setattr("gptlab.text.fables.corpus.TRAINING", 40)
    monkeypatch.setattr("gptlab.text.fables.corpus.VALIDATION", 10)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GPTLAB_NATIVE", "0")
    found = model.find("pl", own=False, quiet=True)
    assert found.run.train_config is not None and found.run.train_config.corpus == "fables:pl"
    assert model.is_small(found) and found.run.path.is_relative_to(tmp_path / "cache")
    written = (found.run.path / "config.toml").stat().st_mtime_ns
    assert model.small("pl", quiet=True).run.path.joinpath("config.toml").stat().st_mtime_ns == written
