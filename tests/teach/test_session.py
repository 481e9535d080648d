"""Cells run as in a notebook, numbers come out as the language writes them, and lessons do not disturb each other."""

import random
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from gptlab.experiments import figures
from gptlab.experiments.figures import figure
from gptlab.teach import drawings, session
from gptlab.teach import lesson as lessons
from gptlab.teach.drawings import Svg, Table, written
from gptlab.teach.prose import Value, walk
from gptlab.teach.session import Played, Printed
from tests.teach.conftest import SMALL, edited


def values(played: Played) -> list[str]:
    texts = [text for _, text in played.lesson.texts()]
    return [piece.text for text in texts for piece in walk(text) if isinstance(piece, Value)]


def test_what_cells_give(played: dict[str, Played]) -> None:
    """What is printed and the last value, a figure with its words, a table, a drawing."""
    shown = played["en"].shown
    assert shown["numbers"] == [Printed("sum 7.0\ntensor([1., 2., 4.])")] and shown["average"] == []
    [figure] = shown["picture"]
    assert isinstance(figure, drawings.Drawing) and figure.alt.startswith("Two panels") and "place" in figure.svg
    [table] = shown["board"]
    assert isinstance(table, Table) and table.numeric == [False, True]
    assert isinstance(shown["drawing"][0], Svg)


def test_numbers_are_the_languages(played: dict[str, Played]) -> None:
    """In prose, in formulas, in exercises (whose own names they may use), in tables and on axes."""
    assert {"7.0", "2.3333", "2.33", "124,439,808", "4.00", "0.0e+00"} <= set(values(played["en"]))
    assert {"7,0", "2,3333", "124.439.808", "4,00"} <= set(values(played["pt"]))
    assert "124\u202f439\u202f808" in values(played["fr"])
    [table], [figure] = played["pt"].shown["board"], played["pt"].shown["picture"]
    assert isinstance(table, Table) and isinstance(figure, drawings.Drawing)
    assert table.written("pt") == [["lugar", "0,3333"], ["2017", "0,2500"], ["50.257", "0,5"]]
    assert ">1,5<" in figure.svg.replace(" ", "") or ">1,4<" in figure.svg.replace(" ", "")


def test_values_of_any_kind() -> None:
    """Numbers of torch and NumPy are numbers; words, truth values and lists are as they are."""
    told = [written(value, "pt") for value in (torch.tensor(1.5), np.float32(0.25), 9999, 10000, True, "a.b", "0.5")]
    assert told == ["1,5", "0,25", "9999", "10.000", "True", "a.b", "0,5"]
    assert written(1234.567, "fr", ",.1f") == "1\u202f234,6" and written(torch.tensor(3), "en", "d") == "3"
    assert written(12345.6, "it") == "12.346" and written(-1234.5, "en", ".1f") == "-1234.5"
    assert written("(3072, 768)", "pt") == "(3072,\u00a0768)", "no line breaks within a shape"
    with pytest.raises(ValueError, match="a row of 1 cells"):
        Table(["a", "b"], [[1]])


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([0.9967, 0.003274], ["0.9967", "0.0033"]),
        ([0.8833, 1.0], ["0.883", "1.000"]),
        ([2.0, 1.0, -1.0], ["2", "1", "−1"]),
        ([0.5, 0.25, 7], ["0.50", "0.25", "7"]),
        ([1027.5, 1.5], ["1028", "1.5"]),
        ([1027.5, 63.5, 4.0], ["1028", "64", "4"]),
        ([0.9, 0.00316], ["0.9000", "0.0032"]),
        ([20480.25, 30720.5], ["20,480", "30,720"]),
        ([14.327, 0.0], ["14.33", "0.00"]),
        ([8.3, 2.5e-7], ["8.3", "2.5\u00a0×\u00a010⁻⁷"]),
    ],
)
def test_fractions_of_a_column(column: list[float], told: list[str]) -> None:
    """All to the same place, so that they can be compared, unless the smallest would be lost."""
    assert [row[0] for row in Table(["x"], [[value] for value in column]).written("en")] == told


