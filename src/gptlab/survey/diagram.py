"""A model drawn: every part with the shape of what it gives out, from the model itself on the meta device.

Nothing is drawn by hand. Shapes are those that taps record; where norms, branches and sums stand is found by running
each block's residual layout on symbols, so that a new layout is drawn as it computes. The result is an SVG with text
as text, narrow enough for a phone: the stream runs down the middle, what passes a branch by runs on its left.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from torch import nn

from gptlab.config import ModelConfig
from gptlab.messages import catalogue, filled
from gptlab.model.attention import Attention
from gptlab.model.block import Block, QueryBlock
from gptlab.model.outline import Kind, Outline, Shape
from gptlab.model.positions.base import Position
from gptlab.model.transformer import Stack
from gptlab.survey.summary import Summary
from gptlab.survey.table import ACTIVATIONS, HERE, POSITIONS

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TITLE, SMALL = 12.0, 10.5  # sizes of letters
INK, SOFT, LINE = "#1f2933", "#52606d", "#7b8794"
FILLS = {
    "ids": "#ffffff",
    "table": "#efe7f7",
    "norm": "#fdf1d3",
    "attention": "#dbeafb",
    "mlp": "#dff3e4",
    "note": "#f3f4f6",
}
GAP = 15.0  # between two pieces: an arrow
RADIUS = 8.0  # of a sum
BIASES = {"alibi": "ALiBi", "t5-relative": "T5", "transformer-xl-relative": "Transformer-XL"}
Tap = tuple[str, Shape]  # a name of taps, and the shape that it has
AROUND = 15.0  # from a branch to the line that passes it by


# How a residual layout computes: it is run on streams, which remember what made them.


@dataclass(eq=False)
class Stream:
    """A value of which only its origin is known: ("use", part), ("sum",), ("scale", factor), or the start."""

    made: tuple[Any, ...] = ()
    of: "tuple[Stream, ...]" = ()

    def __add__(self, other: "Stream") -> "Stream":
        return Stream(("sum",), (self, other))

    def __mul__(self, factor: float) -> "Stream":
        return Stream(("scale", factor), (self,))

    __rmul__ = __mul__

    def comes_from(self, other: "Stream") -> bool:
        return self is other or any(source.comes_from(other) for source in self.of)


class Part(nn.Module):
    """Stands for a norm or a branch."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Stream) -> Stream:
        return Stream(("use", self.name), (x,))


@dataclass
class Join:
    """Branches that are added to what passes them by; all begin with the same parts, and then go apart."""

    scale: float
    common: "list[str | Join]"
    branches: "list[list[str | Join]]"


Way = list[str | Join]


def way_through(block: Block, branches: Sequence[str]) -> Way:
    """What a block does to the stream, in order: names of parts ("norms.0", "attention"), and joins."""
    layout = block.residual
    norms = layout.norms
    start = Stream()
    try:
        layout.norms = nn.ModuleList(Part(f"residual.norms.{i}") for i in range(len(norms)))  # type: ignore[arg-type]
        return way(layout(start, [Part(name) for name in branches]), start)
    finally:
        layout.norms = norms


def way(end: Stream, start: Stream) -> Way:
    """From start to end."""
    if end is start:
        return []
    if end.made[0] == "use":
        return [*way(end.of[0], start), end.made[1]]
    assert end.made[0] == "sum", "a layout is made of parts and sums"
    terms = list(end.of)
    while (passing := by_passing(terms)) is None:  # x + f(h) + g(h) is (x + f(h)) + g(h)
        nested = next(term for term in terms if term.made[:1] == ("sum",))
        terms = [part for term in terms for part in (term.of if term is nested else (term,))]
    fork = unscaled(passing)
    ways = [way(term, fork) for term in terms if term is not passing]
    common: Way = []
    while len(ways) > 1 and len({str(w[0]) for w in ways}) == 1:
        common.append(ways[0][0])
        ways = [w[1:] for w in ways]
    scale = passing.made[1] if passing.made[:1] == ("scale",) else 1.0
    return [*way(fork, start), Join(scale, common, ways)]


def unscaled(stream: Stream) -> Stream:
    return stream.of[0] if stream.made[:1] == ("scale",) else stream


