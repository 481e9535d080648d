"""Which tokens, and which positions, has the model learned to be alike?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Affine2D, IdentityTransform
from numpy.typing import NDArray

from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words, untrained
from gptlab.lab import Lab
from gptlab.lens import embeddings
from gptlab.lens.embeddings import Tables, tables
from gptlab.text import corpora
from gptlab.text.labels import labels

Array = NDArray[Any]

WHEN = ("before", "after")  # training; a table that is computed has only the latter
TOKENS = 1000  # that are looked at, at most
SHUFFLES = 99
BEST = 3  # groups that are named
APART = 0.1  # a silhouette from which on a group is called apart
REST = "#8c8c8c"  # of tokens in no group


@dataclass(frozen=True)
class Table:
    """One table before or after training: points x (N, C), and what is seen of them."""

    x: Array

    @cached_property
    def distance(self) -> Array:
        return embeddings.distances(self.x)

    @cached_property
    def pictures(self) -> dict[str, Array]:
        unit = embeddings.directions(self.x)
        return {"tsne": embeddings.tsne(unit), "pca": embeddings.pca(unit)}

    @property
    def share(self) -> float:
        """The percentage of variance that two axes hold."""
        return float(100 * self.pictures["pca"].var(0).sum() / embeddings.directions(self.x).var(0).sum())

    def nearest(self, points: int) -> Array:
        return np.argsort(self.distance + np.diag(np.full(len(self.x), np.inf)), axis=1, kind="stable")[:, :points]


@dataclass(frozen=True)
class Groups:
    """The tokens that are looked at: their ids, how each is written, its group and how often it occurs."""

    names: Sequence[str]
    own: bool  # whether they were named by --mark
    ids: Array
    index: Array
    labels: Sequence[str]
    counts: Array | None

    def label(self, words: Words, number: int) -> str:
        return self.names[number] if self.own else words(f"group_{self.names[number]}")

    @property
    def sized(self) -> list[int]:
        """The groups of two tokens and more: others have no neighbours of their own."""
        return [number for number in range(len(self.names)) if (self.index == number).sum() > 1]

    def means(self, values: Array, index: Array) -> Array:
        """The mean over each sized group's tokens, and at the end over all of theirs."""
        each = [values[index == number] for number in self.sized]
        return np.array([*(group.mean() for group in each), np.concatenate(each).mean()])


def conduct(lab: Lab, section: Section, *, mark: Sequence[str] = ()) -> None:
    groups, kept = chosen(lab, mark)
    before, after = tables(untrained(lab).model), tables(lab.model)
    width = after.tokens.shape[1]
    section.text("tokens_mean", vocabulary=lab.config.vocab_size, width=width)
    section.text(f"kept_{kept}", kept=len(groups.ids), vocabulary=lab.config.vocab_size)
    section.text("control" if lab.run.train_config else "control_imported")
    pair = [Table(some.tokens[groups.ids]) for some in (before, after)]
    token_pictures(section, groups, pair)
    token_numbers(section, groups, pair)
    places = positions(section, lab, before, after)
    section.page("embeddings", page(groups, pair, places), height=720)
    arrays = {"ids": groups.ids, "group": groups.index, "groups": np.array(groups.names)}
    for kind, some in (("token", pair), ("position", places)):
        for when, table in zip(WHEN[2 - len(some) :], some, strict=True):
            arrays |= {f"{kind}_{name}_{when}": points for name, points in table.pictures.items()}
            arrays[f"{kind}_distance_{when}"] = table.distance.astype(np.float32)
    section.data("embeddings", **arrays)


