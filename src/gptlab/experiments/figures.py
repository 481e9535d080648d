"""Figures of experiments: one look, two shapes, and a check that nothing is cut off or covered.

Colours are Okabe and Ito's, and groups differ by marker, too; heat maps are cividis, which grows lighter evenly: both
can be read in grey and by the colour-blind.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

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
    made.draw_without_rendering()  # lays it out, without painting it
    renderer = canvas.get_renderer()
    page = made.bbox
    axes_of = [found for found in made.findobj(Axes) if isinstance(found, Axes)]
    out_of_view = {
        id(label)
        for axes in axes_of
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis_labels(axis)
        if not axes.get_visible() or not in_view(axis, label)
    }
    names, boxes = [], []
    for text in made.findobj(Text):
        if not isinstance(text, Text) or not text.get_visible() or not text.get_text().strip():
            continue
        if (text.axes is not None and not text.axes.get_visible()) or id(text) in out_of_view:
            continue
        names.append(text.get_text())
        boxes.append(text.get_window_extent(renderer).extents)
    x0, y0, x1, y1 = np.array(boxes).reshape(-1, 4).T
    outside = (x0 < page.x0 - 1) | (y0 < page.y0 - 1) | (x1 > page.x1 + 1) | (y1 > page.y1 + 1)
    width = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    height = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    covered = np.argwhere(np.triu((width > 1) & (height > 1), 1))
    return [
        *(f"{names[i]!r} leaves the figure" for i in np.flatnonzero(outside)),
        *(f"{names[i]!r} covers {names[j]!r}" for i, j in covered),
    ]


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