def by_passing(terms: Sequence[Stream]) -> Stream | None:
    """The term that all others come from."""
    for term in terms:
        if all(other is term or other.comes_from(unscaled(term)) for other in terms):
            return term
    return None


# Pieces: each knows its extent left and right of the stream, its height, and how it is drawn.


class Canvas:
    """The SVG as it grows."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def line(self, *points: tuple[float, float], arrow: bool = False, color: str = LINE, halo: bool = False) -> None:
        """A line along points; with an arrow, its head at the last one."""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        if halo:  # where it crosses another line, it passes above
            self.parts.append(f'<path d="{path}" fill="none" stroke="#fff" stroke-width="5"/>')
        self.parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.3" stroke-linejoin="round"/>')
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
            head = [
                (x, y),
                (x - 6 * dx - 3.2 * dy, y - 6 * dy - 3.2 * dx),
                (x - 6 * dx + 3.2 * dy, y - 6 * dy + 3.2 * dx),
            ]
            self.parts.append(f'<path d="M{" L".join(f"{a:.1f} {b:.1f}" for a, b in head)}Z" fill="{color}"/>')

    def text(self, x: float, y: float, text: str, *, size: float = SMALL, color: str = SOFT, how: str = "") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" {how}>{escape(text)}</text>'
        )

    def rectangle(self, x: float, y: float, width: float, height: float, fill: str, stroke: str, radius: float) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" '
            f'fill="{fill}" stroke="{stroke}"/>'
        )


def width_of(text: str, size: float) -> float:
    """About how wide a text is in a sans-serif font, by the widest of those that systems have; titles are bold."""
    each = sum(0.36 if c in " ,.:;'il|()/" else 0.92 if c in "MWmw×" else 0.62 for c in text)
    return size * each * (1.12 if size >= TITLE else 1.0)


class Piece:
    left = right = 0.0
    height = 0.0

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        raise NotImplementedError


class Box(Piece):
    """A part: its name, notes, and the shape of what it gives out. side: a box that feeds it from the right."""

    def __init__(
        self,
        kind: str,
        title: str,
        *notes: str,
        shape: Tap | None = None,
        taps: Sequence[Tap] = (),
        side: "Box | None" = None,
    ) -> None:
        """taps: several that are drawn here, their shapes written in the notes."""
        self.kind, self.title, self.notes, self.side = kind, title, list(notes), side
        self.tap, self.taps = shape, [*taps, shape] if shape else list(taps)
        if shape:
            self.notes.append(written(shape[1]))
        widths = [width_of(title, TITLE), *(width_of(note, SMALL) for note in self.notes)]
        self.width = max(104.0, max(widths) + 14)
        self.height = 12 + TITLE + len(self.notes) * (SMALL + 3.5)
        self.left = self.right = self.width / 2
        self.place = 0.0, 0.0  # of the middle of its left side, once it is drawn
        if side:
            self.right += 20 + side.width

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        self.place = x - self.width / 2, y + self.height / 2
        canvas.parts.append(group(*self.taps))
        canvas.rectangle(x - self.width / 2, y, self.width, self.height, FILLS[self.kind], LINE, 5)
        at = y + 5 + TITLE
        canvas.text(x, at, self.title, size=TITLE, color=INK, how='text-anchor="middle" font-weight="600"')
        for number, note in enumerate(self.notes, 1):
            at += SMALL + 3.5
            last = self.tap is not None and number == len(self.notes)  # the shape
            canvas.text(x, at, note, color=INK if last else SOFT, how='text-anchor="middle"')
        canvas.parts.append("</g>")
        if self.side:
            beside, middle = x + self.width / 2, y + self.height / 2
            self.side.draw(canvas, beside + 20 + self.side.width / 2, middle - self.side.height / 2)
            canvas.line((beside + 20, middle), (beside, middle), arrow=True)


class Sum(Piece):
    """A circle with a plus; what is added comes from a box on the right, or from a join around it."""

    def __init__(self, shape: Tap, side: Box | None = None) -> None:
        self.tap, self.side = shape, side
        self.left = RADIUS
        self.height = max(2 * RADIUS, side.height if side else 0)
        self.right = RADIUS + (18 + side.width if side else 6 + width_of(written(shape[1]), SMALL))

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        middle = y + self.height / 2
        if self.side:
            canvas.line((x, y), (x, middle - RADIUS), arrow=True)
            canvas.line((x, middle + RADIUS), (x, y + self.height))
        canvas.parts.append(
            f'{group(self.tap)}<circle cx="{x:.1f}" cy="{middle:.1f}" r="{RADIUS}" fill="#fff" stroke="{INK}"/>'
        )
        canvas.line((x - 4, middle), (x + 4, middle), color=INK)
        canvas.line((x, middle - 4), (x, middle + 4), color=INK)
        if not self.side:
            canvas.text(x + RADIUS + 6, middle + 3.6, written(self.tap[1]), color=INK)
        canvas.parts.append("</g>")
        if self.side:
            self.side.draw(canvas, x + RADIUS + 18 + self.side.width / 2, middle - self.side.height / 2)
            canvas.line((x + RADIUS + 18, middle), (x + RADIUS, middle), arrow=True)


class Column(Piece):
    """Pieces one below the other, with arrows between them."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)
        joins = [piece for piece in pieces if isinstance(piece, Around)]
        for piece in joins:  # their lines stand in one column
            piece.widen(max(other.inner for other in joins))
        self.left = max((p.left for p in pieces), default=0)
        self.right = max((p.right for p in pieces), default=0)
        self.height = sum(p.height for p in pieces) + GAP * max(0, len(pieces) - 1)

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        for number, piece in enumerate(self.pieces):
            if number:
                canvas.line((x, y - GAP), (x, y), arrow=isinstance(piece, Box))
            piece.draw(canvas, x, y)
            y += piece.height + GAP


