"""How do the embeddings move while the model learns?"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from gptlab.experiments import figures
from gptlab.experiments.base import Number, Section, Words
from gptlab.experiments.embeddings import REST, Groups, bounded, chosen, color, glyph, marker, plain
from gptlab.lab import Lab
from gptlab.lens import embeddings
from gptlab.lens.snapshots import PICTURES, Snapshots, between, motion, snapshots
from gptlab.messages.progress import progress
from gptlab.registry import unknown
from gptlab.report.figures import LOOK
from gptlab.text.labels import SHOWN

Array = NDArray[Any]

MARKED = (12, 13, 14)  # positions that are looked at, unless somebody names others
TOKENS = 300  # that are filmed, at most: a picture by t-SNE takes time
NAMED = 24  # tokens with their names beside them, where they are longer than a letter
WIDTH, HEIGHT, DPI = 1280, 720, 100
STILL = 1.0  # seconds that the last picture stays
GIF_FRAMES, GIF_COLORS = 110, 128
RING, POINTS = "#D55E00", "offset points"
SHUFFLES = 99
ORDER = 0.3  # rank correlation of distance in the text and in the table from which on positions are said to be in order


@dataclass(frozen=True)
class Film:
    """What is to be seen: pictures in the plane (S, N, 2) at the steps (S,) of the snapshots."""

    steps: NDArray[np.int64]
    tokens: Array
    positions: Array | None
    groups: Groups
    marked: Sequence[int]
    losses: dict[str, Array]  # "train" and "val": rows of (step, loss)
    method: str

    def loss(self, step: float) -> float:
        """Where the dot stands: on the training curve, which begins where the first validation was; NaN without one."""
        curve = np.concatenate([self.losses["val"][:1], self.losses["train"]])
        curve = curve[np.argsort(curve[:, 0], kind="stable")]
        return float(np.interp(step, *curve.T)) if len(curve) else np.nan


def conduct(
    lab: Lab,
    section: Section,
    *,
    method: str = "tsne",
    mark: Sequence[str] = (),
    positions: Sequence[int] | None = None,
    seconds: float = 12,
    fps: int = 24,
) -> None:
    if method not in PICTURES:
        raise unknown("method", method, PICTURES)
    if not 0 < seconds <= 600 or not 1 <= fps <= 60:
        raise ValueError(f"a film of {seconds:g} seconds at {fps} pictures a second: up to 600 and 60, and above 0")
    taken = snapshots(lab.run)
    marked = positions_to_mark(taken, positions)
    groups, kept = chosen(lab, mark, TOKENS)
    words = section.words[section.lang]

    with progress(words("computing"), len(taken.steps)) as advance:
        tokens = []
        for picture in motion(taken.tokens[:, groups.ids], method):
            tokens.append(picture)
            advance(1)
    # Positions form a path, and PCA keeps large distances, too.
    places = None if taken.positions is None else np.stack(list(motion(taken.positions, "pca")))
    film = Film(taken.steps, np.stack(tokens), places, groups, marked, losses(lab), method)
    numbers = {"snapshots": len(film.steps), "first": int(film.steps[0]), "last": int(film.steps[-1])}
    section.text("about", **numbers)
    section.text(f"kept_{kept}", kept=len(groups.ids), vocabulary=lab.config.vocab_size)
    section.text(method)
    if places is not None:
        section.text("positions_by_pca")

    per_gap = max(1, round(seconds * fps / (len(film.steps) - 1)))
    write(film, words, section.folder, per_gap, fps)
    section.film("film", "film.png", **numbers)
    section.text("reading" if film.positions is None else "reading_positions")
    section.figure("stills", stills(film))
    measured = order(section, taken, film)
    section.page("film", live(film, section), height=720)
    section.data(
        "film",
        steps=film.steps,
        ids=groups.ids,
        group=groups.index,
        groups=np.array(groups.names),
        tokens=film.tokens,
        **({} if film.positions is None else {"positions": film.positions}),
        **measured,
    )


def positions_to_mark(taken: Snapshots, asked: Sequence[int] | None) -> list[int]:
    """The positions to mark. ValueError for one that is not there, and where there is no table of them."""
    if taken.positions is None:
        if asked:
            raise ValueError("this model learns no table of positions: leave --positions out")
        return []
    there = range(len(taken.positions[0]))
    if asked is None:
        return [at for at in MARKED if at in there]
    for at in asked:
        if at not in there:
            raise ValueError(f"there is no position {at}: this model has positions 0 to {len(there) - 1}")
    return sorted(set(asked))


def losses(lab: Lab) -> dict[str, Array]:
    def curve(name: str) -> Array:
        return np.array([(m["step"], m[name]) for m in lab.metrics if name in m], dtype=float).reshape(-1, 2)

    return {"train": curve("train_loss"), "val": curve("val_loss")}


# The film


class Screen:
    """A picture of a moment, drawn again and again: what stands still is drawn once.

    The loss stands below as a line of time, whose steps are spaced as the snapshots are, so that the dot goes evenly.
    """

    def __init__(self, film: Film, words: Words) -> None:
        self.film, self.words = film, words
        self.moving: list[Any] = []  # in the order of drawing
        self.cameras: list[tuple[Axes, Array]] = []
        with rc_context({**LOOK, "font.size": 14}):
            self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
            self.canvas = FigureCanvasAgg(self.figure)
            both = film.positions is not None
            self.clouds = self.token_panel(self.axes(16, 36, 620 if both else 930, 440))
            if both:
                self.path = self.position_panel(self.axes(660, 36, 520, 440), self.axes(1204, 96, 14, 320))
            self.dot, self.line, self.clock = self.loss_panel(self.axes(80, 590, 1170, 76))
            self.show(0)
            for artist in self.moving:
                artist.set_animated(True)
            self.canvas.draw()
            self.still = self.canvas.copy_from_bbox(self.figure.bbox)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at so many pixels."""
        return self.figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))

    def token_panel(self, axes: Axes) -> list[tuple[Array, PathCollection]]:
        film, groups = self.film, self.film.groups
        self.stage(axes, film.tokens, film.method, "tokens")
        clouds = []
        for number in present(groups):
            cloud = scattered(axes, film.tokens[0], groups, number, 1)
            self.moving.append(cloud)
            clouds.append((np.flatnonzero(groups.index == number), cloud))
        handles = legend(self.words, groups, 9)
        look: dict[str, Any] = {"handles": handles, "frameon": False, "fontsize": 13, "handletextpad": 0.1}
        if film.positions is None:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **look)
        else:
            place = (0.5, 1 - 482 / HEIGHT)
            self.figure.legend(loc="upper center", bbox_to_anchor=place, ncols=4, columnspacing=1.5, **look)
        self.names = [] if lettered(groups) else [self.named(axes, i) for i in prominent(film, NAMED)]
        return clouds

    def stage(self, axes: Axes, pictures: Array, method: str, name: str) -> None:
        axes.set(xticks=[], yticks=[])
        axes.set_title(self.words(f"{name}_{method}"), fontsize=15)
        box = axes.get_window_extent()
        self.cameras.append((axes, camera(pictures, box.width / box.height, follows=method == "tsne")))

    def named(self, axes: Axes, i: int) -> tuple[int, Any]:
        name = plain(self.film.groups.labels[i].lstrip(SHOWN[" "]) or SHOWN[" "])
        text = axes.annotate(
            name, (0, 0), xytext=(5, 3), textcoords=POINTS, fontsize=12, color=figures.INK, clip_on=True
        )
        self.moving.append(text)
        return i, text

    def position_panel(self, axes: Axes, scale: Axes) -> tuple[Line2D, PathCollection, list[tuple[int, Line2D, Any]]]:
        film = self.film
        assert film.positions is not None
        last = film.positions.shape[1] - 1
        self.stage(axes, film.positions, "pca", "positions")
        (line,) = axes.plot([], [], color="#b5b5b5", linewidth=1.2, zorder=1)
        zero = np.zeros(last + 1)
        points = axes.scatter(zero, zero, s=46, c=np.arange(last + 1), cmap=figures.SEQUENTIAL, zorder=2)
        bar = self.figure.colorbar(points, cax=scale, ticks=[0, last])
        bar.outline.set_visible(False)
        bar.set_label(self.words("position"), labelpad=-4)
        marks = []
        for at in film.marked:
            (ring,) = axes.plot([], [], "o", markersize=12, markerfacecolor="none", markeredgewidth=2, color=RING)
            look: dict[str, Any] = {"fontsize": 15, "fontweight": "bold", "color": RING, "clip_on": True}
            marks.append((at, ring, axes.annotate(str(at), (0, 0), xytext=(7, 6), textcoords=POINTS, **look)))
        self.moving += [line, points, *(artist for _, *two in marks for artist in two)]
        return line, points, marks

    def loss_panel(self, axes: Axes) -> tuple[Line2D, Line2D, Any]:
        film, words = self.film, self.words
        for name, style, look in (
            ("train", "-", {"color": figures.COLORS[0]}),
            ("val", "--o", {"color": figures.COLORS[1], "markersize": 4}),
        ):
            if len(film.losses[name]):
                axes.plot(*film.losses[name].T, style, linewidth=1.8, label=words(f"{name}_loss"), **look)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=13, ncols=2, borderpad=0)
        timeline(axes, film, words)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: words.number(y)))
        axes.set_ylabel(words("loss"), fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=figures.FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        line = axes.axvline(0, color=figures.INK, linewidth=1)
        (dot,) = axes.plot([], [], "o", markersize=9, color=figures.INK, clip_on=False)
        bold: dict[str, Any] = {
            "ha": "center",
            "va": "bottom",
            "fontsize": 17,
            "fontweight": "bold",
            "color": figures.INK,
        }
        clock = axes.annotate("", (0.5, 1), xycoords="axes fraction", xytext=(0, 5), textcoords=POINTS, **bold)
        self.moving += [line, dot, clock]
        return dot, line, clock

    def show(self, at: float) -> None:
        """Put all that moves where it is at a moment, 0 to S - 1: at whole numbers, at a snapshot itself."""
        film = self.film
        for axes, views in self.cameras:
            left, right, bottom, top = between(views, at)
            axes.set(xlim=(left, right), ylim=(bottom, top))
        points = between(film.tokens, at)
        for inside, cloud in self.clouds:
            cloud.set_offsets(points[inside])
        for i, text in self.names:
            text.xy = points[i]
        if film.positions is not None:
            points = between(film.positions, at)
            line, cloud, marks = self.path
            line.set_data(*points.T)
            cloud.set_offsets(points)
            for i, ring, text in marks:
                ring.set_data(points[i : i + 1, 0], points[i : i + 1, 1])
                text.xy = points[i]
        # Steps are spaced like squares, and so is what lies between them.
        step = between(np.sqrt(film.steps)[:, None], at)[0] ** 2
        self.dot.set_data([step], [film.loss(step)])
        self.line.set_xdata([step, step])
        self.clock.set_text(self.words("clock", step=round(step), last=int(film.steps[-1])))

    def picture(self, at: float) -> Array:
        """The moment as pixels, (HEIGHT, WIDTH, 4); overwritten by the next."""
        self.show(at)
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            artist.axes.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())


