"""What the README shows is run as it stands, but for shorter trainings."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_cli import gptlab

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.pt.md"]


def blocks(readme: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(readme: str) -> list[list[str]]:
    lines = "\n".join(blocks(readme, "sh")).splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [line[1:] for line in words if line and line[0] == "gptlab"]


def test_every_command_runs(shared: Path, tmp_path: Path) -> None:
    """In the order of the page, each ends with status 0; trainings are cut to 20 steps."""
    (tmp_path / "my-book.txt").write_text("Once upon a time there was a small book of its own.\n" * 400)
    lines = [f"a {kind} book of {n} pages,{kind}" for n in range(30) for kind in ("fine", "dull")]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]))
    assert len(commands("README.md")) > 8
    for command in commands("README.md"):
        if command[0] == "train":
            for flag in ("--steps", "--minutes"):
                if flag in command:
                    at = command.index(flag)
                    del command[at : at + 2]
            command = [*command, "--steps", "20", "--eval-windows", "8", "--sample-every", "0"]
        if command[0].startswith("lesson"):  # the course has tests of its own
            command = command[:1]
        if command[0] == "finetune":
            command = [*command, "--steps", "4", "--batch", "4"]
        if command[0] == "compare":
            command = [*command[: command.index("--steps")], "--steps", "2", "--context", "16", "--batch", "4"]
        if command[0] == "evaluate":
            command = [*command, "--windows", "64", "--limit", "500"]
        if command[0] == "bench":
            command = ["bench", "--quick", "--only", "startup"]
        stdin = "Era uma vez\n" if "--interactive" in command else ""
        result = gptlab(*command, cwd=tmp_path, stdin=stdin, GPTLAB_DATA=str(shared))
        assert result.returncode == 0, (command, result.stderr)


def test_the_python_lines_run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave a run behind, and print text, a loss and a count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    (code,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(compile(code.replace("steps=300", "steps=10"), "README.md", "exec"), names)
    assert (tmp_path / "runs" / "s" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["sh", "python"])
def test_the_languages_show_the_same_code(kind: str) -> None:
    """Both READMEs have the same blocks of code, but for comments and the names of files."""

    def bare(readme: str) -> list[str]:
        text = "\n".join(blocks(readme, kind))
        return [re.sub(r"\s*#.*", "", line).replace("meu-livro", "my-book") for line in text.splitlines()]

    assert bare("README.md") == bare("README.pt.md")


def test_the_languages_have_the_same_sections_and_links() -> None:
    """Headings stand in the same order and number, and the same pages are linked."""
    pages = [(ROOT / readme).read_text(encoding="utf-8") for readme in READMES]
    levels = [re.findall(r"^(#+) ", page, re.MULTILINE) for page in pages]
    links = [sorted(set(re.findall(r"\]\(([^)]+)\)", page)) - set(READMES)) for page in pages]
    assert levels[0] == levels[1] and links[0] == links[1]
