"""How does the choice of the next token change what is written?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from gptlab.config import SampleConfig
from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words, passage
from gptlab.experiments.figures import COLORS, FAINT, INK, MARKERS
from gptlab.generate import generate, sampling
from gptlab.lab import Lab, paragraphs
from gptlab.lens import decoding as lens
from gptlab.lens.decoding import MEASURES
from gptlab.messages.progress import progress
from gptlab.model import layouts
from gptlab.seeds import key
from gptlab.text import corpora
from gptlab.text.batches import beginnings
from gptlab.text.labels import labels
from gptlab.text.tokenizer import opening, prompt_ids, within

Array = lens.Array
FINE = tuple(round(i / 10, 1) for i in range(21))
COARSE = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)  # of a model that is large
LARGE = 3_000_000  # parameters
CLAIMED = 0.9  # what the old README found best
BENT = tuple(i / 4 for i in range(9))
BEST = 15  # tokens that are shown of a distribution
CUTS: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 10},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
}
PENALTIES: tuple[dict[str, float], ...] = (
    {},
    {"repetition_penalty": 1.1},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.2},
    {"frequency_penalty": 0.5},
    {"presence_penalty": 1.0},
)
FELT = 0.05  # nats per token: what is less is no price
UNDECIDED = math.log(10)  # nats: as undecided as among ten
SHOWN = 500  # characters of a text that are shown
PLACES = 250  # at which cuts are compared
DRAWS, SIZES, TESTED = 1_000_000, (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000), 1_000
BLOCKS = 200  # experiments of TESTED draws, at most
REPEATED = 10  # blocks of a size, at least: one alone says little
ALONE = 500  # tokens that the page has one by one; the others in as many groups of nearly equal logits


def conduct(
    lab: Lab, section: Section, *, prompt: str | None, on: str | None, samples: int | None, tokens: int | None
) -> None:
    for name, value, least in (("samples", samples, 2), ("tokens", tokens, 8)):
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, not {value}")
    writer = Writer(lab)
    begun = writer.beginning(prompt)
    section.text("mean", vocabulary=lab.tokenizer.vocab_size)
    side_by_side(writer, section, begun, tokens)
    logits = writer.next(begun)
    bending(writer, section, begun, logits)
    swept = Sweep.of(writer, begun, on=on, samples=samples, tokens=tokens)
    cuts(section, writer, swept)
    told_sweep(section, swept)
    live(section, writer, begun, logits, swept)
    penalties(section, writer, swept)
    large_numbers(section, logits)


class Writer:
    """A model that writes as `gptlab sample` does, but for what is no text: special tokens are never drawn."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.model, self.tokenizer = lab, lab.model, lab.tokenizer
        self.causal = lab.config.category == "causal"
        self.large = sum(p.numel() for p in lab.model.parameters()) >= LARGE
        self.vocabulary = lab.tokenizer.vocab_size
        words = self.vocabulary - len(lab.tokenizer.specials)
        self.bias = dict.fromkeys(range(words, lab.model.vocab_size), -math.inf)

    @property
    def separator(self) -> Array:
        """What stands before every text; nothing, of most models."""
        apart = paragraphs(self.lab.run.train_config)
        return opening(self.tokenizer, generate.PARAGRAPHS) if apart else np.zeros(0, np.int64)

    @property
    def most(self) -> int:
        """Tokens that may be given."""
        config = self.lab.config
        return layouts.readable(config, config.context) or config.context

    def beginning(self, prompt: str | None) -> Array:
        """The ids to go on from. By default, the validation text's beginning, up to where the model hesitates about as
        much as among ten tokens, which can be seen best: elsewhere it is often all but certain."""
        if prompt is not None:
            ids = np.concatenate([self.separator, prompt_ids(self.tokenizer, prompt)])[-self.most :]
            return ids if len(ids) else generate.start_ids(self.tokenizer)
        ids = np.concatenate([self.separator, prompt_ids(self.tokenizer, passage(self.lab, None, 48))])
        if not self.causal:
            return ids[: max(1, min(self.most, 24))]
        first = max(1, min(len(ids) - 1, len(self.separator) + 4))
        _, entropies = lens.read(self.model, ids[None, :first], ids[None, first:])
        return ids[: first + int(np.abs(entropies[0] - UNDECIDED).argmin())]

    def room(self, given: int) -> int | None:
        """How many tokens can follow so many; None: any number."""
        if self.causal:
            return None
        begun = layouts.begin(self.lab.config, torch.zeros(1, given, dtype=torch.long))["ids"]
        return self.model.context - begun.shape[1] + 1

    def write(self, given: Array, tokens: int, n: int, **settings: Any) -> Array:
        """The ids (N, T) that follow one beginning (G,), or each of N (N, G)."""
        config = SampleConfig(tokens=tokens, **settings)
        steps = generate.tokens(self.model, given, config, n=n, bias=self.bias)
        return torch.stack([chosen for chosen, _ in steps], 1).cpu().numpy()

    @torch.inference_mode()
    def next(self, given: Array) -> Tensor:
        """The logits (V,) of what comes next, special tokens included."""
        ids = torch.as_tensor(np.asarray(given, dtype=np.int64), device=self.model.embedding.device)
        reader = generate.Reader(self.model, ids, 1, window="halves")
        return reader.read(ids[None, :0])[0, : self.vocabulary].float().cpu()

    def spelled(self, ids: Array) -> str:
        return self.tokenizer.decode(ids)


