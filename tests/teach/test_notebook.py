"""Lessons as notebooks: valid, the same code in every language, and run from top to bottom by a kernel of their own."""

import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from gptlab.teach import lesson as lessons
from gptlab.teach import notebook
from gptlab.teach.session import Played
from tests.teach.conftest import SMALL


def codes(made: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]


def outputs(cells: list[Any]) -> str:
    return json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)


def executed(path: Path) -> list[Any]:
    """The cells of a notebook after it was run as Jupyter runs it."""
    made = nbformat.read(path, as_version=4)
    nbformat.validate(made)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    NotebookClient(made, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    return list(made.cells)


def test_languages_have_the_same_code(played: dict[str, Played]) -> None:
    """Cell by cell that of cells.py; only the first line names the language."""
    made = {lang: codes(notebook.notebook(played[lang])) for lang in played}
    lesson = lessons.load(SMALL / "00_small", "en")
    for lang, found in made.items():
        assert found[0] == f'from gptlab.teach.notebook import begin\n\nglobals().update(begin(0, "{lang}"))'
        assert found[1:] == made["en"][1:]
        assert [cell.code for cell in lesson.cells.values()] == [code for code in found[1:] if "check(" not in code]
        assert [f'check("{name}", answer=...)' for name in lesson.exercises] == [c for c in found if "check(" in c]


def test_texts_are_markdown_with_latex(played: dict[str, Played]) -> None:
    """Headings, formulas for MathJax, numbers as they were computed, terms explained at the end."""
    made = notebook.notebook(played["pt"])
    text = "\n\n".join("".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert text.startswith("# 0. Uma lição pequena") and "\n\n## Figuras" in text
    assert "$\\bar{x} = \\frac{1}{n}\\sum_{i=1}^{n} x_i$" in text
    assert "$$\\bar{x} = \\frac{7{,}0}{3} = 2{,}3333$$" in text
    assert "124.439.808" in text and "(`gptlab lesson 1`)" in text and "- **média**: A soma" in text
    assert not re.search(r"\{\{ |\[\[", text)
    nbformat.validate(nbformat.from_dict(made))


def test_a_small_notebook_runs(run: Path, tmp_path: Path) -> None:
    """In a kernel of its own; figures, tables and drawings are shown; answers get their hints."""
    path = notebook.write(0, "pt", tmp_path / "small.ipynb", root=SMALL)
    made = json.loads(path.read_text(encoding="utf-8"))
    at = next(i for i, cell in enumerate(made["cells"]) if cell["id"] == "exercise-average-answer")
    made["cells"][at]["source"] = ['check("average", answer=12.0)\n', 'check("average", answer="4,0")']
    path.write_text(json.dumps(made), encoding="utf-8")
    cells = executed(path)
    found = outputs(cells)
    kinds = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/svg+xml") == 2 and "text/html" in found and "50.257" in found
    assert "Esta é a soma" in outputs([cells[at]]) and "✓ Certo." in outputs([cells[at]])
    assert "sem resposta" in outputs(cells[at + 1 :])


def test_a_notebook_names_its_model(run: Path, tmp_path: Path) -> None:
    """So that it finds it again, wherever it is opened; and what comes by chance is the same as in the text."""
    path = notebook.write(1, "en", tmp_path / "model.ipynb", run=run, root=SMALL)
    made = json.loads(path.read_text(encoding="utf-8"))
    assert f"run={str(run.resolve())!r}" in codes(made)[0]
    cells = executed(path)
    [said] = [cell["source"] for cell in cells if "By chance came" in cell["source"]]
    drawn = re.search(r"tensor\(\[([\d.]+), ", outputs(cells))
    assert drawn and f"{float(drawn[1]):.3f}" in said.replace("\\", "")


def test_outside_of_jupyter(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`begin` and `check` work in a plain interpreter, too; hints are then plain text."""
    names = notebook.begin(0, "en", root=SMALL)
    assert "lab" not in names and {"torch", "np", "F", "gptlab", "plt_figure", "t", "lang", "Table", "Svg"} <= set(
        names
    )
    names["check"]("list", answer=[2, 4, 8])
    assert "You have doubled the numbers" in capsys.readouterr().out
    names["check"]("rule")
    assert "No answer yet" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no exercise 'liste'"):
        names["check"]("liste", answer=1)
    assert notebook.begin(1, "en", run, root=SMALL)["lab"].config.category == "causal"


def test_ids_of_cells_are_valid() -> None:
    """As nbformat wants them: at most 64 letters, digits, - and _."""
    for folder in [SMALL / "00_small", *lessons.folders().values()]:
        lesson = lessons.load(folder, "en")
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,57}", unit.id) for unit in lesson.units)