def lettered(groups: Groups) -> bool:
    """Whether every token can be drawn as the letter that it is."""
    return all(len(label) == 1 for label in groups.labels)


def present(groups: Groups) -> list[int]:
    """The groups, those in none before them, so that they are drawn below."""
    return [*([-1] if (groups.index < 0).any() else []), *range(len(groups.names))]


@cache
def shape_of(label: str) -> Any:
    return glyph(label)


def scattered(axes: Axes, points: Array, groups: Groups, number: int, size: float) -> PathCollection:
    """The tokens of one group, each the letter that it is, or else the group's marker."""
    inside = np.flatnonzero(groups.index == number)
    look: dict[str, Any] = {"facecolor": color(number), "linewidth": 0}
    if not lettered(groups):
        return axes.scatter(
            points[inside, 0], points[inside, 1], s=34 * size, marker=marker(number), alpha=0.85, **look
        )
    paths = [shape_of(groups.labels[i]) for i in inside.tolist()]
    cloud = PathCollection(paths, sizes=[190 * size], offsets=points[inside], offset_transform=axes.transData, **look)
    cloud.set_transform(IdentityTransform())
    axes.add_collection(cloud)
    return cloud


def legend(words: Words, groups: Groups, size: float) -> list[Line2D]:
    handles = []
    for number in present(groups):
        example = groups.labels[int(np.argmax(groups.index == number))]
        sign = shape_of(example) if lettered(groups) else marker(number)
        name = plain(group_name(words, groups, number))
        handles.append(
            Line2D(
                [], [], linestyle="", marker=sign, color=color(number), markersize=size, markeredgewidth=0, label=name
            )
        )
    return handles


