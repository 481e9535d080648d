"""Which tokens does each head look at?"""

from typing import Any

from matplotlib.figure import Figure

from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words, passage
from gptlab.lab import Lab


def conduct(lab: Lab, section: Section, *, text: str | None) -> None:
    trace = lab.trace(passage(lab, text, 24), names=("*.pattern",))
    section.text("mean", layers=len(trace.pattern))

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape)
        figures.heat(axes, trace.pattern[0][0])
        figures.labelled(axes, "x", trace.tokens)
        figures.labelled(axes, "y", trace.tokens)
        axes.set_xlabel(words("title"))
        return made

    section.figure("heads", draw)
    rows: list[list[Any]] = [[lambda w: w("title"), 1.5, 2]]
    section.table("measures", rows)
