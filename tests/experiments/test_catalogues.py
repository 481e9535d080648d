"""The prose of experiments is in step in five languages."""

from pathlib import Path

import pytest

from gptlab.experiments import base
from gptlab.experiments.options import EXPERIMENTS
from gptlab.messages import LANGUAGES, catalogue
from tests.test_messages import fields

PROSE = Path(base.__file__).parent / "prose"


def test_every_experiment_has_its_file_and_its_prose() -> None:
    """The names of options, files and catalogues are the same."""
    modules = {path.stem for path in PROSE.parent.glob("*.py")} - {"__init__", "base", "figures", "options"}
    assert set(EXPERIMENTS) == modules == {path.name for path in PROSE.iterdir()}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_catalogues_are_in_step(name: str, lang: str) -> None:
    """Each language has the same entries in the same order, with the same values, and none is empty."""
    english, other = catalogue("en", PROSE / name), catalogue(lang, PROSE / name)
    assert list(other) == list(english)
    for entry, text in other.items():
        assert set(fields(text)) == set(fields(english[entry])) and text.strip(), entry
        assert text.count(" | ") == english[entry].count(" | "), entry


def test_numbers_of_a_table_stay_numbers(tmp_path: Path) -> None:
    """On a page a number is written as the language does; in the CSV file, in every language, as programs read it."""
    section = base.Section("film", tmp_path, "pt")
    section.table("moments", [[base.Number(1655, ",d"), base.Number(2.334, ",.2f"), "a"]])
    assert section.blocks[0]["rows"]["pt"] == [["1.655", "2,33", "a"]]
    assert section.blocks[0]["rows"]["en"] == [["1,655", "2.33", "a"]]
    assert (tmp_path / "moments.csv").read_text(encoding="utf-8").splitlines()[1] == "1655,2.33,a"