class Around(Piece):
    """Branches, their sum, and the line that passes them by on the left."""

    def __init__(self, common: Column, branches: Sequence[Column], total: Sum, scale: float, lang: str) -> None:
        self.common, self.branches, self.total = common, list(branches), total
        self.scale = "" if scale == 1 else filled("× {scale:.4g}", lang, scale=scale)
        self.lead = GAP + 4  # room for the fork above the branches
        self.apart = 14.0
        widths = [branch.left + branch.right for branch in branches]
        wide = sum(widths) + self.apart * (len(branches) - 1)
        single = len(branches) == 1
        # Where each branch's own stream runs, from the middle.
        self.offsets = [0.0] if single else []
        if not single:
            x = -wide / 2
            for branch, width in zip(branches, widths, strict=True):
                self.offsets.append(x + branch.left)
                x += width + self.apart
        outer_left = branches[0].left if single else wide / 2
        outer_right = branches[0].right if single else wide / 2
        self.widen(max(outer_left, common.left))
        self.right = max(outer_right, common.right, total.right)
        self.body = max(branch.height for branch in branches)
        self.top = common.height + (GAP if common.pieces else 0) + (0 if single else GAP)
        self.height = self.lead + self.top + self.body + GAP + (0 if single else GAP) + total.height

    def widen(self, inner: float) -> None:
        """Let the line pass by at this distance, and a little more."""
        self.inner = inner
        badge = width_of(self.scale, SMALL) / 2 + 3 if self.scale else 0.0
        self.beside = inner + max(AROUND, badge + 5)
        self.left = self.beside + badge

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        bottom = y + self.height - RADIUS
        beside = x - self.beside
        canvas.line((x, y + 3), (beside, y + 3), (beside, bottom), (x - RADIUS, bottom), arrow=True, color=INK)
        canvas.parts.append(f'<circle cx="{x:.1f}" cy="{y + 3:.1f}" r="2.4" fill="{INK}"/>')
        if self.scale:
            middle, width = (y + bottom) / 2, width_of(self.scale, SMALL) + 6
            canvas.rectangle(beside - width / 2, middle - 9, width, 18, "#fff", LINE, 9)
            canvas.text(beside, middle + 3.6, self.scale, color=INK, how='text-anchor="middle"')
        start = y + self.lead
        canvas.line((x, y), (x, start), arrow=True)
        self.common.draw(canvas, x, start)
        end = start + self.common.height
        if len(self.branches) == 1:
            if self.common.pieces:
                canvas.line((x, end), (x, end + GAP), arrow=True)
            self.branches[0].draw(canvas, x, start + self.top)
            canvas.line((x, start + self.top + self.body), (x, bottom - RADIUS), arrow=True)
        else:
            forked, joined = end + GAP * 0.8, start + self.top + self.body + GAP
            canvas.line((x, end), (x, forked))
            for branch, offset in zip(self.branches, self.offsets, strict=True):
                canvas.line((x, forked), (x + offset, forked), (x + offset, start + self.top), arrow=True)
                branch.draw(canvas, x + offset, start + self.top)
                canvas.line((x + offset, start + self.top + branch.height), (x + offset, joined), (x, joined))
            canvas.line((x, joined), (x, bottom - RADIUS), arrow=True)
        self.total.draw(canvas, x, bottom - RADIUS)