def bent(logits: Tensor, **settings: Any) -> Array:
    """The probabilities (…, V) by which a sampler with these settings would draw."""
    nothing = torch.zeros_like(logits)
    found = sampling.bent(logits, SampleConfig(**settings), bias={}, seen=nothing, written=nothing)
    if settings.get("temperature") == 0:
        best = sampling.choose(found, torch.zeros(len(found)), greedy=True)
        return torch.nn.functional.one_hot(best, logits.shape[-1]).double().numpy()
    return found.double().softmax(-1).numpy()


def entropy(probabilities: Array) -> float:
    return float(torch.special.entr(torch.as_tensor(probabilities)).sum())


def shortened(text: str, most: int = SHOWN) -> str:
    """A text on one line, white space visible where it breaks lines."""
    text = text.replace("\n", " ↵ ")
    return text if len(text) <= most else text[:most] + "…"


# From one beginning


def side_by_side(writer: Writer, section: Section, begun: Array, tokens: int | None) -> None:
    room = writer.room(len(begun))
    length = min(tokens or (200 if writer.large else 300), room or 300)
    # By a sliding window, so that a choice depends on the tokens in it and on nothing else, as in the old GPTLab.
    argmax = writer.write(begun, length, 1, temperature=0.0, window="slide")[0]
    drawn = writer.write(begun, length, 2, temperature=1.0)
    section.text("prompt", prompt=shortened(writer.spelled(begun)).strip(" ↵") or "↵", tokens=length)
    section.table(
        "texts",
        [
            ["argmax", shortened(writer.spelled(argmax))],
            *(
                [lambda w, i=i: w("multinomial_row", number=i + 1), shortened(writer.spelled(ids))]
                for i, ids in enumerate(drawn)
            ),
        ],
    )
    found = lens.loop(argmax)
    if found is None:
        section.text("loop_none", tokens=length, repeated=100 * lens.repeated(argmax, 4))
    else:
        unit = shortened(writer.spelled(argmax[found.start : found.start + found.period]), 120)
        entry = "loop_one" if found.period == 1 else "loop_found"
        section.text(entry, start=found.start + 1, period=found.period, times=found.times, unit=unit)
        if writer.causal and length - found.start >= writer.model.context + found.period:
            section.text("loop_forever", context=writer.model.context)
    if writer.causal and len(begun) + 2 * length > writer.model.context:
        usual = lens.loop(writer.write(begun, 2 * length, 1, temperature=0.0)[0])
        if usual is None:
            section.text("usual_none", tokens=2 * length)
        else:
            section.text("usual_loop", tokens=2 * length, start=usual.start + 1, period=usual.period)
    section.text("drawn", seeds=2)
    section.csv(
        "texts_tokens",
        ["way", "token", "label"],
        [
            [way, at, label]
            for way, ids in (("argmax", argmax), ("multinomial 1", drawn[0]), ("multinomial 2", drawn[1]))
            for at, label in enumerate(labels(writer.tokenizer, ids))
        ],
    )


