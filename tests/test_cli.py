"""The command line as a user meets it: real files, and its own words, status and streams."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from gptlab.cli import main
from tests.training.helpers import write_text

TRAIN = ("--steps", "20", "--context", "16", "--batch", "8", "--sample-every", "10")


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def gptlab(*args: object, cwd: Path, stdin: str = "", **env: str) -> Result:
    """Call the program in this process: importing torch anew for each command would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    environment = {"LANG": "C.UTF-8", "LC_ALL": "", "COLUMNS": "120", **env}
    with (
        contextlib.chdir(cwd),
        patch.dict(os.environ, environment),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always", UserWarning)
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as end:
            status = int(end.code or 0)
    return Result(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, runs/text-gptlab-cpu."""
    folder = tmp_path_factory.mktemp("cli")
    write_text(folder / "text.txt")
    result = gptlab("train", "text.txt", *TRAIN, "--lang", "pt", cwd=folder, GPTLAB_CACHE=str(folder / "cache"))
    assert result.returncode == 0, result.stderr
    (folder / "stderr").write_text(result.stderr, encoding="utf-8")
    (folder / "stdout").write_text(result.stdout, encoding="utf-8")
    return folder


def test_training_shows_that_it_learns(folder: Path) -> None:
    """Losses, samples and the way on stand on standard error, in the language asked for; the result on output."""
    shown = (folder / "stderr").read_text(encoding="utf-8")
    assert "Treinando gptlab-cpu (" in shown and "passo 20/20   perda no treino" in shown
    assert "o que ele escreve após o passo 10" in shown
    assert "Pronto: 20 passos" in shown and "gptlab sample runs/text-gptlab-cpu" in shown
    result = json.loads((folder / "stdout").read_text())
    assert result["run"] == "runs/text-gptlab-cpu" and 0 < result["val_loss"] < 5


def test_quiet_prints_the_result_alone(folder: Path) -> None:
    """With --quiet, one line of JSON and nothing else; resuming a finished run is quiet, too."""
    result = gptlab("train", "--resume", "--out", "runs/text-gptlab-cpu", "--quiet", cwd=folder)
    assert result.returncode == 0 and result.stderr == "" and len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("foo",), "unknown command 'foo'"),
        (("trian",), "Did you mean 'train'?"),
        (("train", "nothing.txt"), "no such file or folder"),
        (("train", "text.txt", "--preset", "gptlab-cup"), "Did you mean 'gptlab-cpu'?"),
        (("train", "text.txt", "--steps", "many"), "many"),
        (("train", "text.txt", "--lr", "-1"), "lr must be 0 or more, not -1.0"),
        (("train", "text.txt", "--context", "5000"), "context 5000 needs at least 5001"),
        (("train", "text.txt", "--recipe", "clasic"), "Did you mean 'classic'?"),
        (("train", "text.txt", "--device", "cuda:7"), "cuda:7"),
        (("train", "text.txt", "--out", "runs/text-gptlab-cpu"), "--resume"),
        (("train", "--resume", "--out", "runs/text-gptlab-cpu", "--batch", "4"), "batch = 8, not 4"),
        (("train", "empty.txt"), "empty.txt"),
        (("train", "binary.txt"), "binary.txt"),
        (("sample", "runs/none"), "'runs/none' does not exist"),
        (("sample", "--top-k", "0"), "top_k must be at least 1, not 0"),
        (("sample", "--stop", ""), "stop must be strings of at least one character"),
        (("sample", "--logit-bias", "the", "1"), "3 tokens"),
        (("sample", "--window", "sideways"), "'sideways'"),
        (("evaluate", "--on", "nothing"), "unknown text 'nothing'"),
        (("import", "text.txt"), "no model that gptlab can import"),
        (("--lang", "xx"), "unknown language 'xx'"),
        (("train", "text.txt", "--lang", "xx"), "unknown language 'xx'"),
    ],
)
def test_a_mistake_gets_one_message(folder: Path, args: tuple[str, ...], part: str) -> None:
    """What was wrong, with its value; status 2; nothing on standard output; never a traceback."""
    (folder / "empty.txt").write_bytes(b"")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 9)
    result = gptlab(*args, cwd=folder)
    flat = " ".join(result.stderr.replace("│", " ").split())
    assert result.returncode == 2 and part in flat, result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr


def test_the_guide_speaks_the_readers_language(folder: Path) -> None:
    """`gptlab` alone prints it, by the locale or --lang."""
    assert "a laboratory for GPT" in gptlab(cwd=folder).stdout
    assert "laboratorium modeli" in gptlab(cwd=folder, LC_ALL="pl_PL.UTF-8").stdout
    assert "un laboratoire" in gptlab("--lang", "fr", cwd=folder).stdout


@pytest.mark.parametrize(
    "command",
    ["train", "sample", "evaluate", "report", "compare-runs", "import", "export", "runs", "corpora", "models"],
)
def test_help_needs_no_torch(folder: Path, command: str) -> None:
    """Every command explains every option, and to do so imports neither torch nor numpy."""
    code = (
        "import sys\nfrom gptlab.cli import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    assert f"gptlab {command}" in result.stdout and "--" in result.stdout


def test_a_sample_goes_on_from_its_prompt(folder: Path) -> None:
    """The prompt, then the text; the same seed writes the same, another seed something else."""
    once, again = (gptlab("sample", "the cat", "--tokens", 30, "--seed", 4, cwd=folder).stdout for _ in range(2))
    other = gptlab("sample", "text-gptlab-cpu", "the cat", "--tokens", 30, "--seed", 5, cwd=folder).stdout
    assert once == again != other
    assert once.startswith("the cat") and len(once) == len("the cat") + 30 + 1
    assert gptlab("sample", "--tokens", 30, cwd=folder).stdout.strip()


def test_several_samples_and_stops(folder: Path) -> None:
    """Each sample under its number, ending before the stop string."""
    result = gptlab("sample", "--samples", 3, "--tokens", 40, "--stop", "t", cwd=folder).stdout
    assert [line for line in result.splitlines() if line.startswith("---")] == ["--- 1 ---", "--- 2 ---", "--- 3 ---"]
    assert "t" not in result


def test_json_has_every_token(folder: Path) -> None:
    """Ids, pieces that join to the text, and log-probabilities that are none above zero."""
    result = json.loads(gptlab("sample", "the", "--json", "--samples", 2, "--tokens", 9, cwd=folder).stdout)
    assert result["prompt"] == "the" and len(result["samples"]) == 2
    for sample in result["samples"]:
        assert "".join(t["text"] for t in sample["tokens"]) == sample["text"] and sample["ended"] == "length"
        assert len(sample["tokens"]) == 9 and all(t["logprob"] <= 0 for t in sample["tokens"])


def test_unknown_characters_are_named_and_left_out(folder: Path) -> None:
    """A prompt with characters that the text never had is no error: they are named, the rest is used."""
    result = gptlab("sample", "the 日", "--tokens", 5, cwd=folder)
    assert result.returncode == 0 and "U+65E5" in result.stderr and "Warning" not in result.stderr


def test_interactive_reads_prompts_until_the_end(folder: Path) -> None:
    """One text for each line; an empty line or the end of input ends it."""
    result = gptlab("sample", "--interactive", "--tokens", 4, cwd=folder, stdin="the\non a\n")
    assert result.returncode == 0
    assert "the" in result.stdout.splitlines()[0] and "on a" in result.stdout


def test_evaluate_in_all_units(folder: Path) -> None:
    """On its own text only the validation part is read, of another text all; the numbers agree with each other."""
    own = json.loads(gptlab("evaluate", "--json", "--windows", 64, cwd=folder).stdout)
    assert own["validation_part"] and own["perplexity"] == pytest.approx(2.718281828 ** own["sliding_loss"], rel=1e-6)
    write_text(folder / "other.txt", words=200, seed=1)
    other = json.loads(gptlab("evaluate", "--on", "other.txt", "--json", "--windows", 64, cwd=folder).stdout)
    assert not other["validation_part"] and other["bits_per_byte"] < other["bits_per_character"]
    shown = gptlab("evaluate", "runs/text-gptlab-cpu", "--windows", 64, "--lang", "it", cwd=folder).stdout
    assert "bit per carattere" in shown and f"{own['bits_per_character']:.4f}".replace(".", ",") in shown


def test_evaluation_stands_beside_the_floor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fables, the loss of whole stories is above the floor, and a short context is told that it cannot reach it."""
    monkeypatch.setattr("gptlab.text.fables.corpus.TRAINING", 60)
    monkeypatch.setattr("gptlab.text.fables.corpus.VALIDATION", 10)
    train = gptlab("train", "fables:fr", *TRAIN, "--out", "runs/fables", cwd=folder)
    assert train.returncode == 0, train.stderr
    result = json.loads(gptlab("evaluate", "runs/fables", "--json", "--windows", 8, cwd=folder).stdout)
    assert 0.1 < result["floor"] < 0.2 < result["story_loss"]
    assert result["excess"] == pytest.approx(result["story_loss"] - result["floor"])
    assert not result["context_holds_stories"]
    shown = gptlab("evaluate", "runs/fables", "--windows", 8, "--lang", "en", cwd=folder).stdout
    assert "no model can do better" in shown and "out of its reach" in shown


def test_lists(folder: Path) -> None:
    """Runs with their losses, texts with their sizes, models with exact counts."""
    runs = gptlab("runs", cwd=folder).stdout
    assert "runs/text-gptlab-cpu  20 " in runs
    assert "1,115,394 bytes" in gptlab("corpora", cwd=folder).stdout
    models = gptlab("models", "--wide", cwd=folder).stdout
    assert "207,936" in models and "1,557,611,200" in models
    assert "gptlab train" in gptlab("runs", "elsewhere", cwd=folder).stderr


def test_the_installed_program_is_the_same(folder: Path) -> None:
    """`python -m gptlab` and `gptlab` end with the status and the message of `main`."""
    for command in ([sys.executable, "-m", "gptlab"], [str(Path(sys.executable).with_name("gptlab"))]):
        result = subprocess.run([*command, "foo"], capture_output=True, text=True, cwd=folder, check=False)
        assert result.returncode == 2 and result.stderr == gptlab("foo", cwd=folder).stderr


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    """`gptlab sample | head -c 1` ends in silence."""
    command = f"{sys.executable} -m gptlab sample --tokens 200 | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder, check=False)
    assert result.stderr == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_texts_as_people_have_them(folder: Path, encoding: str) -> None:
    """Whatever the encoding and the line ends, it trains, and what was detected is said."""
    text = ("Era uma vez um coração — não é?\r\n" * 60).encode(encoding)
    (folder / f"{encoding}.txt").write_bytes(text)
    result = gptlab("train", f"{encoding}.txt", *TRAIN, "--out", f"runs/{encoding}", "--lang", "en", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "read as LF" in result.stderr
