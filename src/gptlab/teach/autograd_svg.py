"""A computational graph as an SVG: boxes in ranks, the edges between them, and all text where nothing covers it.

Ranks of boxes alternate with ranks of labels, and an edge that passes a rank has a lane of its own in it. So all text
has its place before any line is drawn. Lines are curved where that brings them near no text.
"""

import math
import unicodedata
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from torch import Tensor

from gptlab.messages import MARKS

if TYPE_CHECKING:
    from gptlab.teach.autograd import Edge, Graph, Node

COMMUTATIVE = {"multiply", "add"}  # their operands may be drawn in any order
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, SOFT, LINE = "#1f2933", "#52606d", "#7b8794"
BLUE, RED = "#0072B2", "#B34700"  # Okabe and Ito's; vermilion darker, to be read in small letters on white
MINUS = "−"
DASHED, DASHES = ' stroke-dasharray="4 3"', 25.0  # a broken line, and how long it is as a sign
BOLD = ' font-weight="700"'
SIZE, HEIGHT = 12.0, 15.5  # of letters, and of a line of text
ROOM = {"wide": 690.0, "narrow": 374.0}  # pixels from side to side for what is drawn; the margins come to it
LONGEST, TALLEST = 790.0, 560.0  # of a graph from left to right; the page makes it a little smaller
COLUMNS, ROWS = {"wide": 6, "narrow": 5}, 5  # of a table in a box
MARGIN, PAD = 8.0, 6.0  # around everything; within a box
BETWEEN = 9.0  # columns of a table
APART, LANE = 14.0, 11.0  # between boxes, and where a line passes
GAPS = {True: 11.0, False: 7.0}  # between ranks, at least: from top to bottom, and from left to right
HEAD = 7.0  # an arrow's


@dataclass(frozen=True)
class Written:
    """How numbers are written: the language's decimal mark, and significant digits."""

    lang: str
    digits: int

    def number(self, value: Any) -> str:
        """0.0898, -12 300 000 as -1.23e7, with a minus sign; zeros at the end are left off."""
        value = value.item() if isinstance(value, Tensor) else value
        if isinstance(value, bool | int | complex):
            return str(value).replace("-", MINUS)
        if not math.isfinite(value):
            return {math.inf: "∞", -math.inf: f"{MINUS}∞"}.get(value, "NaN")
        mantissa, _, power = f"{value:.{self.digits - 1}e}".partition("e")
        if -5 < int(power) < 6:
            text, end = f"{value:.{max(self.digits - 1 - int(power), 0)}f}", ""
        else:
            text, end = mantissa, f"e{int(power)}"
        text = (text.rstrip("0").rstrip(".") if "." in text else text) + end
        return ("0" if text == "-0" else text).replace("-", MINUS).replace(".", MARKS[self.lang][1])

    def short(self, tensor: Tensor) -> str:
        """A single number, else the shape."""
        return self.number(tensor) if tensor.numel() == 1 else self.shape(tensor)

    def shape(self, tensor: Tensor) -> str:
        """2 × 3; of a vector, 5 numbers: (5)."""
        return " × ".join(map(str, tensor.shape)) if tensor.ndim > 1 else f"({len(tensor)})"

    def table(self, tensor: Tensor, columns: int) -> list[list[str]]:
        """The numbers of a vector, as one row, or of a matrix; nothing for a single number, or too many."""
        if tensor.numel() == 1 or tensor.ndim > 2 or not 0 < tensor.shape[-1] <= columns:
            return []
        if tensor.numel() // tensor.shape[-1] > ROWS:
            return []
        return [[self.number(one) for one in row] for row in tensor.reshape(-1, tensor.shape[-1])]


@dataclass(frozen=True)
class Look:
    fill: str
    stroke: str
    width: float = 1.2
    round: float = 6.0
    dashed: bool = False


LOOKS = {
    "operation": Look("#fff6e0", "#E69F00"),
    "result": Look("#fff6e0", INK, 2),
    "parameter": Look("#e3f1fa", BLUE, 2, 0),
    "input": Look("#ffffff", LINE, 1.2, 12, True),
    "constant": Look("#ffffff", LINE, 1.2, 12, True),
    "aside": Look("#f3f4f6", LINE, 1.2, 6, True),
}