def bending(writer: Writer, section: Section, begun: Array, logits: Tensor) -> None:
    """The same distribution at each temperature."""
    bents = np.stack([bent(logits[None], temperature=t)[0] for t in BENT])
    entropies = [entropy(p) for p in bents]
    order = np.argsort(-bents[BENT.index(1.0)], kind="stable")[:BEST]
    names = labels(writer.tokenizer, order)
    others = 1 - bents[:, order].sum(1) if len(order) < len(logits) else None
    section.data("bending", temperatures=BENT, probabilities=bents, entropies=entropies, best=order)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape, 4.6 if shape == "wide" else 4.8)
        x = np.arange(len(order))
        levels = -np.arange(len(bents))
        axes.hlines(levels, -0.6, len(x) + 1, color=FAINT, linewidth=0.6)
        axes.add_collection(bars(x, levels, 0.92 * bents[:, order], facecolor=COLORS[0]))
        if others is not None:
            hatched = {"facecolor": "#dddddd", "edgecolor": "#777777", "hatch": "//////", "linewidth": 0.4}
            axes.add_collection(bars(x[:1] + len(x) + 0.5, levels, 0.92 * others[:, None], **hatched))
        axes.set_xlim(-0.6, len(x) + 1)
        shown, places = list(names), [float(at) for at in x]
        if others is not None:
            shown, places = [*shown, words("others")], [*places, len(x) + 0.5]
        long = max(map(len, names)) > 2
        axes.set_xticks(places, shown, rotation=90 if long else 0, fontsize=8)
        if not long and others is not None:
            axes.get_xticklabels()[-1].set_rotation(90)
        axes.set_yticks([-row for row in range(len(BENT))], [words.number(t) for t in BENT])
        axes.set_ylim(-len(BENT) + 0.85, 1.0)
        axes.set_ylabel(words("axis_temperature"))
        right = axes.twinx()
        right.set_ylim(axes.get_ylim())
        right.set_yticks(axes.get_yticks(), [words.number(h, ".2f") for h in entropies])
        right.set_ylabel(words("axis_entropy"))
        for part in (axes, right):
            part.tick_params(length=0)
            part.spines[["top", "right", "left", "bottom"]].set_visible(False)
        return made

    at = {t: bents[BENT.index(t)] for t in (0.5, 1.0, 2.0)}
    best = {f"best_{name}": 100 * at[t].max() for name, t in (("half", 0.5), ("one", 1.0), ("two", 2.0))}
    nats = {f"nats_{name}": entropies[BENT.index(t)] for name, t in (("half", 0.5), ("one", 1.0), ("two", 2.0))}
    section.text("bending_mean", token=names[0], choices=math.exp(nats["nats_one"]), **best, **nats)
    values: dict[str, Any] = {"best": len(order), **nats}
    section.figure("bending", draw, **values)


def bars(x: Array, levels: Array, heights: Array, **look: Any) -> PolyCollection:
    """Bars at x (X,), standing on levels (Y,), of heights (Y, X): one artist, since hundreds take long to draw."""
    corners = [
        [(at - 0.4, level), (at - 0.4, level + height), (at + 0.4, level + height), (at + 0.4, level)]
        for level, row in zip(levels, heights, strict=True)
        for at, height in zip(x, row, strict=True)
    ]
    return PolyCollection(corners, **look)


# Many texts at many temperatures