def chosen(lab: Lab, marks: Sequence[str], limit: int = TOKENS) -> tuple[Groups, str]:
    """The tokens to look at, in order of their ids, and which these are: "all", those that were "seen" in training, the
    "most" frequent of these, or the "first" of a vocabulary whose text is not known. Special tokens always are."""
    names, index = embeddings.groups(lab.tokenizer, marks)
    ids, counts = np.arange(len(index)), occurrences(lab)
    kept = "all"
    if counts is not None:
        ids = ids[(counts > 0) | (ids >= len(ids) - len(lab.tokenizer.specials))]
        kept = "all" if len(ids) == len(index) else "seen"
        if len(ids) > limit:
            ids, kept = np.sort(ids[np.argsort(-counts[ids], kind="stable")][:limit]), "most"
        counts = counts[ids]
    elif len(ids) > limit:
        ids, kept = ids[:limit], "first"
    present = [number for number in range(len(names)) if (index[ids] == number).any()]
    renumbered = np.full(len(names) + 1, -1)  # its last is of those in no group
    renumbered[present] = np.arange(len(present))
    shown = [label for i in ids for label in labels(lab.tokenizer, [i])]
    found = Groups([names[n] for n in present], bool(marks), ids, renumbered[index[ids]], shown, counts)
    if not found.sized:
        raise ValueError(f"no group has two tokens that could be neighbours: name others than {', '.join(marks)!r}")
    return found, kept


def occurrences(lab: Lab) -> Array | None:
    """How often each token occurs in the text that was learned from; None where that is not at hand."""
    config = lab.run.train_config
    try:
        text = corpora.find(config.corpus) if config else None
    except (ValueError, OSError):
        return None
    if text is None or text.sha256 != lab.run.text.get("sha256"):
        return None
    return np.bincount(corpora.prepare(text, lab.tokenizer).train, minlength=lab.tokenizer.vocab_size)


# Tokens


def token_pictures(section: Section, groups: Groups, pair: Sequence[Table]) -> None:
    section.text("tsne_mean")
    section.figure("tokens_tsne", partial(token_figure, groups=groups, pair=pair, picture="tsne"))
    section.text("pca_mean", share=pair[1].share, share_before=pair[0].share)
    section.figure("tokens_pca", partial(token_figure, groups=groups, pair=pair, picture="pca"))


def token_figure(words: Words, shape: str, *, groups: Groups, pair: Sequence[Table], picture: str) -> Figure:
    wide = shape == "wide"
    made, axes = side_by_side(shape, 4.3 if wide else 7.6)
    letters = all(len(label) == 1 for label in groups.labels)
    present = [*range(len(groups.names)), *([-1] if (groups.index < 0).any() else [])]
    for panel, table, when in zip(axes, pair, WHEN, strict=True):
        points = table.pictures[picture]
        bounded(panel, points)
        panel.set_title(words(when))
        for number in sorted(present):  # those in no group below the others
            inside = groups.index == number
            glyphs = [glyph(groups.labels[at]) for at in np.flatnonzero(inside).tolist()] if letters else None
            scatter(panel, points[inside], number, glyphs)
    handles = []
    for number in present:
        example = groups.labels[int(np.argmax(groups.index == number))]
        look: dict[str, Any] = {"marker": glyph(example) if letters else marker(number), "color": color(number)}
        name = groups.label(words, number) if number >= 0 else words("group_rest")
        handles.append(Line2D([], [], linestyle="", markersize=7 if letters else 5, label=plain(name), **look))
    below(made, handles, columns=4 if wide else 2, handletextpad=0.1)
    return made


def side_by_side(shape: str, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Two panels: beside each other, or on a phone one above the other."""
    wide = shape == "wide"
    made, axes = figures.figure(shape, height, nrows=1 if wide else 2, ncols=2 if wide else 1)
    return made, axes


def bounded(panel: Axes, points: Array) -> None:
    """A square panel around points, its axes without numbers: they mean nothing."""
    low, high = points.min(0), points.max(0)
    (x, y), half = (low + high) / 2, 0.55 * ((high - low).max() or 1)
    panel.set(xticks=[], yticks=[], xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def scatter(panel: Axes, points: Array, number: int, glyphs: Sequence[Path] | None) -> None:
    """Points of one group, each the letter that it is, or the group's marker."""
    if glyphs:
        look: dict[str, Any] = {"facecolor": color(number), "linewidth": 0, "zorder": 2 + (number >= 0)}
        place = {"offsets": points, "offset_transform": panel.transData, "transform": IdentityTransform()}
        panel.add_collection(PathCollection(glyphs, sizes=[72], **place, **look))
    else:
        panel.plot(*points.T, marker(number), markersize=3.6, color=color(number), markeredgewidth=0, alpha=0.8)


@cache
def glyph(text: str) -> Path:
    """A character as a path of height about 1 around the origin."""
    path = TextPath((0, 0), text, size=1, prop=FontProperties(weight="bold"))
    if not len(path.vertices):
        return Path.unit_circle()
    box = path.get_extents()
    return path.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2))


