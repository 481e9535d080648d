"""Which tokens does each head look at? All patterns, measures of heads, the test for induction, one head or many."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words, passage, traced, untrained
from gptlab.lab import Lab, load
from gptlab.lens import attention
from gptlab.lens.attention import ROLES, Heads
from gptlab.lens.trace import Trace, trace
from gptlab.model.layouts import room
from gptlab.presets import preset
from gptlab.report.facts import Facts
from gptlab.text.tokenizer import prompt_ids

Array = NDArray[Any]

MOST = 256  # tokens that are read
SHOWN = 64  # of these, in the pictures of all heads
NUMBERED = 16  # and in the large ones, with numbers in the cells
LISTED = 8  # heads that a sentence names
ALIKE = 0.01  # bits per character: a difference of validation losses that is none
UNSEEN = "#f2f2f2"
SHADES = colormaps[figures.SEQUENTIAL].with_extremes(bad=UNSEEN)
NORM = PowerNorm(0.5, 0, 1)
PANELS = ("evenness", "previous", "own", "next", "first", "induction")  # of the figure of measures


@dataclass(frozen=True)
class Looked:
    """What a model's heads did with a text, and with sequences read twice."""

    heads: dict[str, Heads]
    measured: dict[str, dict[str, Array]]  # kind of heads -> measure -> (L, H)

    @cached_property
    def roles(self) -> dict[str, dict[str, Array]]:
        return {kind: attention.roles(measured) for kind, measured in self.measured.items()}


def conduct(lab: Lab, section: Section, *, text: str | None, other: str | None) -> None:
    rival = None if other is None else compared(lab, load(other, device=str(lab.model.embedding.device)))
    text = passage(lab, text, MOST)
    read = patterns(lab, text)
    sequences = twice(lab)
    found = looked(lab, read, sequences)
    before = looked(untrained(lab), text, sequences)

    explain(lab, section, read, found)
    live(lab, section, read, found)
    draw_heads(lab, section, text, read, found)
    tell_measures(lab, section, found, before)
    if sequences is None:
        section.text("induction_unfit", context=lab.model.context, least=attention.LEAST)
    else:
        tell_induction(lab, section, sequences, found, before)
    if rival is not None:
        tell_rival(lab, rival, section, text)
    elif lab.run.train_config is not None:
        tell_how(lab, section)
    keep(section, read, found, before)


def patterns(lab: Lab, text: str) -> Trace:
    return traced(lab, text, names=("*.pattern",))


def looked(lab: Lab, read: Trace | str, sequences: Array | None) -> Looked:
    heads = attention.heads(lab.model, patterns(lab, read) if isinstance(read, str) else read)
    measured = {
        kind: attention.measures(some.pattern, some.visible, cross=kind == "cross") for kind, some in heads.items()
    }
    if sequences is not None:
        for kind, scores in attention.induction(lab.model, sequences).items():
            measured[kind]["induction"] = scores
    return Looked(heads, measured)


def twice(lab: Lab) -> Array | None:
    """Sequences for the test of induction; None where there is no room for it."""
    try:
        return attention.repeated(lab.model, lab.tokenizer)
    except ValueError:
        return None


def beginning(lab: Lab, text: str, tokens: int) -> str:
    ids = prompt_ids(lab.tokenizer, text)
    return lab.tokenizer.decode(ids[:tokens]).rstrip("\N{REPLACEMENT CHARACTER}") if len(ids) > tokens else text


def named(layer: int, head: int) -> str:
    return f"L{layer + 1}H{head + 1}"


# What is said


def explain(lab: Lab, section: Section, read: Trace, found: Looked) -> None:
    section.text("read")
    category = lab.config.category.replace("-", "_")
    section.text(f"read_{category}", prefix=read.prefix)
    total = sum(some.pattern.shape[0] * some.pattern.shape[1] for some in found.heads.values())
    section.text("names", total=total, heads=lab.config.n_heads, tokens=len(read.ids))