@cache
def advance(character: str, bold: bool) -> float:
    """How far a character moves the next one, in pixels: in DejaVu Sans, which is wider than what pages are mostly set
    in (and everywhere, for matplotlib brings it), or in whole pixels, as some screens have it, if that is more."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.ft2font import LoadFlags

    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))
    if unicodedata.east_asian_width(character) in "WF" or not font.get_char_index(ord(character)):
        return 1.1 * SIZE
    font.set_size(SIZE, 72)
    exact = font.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance / 65536
    return max(exact, round(exact))


def width_of(text: str, bold: bool = False) -> float:
    """How wide a text may be, in pixels."""
    return sum(advance(character, bold) for character in text)


def wrapped(text: str, width: float, indent: float = 0.0) -> list[str]:
    """Lines no wider than that, as long as words are not; indent: what stands before the first."""
    lines: list[str] = []
    for word in text.split():
        if lines and width_of(f"{lines[-1]} {word}") + indent * (len(lines) == 1) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


@dataclass
class Line:
    """One line of a box: pieces side by side, (text, colour, bold), or cells of a table at offsets from the middle."""

    pieces: list[tuple[str, str, bool]]
    cells: list[tuple[float, str]] = field(default_factory=list)  # right ends
    color: str = INK

    @property
    def width(self) -> float:
        return sum(width_of(text, bold) for text, _, bold in self.pieces)


class Box:
    """A node's text, set."""

    def __init__(self, graph: "Graph", node: "Node", written: Written, columns: int) -> None:
        self.look = LOOKS["result" if node is graph.nodes[-1] and node.kind == "operation" else node.kind]
        what = graph.word(node.operation or node.kind)
        shown = [one for one in (node.value, node.gradient) if one is not None]
        tables = [written.table(one, columns) for one in shown]
        rows = [row for table in tables for row in table]
        widths = [max(width_of(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
        self.width = sum(widths) + BETWEEN * (len(widths) - 1)
        ends = [sum(widths[: i + 1]) + BETWEEN * i - self.width / 2 for i in range(len(widths))]
        name = [(node.name, INK, True)] if node.name else []
        if name and width_of(node.name, True) + width_of(f" {what}") <= max(104, self.width):
            self.lines = [Line([*name, (f" {what}", SOFT, False)])]
        else:
            parts = wrapped(what, max(92.0, self.width))
            self.lines = [*([Line(name)] if name else []), *(Line([(part, SOFT, False)]) for part in parts)]
        if rows:
            self.lines.append(Line([(written.shape(shown[0]), SOFT, False)]))
        for one, table in zip(shown, tables, strict=True):
            word, color = ("", BLUE) if one is node.value else (graph.word("grad"), RED)
            if not table:
                self.lines.append(Line([(f"{word} {written.short(one)}".strip(), color, False)]))
            elif word:
                self.lines.append(Line([(word, color, False)]))
            self.lines += [Line([], list(zip(ends, row, strict=True)), color) for row in table]
        self.width = max(self.width, *(line.width for line in self.lines), 30.0) + 2 * PAD
        self.height = HEIGHT * len(self.lines) + 2 * PAD - 3

    def draw(self, canvas: list[str], x: float, y: float) -> None:
        """Around a middle."""
        look = self.look
        dashes = DASHED if look.dashed else ""
        canvas.append(
            f'<rect x="{x - self.width / 2:.1f}" y="{y - self.height / 2:.1f}" width="{self.width:.1f}" '
            f'height="{self.height:.1f}" rx="{look.round}" fill="{look.fill}" stroke="{look.stroke}" '
            f'stroke-width="{look.width}"{dashes}/>'
        )
        base = y - self.height / 2 + PAD + SIZE - 2.5
        for line in self.lines:
            for end, text in line.cells:
                canvas.append(text_at(x + end, base, [(text, line.color, False)], "end"))
            if line.pieces:
                canvas.append(text_at(x, base, line.pieces))
            base += HEIGHT


def text_at(x: float, y: float, pieces: Sequence[tuple[str, str, bool]], anchor: str = "middle") -> str:
    spans = [f'<tspan fill="{color}"{BOLD if bold else ""}>{escape(text)}</tspan>' for text, color, bold in pieces]
    how = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{how}>{"".join(spans)}</text>'


@dataclass(eq=False)
class Item:
    """What has a place in a rank: a box, a label, or (with no size) the lane of an edge. middle: across the ranks."""

    across: float
    along: float
    number: int = -1  # of the node, if it is a box
    label: str = ""
    middle: float = 0.0
    at: float = 0.0  # its place in its rank, counted

    @property
    def lane(self) -> bool:
        return self.number < 0 and not self.label


@dataclass(eq=False)
class Link:
    """A piece of an edge, from one rank to the next; where on its items it ends, from their middles."""

    source: Item
    target: Item
    edge: int
    leave: float = 0.0
    enter: float = 0.0

    @property
    def weight(self) -> float:
        """How much it wants to be straight: long edges more than what bends at a box anyhow."""
        return 1.0 + 3.0 * (self.source.number < 0) * (self.target.number < 0)


class Layout:
    """Places for boxes and labels, from the first rank (inputs) to the last (the result), and the way of each edge.

    sizes: (across, along) of each box; labels: of each edge, or none; edges: by target and operand; room: across.
    Sugiyama, Tagawa and Toda 1981: ranks, then an order within ranks with few crossings, then places.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[float, float]],
        labels: Sequence[tuple[str, float, float]],
        edges: "Sequence[Edge]",
        free: Sequence[bool],
        room: float,
        gap: float,
    ) -> None:
        """free: whether the operands of a node may be drawn in any order."""
        self.edges, self.free = edges, free
        self.boxes = [Item(*size, number=number) for number, size in enumerate(sizes)]
        ranks = ranked([across for across, _ in sizes], edges, room)
        self.ranks: list[list[Item]] = [[] for _ in range(2 * max(ranks) + 1)]
        self.ways: list[list[Item]] = []
        for number, box in enumerate(self.boxes):
            self.ranks[2 * ranks[number]].append(box)
        for edge, (label, across, along) in zip(edges, labels, strict=True):
            self.ways.append(self.way(edge, ranks, Item(across, along, label=label) if label else None))
        self.links = [Link(a, b, number) for number, way in enumerate(self.ways) for a, b in pairwise(way)]
        self.into: dict[Item, list[Link]] = {item: [] for rank in self.ranks for item in rank}
        self.out_of: dict[Item, list[Link]] = {item: [] for rank in self.ranks for item in rank}
        for link in self.links:
            self.into[link.target].append(link)
            self.out_of[link.source].append(link)
        self.order()
        self.ports()
        self.place(room, gap)

    def way(self, edge: "Edge", ranks: Sequence[int], label: Item | None) -> list[Item]:
        """The items of an edge, rank by rank; its label is where the fewest are, near its target."""
        between = range(2 * ranks[edge.source] + 1, 2 * ranks[edge.target])
        there = min(reversed(between[::2]), key=lambda rank: sum(bool(item.label) for item in self.ranks[rank]))
        items = [label if label is not None and rank == there else Item(0, 0) for rank in between]
        for rank, item in zip(between, items, strict=True):
            self.ranks[rank].append(item)
        return [self.boxes[edge.source], *items, self.boxes[edge.target]]

    # The order in each rank.

    def order(self) -> None:
        """Each item goes to the mean place of its neighbours in the rank before, or behind; then it changes places with
        the one beside it, where fewer lines cross that way. The best of some rounds."""
        best, fewest = [list(rank) for rank in self.ranks], math.inf
        for turn in range(12):
            backward = turn % 2 == 0  # from the result on, whose operands stand in their order
            for rank in reversed(self.ranks) if backward else self.ranks:
                wanted = {item: self.wanted_at(item, backward) for item in rank}
                rank.sort(key=wanted.__getitem__)
                self.count(rank)
            if len(self.into) < 500:  # it takes long for many
                for number in range(len(self.ranks)):
                    self.exchange(number)
            crossings = sum(map(self.crossings, range(len(self.ranks) - 1)))
            if crossings < fewest:
                best, fewest = [list(rank) for rank in self.ranks], crossings
        self.ranks = best
        self.rank_of = {item: number for number, rank in enumerate(self.ranks) for item in rank}
        for rank in self.ranks:
            self.count(rank)

    def exchange(self, number: int) -> None:
        """Neighbours in one rank."""
        rank = self.ranks[number]
        beside = range(max(number - 1, 0), min(number + 1, len(self.ranks) - 1))
        now = sum(map(self.crossings, beside))
        for i in range(len(rank) - 1):
            rank[i], rank[i + 1] = rank[i + 1], rank[i]
            self.count(rank)
            then = sum(map(self.crossings, beside))
            if then < now:
                now = then
            else:
                rank[i], rank[i + 1] = rank[i + 1], rank[i]
        self.count(rank)

    def count(self, rank: Sequence[Item]) -> None:
        for place, item in enumerate(rank):
            item.at = place - (len(rank) - 1) / 2

    def wanted_at(self, item: Item, backward: bool) -> float:
        if backward:
            places = [link.target.at + self.operand(link) for link in self.out_of[item]]
        else:
            places = [link.source.at for link in self.into[item]]
        return sum(places) / len(places) if places else item.at

    def operand(self, link: Link) -> float:
        """Where on its target an edge ends, as part of a place."""
        target = link.target.number
        if target < 0 or self.free[target]:
            return 0.0
        return (self.edges[link.edge].slot + 1) / (len(self.into[link.target]) + 1) - 0.5

    def crossings(self, number: int) -> int:
        """Pairs of links that cross between a rank and the next: inversions."""
        starts = sorted(
            (item.at, link.target.at + self.operand(link)) for item in self.ranks[number] for link in self.out_of[item]
        )
        ends: list[float] = []
        last: list[float] = []
        found, before = 0, -math.inf
        for start, end in starts:
            if start > before:  # what leaves from one item does not cross itself
                for one in last:
                    insort(ends, one)
                last, before = [], start
            found += len(ends) - bisect_right(ends, end)
            last.append(end)
        return found

    def ports(self) -> None:
        """Where edges end on a box: operands in their order, unless it means nothing."""
        for box in self.boxes:
            entering, leaving = self.into[box], self.out_of[box]
            by_order = not self.free[box.number]
            entering.sort(key=lambda link: (0 if by_order else link.source.at, self.edges[link.edge].slot))
            leaving.sort(key=lambda link: (link.target.at, link.edge))
            for links, name in ((entering, "enter"), (leaving, "leave")):
                step = min(18.0, (box.across - 16) / max(len(links) - 1, 1))
                for i, link in enumerate(links):
                    setattr(link, name, (i - (len(links) - 1) / 2) * step)

    # Places.

    def place(self, room: float, gap: float) -> None:
        """Across: as straight as the order allows, within the room, or the widest rank if that is wider. Along: one
        rank after the other, further apart where lines have far to go."""
        needed = [sum(apart(rank)) + (rank[0].across + rank[-1].across) / 2 for rank in self.ranks]
        self.across = max(room, *needed)
        for rank, width in zip(self.ranks, needed, strict=True):
            steps = [0.0, *np.cumsum(apart(rank))]
            for item, step in zip(rank, steps, strict=True):
                item.middle = (self.across - width + rank[0].across) / 2 + step
        for turn in range(24):
            backward = turn % 2 == 0
            for rank in reversed(self.ranks) if backward else self.ranks:
                self.straighten(rank, into=not backward or turn > 15, out_of=backward or turn > 15)
        low = min(item.middle - item.across / 2 for rank in self.ranks for item in rank)
        high = max(item.middle + item.across / 2 for rank in self.ranks for item in rank)
        for item in self.into:
            item.middle -= low
        self.across = high - low
        self.starts: list[float] = []
        at = 0.0
        for number, rank in enumerate(self.ranks):
            self.starts.append(at)
            at += self.thickness(number)
            far = max((abs(self.bend(link)) for item in rank for link in self.out_of[item]), default=0.0)
            at += gap + min(20.0, far * 0.1) + HEAD * (number % 2)
        self.along = self.starts[-1] + self.thickness(len(self.ranks) - 1)

    def straighten(self, rank: Sequence[Item], into: bool, out_of: bool) -> None:
        wanted, weights = [], []
        for item in rank:
            pulls = [(link.source.middle + link.leave - link.enter, link.weight) for link in self.into[item] if into]
            pulls += [
                (link.target.middle + link.enter - link.leave, link.weight) for link in self.out_of[item] if out_of
            ]
            weight = sum(w for _, w in pulls)
            wanted.append(sum(x * w for x, w in pulls) / weight if weight else item.middle)
            weights.append(weight or 0.1)
        steps = np.array([0.0, *np.cumsum(apart(rank))])
        low, high = rank[0].across / 2, self.across - rank[-1].across / 2 - steps[-1]
        for item, middle in zip(
            rank, np.clip(isotonic(np.array(wanted) - steps, weights), low, high) + steps, strict=True
        ):
            item.middle = float(middle)

    def thickness(self, rank: int) -> float:
        return max(item.along for item in self.ranks[rank])

    def bend(self, link: Link) -> float:
        return link.target.middle + link.enter - link.source.middle - link.leave


def apart(rank: Sequence[Item]) -> list[float]:
    """How far the middles of neighbours in a rank must be from each other."""
    return [(a.across + b.across) / 2 + (APART if a.number >= 0 and b.number >= 0 else LANE) for a, b in pairwise(rank)]


def isotonic(wanted: Any, weights: Sequence[float]) -> Any:
    """The rising numbers nearest to those wanted, in weighted squares: pools of neighbours that would fall."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for mean, weight, count in zip(wanted, weights, [1] * len(weights), strict=True):
        while pools and pools[-1][0] > mean:
            before, heavy, many = pools.pop()
            mean, weight, count = (before * heavy + mean * weight) / (heavy + weight), heavy + weight, count + many
        pools.append((mean, weight, count))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def ranked(sizes: Sequence[float], edges: "Sequence[Edge]", room: float) -> list[int]:
    """A rank for each node, before those of all that use it: as late as may be, but none wider than the room.

    Coffman and Graham 1972, from the result backward: what is longest to compute goes first; but what found no room
    beside it twice has waited long enough.
    """
    targets: list[list[int]] = [[] for _ in sizes]
    depth = [0] * len(sizes)
    for edge in edges:  # by target, and operands come before their results
        targets[edge.source].append(edge.target)
        depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
    height = [-1] * len(sizes)  # ranks after this one
    waited = [0] * len(sizes)
    left = set(range(len(sizes)))
    level = 0
    while left:
        ready = [n for n in left if all(0 <= height[t] < level for t in targets[n])]
        for node in ready:
            waited[node] += 1
        ready.sort(key=lambda n: (waited[n] <= 2, -depth[n], n))
        lanes = sum(height[edge.target] >= 0 and edge.source in left for edge in edges)
        used, count = lanes * LANE, 0
        for node in ready:
            more = sizes[node] + APART - len(targets[node]) * LANE
            if count and used + more > room + APART:
                continue
            used, count = used + more, count + 1
            height[node] = level
            left.discard(node)
        level += 1
    return [level - 1 - h for h in height]


def drawn(graph: "Graph", shape: str, written: Written) -> str:
    """The SVG."""
    boxes = [Box(graph, node, written, COLUMNS[shape]) for node in graph.nodes]
    texts = ["" if edge.local is None else f"×{written.number(edge.local)}" for edge in graph.edges]
    free = [node.operation in COMMUTATIVE for node in graph.nodes]

    def laid(down: bool, room: float) -> Layout:
        turn: Callable[[float, float], tuple[float, float]] = (lambda w, h: (w, h)) if down else (lambda w, h: (h, w))
        labels = [(text, *turn(width_of(text) + 4, HEIGHT)) for text in texts]
        return Layout([turn(box.width, box.height) for box in boxes], labels, graph.edges, free, room, GAPS[down])

    down, room = shape == "narrow", ROOM[shape]
    plan = laid(True, room) if down else laid(False, TALLEST)
    if not down and plan.along > LONGEST:
        down, plan = True, laid(True, room)
    width, height = (plan.across, plan.along) if down else (plan.along, plan.across)
    legend = legend_of(graph, max(width, min(room, 340.0)))
    whole = max([width, *(indent_of(sign) * bool(color) + width_of(text) for sign, color, text in legend)])
    left = (whole - width) / 2 + MARGIN

    def point(along: float, across: float) -> str:
        x, y = (left + across, along + MARGIN) if down else (left + along, across + MARGIN)
        return f"{x:.1f},{y:.1f}"

    canvas: list[str] = []
    middles = {
        item: (plan.starts[number] + plan.thickness(number) / 2, item.middle)
        for number, rank in enumerate(plan.ranks)
        for item in rank
        if not item.lane
    }
    taken = [
        (item, a - item.along / 2 - 1, a + item.along / 2 + 1, b - item.across / 2 - 1, b + item.across / 2 + 1)
        for item, (a, b) in middles.items()
    ]
    for number, edge in enumerate(graph.edges):
        curve, (touch, into) = path_of(plan, number, taken)
        path = "M" + point(*curve[0][:2])
        for (a, x, m), (b, y, n) in pairwise(curve):
            third = (b - a) / 3
            path += f" C{point(a + third, x + third * m)} {point(b - third, y - third * n)} {point(b, y)}"
        head = " ".join(point(touch - back, into + side) for back, side in ((0, 0), (HEAD, 3.4), (HEAD, -3.4)))
        dashes = DASHED if graph.nodes[edge.source].gradient is None else ""
        canvas.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.3"{dashes}/>')
        canvas.append(f'<polygon points="{head}" fill="{LINE}"/>')
    for item, middle in middles.items():
        x, y = map(float, point(*middle).split(","))
        if item.number >= 0:
            boxes[item.number].draw(canvas, x, y)
        else:
            wide = width_of(item.label) + 2
            corner = f'x="{x - wide / 2:.1f}" y="{y - HEIGHT / 2:.1f}"'
            canvas.append(f'<rect {corner} width="{wide:.1f}" height="{HEIGHT}" fill="#ffffff"/>')
            canvas.append(text_at(x, y + SIZE * 0.36, [(item.label, RED, False)]))
    base = height + MARGIN + 14 + SIZE
    for sign, color, text in legend:
        if sign:
            canvas.append(text_at(MARGIN, base, [(sign, color, True)], "start"))
        elif color:
            y = base - SIZE * 0.33
            canvas.append(
                f'<path d="M{MARGIN:.1f},{y:.1f} h{DASHES:g}" fill="none" stroke="{color}" stroke-width="1.3"{DASHED}/>'
            )
        canvas.append(text_at(MARGIN + (indent_of(sign) if color else 0), base, [(text, SOFT, False)], "start"))
        base += HEIGHT
    w, h = whole + 2 * MARGIN, base - SIZE + MARGIN
    title = graph.word("title", name=graph.nodes[-1].name or graph.word("result"))
    told = "; ".join(told_of(graph, number, written) for number in range(len(graph.nodes)))
    body = "\n".join(canvas)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h:.0f}" viewBox="0 0 {w:.1f} {h:.1f}" '
        f'role="img" font-family="{FONT}" font-size="{SIZE:g}">\n'
        f"<title>{escape(title)}</title>\n<desc>{escape(told)}</desc>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def told_of(graph: "Graph", number: int, written: Written) -> str:
    """A node for whoever hears the drawing: z: add(multiply, b), 2.42, grad −0.0817."""
    first, *more = graph.lines(graph.nodes[number], written)
    given = ", ".join(graph.called(operand) for operand in graph.operands(number))
    return ", ".join([f"{first}({given})" if given else first, *more])


def legend_of(graph: "Graph", width: float) -> list[tuple[str, str, str]]:
    """What colours and signs mean, in lines no wider than that: (sign, its colour, what it means); a line that goes on
    has no colour, and the sign of a broken line is drawn."""
    name = graph.nodes[-1].name or graph.word("result")
    entries = [
        (graph.word("value"), BLUE, "legend_value"),
        (graph.word("grad"), RED, "legend_gradient"),
        ("×", RED, "legend_local"),
        ("", LINE, "legend_dashed"),
    ]
    lines: list[tuple[str, str, str]] = []
    for sign, color, key in entries:
        if key in graph.keys:
            first, *rest = wrapped(graph.word(key, name=name), width, indent_of(sign))
            lines += [(sign, color, first), *(("", "", line) for line in rest)]
    return lines


def indent_of(sign: str) -> float:
    """Where the meaning of a sign begins."""
    return width_of(sign, True) + 6 if sign else DASHES + 6


def path_of(
    plan: Layout, edge: int, texts: Sequence[tuple[Item, float, float, float, float]]
) -> tuple[list[tuple[float, float, float]], tuple[float, float]]:
    """The way of an edge: points (along, across, slope there), joined by cubic curves; and where its head touches.

    As few bends as may be: through the middle of its label, straight past boxes; and where that would come near a
    text that is not its own, straight past labels, too. texts: what to keep away from, (item, along, across: from, to).
    """
    way = plan.ways[edge]
    links = [next(link for link in plan.out_of[item] if link.edge == edge) for item in way[:-1]]
    first, last = links[0], links[-1]
    begin = plan.rank_of[way[0]]
    start = plan.starts[begin] + (plan.thickness(begin) + way[0].along) / 2
    end = plan.starts[plan.rank_of[way[-1]]]
    touch = end + (plan.thickness(plan.rank_of[way[-1]]) - way[-1].along) / 2
    out, into = first.source.middle + first.leave, last.target.middle + last.enter
    own = set(way)
    for straight in (False, True):
        points = [(start, out), (max(start, plan.starts[begin] + plan.thickness(begin)), out)]
        for item in way[1:-1]:
            rank = plan.rank_of[item]
            low, thick = plan.starts[rank], plan.thickness(rank)
            if rank % 2 == 0 or straight:
                points += [(low, item.middle), (low + thick, item.middle)]
            else:
                points.append((low + thick / 2, item.middle))
        points += [(end - HEAD, into), (touch - HEAD + 1, into)]
        curve = smooth([point for point, after in pairwise([*points, (math.inf, 0.0)]) if point[0] < after[0]])
        if straight or not meets(curve, [box for item, *box in texts if item not in own]):
            break
    return curve, (touch, into)


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """With a slope at each, so that cubic curves between them neither overshoot nor break: Fritsch and Butland 1984."""
    steps = [(b - a, (y - x) / (b - a)) for (a, x), (b, y) in pairwise(points)]
    slopes = [0.0]
    for (h, m), (g, n) in pairwise(steps):
        slopes.append(0.0 if m * n <= 0 else 3 * (h + g) / ((2 * g + h) / m + (g + 2 * h) / n))
    return [(*point, slope) for point, slope in zip(points, [*slopes, 0.0], strict=True)]


def meets(curve: Sequence[tuple[float, float, float]], boxes: Sequence[Sequence[float]]) -> bool:
    """Whether a curve comes into one of the boxes (along: from, to, across: from, to), at points close together."""
    at, x, slope = np.array(curve).T[:, :, None]
    h, t = np.diff(at, axis=0), np.linspace(0, 1, 13)
    y = (2 * t**3 - 3 * t**2 + 1) * x[:-1] + (t**3 - 2 * t**2 + t) * h * slope[:-1]
    y = y + (3 * t**2 - 2 * t**3) * x[1:] + (t**3 - t**2) * h * slope[1:]
    along, across = (at[:-1] + t * h).reshape(-1, 1), y.reshape(-1, 1)
    a, b, c, d = np.array(boxes).reshape(-1, 4).T
    return bool(((a <= along) & (along <= b) & (c <= across) & (across <= d)).any())