def group_name(words: Words, groups: Groups, number: int) -> str:
    own = Words("embeddings", words.lang)
    return groups.label(own, number) if number >= 0 else own("group_rest")


def prominent(film: Film, number: int) -> list[int]:
    """The most frequent tokens (where frequencies are not known, the first) whose names do not meet in the last
    picture."""
    counts = np.zeros(len(film.groups.ids)) if film.groups.counts is None else film.groups.counts
    last = film.tokens[-1]
    room = np.ptp(last, axis=0).max() * np.array((0.16, 0.055))
    found: list[int] = []
    for i in np.argsort(-counts, kind="stable").tolist():
        if len(found) < number and not (np.abs(last[found] - last[i]) < room).all(1).any():
            found.append(i)
    return found


def camera(pictures: Array, ratio: float, *, follows: bool) -> Array:
    """What is in view at each snapshot, (S, 4): left, right, bottom, top, in a window so many times as wide as high.

    Where only neighbourhoods mean something, the view follows the points, smoothly; else all snapshots have the same.
    """
    from scipy.ndimage import gaussian_filter1d, maximum_filter1d

    low, high = pictures.min(1), pictures.max(1)
    if follows:
        low, high = (
            sign
            * gaussian_filter1d(maximum_filter1d(sign * edge, 7, axis=0, mode="nearest"), 2, axis=0, mode="nearest")
            for sign, edge in ((-1, low), (1, high))
        )
    else:
        low, high = np.tile(low.min(0), (len(low), 1)), np.tile(high.max(0), (len(high), 1))
    middle, half = (low + high) / 2, (high - low) / 2 * 1.16
    height = np.maximum(half[:, 1], half[:, 0] / ratio)[:, None]
    x, y = middle[:, :1], middle[:, 1:]
    views: Array = np.concatenate([x - ratio * height, x + ratio * height, y - height, y + height], 1)
    return views