def tell_measures(lab: Lab, section: Section, found: Looked, before: Looked) -> None:
    """How many heads of each role there are, and which; beside the same model before training."""
    section.text("measures", half=percent(0.5), broad=percent(ROLES["broad"][1]))
    section.text("control_imported" if lab.run.train_config is None else "control")
    section.figure("measures", partial(draw_measures, found, before))
    rows: list[list[Any]] = []
    for kind, roles in found.roles.items():
        for role, fits in roles.items():
            measure, limit = ROLES[role]
            values = found.measured[kind][measure]
            at = extreme(values, lowest=role == "sharp")
            rows.append(
                [
                    lambda w, role=role, kind=kind: w(f"role_{role}") + bracketed(w, kind, found),
                    lambda w, role=role, limit=limit: w(
                        "at_most" if role == "sharp" else "at_least", limit=percent(limit)(w)
                    ),
                    int(fits.sum()),
                    int(before.roles[kind][role].sum()),
                    named(*at),
                    lambda w, value=values[at]: percent(value)(w),
                ]
            )
    section.table("roles", rows)
    for role in ("previous", "first", "sharp", "broad"):
        tell_role(section, role, found, before)


def tell_role(section: Section, role: str, found: Looked, before: Looked) -> None:
    """A paragraph: which heads have the role, or that none has."""
    kinds = [kind for kind, roles in found.roles.items() if role in roles]
    measure, limit = ROLES[role]
    fitting = {kind: found.roles[kind][role] for kind in kinds}
    count, earlier = (sum(int(some.roles[kind][role].sum()) for kind in kinds) for some in (found, before))
    numbers = {"count": count, "total": sum(fits.size for fits in fitting.values()), "before": earlier}
    best = {kind: extreme(found.measured[kind][measure], lowest=role == "sharp") for kind in kinds}
    sign = 1 if role == "sharp" else -1
    kind = min(kinds, key=lambda kind: sign * found.measured[kind][measure][best[kind]])
    value = found.measured[kind][measure][best[kind]]
    nearest = {"best": lambda w: named(*best[kind]) + bracketed(w, kind, found), "value": percent(value)}
    if count:
        section.text(f"{role}_some", **numbers, listed=lambda w: listed(w, role, found), limit=percent(limit))
    else:
        section.text(f"{role}_none", **numbers, **nearest, limit=percent(limit))


def listed(words: Words, role: str, found: Looked) -> str:
    """The heads of a role, the clearest first, with their values."""
    measure, _ = ROLES[role]
    cells = [
        (float(found.measured[kind][measure][at]), kind, named(*at))
        for kind, roles in found.roles.items()
        if role in roles
        for at in map(tuple, np.argwhere(roles[role]).tolist())
    ]
    cells.sort(key=lambda cell: cell[0], reverse=role != "sharp")
    told = [name + bracketed(words, kind, found, percent(value)(words)) for value, kind, name in cells[:LISTED]]
    return ", ".join(told) + (" …" if len(cells) > LISTED else "")


def bracketed(words: Words, kind: str, found: Looked, *more: str) -> str:
    """In brackets which heads are meant, where there are several kinds, and more."""
    said = [words(f"kind_{kind}"), *more] if len(found.heads) > 1 else more
    return f" ({', '.join(said)})" if said else ""


def percent(value: float) -> Any:
    return lambda words: words("percent", value=100 * float(value))


def extreme(values: Array, *, lowest: bool = False) -> tuple[int, ...]:
    """Where the greatest of (L, H) values is, or the lowest."""
    flat = int(values.argmin() if lowest else values.argmax())
    return tuple(int(i) for i in np.unravel_index(flat, values.shape))


# Figures


def draw_heads(lab: Lab, section: Section, text: str, read: Trace, found: Looked) -> None:
    """All heads of each kind in one figure, and two of them large: the sharpest and the broadest."""
    few = attention.heads(lab.model, patterns(lab, beginning(lab, text, SHOWN)))
    cells = 2 * NUMBERED if lab.model.encoder is not None else NUMBERED  # half of them for each
    close = attention.heads(lab.model, patterns(lab, beginning(lab, text, cells)))
    for kind in found.heads:
        section.figure(f"heads_{kind}", partial(draw_all, few[kind]), wordless=True, tokens=len(few[kind].queries))
    section.text("closer")
    for kind in found.heads:
        evenness = found.measured[kind]["evenness"]
        chosen = list(dict.fromkeys([extreme(evenness, lowest=True), extreme(evenness)]))
        first, last = chosen[0], chosen[-1]
        section.figure(
            f"closer_{kind}",
            partial(draw_closer, close[kind], chosen),
            wordless=True,
            sharp=named(*first),
            broad=named(*last),
            sharp_value=percent(evenness[first]),
            broad_value=percent(evenness[last]),
        )