def marker(number: int) -> str:
    return figures.MARKERS[number % len(figures.MARKERS)] if number >= 0 else "."


def color(number: int) -> str:
    return figures.COLORS[number % len(figures.COLORS)] if number >= 0 else REST


def plain(name: str) -> str:
    """A name that matplotlib does not read as a formula, nor (with "_" first) as one to leave out."""
    return "\N{ZERO WIDTH SPACE}" * name.startswith("_") + name.replace("$", r"\$")


def token_numbers(section: Section, groups: Groups, pair: Sequence[Table]) -> None:
    """Purity and silhouette of the groups, said, tabled and drawn."""
    orders = [table.nearest(embeddings.NEIGHBOURS) for table in pair]

    def purity(order: Array, index: Array) -> Array:
        return 100 * groups.means(embeddings.purities_of(order, index), index)

    before, after = (purity(order, groups.index) for order in orders)
    by_lot = 100 * groups.means(embeddings.chance(groups.index), groups.index)
    drawn = embeddings.shuffled(lambda index: purity(orders[1], index), groups.index, SHUFFLES)
    silhouettes = [groups.means(embeddings.silhouettes(table.distance, groups.index), groups.index) for table in pair]
    bar = np.maximum(drawn.max(0), before)  # what has to be exceeded
    numbers = {
        "shuffles": SHUFFLES,
        "before": before[-1],
        "after": after[-1],
        "chance": by_lot[-1],
        "highest": drawn.max(0)[-1],
    }
    section.text("purity_mean", neighbours=embeddings.NEIGHBOURS)
    section.text("gathered" if after[-1] > bar[-1] else "not_gathered", **numbers)

    def name(at: int) -> Any:
        return lambda words: words("all_groups") if at == len(groups.sized) else groups.label(words, groups.sized[at])

    found = [at for at in range(len(groups.sized)) if after[at] > bar[at]]
    missed = [at for at in range(len(groups.sized)) if at not in found]
    if found:
        best = sorted(found, key=lambda at: by_lot[at] - after[at])[:BEST]

        def listed(words: Words) -> str:
            return ", ".join(words("instead", group=name(at)(words), after=after[at], chance=by_lot[at]) for at in best)

        section.text("best", groups=listed)
    if found and missed:
        section.text("missed", shuffles=SHUFFLES, groups=lambda words: ", ".join(name(at)(words) for at in missed))
    section.figure("purity", lambda words, shape: purity_figure(words, shape, groups, before, after, drawn), **numbers)
    apart = int(np.argmax(silhouettes[1][:-1]))
    overall, best_one = silhouettes[1][-1], silhouettes[1][apart]
    verdict = "apart" if overall > APART else "some" if best_one > APART else "none"
    section.text("silhouette_mean")
    section.text(f"silhouette_{verdict}", group=name(apart), before=silhouettes[0][-1], after=overall, best=best_one)
    counts = [int((groups.index == number).sum()) for number in groups.sized]
    columns = [np.round(values, 1).tolist() for values in (by_lot, before, after)]
    columns += [np.round(values, 2).tolist() for values in silhouettes]
    rows = zip(map(name, range(len(counts) + 1)), [*counts, sum(counts)], *columns, strict=True)
    section.table("groups", [list(row) for row in rows])
    if len(groups.names) > 2:
        between_groups(section, groups, pair[1])


