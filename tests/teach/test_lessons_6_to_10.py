"""One notebook of each lesson, 6 to 10, is run from top to bottom, by a kernel of its own, as a reader runs it.

The others are in another file: so two processes of pytest, each of which takes a file at a time, share the work.
"""

from pathlib import Path

import pytest

from tests.teach.conftest import REAL
from tests.teach.test_lessons import run_as_notebook


@pytest.mark.slow  # the cells run in test_lessons.py, without a kernel
@pytest.mark.parametrize("number", [number for number in sorted(REAL) if 6 <= number <= 10])
def test_a_notebook_runs(number: int, run: Path, tmp_path: Path) -> None:
    run_as_notebook(number, run, tmp_path)