class Frame(Piece):
    """What is repeated, with how many times."""

    HEAD, PAD = 24.0, 12.0

    def __init__(self, label: str, note: str, content: Column) -> None:
        self.label, self.note, self.content = label, note, content
        heading = width_of(label, TITLE + 1) + 12 + width_of(note, SMALL)
        self.left = max(content.left + self.PAD, heading / 2 + self.PAD)
        self.right = max(content.right + self.PAD, heading / 2 + self.PAD)
        self.height = self.HEAD + content.height + self.PAD

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x - self.left, y, self.left + self.right, self.height, "#fbfcfd", "#b8c1cc", 9)
        canvas.text(x - self.left + 11, y + 17, self.label, size=TITLE + 1, color=INK, how='font-weight="700"')
        canvas.text(x + self.right - 11, y + 17, self.note, how='text-anchor="end"')
        canvas.line((x, y), (x, y + self.HEAD), arrow=isinstance(self.content.pieces[0], Box))
        self.content.draw(canvas, x, y + self.HEAD)
        canvas.line((x, y + self.HEAD + self.content.height), (x, y + self.height))


def written(shape: Shape) -> str:
    """1 × 1024 × 768, its numbers as in a program."""
    return " × ".join(map(str, shape))


def group(*taps: Tap) -> str:
    """The opening of a group that says, for programs, what of the model is drawn in it."""
    shapes = "; ".join(f"{name} {written(shape)}" for name, shape in taps)
    return f"<g data-shapes={quoteattr(shapes)}>" if taps else "<g>"


# From a model to pieces