@dataclass(frozen=True)
class Sweep:
    """Texts written at S temperatures, each from the same N beginnings (N, G), and how the corpus goes on from them."""

    temperatures: Sequence[float]
    given: Array  # (N, G)
    ids: Array  # (S, N, T)
    written: Array  # (S, N, K), measures
    corpus_ids: Array | None  # (N, T)
    corpus: Array | None  # (N, K)
    name: str | None  # the corpus's
    loops: Array  # (S,), how many end in one
    sliding: int | None  # how many of argmax's do, read by a sliding window; None: nothing slides
    nearest: lens.Nearest | None

    @classmethod
    def of(cls, writer: Writer, begun: Array, *, on: str | None, samples: int | None, tokens: int | None) -> "Sweep":
        temperatures = COARSE if writer.large else FINE
        n, length = samples or (8 if writer.large else 16), tokens or (96 if writer.large else 160)
        source = on or (writer.lab.run.train_config.corpus if writer.lab.run.train_config else None)
        follows, name = None, None
        if source is None:
            given = np.tile(begun, (n, 1))
            length = min(length, writer.room(len(begun)) or length)
        else:
            name, pieces, before = cut_up(writer, source, n, length)
            given, follows = pieces[:, :before], pieces[:, before:]
            n, length = follows.shape
        with progress("write at each temperature", len(temperatures)) as advance:
            ids = []
            for temperature in temperatures:
                ids.append(writer.write(given, length, n, temperature=temperature))
                advance(1)
        written = np.stack([lens.measures(some, *lens.read(writer.model, given, some)) for some in ids])
        loops = np.array([looping(some) for some in ids])
        sliding = None
        if writer.causal and given.shape[1] + length > writer.model.context:
            sliding = looping(writer.write(given, length, n, temperature=0.0, window="slide"))
        corpus, near = None, None
        if follows is not None:
            corpus = lens.measures(follows, *lens.read(writer.model, given, follows))
            near = lens.nearest(written, corpus)
        return cls(temperatures, given, np.stack(ids), written, follows, corpus, name, loops, sliding, near)

    def at(self, temperature: float) -> int:
        return list(self.temperatures).index(temperature)


def looping(texts: Array) -> int:
    """How many texts end in a loop."""
    return sum(lens.loop(ids) is not None for ids in texts)