def purity_figure(words: Words, shape: str, groups: Groups, before: Array, after: Array, drawn: Array) -> Figure:
    """A line for each group: before, after, and what chance gives."""
    wide = shape == "wide"
    made, axes = figures.figure(shape, (1.2 if wide else 1.4) + 0.3 * len(before))
    at = -np.arange(len(before))
    names = [plain(groups.label(words, number)) for number in groups.sized]
    axes.hlines(at, before, after, color=figures.FAINT, linewidth=2.5, zorder=1)
    axes.hlines(at, drawn.min(0), drawn.max(0), color=REST, linewidth=6, alpha=0.55, label=words("by_chance"), zorder=2)
    look: dict[str, Any] = {"linestyle": "", "markersize": 6, "zorder": 3}
    axes.plot(before, at, "o", markerfacecolor="white", color=figures.COLORS[1], label=words("before"), **look)
    axes.plot(after, at, "o", color=figures.COLORS[0], label=words("after"), **look)
    axes.set_yticks(at, [*names, words("all_groups")])
    axes.set(xlim=(-3, 103), xticks=range(0, 101, 20), xlabel=words("axis_purity"), ylim=(at[-1] - 0.6, 0.6))
    axes.grid(axis="x", color=figures.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    below(made, axes.get_legend_handles_labels()[0], columns=3 if wide else 1)
    return made


def below(made: Figure, handles: Sequence[Artist], *, columns: int, **look: Any) -> None:
    """The legend, under all panels."""
    names = [str(handle.get_label()) for handle in handles]
    look |= {"ncols": columns, "columnspacing": 1, "fontsize": 8, "frameon": False}
    made.legend(handles, names, loc="outside lower center", **look)


def between_groups(section: Section, groups: Groups, table: Table) -> None:
    """How far groups are from each other."""
    inside = groups.index >= 0
    found = embeddings.between(table.distance[np.ix_(inside, inside)], groups.index[inside])
    rows, columns = np.triu_indices(len(found), 1)
    ends = {"nearest": int(np.argmin(found[rows, columns])), "furthest": int(np.argmax(found[rows, columns]))}
    values: dict[str, Any] = {}
    for end, at in ends.items():
        i, j = rows[at], columns[at]
        values[end] = found[i, j]
        values[f"{end}_one"] = lambda words, i=i: groups.label(words, i)
        values[f"{end}_other"] = lambda words, j=j: groups.label(words, j)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape, max(2.4, 1 + 0.27 * len(found)))
        image = figures.heat(axes, found)
        numbers = [str(number + 1) for number in range(len(found))]
        names = [plain(groups.label(words, number)) for number in range(len(found))]
        figures.labelled(axes, "x", numbers)
        figures.labelled(axes, "y", [f"{name}  {number}" for name, number in zip(names, numbers, strict=True)])
        colorbar(made, image, axes, words, "axis_distance")
        return made

    section.text("between_said", **values)
    section.figure("between", draw, **values)


def colorbar(made: Figure, image: Any, axes: Any, words: Words, label: str) -> None:
    bar = made.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
    bar.set_label(words(label))
    bar.locator = MaxNLocator(5)
    bar.formatter = FuncFormatter(lambda value, _: words.number(value))
    bar.update_ticks()


# Positions