class Drawing:
    """The pieces of one model, in one language."""

    def __init__(self, config: ModelConfig, found: Outline, lang: str) -> None:
        self.config, self.found, self.lang = config, found, lang
        self.crossings: list[Box] = []  # what reads the encoder

    def word(self, entry: str, **values: object) -> str:
        return filled(catalogue(self.lang, HERE)[entry], self.lang, **values)

    def stack(self, stack: Stack, kinds: Sequence[Kind], before: str) -> Iterator[Piece]:
        """Embedding, blocks and final norm of a decoder, or of an encoder (`before` is "encoder.")."""
        c, shapes, model = self.config, self.found.shapes, self.found.model
        embed = (f"{before}embed", shapes[f"{before}embed"])
        yield Box("ids", self.word("source_ids" if before else "token_ids"), shape=("ids", shapes["ids"]))
        table = self.word("table", shape=written(tuple(model.embedding.shape)))
        shared = [self.word("shared_table")] if before else []
        if isinstance(model.embedding_in, nn.Identity):
            yield Box("table", self.word("embedding"), *shared, table, shape=embed)
        else:
            yield Box("table", self.word("embedding"), *shared, table)
            yield Box("table", self.word("projection"), written(tuple(model.embedding_in.weight.shape)), shape=embed)
        if type(stack.position).embed is not Position.embed:
            weights = list(stack.position.parameters())
            size = [self.word("table", shape=written(tuple(weights[0].shape)))] if weights else []
            kind = self.word(f"positions_{c.position}")
            stream = f"{before}blocks.{kinds[0].layers[0]}.resid_pre"
            total = (stream, kinds[0].shapes["resid_pre"])
            yield Sum(total, side=Box("table", self.word("positions"), kind, *size))
        if not isinstance(stack.embedding_norm, nn.Identity):
            name = f"{before}embedding_norm"
            yield Box("norm", type(stack.embedding_norm).__name__, shape=(name, shapes[name]))
        yield from self.blocks(kinds, before)
        if not isinstance(stack.norm, nn.Identity):
            yield Box("norm", type(stack.norm).__name__, shape=(f"{before}norm", shapes[f"{before}norm"]))

    def blocks(self, kinds: Sequence[Kind], before: str) -> Iterator[Piece]:
        alternate = len(kinds) > 1 and len(kinds[0].layers) > 1 and kinds[0].layers[1] > kinds[1].layers[0]
        if not alternate:
            for kind in kinds:
                yield self.frame(kind, list(self.block(kind, before)))
            return
        # They take turns: one frame for all, and what differs from the first kind in a box of its own.
        pieces = list(self.block(kinds[0], before))
        for kind in kinds[1:]:
            name = f"{before}blocks.{kind.layers[0]}.resid_post"
            band = self.word("band", tokens=kind.block.attention.band)
            title = self.layers(kind)
            pieces.append(Box("note", title, self.word("the_same"), band, shape=(name, kind.shapes["resid_post"])))
        yield self.frame(kinds[0], pieces)

    def frame(self, kind: Kind, pieces: Sequence[Piece]) -> Frame:
        return Frame(f"× {len(kind.layers)}", self.layers(kind), Column(pieces))

    def layers(self, kind: Kind) -> str:
        return self.word("layer" if len(kind.layers) == 1 else "layers", layers=kind.span)

    def block(self, kind: Kind, before: str) -> Iterator[Piece]:
        block, prefix = kind.block, f"{before}blocks.{kind.layers[0]}."
        branches = ["attention", "mlp"] if block.cross is None else ["attention", "cross", "mlp"]
        steps = way_through(block, branches)
        sums = [s for s in steps if isinstance(s, Join)]
        middle = iter([name for name in ("resid_mid", "resid_mid_cross") if name in kind.shapes])

        def piece(name: str) -> list[Piece]:
            make: Callable[..., list[Piece]] = {
                "attention": self.attention,
                "cross": self.attention,
                "mlp": self.mlp,
            }.get(name, self.norm)
            return make(kind, prefix, name)

        def column(names: Way) -> Column:
            return Column([p for name in names if isinstance(name, str) for p in piece(name)])

        for step in steps:
            if isinstance(step, str):
                yield from piece(step)
                continue
            # A sum has the shape of the stream that the tap after it records.
            name = "resid_post" if step is sums[-1] else next(middle)
            total = Sum((f"{prefix}{name}", kind.shapes[name]))
            yield Around(column(step.common), [column(b) for b in step.branches], total, step.scale, self.lang)

    def norm(self, kind: Kind, prefix: str, name: str) -> list[Piece]:
        module = kind.block.get_submodule(name)
        return [Box("norm", type(module).__name__, shape=(f"{prefix}{name}", kind.shapes[name]))]

    def attention(self, kind: Kind, prefix: str, name: str) -> list[Piece]:
        block, shapes, c = kind.block, kind.shapes, self.config
        module = block.get_submodule(name)
        assert isinstance(module, Attention)
        cross = name == "cross"
        position = self.found.model.position
        q, k = shapes[f"{name}.q"], shapes[f"{name}.k"]
        notes = [f"q  {written(q)}", f"k, v  {written(k)}"] if q != k else [f"q, k, v  {written(q)}"]
        if not cross and type(position).rotate is not Position.rotate:
            notes.append(self.word("turned", encoding=POSITIONS[c.position][0]))
        side = None
        if isinstance(block, QueryBlock):
            assert self.found.model.query is not None
            table = self.word("table", shape=written(tuple(self.found.model.query.shape)))
            side = Box("table", self.word("queries"), table)
        taps = [(f"{prefix}{name}.{x}", shapes[f"{name}.{x}"]) for x in "qkv"]
        first = Box("attention", self.word("from_encoder") if cross else "q, k, v", *notes, taps=taps, side=side)
        if cross:
            self.crossings.append(first)
        biased = not cross and type(position).bias is not Position.bias
        scale = f" / √{module.head_dim}" if module.scale != 1 else ""
        formula = f"softmax(q kᵀ{scale}{' + b' if biased else ''})"
        seen = "prefix" if c.category == "prefix" else "causal"
        seen = "everything" if cross or prefix.startswith("encoder.") else seen
        mask = self.word("band", tokens=module.band) if module.band else self.word(f"mask_{seen}")
        told = [self.word("bias", encoding=BIASES[c.position])] if biased else []
        pattern = Box("attention", formula, mask, *told, shape=(f"{prefix}{name}.pattern", shapes[f"{name}.pattern"]))
        out = self.word("out")
        return [
            first,
            pattern,
            Box("attention", self.word("values"), shape=(f"{prefix}{name}.z", shapes[f"{name}.z"])),
            Box("attention", out, shape=(f"{prefix}{name}.out", shapes[f"{name}.out"])),
        ]

    def mlp(self, kind: Kind, prefix: str, name: str) -> list[Piece]:
        shapes = kind.shapes
        gated = len(kind.block.mlp.sections) > 1
        up = Box("mlp", self.word("gate_and_value" if gated else "up"), shape=(f"{prefix}mlp.up", shapes["mlp.up"]))
        act = ACTIVATIONS[self.config.activation][0]
        return [
            up,
            Box("mlp", act, shape=(f"{prefix}mlp.hidden", shapes["mlp.hidden"])),
            Box("mlp", self.word("down"), shape=(f"{prefix}mlp.down", shapes["mlp.down"])),
        ]

    def head(self) -> Iterator[Piece]:
        model, shapes, c = self.found.model, self.found.shapes, self.config
        if not isinstance(model.embedding_out, nn.Identity):
            name = "embedding_out"
            yield Box(
                "table",
                self.word("projection"),
                written(tuple(model.embedding_out.weight.shape)),
                shape=(name, shapes[name]),
            )
        notes = [self.word("tied" if c.tied_embeddings else "untied")]
        if c.logit_scale != 1:
            notes.append(filled("× {scale:.3g}", self.lang, scale=c.logit_scale))
        yield Box("table", self.word("head"), *notes, shape=("logits", shapes["logits"]))