def cut_up(writer: Writer, source: str, n: int, length: int) -> tuple[str, Array, int]:
    """A text's name, N pieces of its validation part (of a foreign text, of all of it) at equal distances, and how many
    tokens of each are given. They begin where stories do, of a model that was trained so.

    ValueError for a text that is too short.
    """
    text = corpora.find(source)
    own = text.sha256 == writer.lab.run.text.get("sha256")
    data = corpora.prepare(text, writer.tokenizer, whole=not own)
    ids = data.val if own else data.train
    before = max(1, min(32, writer.most // 2))
    separator = writer.separator
    if len(separator):  # what is read anew from the middle of a story, such a model does not know
        length = min(length, max(8, writer.model.context + 1 - before))
    length = min(length, writer.room(before) or length)
    n = min(n, len(ids) // (before + length))
    starts = np.arange(max(0, len(ids) - before - length + 1))
    if len(separator):
        starts = beginnings(ids, within(writer.tokenizer, generate.PARAGRAPHS))
    starts = starts[starts <= len(ids) - before - length]
    if min(n, len(starts)) < 2:
        raise ValueError(
            f"{text.name} gives {len(ids)} tokens to compare with, and at least two pieces of {before + length} are "
            "needed: try smaller --tokens, or another text by --on"
        )
    chosen = starts[np.linspace(0, len(starts) - 1, min(n, len(starts))).astype(int)]
    return text.name, ids[chosen[:, None] + np.arange(before + length)].astype(np.int64), before


def cuts(section: Section, writer: Writer, swept: Sweep) -> None:
    """What each cut keeps, where the model is certain and where it hesitates."""
    text = swept.corpus_ids if swept.corpus_ids is not None else swept.ids[swept.at(1.0)]
    some = max(1, -(-PLACES // text.shape[1]))
    found: dict[str, list[float]] = {name: [] for name in ("entropy", *CUTS, *(f"{name}_mass" for name in CUTS))}
    for _, _, logits in lens.foretold(writer.model, swept.given[:some], text[:some]):
        flat = logits[..., : writer.vocabulary].reshape(-1, writer.vocabulary).cpu()
        whole = flat.softmax(-1).numpy()
        found["entropy"] += lens.entropy(flat).tolist()
        for name, settings in CUTS.items():
            kept = bent(flat, **settings) > 0
            found[name] += kept.sum(-1).tolist()
            found[f"{name}_mass"] += (whole * kept).sum(-1).tolist()
    columns = {name: np.array(values[:PLACES]) for name, values in found.items()}
    section.data("cuts", **columns)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape, 3.4 if shape == "wide" else 3.6)
        for number, name in enumerate(CUTS):
            axes.plot(
                columns["entropy"],
                columns[name],
                MARKERS[number],
                color=COLORS[(2, 0, 1)[number]],
                markersize=3.5,
                alpha=0.6,
                markeredgewidth=0,
                label=words(f"cut_{name}"),
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        localized(axes, words)
        axes.set_xlabel(words("axis_entropy"))
        axes.set_ylabel(words("axis_kept"))
        finished(axes)
        made.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, handletextpad=0.2, columnspacing=1.2)
        return made

    section.text("cuts_mean", places=len(columns["entropy"]))
    section.figure(
        "cuts",
        draw,
        low=int(columns["top_p"].min()),
        high=int(columns["top_p"].max()),
        low_min=int(columns["min_p"].min()),
        high_min=int(columns["min_p"].max()),
    )
    section.table(
        "cuts",
        [
            [
                lambda w, name=name: w(f"cut_{name}"),
                int(columns[name].min()),
                float(np.median(columns[name])),
                int(columns[name].max()),
                round(float(100 * (1 - columns[f"{name}_mass"].mean())), 2),
            ]
            for name in CUTS
        ],
    )


SHOWN_MEASURES = ("repeated_4", "distinct_2", "logprob", "entropy")


def told_sweep(section: Section, swept: Sweep) -> None:
    """The measures by temperature, beside the corpus's."""
    temperatures, near = np.array(swept.temperatures), swept.nearest
    means, n = swept.written.mean(1), swept.written.shape[1]
    errors = swept.written.std(1, ddof=1) / math.sqrt(n)
    arrays = {} if swept.corpus is None else {"corpus": swept.corpus, "corpus_ids": swept.corpus_ids}
    section.data(
        "sweep",
        temperatures=temperatures,
        measures=np.array(MEASURES),
        written=swept.written,
        ids=swept.ids,
        given=swept.given,
        loops=swept.loops,
        **arrays,
    )

    def draw(words: Words, shape: str) -> Figure:
        rows, columns = (2, 3) if shape == "wide" else (3, 2)
        made, grid = figures.figure(shape, 4.2 if shape == "wide" else 5.4, nrows=rows, ncols=columns, sharex=True)
        panels = list(grid.flat)
        for axes, name in zip(panels, SHOWN_MEASURES, strict=False):
            k = MEASURES.index(name)
            lines = axes.errorbar(
                temperatures, means[:, k], 2 * errors[:, k], fmt="o-", color=COLORS[0], markersize=2.5, linewidth=1
            )
            if swept.corpus is not None:
                mean, spread = swept.corpus[:, k].mean(), swept.corpus[:, k].std(ddof=1)
                band = axes.axhspan(mean - spread, mean + spread, color=COLORS[4], alpha=0.25, linewidth=0)
                line = axes.axhline(mean, color=COLORS[1], linestyle="--", linewidth=1.2)
            axes.set_title(words(name), fontsize=8.5)
        shown = {words("written"): lines}
        if swept.corpus is not None:
            shown |= {words("corpus_line"): line, words("corpus_band"): band}
        if near is not None:
            axes = panels[4]
            axes.fill_between(temperatures, near.low, near.high, color=COLORS[0], alpha=0.2, linewidth=0)
            axes.plot(temperatures, near.distances, "o-", color=COLORS[0], markersize=2.5, linewidth=1)
            shown[words("by_chance")] = axes.axhline(math.sqrt(2 / n), color=INK, linestyle=":", linewidth=1.2)
            [shown[words("nearest_mark")]] = axes.plot(
                temperatures[near.best], near.distances[near.best], "D", color=COLORS[1], markersize=6, linestyle="none"
            )
            axes.set_ylim(0, min(10, 1.1 * np.percentile(near.high, 90)))
            axes.set_title(words("distance"), fontsize=8.5)
        used = 4 if near is None else 5
        for at, axes in enumerate(panels):
            axes.set_visible(at < used)
            if at < used:
                axes.set_xticks((0, 0.5, 1, 1.5, 2))
                axes.yaxis.set_major_locator(MaxNLocator(4))
                localized(axes, words)
                axes.tick_params(labelsize=7.5)
                axes.tick_params(axis="x", labelbottom=at + columns >= used)
                finished(axes)
        made.supxlabel(words("axis_temperature"), fontsize=9)
        made.legend(
            shown.values(),
            shown.keys(),
            loc="outside upper left",
            ncols=3 if shape == "wide" else 2,
            frameon=False,
            fontsize=8,
        )
        return made

    follow = "sweep_own" if swept.corpus is None else "sweep_mean"
    section.text(follow, n=n, tokens=swept.ids.shape[2], given=swept.given.shape[1], text=swept.name or "")
    section.figure("sweep", draw, n=n)
    best_at = -1 if near is None else near.best
    kept = [
        i
        for i, t in enumerate(swept.temperatures)
        if len(temperatures) < 12 or i % 2 == 0 or t == CLAIMED or i == best_at
    ]
    rows: list[list[Any]] = [
        [
            words_number(float(temperatures[i])),
            int(swept.loops[i]),
            *(round(float(value), 3) for value in means[i]),
            *([] if near is None else [round(float(near.distances[i]), 2)]),
        ]
        for i in kept
    ]
    if swept.corpus is not None and swept.corpus_ids is not None:
        rows.append(
            [lambda w: w("corpus"), looping(swept.corpus_ids), *(round(float(v), 3) for v in swept.corpus.mean(0)), 0.0]
        )
    section.table("sweep" if near is not None else "alone", rows)
    loops = max(int(swept.loops[swept.at(0.0)]), swept.sliding or 0)
    section.text(
        "loops_many" if 2 * loops > n else "loops_some" if loops else "loops_never",
        loops=loops,
        n=n,
        drawn=int(swept.loops[swept.at(1.0)]),
    )
    usual = int(swept.loops[swept.at(0.0)])
    if swept.sliding not in (None, usual):
        section.text("loops_windows", n=n, sliding=swept.sliding, usual=usual)
    repeated = 100 * means[:, MEASURES.index("repeated_4")]
    section.text("repeats", repeated=repeated[swept.at(0.0)], repeated_drawn=repeated[swept.at(1.0)])
    if near is None:
        section.text("no_corpus")
        return
    assert swept.corpus is not None
    best = float(temperatures[near.best])
    likely = temperatures[np.cumsum(near.plausible) >= 0.05][0], temperatures[np.cumsum(near.plausible) >= 0.95][0]
    section.text(
        "nearest",
        best=best,
        low=float(likely[0]),
        high=float(likely[1]),
        distance=float(near.distances[near.best]),
        chance=math.sqrt(2 / n),
        greedy=float(near.distances[swept.at(0.0)]),
        hot=float(near.distances[swept.at(2.0)]),
    )
    entry = "claim_best" if best == CLAIMED else "claim_open" if likely[0] <= CLAIMED <= likely[1] else "claim_other"
    section.text(
        entry,
        claimed=CLAIMED,
        best=best,
        there=float(near.distances[swept.at(CLAIMED)]),
        here=near.distances[near.best],
    )
    k, h, one = MEASURES.index("logprob"), MEASURES.index("entropy"), swept.at(1.0)
    values = {"greedy": means[swept.at(0.0), k], "one": means[one, k], "corpus": float(swept.corpus[:, k].mean())}
    section.text("logprobs_likelier" if values["greedy"] > values["corpus"] else "logprobs_rarer", **values)
    gap = swept.written[one, :, k] + swept.written[one, :, h]
    if abs(gap.mean()) < 3 * gap.std(ddof=1) / math.sqrt(n):
        section.text("logprobs_entropy", one=means[one, k], entropy=means[one, h])


def words_number(value: float) -> Callable[[Words], str]:
    return lambda words: words.number(value, ".3g")


def penalties(section: Section, writer: Writer, swept: Sweep) -> None:
    """Whether argmax leaves its loop, and what it pays."""
    n, length = swept.ids.shape[1:]
    rows: list[list[Any]] = []
    texts: list[list[Any]] = []
    found = []
    with progress("write with penalties", len(PENALTIES)) as advance:
        for settings in PENALTIES:
            ids = (
                writer.write(swept.given, length, n, temperature=0.0, **settings)
                if settings
                else swept.ids[swept.at(0.0)]
            )
            loops = looping(ids)
            measured = lens.measures(ids, *lens.read(writer.model, swept.given, ids)).mean(0)
            found.append((loops, measured))
            name, value = next(iter(settings.items()), ("none", 1.0))
            said = partial(penalty, name=f"penalty_{name}", value=value)
            shares = (float(measured[MEASURES.index(m)]) for m in ("repeated_4", "distinct_2", "logprob"))
            rows.append([said, loops, *(round(share, 3) for share in shares)])
            texts.append([said, shortened(writer.spelled(ids[0]), 120)])
            advance(1)
    section.text("penalties_mean", n=n)
    section.table("penalties", rows)
    section.table("penalised", texts)
    k, r = MEASURES.index("logprob"), MEASURES.index("repeated_4")
    plain = found[0]
    strong = found[2]
    values = {
        "before": plain[0],
        "after": strong[0],
        "n": n,
        "repeated_before": 100 * plain[1][r],
        "repeated_after": 100 * strong[1][r],
        "logprob_before": plain[1][k],
        "logprob_after": strong[1][k],
        "drawn": float(swept.written[swept.at(1.0), :, k].mean()),
    }
    section.text("penalties_idle" if not plain[0] else "penalties_partly" if strong[0] else "penalties_cure", **values)
    cheap = values["logprob_after"] > values["logprob_before"] - FELT
    dear = values["logprob_after"] < values["drawn"]
    section.text("penalties_free" if cheap else "penalties_dear" if dear else "penalties_price", **values)


def penalty(words: Words, name: str, value: float) -> str:
    return words(name, value=value)


# Draws without end


def large_numbers(section: Section, logits: Tensor) -> None:
    """Counts against probabilities, of torch's draws and of our own."""
    p = bent(logits[None])[0]
    draws = {
        "multinomial": torch.multinomial(
            torch.from_numpy(p), DRAWS, replacement=True, generator=torch.Generator().manual_seed(0)
        ).numpy(),
        "choose": chosen(logits, min(DRAWS, 200_000_000 // len(p))),
    }
    found = {name: some_deviations(drawn, p) for name, drawn in draws.items()}
    slopes = {name: float(np.polyfit(np.log(sizes), np.log(by_size), 1)[0]) for name, (sizes, by_size) in found.items()}
    fits = {name: lens.fit(np.bincount(drawn, minlength=len(p)), p) for name, drawn in draws.items()}
    blocks = {name: tested(drawn, p) for name, drawn in draws.items()}
    section.data(
        "numbers",
        probabilities=p,
        **{f"counts_{name}": np.bincount(drawn, minlength=len(p)) for name, drawn in draws.items()},
        **{f"sizes_{name}": sizes for name, (sizes, _) in found.items()},
        **{f"deviations_{name}": by_size for name, (_, by_size) in found.items()},
        **{f"p_values_{name}": np.array(values) for name, values in blocks.items()},
    )

    def draw(words: Words, shape: str) -> Figure:
        made, axes = figures.figure(shape, 3.2 if shape == "wide" else 3.4)
        for number, (name, (sizes, by_size)) in enumerate(found.items()):
            axes.plot(
                sizes,
                by_size,
                MARKERS[number],
                color=COLORS[number],
                markersize=5.5,
                fillstyle=("full", "none")[number],
                label=words(f"drawn_{name}"),
            )
        sizes, by_size = found["multinomial"]
        scale = math.exp(np.mean(np.log(by_size) + np.log(sizes) / 2))
        axes.plot(sizes, scale / np.sqrt(sizes), "--", color=INK, linewidth=1, label=words("root_line"))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        localized(axes, words)
        axes.set_xlabel(words("axis_draws"))
        axes.set_ylabel(words("axis_deviation"))
        finished(axes)
        made.legend(loc="outside upper left", ncols=3 if shape == "wide" else 1, frameon=False, fontsize=8)
        return made

    section.text("numbers_mean", draws=DRAWS, nats=entropy(p))
    if min(by_size.min() for _, by_size in found.values()) <= 0:  # all draws the same
        section.text("numbers_certain", best=100 * float(p.max()))
        return
    section.figure("numbers", draw, slope=slopes["multinomial"])
    section.table(
        "numbers",
        [
            [
                lambda w, name=name: w(f"drawn_{name}"),
                len(draws[name]),
                round(slopes[name], 3),
                "–" if fit is None else round(fit.statistic, 1),
                "–" if fit is None else fit.cells - 1,
                "–" if fit is None else round(fit.p, 3),
                "–" if not blocks[name] else f"{sum(v < 0.05 for v in blocks[name])}/{len(blocks[name])}",
            ]
            for name, fit in fits.items()
        ],
    )
    fit = fits["multinomial"]
    if fit is None:
        section.text("numbers_certain", best=100 * float(p.max()))
        return
    sizes, by_size = found["multinomial"]
    section.text(
        "numbers_fall",
        few=int(sizes[0]),
        first=100 * by_size[0],
        many=int(sizes[-1]),
        last=100 * by_size[-1],
        slope=slopes["multinomial"],
    )
    section.text(
        "numbers_fit" if fit.p >= 0.01 else "numbers_misfit",
        p=fit.p,
        statistic=fit.statistic,
        degrees=fit.cells - 1,
        rejected=sum(v < 0.05 for v in blocks["multinomial"]),
        blocks=len(blocks["multinomial"]),
        size=TESTED,
    )


def chosen(logits: Tensor, draws: int) -> Array:
    """Draws of our own sampler, by uniform numbers."""
    uniforms = torch.from_numpy(np.random.default_rng(key(0, "law of large numbers")).random(draws))
    at_once = max(1, (1 << 23) // len(logits))
    found = [
        sampling.choose(logits.expand(len(some), -1), some, greedy=False) for some in torch.split(uniforms, at_once)
    ]
    return torch.cat(found).numpy()


def some_deviations(drawn: Array, p: Array) -> tuple[Array, Array]:
    sizes = [n for n in SIZES if n * REPEATED <= len(drawn)]
    return np.array(sizes), lens.deviations(drawn, p, sizes)


def tested(drawn: Array, p: Array) -> list[float]:
    """The p-value of each thousand draws."""
    parts = (drawn[i : i + TESTED] for i in range(0, len(drawn) - TESTED + 1, TESTED)[:BLOCKS])
    fits = (lens.fit(np.bincount(part, minlength=len(p)), p) for part in parts)
    return [fit.p for fit in fits if fit is not None]


# The page


def live(section: Section, writer: Writer, begun: Array, logits: Tensor, swept: Sweep) -> None:
    seen = np.bincount(begun.astype(np.int64), minlength=len(logits))[: len(logits)] > 0
    grouped = grouping(logits.double().numpy(), seen)
    texts = [shortened(writer.spelled(some[0]), 700) for some in swept.ids]
    data = {
        **grouped,
        "labels": labels(writer.tokenizer, grouped["ids"]),
        "temperatures": list(swept.temperatures),
        "texts": texts,
        "given": shortened(writer.spelled(swept.given[0]), 200),
        "corpus": None if swept.corpus_ids is None else shortened(writer.spelled(swept.corpus_ids[0]), 700),
        "measures": {
            name: [round(float(v), 3) for v in swept.written.mean(1)[:, MEASURES.index(name)]]
            for name in SHOWN_MEASURES
        },
        "prompt": shortened(writer.spelled(begun), 200),
    }
    section.text("page_mean")
    section.page("decoding", data, height=860)


def grouping(logits: Array, seen: Array) -> dict[str, Any]:
    """What the page computes with: tokens by falling logits, the likeliest and those seen one by one, the others in
    groups: ids (of those alone), and of all entries logits, counts, seen. At temperature 1, all is exact."""
    order = np.argsort(-logits, kind="stable")
    alone = np.zeros(len(logits), bool)
    alone[order[: ALONE if len(logits) > 4 * ALONE else None]] = True
    alone |= seen
    rest = order[~alone[order]]
    groups = np.array_split(rest, ALONE) if len(rest) >= ALONE else [rest[i : i + 1] for i in range(len(rest))]
    ids = [int(i) for i in order[alone[order]]]
    # The mean of odds, not of logits: so the probability of a group is that of its tokens.
    means = [float(np.logaddexp.reduce(logits[group]) - np.log(len(group))) for group in groups]
    return {
        "ids": ids,
        "logits": [round(float(x), 5) for x in [*logits[ids], *means]],
        "counts": [*([1] * len(ids)), *map(len, groups)],
        "seen": [*(int(seen[i]) for i in ids), *([0] * len(groups))],
    }


def localized(axes: Any, words: Words) -> None:
    form = FuncFormatter(lambda value, _: words.number(float(value), ",.6g"))
    axes.xaxis.set_major_formatter(form)
    axes.yaxis.set_major_formatter(form)


def finished(axes: Any) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
