"""Where in the model does learning happen, and when?"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words
from gptlab.lab import Lab
from gptlab.lens.gradients import KINDS, Learning, learning, place

TENTHS = {"first": (0.0, 0.1), "middle": (0.45, 0.55), "last": (0.9, 1.0)}
ALIKE = 0.15  # of the training: parts that are half-way within so much of it are so at nearly the same time
TREND = 1.5  # times: a gradient that differs by less, from the first layer to the last, has no trend
RELATED = 0.4  # rank correlation from which on one may say that large gradients go with large steps
LINES = 6


def conduct(lab: Lab, section: Section) -> None:
    found = learning(lab.run)
    rms, relative = found.rms, found.relative
    last = int(found.steps[-1])
    section.text("about", watched=len(found.steps), last=last, parts=len(found.parts))
    section.text("gradient_means")
    section.figure("gradients", heat(found, rms, lambda words, value: ten_to(value), "gradient"))
    zeros = int((found.gradients[0] == 0).sum())
    if zeros:
        section.text("zeros", zeros=zeros, first=int(found.steps[0]))
    depth(section, found)

    section.text("step_means")
    section.figure("steps", heat(found, relative, percent, "relative"))
    path, half = found.path[-1], found.halfway()
    most, least = int(path.argmax()), int(path.argmin())
    section.text(
        "travelled",
        part=label(found.parts[most]),
        path=float(path[most]),
        least=label(found.parts[least]),
        least_path=float(path[least]),
    )
    early, late = (int(at) for at in (np.nanargmin(half), np.nanargmax(half)))
    told = {"early": float(half[early]), "late": float(half[late]), "last": last}
    if half[late] - half[early] <= ALIKE * last:
        section.text("pace_same", **told)
    else:
        names = {"part": label(found.parts[early]), "other": label(found.parts[late])}
        section.text("pace_differs", **names, **told)
    section.table("tenths", [row(found, tenth, span) for tenth, span in TENTHS.items()])

    relation = related(found)
    if not math.isnan(relation):
        verdict = "follows" if relation > RELATED else "reversed" if relation < -RELATED else "apart"
        config = lab.run.train_config
        section.text(f"relation_{verdict}", value=relation, optimizer=config.optimizer if config else "")
    section.figure("lines", lines(found))
    section.page("gradients", live(found), height=page_height(found))
    section.data(
        "gradients",
        steps=found.steps,
        parts=np.array(found.parts),
        sizes=found.sizes,
        gradients=found.gradients,
        moves=found.moves,
        weights=found.weights,
        rms=rms,
        relative=relative,
        path=found.path,
    )
    section.csv(
        "gradients",
        ["step", "part", "parameters", "gradient_norm", "gradient_rms", "step_norm", "weight_norm", "relative_step"],
        [
            [int(step), part, int(size), *(float(f"{x[s, p]:.5g}") for x in columns(found))]
            for s, step in enumerate(found.steps)
            for p, (part, size) in enumerate(zip(found.parts, found.sizes, strict=True))
        ],
    )


def columns(found: Learning) -> tuple[Any, ...]:
    return found.gradients, found.rms, found.moves, found.weights, found.relative


def label(part: str) -> Callable[[Words], str]:
    """What a part is called: MLP 3, encoder: attention 1; layers are counted from 1."""
    stack, kind, layer = place(part)

    def told(words: Words) -> str:
        name = words(f"part_{kind}") if kind in KINDS else kind
        name = name if layer is None else words("layered", part=name, layer=layer + 1)
        return words("in_encoder", part=name) if stack else name

    return told


def percent(words: Words, value: float) -> str:
    return words("percent", value=100 * value)


def ten_to(value: float) -> str:
    """A round number in every language: 10⁻³, 2·10⁻³."""
    digit, power = f"{value:.0e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == "1" else f"{digit}·10{raised}"


def related(found: Learning) -> float:
    """Spearman's rank correlation, over the parts, of gradient (RMS) and relative step; the mean over the steps. NaN
    where it is undefined throughout."""
    from scipy.stats import spearmanr

    values = [
        spearmanr(a, b, nan_policy="omit").statistic
        for a, b in zip(found.rms, found.relative, strict=True)
        if np.ptp(a) > 0 and np.nanmax(b) > np.nanmin(b)
    ]
    return float(np.nanmean(values)) if values else math.nan


def depth(section: Section, found: Learning) -> None:
    """How the gradient of the decoder's MLPs changes from the first layer to the last."""
    layers = [at for at, part in enumerate(found.parts) if place(part)[:2] == ("", "mlp")]
    if len(layers) < 2:
        return
    ends = found.rms[:, [layers[0], layers[-1]]]
    ends = ends[(ends > 0).all(1)]
    if not len(ends):
        return
    ratio = float(np.exp(np.log(ends[:, 0] / ends[:, 1]).mean()))
    verdict = "falls" if ratio > TREND else "rises" if ratio < 1 / TREND else "flat"
    section.text(f"depth_{verdict}", times=1 / ratio if verdict == "rises" else ratio, layers=len(layers))


def row(found: Learning, tenth: str, span: tuple[float, float]) -> list[Any]:
    """A tenth of the training: its steps, and which part moved most and least in a step, and had the largest
    gradient."""
    within = found.span(*span)
    steps = found.steps[within]
    speed, gradient = np.nan_to_num(found.relative[within]).mean(0), found.rms[within].mean(0)
    most, least = int(speed.argmax()), int(speed.argmin())

    def told(at: int) -> Callable[[Words], str]:
        return lambda words: f"{label(found.parts[at])(words)} ({percent(words, speed[at])})"

    return [
        lambda words: words(f"tenth_{tenth}"),
        lambda words: words("from_to", first=int(steps[0]), last=int(steps[-1])),
        told(most),
        told(least),
        label(found.parts[int(gradient.argmax())]),
    ]


