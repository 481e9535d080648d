"""What cells show besides text: tables, drawings, and matplotlib's figures as a reader's language and screen want them.

A figure is drawn as it was made, and again for a phone: narrow, its panels one below another. Where texts would then
cover each other there is no narrow one, and the page lets the wide one be moved.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, LogFormatter, ScalarFormatter

from gptlab.experiments import figures
from gptlab.messages import MARKS, filled
from gptlab.teach.prose import powers

NUMBER = re.compile(r"[-+−]?\d+(\.\d+)?(e[-+]?\d+)?\s?%?")
SHAPE = re.compile(r"\(\d+(, \d+)+\)")
GROUPED = 10_000  # integers from here on get a mark for thousands; years and the like have none
LARGEST = 1e12  # what is larger is written with a power of ten
STACKED = 3  # as many panels side by side, at most, go one below another on a phone
SUPERSCRIPTS = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Table:
    """A table to show: numbers are written as the language does."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.head)} columns: {row!r}")

    def written(self, lang: str) -> list[list[str]]:
        specs = [decimals([row[i] for row in self.rows]) for i in range(len(self.head))]
        return [
            [
                powers(written(cell, lang, spec if isinstance(scalar(cell), float) else ""))
                for cell, spec in zip(row, specs, strict=True)
            ]
            for row in self.rows
        ]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone."""
        plain = [[scalar(cell) for cell in row] for row in self.rows]
        return [
            bool(plain)
            and all(
                (isinstance(row[i], int | float) and not isinstance(row[i], bool))
                or (isinstance(row[i], str) and NUMBER.fullmatch(row[i].strip()) is not None)
                for row in plain
            )
            for i in range(len(self.head))
        ]


@dataclass(frozen=True)
class Svg:
    """A drawing to show, in words what it shows, and the same for a phone, where there is one."""

    text: str
    alt: str
    narrow: str | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure of matplotlib, drawn. narrow: the same for a phone, where it can be had."""

    alt: str
    svg: str
    narrow: str | None
    made: Figure


def scalar(value: Any) -> Any:
    """A number of NumPy or torch as Python's; anything else as it is."""
    single = getattr(value, "ndim", None) == 0 or getattr(value, "shape", None) == ()
    return value.item() if single and hasattr(value, "item") else value


def decimals(column: Sequence[Any]) -> str:
    """The format of a column's fractions: all to the same place, four digits for the largest, or fewer where none has
    more; where that is off by more than a twentieth of any, four digits for each."""
    values = [abs(value) for cell in column if isinstance(value := scalar(cell), float) and value]
    told = [format(value, ".0f" if GROUPED <= value < LARGEST else ".4g") for value in values]
    if not values or any("e" in text or "n" in text for text in told):
        return ".4g"
    most = max(0, 4 - len(str(int(max(values)))) + (max(values) < 1))
    places = min(most, max(len(text.partition(".")[2]) for text in told))
    if any(abs(round(value, places) - value) > 0.05 * value for value in values):
        return ".4g"
    return f"{',' if max(values) >= GROUPED else ''}.{places}f"


def written(value: Any, lang: str, spec: str = "") -> str:
    """A value as the language writes it: numbers by the format, strings that are a number with their decimal mark."""
    value = scalar(value)
    if isinstance(value, bool):
        return format(value, spec) if spec else str(value)
    if isinstance(value, int | float):
        if not spec and isinstance(value, float):
            spec = ",.0f" if GROUPED <= abs(value) < LARGEST else ".4g"
        elif not spec:
            spec = "," if abs(value) >= GROUPED else "d"
        return filled(f"{{value:{spec}}}", lang, value=value)
    if isinstance(value, str):
        text = format(value, spec)
        if SHAPE.fullmatch(text):  # no line breaks within it
            return text.replace(" ", "\N{NO-BREAK SPACE}")
        return text.replace(".", MARKS[lang][1]) if NUMBER.fullmatch(text.strip()) else text
    return format(value, spec) if spec else str(value)


# Figures


class Localized(Formatter):
    """Labels of ticks as the language writes them, and powers of ten as 10³, whatever else chooses the numbers."""

    def __init__(self, inner: Formatter, lang: str) -> None:
        self.inner, self.lang = inner, lang

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.said(self.inner(x, pos))

    def format_ticks(self, values: Any) -> list[str]:
        return [self.said(label) for label in self.inner.format_ticks(values)]

    def format_data(self, value: float) -> str:
        return self.said(self.inner.format_data(value))

    def get_offset(self) -> str:
        return self.said(self.inner.get_offset())

    def set_locs(self, locs: Any) -> None:
        self.locs = locs
        self.inner.set_locs(locs)

    def set_axis(self, axis: Any) -> None:
        self.axis = axis
        self.inner.set_axis(axis)

    def said(self, label: str) -> str:
        label = re.sub(r"^\$\\mathdefault\{(.*)\}\$$", r"\1", label).replace(r"\times", "×")
        label = re.sub(r"\^\{([-−\d]+)\}", lambda power: power[1].translate(SUPERSCRIPTS), label)
        return localized(label, self.lang)