MARGIN, TOP = 14.0, 54.0


def draw(summary: Summary, lang: str = "en") -> str:
    """The text of an SVG file."""
    found, title = summary.outline, summary.name
    drawing = Drawing(summary.config, found, lang)
    decoder = Column([*drawing.stack(found.model, found.decoder, ""), *drawing.head()])
    columns = [decoder]
    if found.model.encoder is not None:
        columns.insert(0, Column(list(drawing.stack(found.model.encoder, found.encoder, "encoder."))))
    between = 26.0
    parameters = sum(p.numel() for p in found.model.parameters())
    shape = found.shapes["ids"]
    about = drawing.word("about", parameters=parameters, batch=shape[0], length=shape[1])
    width = sum(c.left + c.right for c in columns) + between * (len(columns) - 1) + 2 * MARGIN
    heading = max(width_of(title, 15), width_of(about, SMALL)) + 2 * MARGIN
    shift = max(0.0, (heading - width) / 2)
    width = max(width, heading)
    heads = 20.0 if len(columns) > 1 else 0.0
    height = TOP + heads + max(c.height for c in columns) + MARGIN + (GAP if heads else 0)
    canvas = Canvas()
    canvas.text(MARGIN, 22, title, size=15, color=INK, how='font-weight="700"')
    canvas.text(MARGIN, 39, about)
    x, middles = MARGIN + shift, []
    for column in columns:
        middles.append(x + column.left)
        x += column.left + column.right + between
    for column, middle, name in zip(columns, middles, ("encoder", "decoder"), strict=False):
        if heads:
            canvas.text(
                middle, TOP + 8, drawing.word(name), size=13, color=INK, how='text-anchor="middle" font-weight="700"'
            )
        column.draw(canvas, middle, TOP + heads)
    if len(columns) > 1:
        crossing(canvas, columns, middles, TOP + heads, drawing.crossings)
    label = f"{title}: {about}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{FONT}" role="img" aria-label={quoteattr(label)}>\n'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>\n' + "\n".join(canvas.parts) + "\n</svg>\n"
    )


def crossing(
    canvas: Canvas, columns: Sequence[Column], middles: Sequence[float], top: float, boxes: Sequence[Box]
) -> None:
    """From the end of the encoder to every box that reads it, through the channel between the columns."""
    encoder = columns[0]
    end = top + encoder.height
    channel = middles[0] + encoder.right + 13
    canvas.line((middles[0], end), (middles[0], end + GAP), (channel, end + GAP), color=INK)
    for box in boxes:
        x, y = box.place
        canvas.line((channel, end + GAP), (channel, y), (x, y), arrow=True, color=INK, halo=True)