def positions(section: Section, lab: Lab, before: Tables, after: Tables) -> list[Table]:
    """What is to be said of positions, and their tables: before and after training, or the one that is computed."""
    if before.positions is None or after.positions is None:
        section.text(f"no_table_{lab.config.position}")
        return []
    fixed = lab.config.position == "sinusoidal"
    places = [Table(after.positions)] if fixed else [Table(before.positions), Table(after.positions)]
    section.text("sinusoidal_mean" if fixed else "positions_mean", context=len(after.positions))
    for picture in ("tsne", "pca"):
        section.figure(f"positions_{picture}", partial(position_figure, places=places, picture=picture))
    correlations = [embeddings.rank_correlations(table.distance, SHUFFLES) for table in places]
    values = {
        "rho": correlations[-1][0],
        "rho_before": correlations[0][0],
        "highest": np.abs(correlations[-1][1:]).max(),
        "adjacent": 100 * embeddings.adjacent(places[-1].distance),
        "adjacent_before": 100 * embeddings.adjacent(places[0].distance),
        "chance": 200 / len(after.positions),
        "shuffles": SHUFFLES,
    }
    curves = [embeddings.by_separation(table.distance) for table in places]
    section.text("correlation_fixed" if fixed else "correlation", **values)
    ordered = values["rho"] > max(values["highest"], values["rho_before"] if not fixed else 0)
    section.text("ordered" if ordered and values["adjacent"] > 50 else "begun" if ordered else "unordered", **values)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape)
        styles = [("--", figures.COLORS[1], "before"), ("-", figures.COLORS[0], "fixed" if fixed else "after")]
        for curve, (style, shade, name) in zip(curves, styles[-len(curves) :], strict=True):
            axes.plot(range(1, len(curve) + 1), curve, style, color=shade, linewidth=1.5, label=words(name))
        axes.set(xlabel=words("axis_apart"), ylabel=words("axis_distance"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ",.0f")))
        axes.grid(color=figures.FAINT, linewidth=0.6)
        below(made, axes.get_legend_handles_labels()[0], columns=2 if shape == "wide" else 1)
        return made

    ends = {
        "near": curves[-1][0],
        "near_before": curves[0][0],
        "overall": places[-1].distance.sum() / count_pairs(places),
    }
    section.figure("separation", draw, **ends)
    return places


def count_pairs(places: Sequence[Table]) -> int:
    return len(places[-1].x) * (len(places[-1].x) - 1)


def position_figure(words: Words, shape: str, *, places: Sequence[Table], picture: str) -> Figure:
    """Positions as a path from the first to the last, light where it ends."""
    whens = WHEN if len(places) > 1 else ("fixed",)
    wide = shape == "wide"
    rows, columns = (1, len(places)) if wide else (len(places), 1)
    made, panels = figures.figure(shape, 3.6 if wide else 0.6 + 3.1 * rows, nrows=rows, ncols=columns, squeeze=False)
    for panel, table, when in zip(panels.flat, places, whens, strict=True):
        points = table.pictures[picture]
        bounded(panel, points)
        panel.set_title(words(when))
        panel.plot(*points.T, color=figures.FAINT, linewidth=0.8, zorder=1)
        shown = panel.scatter(
            *points.T, c=np.arange(len(points)), cmap=figures.SEQUENTIAL, s=22, linewidths=0, zorder=2
        )
    colorbar(made, shown, list(panels.flat), words, "axis_position")
    return made


# The page


def page(groups: Groups, pair: Sequence[Table], places: Sequence[Table]) -> dict[str, Any]:
    """What the page shows: for both tables where each point stands, in each picture, and its neighbours."""
    data: dict[str, Any] = {"groups": list(groups.names), "own": groups.own, "rest": REST, "colors": figures.COLORS}
    data["tokens"] = {
        "labels": list(groups.labels),
        "group": groups.index,
        "counts": groups.counts,
        **views(pair),
    }
    if places:
        data["positions"] = {"labels": [str(i) for i in range(len(places[0].x))], **views(places)}
    return data


def views(some: Sequence[Table]) -> dict[str, Any]:
    """Two tables as before and after, one as after alone."""
    found: dict[str, Any] = {}
    for when, table in zip(WHEN[2 - len(some) :], some, strict=True):
        near = table.nearest(embeddings.NEIGHBOURS)
        found[when] = {
            **{name: placed(points) for name, points in table.pictures.items()},
            "near": near,
            "distance": np.round(np.take_along_axis(table.distance, near, 1), 3),
        }
    return found


def placed(points: Array) -> Array:
    """Between 0 and 1, the longer side filled, y downwards as on a screen."""
    low, high = points.min(0), points.max(0)
    unit = 0.5 + (points - (low + high) / 2) / ((high - low).max() or 1)
    return np.round(np.stack([unit[:, 0], 1 - unit[:, 1]], 1), 4)