def test_a_narrow_figure_has_its_panels_one_below_another(played: dict[str, Played]) -> None:
    """And the wide one is afterwards as it was."""
    [figure] = played["en"].shown["picture"]
    assert isinstance(figure, drawings.Drawing) and figure.narrow is not None
    sizes = [
        [float(x) for x in svg.partition('viewBox="')[2].split('"')[0].split()] for svg in (figure.svg, figure.narrow)
    ]
    assert sizes[0][2] > sizes[0][3] and sizes[1][2] < sizes[0][2] and sizes[1][3] > sizes[1][2]
    again = drawings.drawing(figure.made, "en", "").svg  # laid out anew, to a tenth of a point
    assert re.findall(r"<text.*?>(.*?)</text>", again) == re.findall(r"<text.*?>(.*?)</text>", figure.svg)
    assert again.partition("viewBox")[2][:30] == figure.svg.partition("viewBox")[2][:30]


def test_a_narrow_figure_is_read_like_a_wide_one() -> None:
    """A legend that is too wide gets fewer columns, a map grows with its panel, and afterwards all is as it was."""
    made, panels = figure("wide", 2.4, ncols=2)
    for axes in panels:
        axes.imshow(np.eye(3))
        axes.plot([0, 1], [0, 1], label="a name of some length " + "ab"[axes is panels[0]])
    made.legend(loc="outside upper center", ncols=4)
    assert figures.clashes(made) == []
    before, legends = made.get_size_inches().tolist(), list(made.legends)
    with drawings.stacked(made, 4.1):
        assert figures.clashes(made) == []
        width, height = made.get_size_inches()
        assert width == 4.1 and height > 1.6 * width
        assert [len(legend.get_texts()) for legend in made.legends] == [2] and made.legends != legends
    assert made.get_size_inches().tolist() == before and made.legends == legends and figures.clashes(made) == []


def test_a_number_is_evaluated_where_it_stands(copied: Path) -> None:
    """Not before the cell that makes it, and with the value that it has there."""
    folder = copied / "01_model"
    (folder / "cells.py").write_text("# %% one\na = 1.5\n# %% two\na = 2.5\n")
    front = '+++\ntitle = "T"\nminutes = 1\nsummary = "S"\n+++\n'
    (folder / "en.md").write_text(
        front + "::: cell one\n\n{{ a }} `{{ a }}` $a = {{ a:.2f }}$\n\n::: output two\n\n{{ a }}\n"
    )
    assert values(session.play(lessons.load(folder, "en"))) == ["1.5", "1.5", "1.50", "2.5"]
    (folder / "en.md").write_text(front + "{{ a }}\n\n::: cell one\n\n::: cell two\n")
    with pytest.raises(ValueError, match=r"en.md:6: {{ a }}: NameError"):
        session.play(lessons.load(folder, "en"))


def test_a_cell_that_fails_says_where(copied: Path) -> None:
    """With the line in cells.py, also from within a function."""
    edited(copied / "00_small" / "cells.py", "values.sum() /", "values.sun() /")
    with pytest.raises(ValueError, match=r"cells.py:9: cell 'average': AttributeError"):
        session.play(lessons.load(copied / "00_small", "en"))


def test_a_figure_needs_words(copied: Path) -> None:
    for lang in ("en",):
        edited(copied / "00_small" / f"{lang}.md", "alt_picture", "alt_pictures")
    with pytest.raises(ValueError, match="'alt_picture' is not in"):
        session.play(lessons.load(copied / "00_small", "en"))


def test_lessons_do_not_disturb_each_other() -> None:
    """Seeds, threads, gradients, printing and matplotlib's look are after a lesson what they were before, and every
    lesson begins alike."""
    lesson = lessons.load(SMALL / "00_small", "en")
    torch.manual_seed(7)
    random.seed(7)
    torch.set_printoptions(precision=3)
    try:
        expected = torch.get_rng_state(), random.getstate(), matplotlib.rcParams["font.size"]
        found = []
        for _ in range(2):
            with session.undisturbed():
                found.append((torch.rand(1).item(), np.random.rand(), random.random()))
                torch.set_grad_enabled(False)
                matplotlib.rcParams["font.size"] = 30
                session.play(lesson)
        assert found[0] == found[1] and torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), expected[0])
        assert (random.getstate(), matplotlib.rcParams["font.size"]) == expected[1:]
        assert torch._tensor_str.PRINT_OPTS.precision == 3
    finally:
        torch.set_printoptions(profile="default")


def test_powers_of_ten_on_axes_are_read_as_such() -> None:
    """Logarithmic axes have 10³ and not the TeX of it."""
    from gptlab.experiments.figures import figure, svg

    made, axes = figure("wide", 2.0)
    axes.loglog([1, 1000], [1e-5, 0.1])
    drawings.localize(made, "pt")
    assert "10⁻⁵" in svg(made) and "mathdefault" not in svg(made)
