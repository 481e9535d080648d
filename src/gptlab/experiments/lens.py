"""What would each layer say, if it were the last?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from gptlab.experiments import figures
from gptlab.experiments.base import Number, Section, Words, passage, traced
from gptlab.lab import Lab
from gptlab.lens.logits import TAPS, Lens, first_asked, lens
from gptlab.text.labels import labels

Array = NDArray[Any]

TOKENS = 64  # that are read, at most
WIDEST = 9  # letters of a token in a cell
LETTER, ROW = 0.077, 0.21  # inches, of a letter and of a row of cells
BESIDE = {"wide": 1.25, "narrow": 0.85}  # inches beside the cells
GAP = 0.1  # nats between what a layer expects and what it pays that are worth a sentence


@dataclass(frozen=True)
class ByLayer:
    """Numbers of each row of a lens, (L + 1,): means over its places, medians of ranks, settled a share."""

    surprisal: Array
    entropy: Array  # at the same places, where what comes is known
    kl: Array
    choice: Array
    next: Array
    settled: Array


def by_layer(found: Lens) -> ByLayer:
    return ByLayer(
        surprisal=found.next_nats.mean(1),
        entropy=found.entropy[:, :-1].mean(1),
        kl=found.kl.mean(1),
        choice=np.median(found.choice_rank, axis=1),
        next=np.median(found.next_rank, axis=1),
        settled=np.array([(found.settled <= row).mean() for row in range(len(found.top))]),
    )


def conduct(lab: Lab, section: Section, *, text: str | None = None) -> None:
    config = lab.config
    trace = traced(lab, passage(lab, text, TOKENS), names=TAPS)
    first, layers = first_asked(config, trace), config.n_layers
    if len(trace.ids) - first < 2:
        raise ValueError("the lens needs two tokens at least that the model foretells: give it a longer --text")
    found = lens(lab.model, trace)
    found = replace(found, **{name.name: getattr(found, name.name)[:, first:] for name in fields(found)})
    tokens, ids = trace.tokens[first:], trace.ids[first:]
    names = {i: labels(lab.tokenizer, [i])[0] for i in np.unique(np.append(found.best_ids, ids)).tolist()}
    means = by_layer(found)

    section.text("intro", layers=layers)
    section.text("read", tokens=len(trace.ids), places=len(ids))
    for entry, holds in {
        "post_norm": not config.final_norm,
        "query_layer": config.query_layer,
        "decoder": config.category == "encoder-decoder",
        "prefix": config.category == "prefix",
    }.items():
        if holds:
            section.text(entry)
    section.figure(
        "grid",
        lambda words, shape: grid(words, shape, found, tokens, names),
        layers=layers,
        half=100 * means.settled[layers // 2],
        middle=layers // 2,
    )
    verdicts(section, means)
    echo = (found.top == ids).mean(1)
    if config.tied_embeddings and echo[0] > 0.5 > echo[-1]:
        section.text("echo", echo=100 * echo[0])
    section.figure(
        "curves",
        lambda words, shape: curves(words, shape, means),
        first=means.surprisal[0],
        last=means.surprisal[-1],
        kl=means.kl[0],
    )
    section.text("caution")
    rows: list[list[Any]] = [
        [row or (lambda w: w("embedding")), *(spelled(getattr(means, f.name)[row], f.name) for f in fields(means))]
        for row in range(layers + 1)
    ]
    section.table("layers", rows)
    section.page("lens", page_data(found, tokens, ids, names), height=640)
    section.data("lens", tokens=np.array(tokens), ids=ids, **{f.name: getattr(found, f.name) for f in fields(found)})


def spelled(value: float, name: str) -> Number:
    return Number(100 * value, ",.0f") if name == "settled" else Number(value, ",.3g")


def verdicts(section: Section, means: ByLayer) -> None:
    """Where the model makes up its mind, and which layer brings most, in its own numbers."""
    layers = len(means.kl) - 1
    half = int(np.argmax(means.settled >= 0.5))
    kind = "before" if half == 0 else "early" if 3 * half <= layers else "late" if 3 * half > 2 * layers else "gradual"
    middle = max(1, layers // 2)
    numbers = {"before": 100 * means.settled[0], "middle_share": 100 * means.settled[middle]}
    section.text(f"settled_{kind}", half=half, layers=layers, middle=middle, **numbers)
    steps = np.diff(means.surprisal)
    leap = int(np.argmin(steps)) + 1
    if means.surprisal[-1] < means.surprisal[0] and steps[leap - 1] < 0:
        before, after = means.surprisal[leap - 1 : leap + 1]
        section.text("leap", layer=leap, before=before, after=after, last=means.surprisal[-1])
    else:
        section.text("no_leap", first=means.surprisal[0], last=means.surprisal[-1])
    gap = means.surprisal - means.entropy
    widest = int(gap.argmax())
    if gap[widest] > GAP:
        where = {"entropy": means.entropy[widest], "surprisal": means.surprisal[widest]}
        section.text("more_sure", where=lambda words: layer_of(words, "where", widest), **where)


def layer_of(words: Words, prefix: str, row: int) -> str:
    return words(f"{prefix}_layer", number=row) if row else words(f"{prefix}_before")


def stretch(found: Lens, widths: Array, room: float) -> slice:
    """The stretch of places that fits into so many inches, and in which the layers differ most from the last."""
    ends = np.append(0, np.cumsum(widths))
    score = np.append(0, np.cumsum(found.kl[:-1].mean(0)))
    best, chosen = -1.0, slice(0, 1)
    for start in range(len(widths)):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + room, side="right")) - 1)
        if (total := (score[stop] - score[start]) / (stop - start)) > best and (
            stop < len(widths) or chosen.stop - chosen.start <= stop - start
        ):
            best, chosen = float(total), slice(start, stop)
    return chosen


def grid(words: Words, shape: str, found: Lens, tokens: Sequence[str], names: Mapping[int, str]) -> Figure:
    """Layers and places; in each cell the likeliest token, and how likely."""
    cut = {i: name if len(name) <= WIDEST else name[: WIDEST - 1] + "…" for i, name in names.items()}
    read = [name if len(name) <= WIDEST else name[: WIDEST - 1] + "…" for name in tokens]
    comes = [*read[1:], "?"]
    letters = [
        max(2, len(read[t]), len(comes[t]), *(len(cut[i]) for i in found.top[:, t].tolist())) for t in range(len(read))
    ]
    widths = (np.array(letters) + 0.7) * LETTER
    rows = len(found.top)
    width, _ = figures.SHAPES[shape]
    at = stretch(found, widths, width - BESIDE[shape])
    edges = np.append(0, np.cumsum(widths[at]))
    made, axes = figures.figure(shape, 1.75 + ROW * rows)
    mesh = axes.pcolormesh(
        edges,
        np.arange(rows + 1),
        found.top_p[:, at],
        cmap=figures.SEQUENTIAL,
        vmin=0,
        vmax=1,
        edgecolors="white",
        lw=0.4,
    )
    centres = (edges[1:] + edges[:-1]) / 2
    for row in range(rows):
        for x, i, p, last in zip(
            centres, found.top[row, at].tolist(), found.top_p[row, at], found.top[-1, at].tolist(), strict=True
        ):
            axes.text(
                x,
                row + 0.47,
                cut[i],
                ha="center",
                va="center",
                color="white" if p < 0.55 else "black",
                fontsize=6.8,
                family="monospace",
                weight="bold" if i == last else "normal",
                in_layout=False,
            )
    axes.set_yticks(np.arange(rows) + 0.5, [words("embedding"), *map(str, range(1, rows))], fontsize=8)
    axes.set_ylabel(words("layer"))
    axes.tick_params(length=0)
    own: dict[str, Any] = {"fontsize": 6.8, "family": "monospace"}
    axes.set_xticks(centres, read[at], **own)
    axes.set_xlabel(words("read_axis"))
    above = axes.secondary_xaxis("top")
    above.set_xticks(centres, comes[at], **own)
    above.tick_params(length=0)
    above.set_xlabel(words("comes_axis"))
    for side in (axes, above):
        side.spines[:].set_visible(False)
    bar = made.colorbar(mesh, ax=axes, orientation="horizontal", aspect=40, pad=0.03, shrink=0.8)
    bar.set_label(words("probability"))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ".1f")))
    bar.outline.set_visible(False)
    return made


def curves(words: Words, shape: str, means: ByLayer) -> Figure:
    """Four panels by layer: surprisal and entropy, divergence, ranks, what is settled."""
    wide = shape == "wide"
    made, panels = figures.figure(
        shape, 4.6 if wide else 7.6, nrows=2 if wide else 4, ncols=2 if wide else 1, sharex=True
    )
    nats, kl, ranks, settled = panels.flat
    layers = np.arange(len(means.kl))

    def line(axes: Axes, y: Array, number: int, label: str = "") -> None:
        style: dict[str, Any] = {
            "marker": figures.MARKERS[number],
            "linestyle": ("-", "--")[number],
            "markersize": 4,
            "linewidth": 1.4,
        }
        axes.plot(layers, y, color=figures.COLORS[number], label=label, **style)

    line(nats, means.surprisal, 0, words("line_surprisal"))
    line(nats, means.entropy, 1, words("line_entropy"))
    line(kl, means.kl, 0)
    line(ranks, means.next, 0, words("line_next"))
    line(ranks, means.choice, 1, words("line_choice"))
    line(settled, 100 * means.settled, 0)
    ranks.set_yscale("log")
    ranks.yaxis.set_minor_formatter(NullFormatter())
    for axes, entry in ((nats, "axis_nats"), (kl, "axis_kl"), (ranks, "axis_rank"), (settled, "axis_share")):
        axes.set_ylabel(words(entry))
        axes.grid(color=figures.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ",.6g")))
        if axes is not ranks:
            axes.set_ylim(bottom=0)
    for axes in (nats, ranks):
        axes.legend(loc="upper right", frameon=False, borderpad=0.1, handlelength=2.4)
    for axes in panels[-1] if wide else [settled]:
        axes.set_xlabel(words("layer"))
    return made


def page_data(found: Lens, tokens: Sequence[str], ids: Array, names: Mapping[int, str]) -> dict[str, Any]:
    """What the live page shows: of each row and place the likeliest tokens, and its numbers."""
    rank = np.pad(found.next_rank, ((0, 0), (0, 1)))  # 0: what comes is not known
    return {
        "tokens": list(tokens),
        "names": {str(i): name for i, name in names.items()},
        "best": found.best_ids,
        "p": np.round(found.best_p, 5),
        "entropy": np.round(found.entropy, 4),
        "kl": np.round(found.kl, 4),
        "rank": rank,
        "came": ids[1:],
        "colors": [to_hex(colormaps[figures.SEQUENTIAL](shade / 20)) for shade in range(21)],
    }