def hidden(some: Heads) -> Array:
    """Patterns in which what cannot be seen is no number, (L, H, T, S)."""
    return np.where(some.visible[:, None], some.pattern, np.nan)


def mosaic(pattern: Array) -> Array:
    """(L, H, T, S) as one image: layers below each other, heads side by side, a blank line between them."""
    L, H, T, S = pattern.shape
    padded = np.full((L, T + 1, H, S + 1), np.nan)
    padded[:, :T, :, :S] = pattern.transpose(0, 2, 1, 3)
    return padded.reshape(L * (T + 1), H * (S + 1))[:-1, :-1]


def draw_mosaic(axes: Axes, pattern: Array) -> Any:
    L, H, T, S = pattern.shape
    picture = axes.imshow(mosaic(pattern), cmap=SHADES, norm=NORM, interpolation="nearest", aspect="auto")
    axes.set_xticks([h * (S + 1) + (S - 1) / 2 for h in range(H)], [f"H{h + 1}" for h in range(H)])
    axes.set_yticks([layer * (T + 1) + (T - 1) / 2 for layer in range(L)], [f"L{layer + 1}" for layer in range(L)])
    axes.tick_params(length=0, labelsize=7 if H <= 12 else 5, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.hlines([layer * (T + 1) + T for layer in range(L - 1)], -0.5, H * (S + 1) - 1.5, "white", linewidth=1)
    axes.vlines([h * (S + 1) + S for h in range(H - 1)], -0.5, L * (T + 1) - 1.5, "white", linewidth=1)
    return picture


def draw_all(some: Heads, words: Words, shape: str) -> Figure:
    L, H, T, S = some.pattern.shape
    width = figures.SHAPES[shape][0]
    side = min((width - 0.9) / H, 1.5)  # inches of a picture
    made, axes = figures.figure(shape, 0.5 + L * side * min(max(T / S, 0.5), 2))
    picture = draw_mosaic(axes, hidden(some))
    scale(made, axes, picture)
    return made


def scale(made: Figure, axes: Any, picture: Any) -> None:
    """What the shades mean, in percent."""
    bar = made.colorbar(picture, ax=axes, fraction=0.03, pad=0.02, shrink=0.9)
    ticks = [0, 0.05, 0.25, 0.5, 1]
    bar.set_ticks(ticks, labels=[f"{100 * tick:.0f}" for tick in ticks])
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def draw_closer(some: Heads, chosen: Sequence[tuple[int, ...]], words: Words, shape: str) -> Figure:
    """A few heads with tokens on both axes, and percents in the cells."""
    beside = shape == "wide"
    T, S = some.pattern.shape[-2:]
    side = 3.2 if beside else 3.5
    made, panels = figures.figure(
        shape,
        (side * T / S + 0.5) * (1 if beside else len(chosen)),
        nrows=1 if beside else len(chosen),
        ncols=2 if beside else 1,
        squeeze=False,
    )
    for axes in panels.flat[len(chosen) :]:
        axes.set_visible(False)
    values = hidden(some)
    roomy = max(T, S) <= NUMBERED + 4
    for axes, at in zip(panels.flat, chosen, strict=False):
        axes.imshow(values[at], cmap=SHADES, norm=NORM, interpolation="nearest", aspect="auto")
        turned = 90 if max(map(len, some.keys)) > 2 else 0
        figures.labelled(axes, "x", shortened(some.keys), rotation=turned, fontsize=6.5)
        figures.labelled(axes, "y", shortened(some.queries), fontsize=6.5)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, pad=2)
        axes.set_title(named(*at), fontsize=9)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values[at]) if roomy else ():
            if value >= 0.005:
                ink = "black" if value > 0.3 else "white"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=5, color=ink)
    return made


def shortened(labels: Sequence[str], most: int = 9) -> list[str]:
    return [label if len(label) <= most else label[: most - 1] + "…" for label in labels]