def ends(values: Any) -> tuple[float, float]:
    """The ends of a logarithmic scale of colours: two in a hundred values are below, and drawn as its end."""
    above = values[values > 0]
    low, high = np.quantile(above, (0.02, 1)) if len(above) else (0.5, 2.0)
    return float(low / 1.01), float(high * 1.01)


def rounds(low: float, high: float, room: float) -> list[float]:
    """Round numbers for a logarithmic scale, as many as have room: a share of its length that each takes."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    length = math.log(high / low)
    for digits, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        found = [digit * 10.0**power for power in powers[::stride] for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) > 1 and min(math.log(b / a) for a, b in pairwise(found)) > room * length:
            return found
    return [low, high]


def heat(
    found: Learning, values: Any, tick: Callable[[Words, float], str], unit: str
) -> Callable[[Words, str], Figure]:
    """Parts by steps, on a logarithmic scale; grey where nothing is."""
    shown = np.ma.masked_invalid(np.where(values > 0, values, np.nan)).T
    low, high = ends(values)
    norm = LogNorm(low, high)
    kinds = [place(part)[:2] for part in found.parts]

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape, 0.9 + 0.155 * len(found.parts))
        axes.set_facecolor("#bbbbbb")
        image = axes.imshow(shown, cmap=figures.SEQUENTIAL, norm=norm, interpolation="nearest", aspect="auto")
        for at in range(1, len(kinds)):
            if kinds[at] != kinds[at - 1]:
                axes.axhline(at - 0.5, color="white", linewidth=1.2)
        figures.labelled(axes, "y", [label(part)(words) for part in found.parts], fontsize=7.5)
        marks = np.unique(np.linspace(0, len(found.steps) - 1, 8 if shape == "wide" else 5).round().astype(int))
        axes.set_xticks(marks, [words("number", value=int(found.steps[at])) for at in marks])
        axes.tick_params(length=2)
        axes.set_xlabel(words("step"))
        axes.spines[:].set_visible(False)
        bar = made.colorbar(image, ax=axes, location="top", aspect=45, pad=0.01, shrink=0.9, extend="min")
        ticks = rounds(low, high, 0.09 if shape == "wide" else 0.2)
        bar.set_ticks(ticks, labels=[tick(words, value) for value in ticks])
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)
        bar.set_label(words(unit), fontsize=8.5)
        return made

    return draw


def chosen(found: Learning) -> list[int]:
    """A few parts, so that lines can be told apart: the tables, and the first and the last layer."""
    stacks = {place(part)[0] for part in found.parts}
    kinds = ("mlp",) if len(stacks) > 1 else ("attention", "mlp")
    picked = [at for at, part in enumerate(found.parts) if part in ("embedding", "position")]
    for stack in sorted(stacks, reverse=True):
        for kind in kinds:
            layers = [at for at, part in enumerate(found.parts) if place(part)[:2] == (stack, kind)]
            picked += dict.fromkeys([*layers[:1], *layers[-1:]])
    return picked[:LINES]


def lines(found: Learning) -> Callable[[Words, str], Figure]:
    picked = chosen(found)
    styles = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

    def draw(words: Words, shape: str) -> Figure:
        wide = shape == "wide"
        panels: dict[str, int] = {"ncols": 2} if wide else {"nrows": 2}
        made, both = figures.figure(shape, 3.4 if wide else 5.4, sharex=True, **panels)
        for axes, values, unit in zip(both, (found.rms, found.relative), ("gradient", "relative"), strict=True):
            for number, at in enumerate(picked):
                y = np.where(values[:, at] > 0, values[:, at], np.nan)
                axes.plot(
                    found.steps,
                    y,
                    linestyle=styles[number],
                    color=figures.COLORS[number],
                    marker=figures.MARKERS[number],
                    markevery=(2 * number, 12),
                    markersize=4,
                    linewidth=1.3,
                    label=label(found.parts[at])(words),
                )
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
            say = percent if unit == "relative" else (lambda words, value: ten_to(value))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, say=say: say(words, value)))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words("number", value=int(value))))
            axes.grid(color=figures.FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylabel(words(unit), fontsize=8.5)
            if wide or axes is both[-1]:
                axes.set_xlabel(words("step"))
        handles, names = both[0].get_legend_handles_labels()
        made.legend(
            handles,
            names,
            loc="outside upper center",
            ncols=3 if wide else 2,
            frameon=False,
            handlelength=3.2,
            fontsize=8.5,
        )
        return made

    return draw


def page_height(found: Learning) -> int:
    return 230 + 15 * len(found.parts)


def live(found: Learning) -> dict[str, Any]:
    def rounded(x: Any) -> list[list[float | None]]:
        return [[float(f"{v:.4g}") if np.isfinite(v) else None for v in line] for line in x.T]

    return {
        "steps": found.steps,
        "parts": [place(part) for part in found.parts],
        "sizes": found.sizes,
        "rms": rounded(found.rms),
        "relative": rounded(found.relative),
        "weights": rounded(found.weights),
        "kinds": KINDS,
        "ends": {"gradient": ends(found.rms), "relative": ends(found.relative)},
    }