def timeline(axes: Axes, film: Film, words: Words) -> None:
    """An axis of steps that is spaced as the snapshots are."""
    last = int(film.steps[-1])
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xlim(0, last)
    axes.set_xticks(spaced(last))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: words("number", value=round(x))))
    axes.set_xlabel(words("step"))


def spaced(last: int) -> list[int]:
    """Round steps for such an axis, and the last."""
    round_ones = [digit * 10**power for power in range(len(str(last))) for digit in (1, 2, 5)]
    found = [0]
    for step in round_ones:
        if (step / last) ** 0.5 - (found[-1] / last) ** 0.5 > 0.11 and (step / last) ** 0.5 < 0.87:
            found.append(step)
    return [*found, last]


def moments(film: Film, per_gap: int) -> Iterator[float]:
    """A moment for each picture of the film: all snapshots, and as many between them as make it smooth."""
    for at in range((len(film.steps) - 1) * per_gap + 1):
        yield at / per_gap


def write(film: Film, words: Words, folder: Path, per_gap: int, fps: int) -> None:
    """film.mp4, film.gif, and film.png, which is the last picture."""
    import imageio_ffmpeg
    from PIL import Image

    screen = Screen(film, words)
    every = list(moments(film, per_gap))
    stride = max(1, -(-len(every) // GIF_FRAMES), round(fps / 12))
    # What an SVG reader, a browser and a phone all play: 4:2:0, an even size, the index in front.
    writer = imageio_ffmpeg.write_frames(
        str(folder / "film.mp4"),
        (WIDTH, HEIGHT),
        pix_fmt_in="rgba",
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "23", "-preset", "veryfast", "-tune", "animation", "-movflags", "+faststart"],
    )
    writer.send(None)
    small: list[Any] = []
    try:
        with progress(words("drawing"), len(every)) as advance:
            for number, at in enumerate(every):
                pixels = screen.picture(at)
                writer.send(pixels)
                if number % stride == 0 or number == len(every) - 1:
                    small.append(Image.fromarray(pixels).convert("RGB").reduce(2))
                advance(1)
            for _ in range(round(STILL * fps)):
                writer.send(pixels)
    finally:
        writer.close()
    Image.fromarray(pixels).convert("RGB").save(folder / "film.png", optimize=True)
    gif(small, folder / "film.gif", 1000 * stride / fps)


def gif(pictures: Sequence[Any], path: Path, milliseconds: float) -> None:
    """Pictures as a GIF that goes round, all in one palette, so that nothing flickers."""
    from PIL import Image

    # Colours of small things must have their share of the palette, too.
    some = [pictures[0], pictures[len(pictures) // 2], pictures[-1]]
    swatches = [Image.new("RGB", (some[0].width, 12), color) for color in (*figures.COLORS, REST, RING)]
    sheet = Image.new("RGB", (some[0].width, sum(part.height for part in (*some, *swatches))))
    top = 0
    for part in (*some, *swatches):
        sheet.paste(part, (0, top))
        top += part.height
    palette = sheet.quantize(GIF_COLORS)
    flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    still = [round(milliseconds)] * (len(flat) - 1) + [round(1000 * STILL)]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=still, loop=0, optimize=False)


# Beside it


def stills(film: Film) -> Callable[[Words, str], Figure]:
    """The first, the middle and the last snapshot."""
    moments_ = [0, len(film.steps) // 2, len(film.steps) - 1]
    both = film.positions is not None

    def draw(words: Words, shape: str) -> Figure:
        wide = shape == "wide"
        kinds = 2 if both else 1
        size = {"nrows": kinds, "ncols": 3} if wide else {"nrows": 3, "ncols": kinds}
        made, axes = figures.figure(shape, (2.8 * kinds if wide else 6.6 if both else 9.5), squeeze=False, **size)
        panels = axes if wide else axes.T
        for column, at in enumerate(moments_):
            panel = panels[0][column]
            bounded(panel, film.tokens[at] if film.method == "tsne" else film.tokens.reshape(-1, 2))
            panel.set_title(words("at_step", step=int(film.steps[at])), fontsize=9)
            for number in present(film.groups):
                scattered(panel, film.tokens[at], film.groups, number, 0.17 if both and not wide else 0.25)
            if film.positions is not None:
                positions_still(panels[1][column], film, at)
        made.legend(
            handles=legend(words, film.groups, 5), loc="outside lower center", ncols=4 if wide else 2, frameon=False,
            handletextpad=0.1, fontsize=8.5,
        )  # fmt: skip
        return made

    return draw


def positions_still(panel: Axes, film: Film, at: int) -> None:
    assert film.positions is not None
    points = film.positions[at]
    bounded(panel, film.positions.reshape(-1, 2))
    panel.plot(*points.T, color="#b5b5b5", linewidth=0.7, zorder=1)
    panel.scatter(
        points[:, 0], points[:, 1], s=9, c=np.arange(len(points)), cmap=figures.SEQUENTIAL, linewidths=0, zorder=2
    )
    marked = points[list(film.marked)]
    panel.scatter(marked[:, 0], marked[:, 1], s=32, facecolors="none", edgecolors=RING, linewidths=1.1, zorder=3)


def order(section: Section, taken: Snapshots, film: Film) -> dict[str, Array]:
    """Whether order arises, and when: said, drawn and tabled, from distances in all dimensions."""
    groups = film.groups
    within = groups.index >= 0
    index = groups.index[within]

    def purity(distance: Array, index: Array) -> float:
        return 100 * float(np.nanmean(embeddings.purities(distance, index)))

    tokens = [embeddings.distances(table) for table in taken.tokens[:, groups.ids[within]]]
    pure = np.array([purity(distance, index) for distance in tokens])
    chance = 100 * float(embeddings.chance(index)[embeddings.sizes(index) > 1].mean())
    highest = float(embeddings.shuffled(lambda drawn: purity(tokens[-1], drawn), index, SHUFFLES).max())
    last = int(film.steps[-1])
    gathered = pure[-1] > max(highest, pure[0])
    numbers = {"before": pure[0], "after": pure[-1], "chance": chance, "neighbours": embeddings.NEIGHBOURS}
    if not gathered:
        section.text("not_gathered", **numbers, highest=highest, shuffles=SHUFFLES)
    else:
        section.text("gathered", **numbers)
        section.text("gathered_when", half=halfway(film.steps, pure), last=last)

    rho: Array | None = None
    if taken.positions is not None:
        distances = [embeddings.distances(table) for table in taken.positions]
        rho = np.array([embeddings.rank_correlation(distance) for distance in distances])
        beyond = float(np.abs(embeddings.rank_correlations(distances[-1], SHUFFLES)[1:]).max())
        verdict = "ordered" if rho[-1] > max(ORDER, beyond) else "begun" if rho[-1] > beyond else "unordered"
        section.text(f"positions_{verdict}", before=rho[0], after=rho[-1])
        if len(film.marked) > 1:
            means = [(mean_distance(distance, film.marked), mean_distance(distance)) for distance in distances]
            (before, every_before), (after, every_after) = means[0], means[-1]
            values = {"before": before, "every_before": every_before, "after": after, "every_after": every_after}
            section.text("marked", listed=", ".join(map(str, film.marked)), **values)
    section.figure("order", order_figure(film, pure, chance, rho), before=pure[0], after=pure[-1])
    section.table("moments" if rho is None else "moments_positions", moments_table(film, pure, rho))
    return {"purity": pure, **({} if rho is None else {"position_correlation": rho})}


def mean_distance(distance: Array, rows: Sequence[int] | None = None) -> float:
    """The mean over all pairs of some rows, of all without them."""
    some = distance if rows is None else distance[np.ix_(rows, rows)]
    return float(some[np.triu_indices(len(some), 1)].mean())


def halfway(steps: Array, values: Array) -> int:
    """The first step at which a value has come half of its way, from the first to the last."""
    return int(steps[int(np.argmax(values >= (values[0] + values[-1]) / 2))])


def order_figure(film: Film, pure: Array, chance: float, rho: Array | None) -> Callable[[Words, str], Figure]:
    curves = [("purity", pure, chance)] if rho is None else [("purity", pure, chance), ("correlation", rho, 0.0)]

    def draw(words: Words, shape: str) -> Figure:
        wide = shape == "wide"
        size = {"ncols": len(curves)} if wide else {"nrows": len(curves)}
        made, axes = figures.figure(shape, 2.9 if wide else 2.4 * len(curves) + 0.2, squeeze=False, **size)
        for number, (panel, (name, values, by_lot)) in enumerate(zip(axes.flat, curves, strict=True)):
            look: dict[str, Any] = {"marker": figures.MARKERS[number], "color": figures.COLORS[number]}
            panel.plot(film.steps, values, "-", markersize=3, linewidth=1.3, **look)
            panel.axhline(by_lot, color=figures.INK, linewidth=0.9, linestyle=(0, (4, 3)))
            panel.margins(y=0.12)
            low, high = panel.get_ylim()
            panel.set_ylim(min(low, by_lot - 0.2 * (high - low)), high)
            below: dict[str, Any] = {"xytext": (-3, -3), "va": "top", "ha": "right", "fontsize": 8.5}
            panel.annotate(
                words("by_chance"), (1, by_lot), xycoords=("axes fraction", "data"), textcoords=POINTS, **below
            )
            timeline(panel, film, words)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: words.number(y)))
            panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.set_ylabel(words(name), fontsize=8.5)
            panel.grid(color=figures.FAINT, linewidth=0.6)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        return made

    return draw


def moments_table(film: Film, pure: Array, rho: Array | None) -> list[list[Any]]:
    """Some snapshots in numbers."""

    rows = []
    for at in np.unique(np.linspace(0, len(film.steps) - 1, 6).round().astype(int)):
        step = int(film.steps[at])
        cells = [Number(step, ",d"), Number(float(film.loss(step)), ",.2f"), Number(float(pure[at]), ",.0f")]
        rows.append(cells if rho is None else [*cells, Number(float(rho[at]), ",.2f")])
    return rows


def live(film: Film, section: Section) -> dict[str, Any]:
    groups = film.groups

    def packed(pictures: Array) -> dict[str, Any]:
        """Coordinates as 16 bits, from the middle of all."""
        flat = pictures.reshape(-1, 2)
        middle = (flat.min(0) + flat.max(0)) / 2
        whole = np.round((pictures - middle) / (np.abs(flat - middle).max() or 1) * 32767).astype("<i2")
        return {"points": pictures.shape[1], "data": base64.b64encode(whole.tobytes()).decode()}

    return {
        "steps": film.steps,
        "loss": [None if np.isnan(loss) else float(f"{loss:.4g}") for loss in map(film.loss, film.steps)],
        "labels": groups.labels,
        "group": groups.index,
        "names": {
            lang: [group_name(words, groups, n) for n in range(len(groups.names))]
            for lang, words in section.words.items()
        },
        "rest": {lang: group_name(words, groups, -1) for lang, words in section.words.items()},
        "letters": lettered(groups),
        "tokens": packed(film.tokens),
        "positions": None if film.positions is None else packed(film.positions),
        "marked": film.marked,
        "follows": film.method == "tsne",
        "colors": [*figures.COLORS, REST],
        "markers": [*figures.MARKERS],
    }