def draw_measures(found: Looked, before: Looked, words: Words, shape: str) -> Figure:
    """A panel for each measure: every head a mark, by layer; hollow ones are those before training."""
    names = [name for name in PANELS if any(name in measured for measured in found.measured.values())]
    columns = 3 if shape == "wide" else 2
    rows = -(-len(names) // columns)
    kinds = list(found.heads)
    legend_rows = -(-(len(kinds) + 1) // (2 * columns - 2))
    height, width = 1.65 * rows + 0.55 + 0.2 * legend_rows, figures.SHAPES[shape][0]
    # Margins are given, not measured: what stands there is known, and this is drawn ten times.
    margins = {"left": 0.5 / width, "right": 1 - 0.1 / width, "bottom": 0.45 / height}
    margins |= {"top": 1 - (0.3 + 0.2 * legend_rows) / height, "wspace": 0.12, "hspace": 0.42}
    made = Figure(figsize=(width, height))
    panels = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True, gridspec_kw=margins)
    layers = max(some.pattern.shape[0] for some in found.heads.values())
    for axes, name in zip(panels.flat, names, strict=False):
        for number, kind in enumerate(kinds):
            for looked, color, face in ((before, "#888888", "none"), (found, figures.COLORS[number], None)):
                values = looked.measured[kind].get(name)
                if values is None:
                    continue
                L, H = values.shape
                # Side by side within a layer: kinds in their own lanes, heads in order.
                lane = (number + (np.arange(H) + 0.5) / H) / len(kinds) - 0.5
                x = np.arange(1, L + 1)[:, None] + 0.8 * lane
                axes.scatter(
                    x, 100 * values, 13, marker=figures.MARKERS[number], edgecolors=color, facecolors=face or color,
                    linewidths=0.7, label=f"{kind} {face}", clip_on=False, zorder=3,
                )  # fmt: skip
        axes.set_title(words(f"panel_{name}"), fontsize=8.5)
        axes.set_ylim(0, 100)
        axes.set_xlim(0.5, layers + 0.5)
        axes.set_yticks([0, 50, 100], [percent(tick)(words) for tick in (0, 0.5, 1)], fontsize=7.5)
        axes.set_xticks(range(1, layers + 1, max(1, layers // 6)))
        axes.tick_params(axis="x", labelsize=7.5, labelbottom=True)
        axes.grid(color=figures.FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    made.supxlabel(words("layer"), y=0.06 / height, va="bottom", fontsize=9)
    marks: dict[str, Any] = {}
    for number, kind in enumerate(kinds):
        name = words(f"kind_{kind}") if len(kinds) > 1 else words("trained")
        marks[name] = mark(figures.MARKERS[number], figures.COLORS[number])
    marks[words("untrained")] = mark(figures.MARKERS[0], "#888888", "none")
    made.legend(marks.values(), marks.keys(), loc="upper left", ncols=2 * columns - 2, frameon=False, fontsize=8)
    return made


def mark(marker: str, color: str, face: str | None = None) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker=marker, markersize=4.5, color=color, markerfacecolor=face or color)


# Induction


def tell_induction(lab: Lab, section: Section, sequences: Array, found: Looked, before: Looked) -> None:
    [kind] = [kind for kind, measured in found.measured.items() if "induction" in measured]
    scores, earlier = (looked.measured[kind]["induction"] for looked in (found, before))
    at = extreme(scores)
    count, length = sequences.shape
    limit = ROLES["induction"][1]
    numbers = {"count": count, "length": length, "limit": percent(limit)}
    section.text("induction_cross" if kind == "cross" else "induction", **numbers)
    values = {"best": named(*at), "value": percent(scores[at]), "before": percent(earlier.max())}
    if (scores >= limit).any():
        section.text("induction_some", listed=lambda w: listed(w, "induction", found), **values, **numbers)
    elif scores[at] >= max(0.1, 2 * earlier.max()):
        section.text("induction_faint", **values, **numbers)
    else:
        section.text("induction_none", **values, **numbers)

    read = trace(lab.model, lab.tokenizer, sequences[0], sequences[0], names=("*.pattern",))
    picture = hidden(attention.heads(lab.model, read)[kind])[at]
    start = len(picture) - length
    section.figure("induction", partial(draw_induction, picture, start, length), wordless=True, **values, **numbers)


def draw_induction(picture: Array, start: int, length: int, words: Words, shape: str) -> Figure:
    """A pattern of a sequence read twice, the place of induction between two lines."""
    T, S = picture.shape
    made, axes = figures.figure(shape, 3.7 if shape == "narrow" else 4.2)
    made.set_layout_engine("compressed")  # for axes that keep their shape
    shown = axes.imshow(picture, cmap=SHADES, norm=NORM, interpolation="nearest", aspect="equal")
    j = np.array([-0.5, length - 1.5])
    for away in (-1.2, 1.2):
        axes.plot(j + 1 + away / 2, j + start - away / 2, color=figures.COLORS[1], linewidth=1, linestyle="--")
    readings = {"1": (length - 1) / 2, "2": start + (length - 1) / 2}
    both = S == T  # a decoder's two readings; else an encoder's as columns, and a decoder's as rows
    for which, names in (("x", list(readings)[: 2 if both else 1]), ("y", list(readings)[0 if both else 1 :])):
        getattr(axes, f"set_{which}ticks")([readings[name] for name in names], names, fontsize=9)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, S - 0.5)
    axes.set_ylim(T - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    scale(made, axes, shown)
    return made


# One head or many


def compared(lab: Lab, rival: Lab) -> Lab:
    """The other run, once it is clear that it can read the same text in the same way."""
    if rival.config.category != lab.config.category:
        raise ValueError(
            f"{rival.run.path} is a model of the kind {rival.config.category}, and {lab.run.path} one of the kind "
            f"{lab.config.category}: their heads do not compare. Name another run by --with"
        )
    return rival


def tell_how(lab: Lab, section: Section) -> None:
    """The command that trains the same model with one head; or with many, where this one has one."""
    config = lab.run.train_config
    assert config is not None
    single = lab.config.n_heads == 1
    usual = preset(config.preset).n_heads
    heads = 1 if not single else None if usual > 1 else 4  # None: the preset's
    out = f"{lab.run.name}-{heads or usual}-heads" if single else f"{lab.run.name}-1-head"
    command = f"gptlab train {Facts(lab.run).flags(n_heads=heads)} --out runs/{out}"
    section.text("many_heads" if single else "one_head", heads=lab.config.n_heads)
    section.table("try", [[1, command], [2, f"gptlab experiment attention {lab.run.path} --with {out}"]])


def tell_rival(lab: Lab, rival: Lab, section: Section, text: str) -> None:
    """Two runs side by side: losses, and all patterns of the same text."""
    pair = [Facts(one.run) for one in (lab, rival)]
    losses = [facts.best and facts.best[2] for facts in pair]
    bits = [facts.bits_per_character for facts in pair]
    section.text("rival", this=lab.run.name, other=rival.run.name)
    nothing: Any = lambda words: words("nothing")  # noqa: E731
    section.table(
        "rival",
        [
            [
                facts.run.name, facts.model.n_heads, facts.model.head_dim, facts.parameters.total,
                nothing if loss is None else float(loss), nothing if per is None else float(per),
            ]
            for facts, loss, per in zip(pair, losses, bits, strict=True)
        ],
    )  # fmt: skip
    same_text = pair[0].text.get("sha256") == pair[1].text.get("sha256") is not None
    if None in bits or not same_text:
        section.text("rival_unknown")
    else:
        gap = bits[1] - bits[0]  # type: ignore[operator]
        entry = "rival_alike" if abs(gap) < ALIKE else "rival_worse" if gap > 0 else "rival_better"
        section.text(
            entry, this=lab.run.name, other=rival.run.name, gap=abs(gap),
            heads=lab.config.n_heads, other_heads=rival.config.n_heads,
        )  # fmt: skip
    changed = differing(*pair)
    section.text("rival_settings" if changed else "rival_fair", settings=", ".join(changed))
    short = beginning(lab, text, min(SHOWN, room(rival.config) - 4))  # as passage leaves room
    both = [attention.heads(one.model, patterns(one, short)) for one in (lab, rival)]
    kind = "decoder"
    section.figure(
        "rival", partial(draw_rival, [some[kind] for some in both], [lab.run.name, rival.run.name]), wordless=True,
        this=lab.run.name, other=rival.run.name,
    )  # fmt: skip


def differing(one: Facts, other: Facts) -> list[str]:
    """The names of settings that differ, but for those that the number of heads brings with it, and those that change
    nothing of what is learned."""
    tables = [{**vars(facts.model), **(vars(facts.config) if facts.config else {})} for facts in (one, other)]
    names = dict.fromkeys(name for table in tables for name in table)
    passed = {"n_heads", "n_kv_heads", "head_dim", "minutes", "snapshots", "sample_every", "prompt", "save_every"}
    return [name for name in names if name not in passed and tables[0].get(name) != tables[1].get(name)]


def draw_rival(pair: Sequence[Heads], names: Sequence[str], words: Words, shape: str) -> Figure:
    """All heads of two models beside each other, as wide as they have heads; below each other on a phone."""
    beside = shape == "wide"
    counts = [some.pattern.shape[1] for some in pair]
    layers = [some.pattern.shape[0] for some in pair]
    width = figures.SHAPES[shape][0] - 1
    if beside:
        # A single head beside many still has room for its name.
        ratios = [max(count, sum(counts) / 4) for count in counts]
        height = 0.7 + max(layers) * min(width / sum(ratios), 1.2)
        more: dict[str, Any] = {"ncols": 2, "width_ratios": ratios}
    else:
        ratios = [layer * min(width / count, 1.2) for layer, count in zip(layers, counts, strict=True)]
        height = 1.0 + sum(ratios)
        more = {"nrows": 2, "height_ratios": ratios}
    made, panels = figures.figure(shape, height, **more)
    for axes, some, name in zip(panels, pair, names, strict=True):
        picture = draw_mosaic(axes, hidden(some))
        axes.set_title(name if len(name) <= 24 else f"{name[:23]}…", fontsize=9)
    scale(made, panels, picture)
    return made


# The live page, and data


def live(lab: Lab, section: Section, read: Trace, found: Looked) -> None:
    """All patterns as bytes: the square roots of weights, so that faint ones keep their differences."""
    kinds = [
        {
            "kind": kind,
            "shape": some.pattern.shape,
            "queries": list(some.queries),
            "keys": list(some.keys),
            # What is visible: everything, or a rule.
            "back": kind == "decoder",
            "bands": [block.attention.band for block in lab.model.blocks] if kind == "decoder" else [],  # type: ignore[union-attr]
            "prefix": read.prefix,
            "measures": {
                name: np.round(100 * values, 1).tolist()
                for name, values in found.measured[kind].items()
                if name != "entropy"
            },
        }
        for kind, some in found.heads.items()
    ]
    whole = b"".join(as_bytes(some.pattern) for some in found.heads.values())
    colors = [to_hex(SHADES(i)) for i in range(256)]
    packed = base64.b64encode(zlib.compress(whole, 9)).decode("ascii")
    section.page("attention", {"kinds": kinds, "packed": packed, "colors": colors, "unseen": UNSEEN}, height=840)


def as_bytes(pattern: Array) -> bytes:
    return np.round(255 * np.sqrt(np.clip(pattern, 0, 1))).astype(np.uint8).tobytes()


def keep(section: Section, read: Trace, found: Looked, before: Looked) -> None:
    """All patterns and measures; layers and heads counted from 1, as in the text."""
    arrays: dict[str, Any] = {"ids": read.ids, "tokens": np.array(read.tokens)}
    if read.source_ids is not None:
        arrays |= {"source_ids": read.source_ids, "source_tokens": np.array(read.source_tokens)}
    section.data("patterns", **arrays, **{kind: some.pattern.astype(np.float16) for kind, some in found.heads.items()})
    names = list(dict.fromkeys(name for measured in found.measured.values() for name in measured))
    rows: list[Mapping[str, Any]] = []
    for model, looked in (("trained", found), ("untrained", before)):
        for kind, measured in looked.measured.items():
            for layer, head in np.ndindex(looked.heads[kind].pattern.shape[:2]):
                values = {name: float(measured[name][layer, head]) for name in names if name in measured}
                rows.append({"model": model, "heads": kind, "layer": layer + 1, "head": head + 1, **values})
    head = ["model", "heads", "layer", "head", *names]
    section.csv("heads", head, [[row.get(name, "") for name in head] for row in rows])
