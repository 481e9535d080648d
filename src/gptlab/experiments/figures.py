"""Figures of experiments: one look, two shapes, and a check that nothing is cut off or covered.

Colours are Okabe and Ito's, and groups differ by marker, too; heat maps are cividis, which grows lighter evenly: both
can be read in grey and by the colour-blind.
"""

import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from gptlab.report.figures import COLORS, FAINT, INK, LOOK, SHAPES

__all__ = ["COLORS", "FAINT", "INK", "MARKERS", "SEQUENTIAL", "SHAPES", "clashes", "figure", "png", "svg"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
SEQUENTIAL = "cividis"
DPI = 200  # of a PNG


def figure(shape: str, height: float | None = None, **subplots: Any) -> tuple[Figure, Any]:
    """A figure as wide as its shape ("wide" or "narrow"), in inches, and its axes; laid out so that nothing is cut off.

    subplots: as of matplotlib (nrows, ncols, sharex, …); with ncols=0 there are none yet.
    """
    width, usual = SHAPES[shape]
    made = Figure(figsize=(width, height or usual), layout="constrained")
    return made, None if subplots.get("ncols") == 0 else made.subplots(**subplots)


def svg(made: Figure) -> str:
    """As SVG: text stays text, and the same figure is the same file."""
    file = io.StringIO()
    with rc_context(LOOK):
        FigureCanvasSVG(made).print_svg(file, metadata={"Date": None})
    return file.getvalue()


def png(made: Figure, path: Path) -> None:
    with rc_context(LOOK):
        FigureCanvasAgg(made)
        made.savefig(path, dpi=DPI, format="png", metadata={"Software": None})


def clashes(made: Figure) -> list[str]:
    """What cannot be read in a figure, a line each: texts that leave it, and pairs of texts that cover each other."""
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = made.bbox
    shown: list[tuple[str, Bbox]] = []
    for text in made.findobj(Text):
        if not isinstance(text, Text) or not text.get_visible() or not text.get_text().strip():
            continue
        if text.axes is not None and not text.axes.get_visible():
            continue
        box = text.get_window_extent(renderer)
        ticks = () if text.axes is None else (text.axes.xaxis, text.axes.yaxis)
        if any(text in axis_labels(axis) and not in_view(axis, text) for axis in ticks):
            continue
        shown.append((text.get_text(), box))
    found = [
        f"{name!r} leaves the figure"
        for name, box in shown
        if box.x0 < page.x0 - 1 or box.y0 < page.y0 - 1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1
    ]
    for (one, a), (other, b) in combinations(shown, 2):
        common = Bbox.intersection(a, b)
        if common is not None and common.width > 1 and common.height > 1:
            found.append(f"{one!r} covers {other!r}")
    return found


def axis_labels(axis: Any) -> list[Text]:
    return [
        label for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()] for label in (tick.label1, tick.label2)
    ]


def in_view(axis: Any, label: Text) -> bool:
    """Whether a tick's label is drawn: matplotlib keeps ticks outside the limits, too."""
    low, high = sorted(axis.get_view_interval())
    at = label.get_position()[0 if axis.axis_name == "x" else 1]
    slack = 1e-9 * max(abs(low), abs(high), 1)
    return bool(low - slack <= at <= high + slack)


def heat(axes: Any, values: Any, **more: Any) -> Any:
    """A matrix as a heat map, row 0 at the top, with no blur."""
    return axes.imshow(np.asarray(values), cmap=SEQUENTIAL, interpolation="nearest", aspect="auto", **more)


def labelled(axes: Any, which: str, labels: Sequence[str], **more: Any) -> None:
    """A label at each row ("y") or column ("x")."""
    getattr(axes, f"set_{which}ticks")(range(len(labels)), labels, **more)