def localized(label: str, lang: str) -> str:
    """A label's numbers as the language writes them."""
    group, mark = MARKS[lang]
    label = re.sub(r"(?<=\d)\.(?=\d)", mark, label)
    return re.sub(r"(?<![\d.,])\d{5,}", lambda digits: f"{int(digits[0]):,}".replace(",", group), label)


def localize(made: Figure, lang: str) -> None:
    """Write the numbers of a figure as the language does: those of its axes, and texts that are a number."""
    for axes in axes_of(made):
        for axis in (axes.xaxis, axes.yaxis):
            for which in ("major", "minor"):
                formatter = getattr(axis, f"get_{which}_formatter")()
                if isinstance(formatter, ScalarFormatter | LogFormatter | FixedFormatter):
                    getattr(axis, f"set_{which}_formatter")(Localized(formatter, lang))
    for text in made.findobj(Text):
        if isinstance(text, Text) and NUMBER.fullmatch(text.get_text()):
            text.set_text(powers(localized(text.get_text(), lang)))


def axes_of(made: Figure) -> list[Axes]:
    return [axes for axes in made.findobj(Axes) if isinstance(axes, Axes)]


def drawing(made: Figure, lang: str, alt: str, *, narrow: bool = False) -> Drawing:
    """A figure in a language; narrow: for a phone, too."""
    localize(made, lang)
    return Drawing(alt, figures.svg(made), narrowed(made) if narrow else None, made)


def narrowed(made: Figure) -> str | None:
    """A figure drawn as wide as a phone; None where it is so already, or where it could not be read."""
    target = figures.SHAPES["narrow"][0]
    if made.get_size_inches()[0] <= target * 1.05:
        return None
    before = len(figures.clashes(made))
    with stacked(made, target):
        return figures.svg(made) if len(figures.clashes(made)) <= before else None


@contextmanager
def stacked(made: Figure, width: float) -> Iterator[None]:
    """For as long, the figure is narrow, its panels stand one below another, its legend has as many columns as fit, and
    maps keep their shape; then it is as it was."""
    size, shown = tuple(made.get_size_inches()), [axes for axes in made.axes if axes.get_visible()]
    placed = [(axes, spec) for axes in made.axes if (spec := axes.get_subplotspec()) is not None]
    grids = {id(spec.get_gridspec()): spec.get_gridspec() for _, spec in placed}
    height, labels = size[1], []
    if len(grids) == 1 and made.get_layout_engine() is not None:
        (grid,) = grids.values()
        single = all(spec.num1 == spec.num2 for _, spec in placed)
        if single and 1 < grid.ncols <= STACKED and len(placed) == grid.nrows * grid.ncols:
            seen = [axes for axes, _ in placed if axes in shown]
            tall = GridSpec(len(seen), 1, figure=made)
            panel = max(1.9, 0.85 * size[1] / grid.nrows, *(0.9 * width * steepness(axes) for axes in seen))
            height = len(seen) * panel
            for i, axes in enumerate(seen):
                axes.set_subplotspec(tall[i])
                if not axes.yaxis.get_tick_params().get("labelleft", True):  # it shared them with its left neighbour
                    axes.tick_params(labelleft=True)
                    labels.append(axes)
        elif len(shown) == 1 and (slope := steepness(shown[0])):
            height = min(height, width * slope + 0.5)
    legends, made.legends = made.legends, []
    try:
        made.set_size_inches(width, height)
        for legend in legends:
            fitted(made, legend, width)
        made.draw_without_rendering()  # maps and their scale settle in the second layout alone
        yield
    finally:
        made.legends = legends
        made.set_size_inches(*size)
        for axes, spec in placed:
            axes.set_subplotspec(spec)
        for axes in labels:
            axes.tick_params(labelleft=False)


def steepness(axes: Axes) -> float:
    """Height over width of a picture whose units are as long as they are wide; 0 of any other."""
    if axes.get_aspect() != 1:
        return 0.0
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return float(abs(high - low) / abs(right - left))


def fitted(made: Figure, legend: Legend, width: float) -> None:
    """A figure's legend once more, at its top, with as many columns as fit."""
    told = [text.get_text() for text in legend.get_texts()]
    letters = 0.6 * legend.get_texts()[0].get_fontproperties().get_size_in_points() / 72  # inches each, about
    columns = max(1, min(len(told), int(width / (letters * (max(map(len, told)) + 10)))))
    handles = [handle for handle in legend.legend_handles if handle is not None]
    made.legend(handles, told, loc="outside upper left", ncols=columns, frameon=False)
