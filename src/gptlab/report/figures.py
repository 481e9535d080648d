"""Charts as SVG for a page: text stays text, and every figure comes in two shapes, for wide and for narrow screens.

Matplotlib is imported when the first chart is drawn: it costs a moment (and, the first time on a machine, a few
seconds to find the fonts).
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from gptlab.messages import filled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers; yellow is left out, for it vanishes on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
INK, FAINT = "#333333", "#dddddd"
SHAPES = {"wide": (7.2, 3.4), "narrow": (3.7, 3.0)}  # inches
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
UNSAFE = ("script", "foreignObject", "style", "metadata", "a")


@dataclass(frozen=True)
class Curve:
    """A line of a chart. Its number chooses colour and style; marked: a dot at each point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0
    marked: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis; levels are horizontal lines with a name: (label, y)."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    levels: Sequence[tuple[str, float]] = ()
    logarithmic: bool = False  # the losses' axis
    shaded: bool = False  # what lies between the first curve and the first level

    def draw(self, axes: "Axes", lang: str) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        for curve in self.curves:
            color, style = COLORS[curve.number % len(COLORS)], STYLES[curve.number % len(STYLES)]
            marker: Any = {"marker": "o", "markersize": 3.2} if curve.marked else {}
            axes.plot(curve.x, curve.y, style, color=color, linewidth=1.5, label=curve.label, **marker)
        for label, y in self.levels:
            axes.axhline(y, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            # Curves come down onto a floor, and leave from the loss of guessing: the name stands where they are not.
            side: Any = {"xytext": (-3, -3), "va": "top"} if self.logarithmic else {"xytext": (-3, 3), "va": "bottom"}
            axes.annotate(label, (1, y), xycoords=("axes fraction", "data"), **side, **BESIDE)
        if self.shaded and self.curves and self.levels:
            first = self.curves[0]
            axes.fill_between(first.x, first.y, self.levels[0][1], color=COLORS[first.number], alpha=0.12, linewidth=0)
        if self.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.02, y=0.12 if self.logarithmic else 0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        number = FuncFormatter(lambda value, _: filled("{value:,.6g}", lang, value=float(value)))
        axes.xaxis.set_major_formatter(number)
        axes.yaxis.set_major_formatter(number)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


BESIDE: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8.5, "color": INK}
LOOK: Any = {
    "svg.fonttype": "none",  # text as text: it is read aloud, found, and set in the page's font
    "svg.hashsalt": "gptlab",  # the same chart is the same file
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a run's name may hold a dollar sign
}


def drawn(chart: Chart, lang: str, shape: str) -> str:
    """A chart as the text of an SVG file, in one of the SHAPES."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    width, height = SHAPES[shape]
    names = [curve.label for curve in chart.curves]
    columns = max(1, int(width / (0.6 + 0.075 * max(map(len, names)))))  # a sample of the line, and the letters
    rows = math.ceil(len(names) / columns) if len(names) > 1 else 0
    height += 0.18 * rows
    with matplotlib.rc_context(LOOK):
        # Margins are given, not measured: matplotlib's layouts take as long as all the rest.
        figure = Figure(figsize=(width, height))
        bounds = {"left": 0.55, "right": width - 0.08, "bottom": 0.48, "top": height - 0.08 - 0.18 * rows}
        inches = {"left": width, "right": width, "bottom": height, "top": height}
        axes = figure.subplots(gridspec_kw={side: at / inches[side] for side, at in bounds.items()})
        chart.draw(axes, lang)
        if rows:
            figure.legend(
                loc="upper left", ncols=columns, frameon=False, handlelength=2.6, borderpad=0, borderaxespad=0
            )
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue()


def inlined(svg: str, prefix: str, alt: str) -> Markup:
    """An SVG file as a piece of a page: without scripts, style sheets or anything that is loaded from elsewhere.

    prefix: goes before every id, so that several figures stand on one page; alt: what the figure shows, in words.
    Raises ValueError for what is no SVG.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"a figure is no SVG: {error}") from None
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] in UNSAFE:
                parent.remove(child)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            bare = name.rpartition("}")[2]
            if bare == "id":
                element.set(name, prefix + value)
            elif bare == "href" and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            elif bare.lower().startswith("on") or (bare == "href" and not value.startswith("data:image/")):
                del element.attrib[name]
            elif "url(" in value:
                local = re.sub(r"url\(\s*['\"]?#([^'\")]+)['\"]?\s*\)", rf"url(#{prefix}\1)", value)
                element.set(name, re.sub(r"url\((?!#)[^)]*\)", "none", local))
    for name in ("width", "height"):  # the page decides; the viewBox keeps the shape
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
