"""What does the model expect at each place of a text, and what surprises it?"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from gptlab.experiments import figures
from gptlab.experiments.base import Number, Section, Words, passage
from gptlab.lab import Lab, paragraphs
from gptlab.lens.logits import TOP, Expectations, expectations, first_asked
from gptlab.lens.trace import trace
from gptlab.text import corpora
from gptlab.text.fables import SEPARATOR, corpus
from gptlab.text.fables.expectation import Owner, Tales, TrueTokens, true_tokens
from gptlab.text.labels import labels
from gptlab.text.tokenizer import opening, prompt_ids, within

Array = NDArray[Any]

TOKENS = 256  # that are read, at most
BARS = 12
WORST = 10
CONTEXT = 32  # characters before a place, where it is named
CLOSE = 1.0  # nats over the truth, of a whole text, that are little
# Cividis upside down, begun with white: what is expected stands on plain paper.
SHADES = LinearSegmentedColormap.from_list(
    "surprise", [(0, "#ffffff"), (0.25, "#f3dd6d"), (0.6, "#7d7c78"), (1, "#00224e")]
)
DARK = 0.5  # from which shade on ink is white
POINTS = {"wide": 8.5, "narrow": 7.5}  # of the letters of a text, in a type
WIDTH, HEIGHT = 0.602, 1.75  # whose letters are so wide, and lines so high, for each point


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: what it was given, and what it foretold of the rest."""

    ids: Array  # (T,) what is shown: given tokens, then N that were foretold
    given: int
    expected: Expectations  # of N tokens
    logits: Array  # (N + 1, V): the last row is of what comes after the text
    truth: TrueTokens | None  # its last N (+ 1) entries are those of the tokens
    why: str  # there is no truth; "" where nobody expects one

    @property
    def foretold(self) -> int:
        return len(self.ids) - self.given

    def true_row(self, at: int) -> dict[int, float]:
        """The true distribution of foretold token `at`."""
        assert self.truth is not None
        return self.truth.rows[at - self.foretold - 1]


def read(lab: Lab, text: str | None) -> Reading:
    """Let the model foretell each token of a text, or, of a model with a prefix or an encoder, of its second half."""
    config, trained = lab.config, lab.run.train_config
    langs = corpus.languages(trained.corpus) if trained and corpora.is_fables(trained.corpus) else ()
    shown, truth, why = passage(lab, text, TOKENS), None, ""
    if langs:
        truth, why = truth_of(langs, shown, lab)
        if why and text is None and (whole := shown.rpartition(" ")[0]):  # it is cut within a word
            shown = whole
            truth, why = truth_of(langs, shown, lab)
    cut = len(shown) if config.category == "causal" else middle(shown)
    first, second = (prompt_ids(lab.tokenizer, some) for some in (shown[:cut], shown[cut:]))
    # Where texts begin behind a blank line, the model is to know that this one begins.
    lead = within(lab.tokenizer, SEPARATOR) if langs else first[:0]
    if paragraphs(trained):
        lead = opening(lab.tokenizer, SEPARATOR)
    found = trace(lab.model, lab.tokenizer, np.concatenate([lead, first]), second, names=("logits",))
    ids, given, row = np.concatenate([first, second]).astype(np.int64), len(first), first_asked(config, found)
    if config.category == "causal":
        given, row = (0, len(lead) - 1) if len(lead) else (1, 0)
    if len(ids) <= given:
        raise ValueError("there is nothing to foretell in so short a text: give a longer one with --text")
    logits = found.logits[row:]
    return Reading(ids, given, expectations(logits[:-1], ids[given:]), logits, truth, why)


def truth_of(langs: Sequence[str], text: str, lab: Lab) -> tuple[TrueTokens | None, str]:
    """The true distributions of a text's tokens, or why there are none."""
    try:
        return true_tokens(Tales.of(langs), text, lab.tokenizer), ""
    except ValueError as error:
        return None, str(error)


def middle(text: str) -> int:
    """The place between two words that is nearest to the middle of a text."""
    breaks = [found.start() for found in re.finditer(r"[ \n](?=\S)", text)]
    return min(breaks, key=lambda at: abs(at - len(text) / 2), default=len(text) // 2)


def conduct(lab: Lab, section: Section, *, text: str | None = None) -> None:
    reading = read(lab, text)
    found = reading.expected
    tokens = labels(lab.tokenizer, reading.ids)
    asked = tokens[reading.given :]
    section.text("intro", vocabulary=lab.config.vocab_size)
    if reading.given:
        section.text("beginning" if lab.config.category == "causal" else "given")
    section.text(
        "summary",
        tokens=reading.foretold,
        mean=found.nats.mean(),
        perplexity=found.perplexity,
        first=100 * (found.rank == 1).mean(),
    )
    worst = int(found.nats.argmax())
    nats = np.append(np.full(reading.given, np.nan), found.nats)
    section.figure(
        "text",
        lambda words, shape: coloured(words, shape, tokens, nats),
        tokens=reading.foretold,
        worst=asked[worst],
        nats=found.nats[worst],
    )
    section.text("surprising")
    section.table("surprising", surprising(lab, reading, tokens))
    sure = found.deviation
    section.text(
        "too_sure" if sure > 2 else "too_careful" if sure < -2 else "calibrated",
        expected=found.entropy.sum(),
        paid=found.nats.sum(),
        deviation=abs(sure) if abs(sure) > 2 else sure,
    )
    after(lab, section, reading, tokens, at=reading.foretold if text is not None else int(found.entropy.argmax()))
    if reading.truth is not None:
        decisions(section, reading, reading.truth)
    elif reading.why:
        section.text("no_truth", why=reading.why)
    section.page("next", page_data(lab, reading, tokens), height=700)
    arrays = {name: getattr(found, name) for name in ("top_ids", "top_p", "p", "rank", "nats", "entropy")}
    if reading.truth is not None:
        arrays["true_nats"] = reading.truth.nats[-reading.foretold :]
        arrays["true_entropy"] = reading.truth.entropy[-reading.foretold - 1 :]
    section.data("next", ids=reading.ids, given=reading.given, tokens=np.array(tokens), **arrays)


def alone(lab: Lab, token: int) -> str:
    return labels(lab.tokenizer, [token])[0]


def before(tokens: Sequence[str], at: int) -> str:
    """The end of what stands before a token, to name its place by."""
    told = "".join(tokens[:at]).replace("␣", " ")
    return told if len(told) <= CONTEXT else "…" + told[-CONTEXT:].partition(" ")[2]


def surprising(lab: Lab, reading: Reading, tokens: Sequence[str]) -> list[list[Any]]:
    """The rows of the most surprising tokens."""
    found = reading.expected
    order = np.argsort(-found.nats, kind="stable")[:WORST].tolist()

    def place(at: int) -> str | Callable[[Words], str]:
        return before(tokens, at) if at else lambda words: words("at_start")

    return [
        [
            place(reading.given + at),
            tokens[reading.given + at],
            Number(found.nats[at], ".2f"),
            Number(found.p[at], ".2g"),
            Number(int(found.rank[at]), ",d"),
            alone(lab, found.top_ids[at, 0]),
            Number(found.top_p[at, 0], ".2f"),
        ]
        for at in order
    ]


def after(lab: Lab, section: Section, reading: Reading, tokens: Sequence[str], *, at: int) -> None:
    """The distribution at one place, beside the true one where that is known."""
    p = np.exp(reading.logits[at].astype(np.float64) - np.logaddexp.reduce(reading.logits[at].astype(np.float64)))
    entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
    true = None if reading.truth is None else np.zeros(len(p))
    told: dict[str, Any] = {"context": before(tokens, reading.given + at)}
    ended = at == reading.foretold
    came = {} if ended else {"came": tokens[reading.given + at]}
    section.text(
        "after_end" if ended else "after_doubt", **told, entropy=entropy, choices=float(np.exp(entropy)), **came
    )
    if true is not None:
        row = reading.true_row(at)
        true[list(row)] = list(row.values())
        own = -sum(q * np.log(q) for q in row.values())
        mass = 100 * p[list(row)].sum()
        if len(row) > 1:
            section.text("after_truth", possible=len(row), true=own, mass=mass)
        else:
            section.text("after_certain", came=alone(lab, *row), mass=mass)
    order = np.argsort(-(p if true is None else np.maximum(p, true)), kind="stable")[:BARS]
    order = order[np.argsort(-p[order], kind="stable")]
    names = [alone(lab, i) for i in order.tolist()]
    listed = ", ".join(f"{name} {q:.2f}" for name, q in zip(names[:5], p[order], strict=False))
    name = "after" if true is None else "after_truth"
    section.figure(
        name,
        lambda words, shape: bars(words, shape, names, p[order], None if true is None else true[order]),
        **told,
        listed=listed,
    )


def bars(words: Words, shape: str, names: Sequence[str], p: Array, true: Array | None) -> Figure:
    made, axes = figures.figure(shape, 0.9 + (0.24 if true is None else 0.3) * len(names))
    places = np.arange(len(names))
    if true is None:
        axes.barh(places, p, height=0.7, color=figures.COLORS[0])
    else:
        axes.barh(places - 0.2, p, height=0.36, color=figures.COLORS[0], label=words("the_model"))
        axes.barh(
            places + 0.2,
            true,
            height=0.36,
            color="white",
            edgecolor=figures.COLORS[1],
            hatch="/////",
            lw=0.8,
            label=words("the_truth"),
        )
        axes.legend(loc="lower right", frameon=False)
    axes.set_yticks(places, names, family="monospace", fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    finish(axes, words, "axis_probability")
    return made


def finish(axes: Any, words: Words, entry: str) -> None:
    """What the figures with a horizontal axis of numbers share."""
    axes.set_xlabel(words(entry))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ",.6g")))
    axes.grid(axis="x", color=figures.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def lines(tokens: Sequence[str], columns: int) -> list[tuple[int, int, int, str]]:
    """Where tokens stand: number of the token, line, column, and as much of it as stands there. A line ends between two
    words, or, where a word is longer than a line, within it."""
    shown = [token.replace("␣", " ") for token in tokens]
    placed: list[tuple[int, int, int, str]] = []
    line = column = 0
    for at, token in enumerate(shown):
        word = token + "".join(takewhile(lambda more: more[0] not in " ↵", shown[at + 1 :]))
        begins = at == 0 or token[0] == " " or shown[at - 1].endswith("↵")
        if column + len(word if begins and len(word) <= columns else token.rstrip("↵")) > columns:
            line, column = line + 1, 0
        for piece in (token[i : i + columns] for i in range(0, len(token), columns)):
            if column + len(piece.rstrip("↵")) > columns:
                line, column = line + 1, 0
            if line and not column:
                piece = piece.lstrip(" ")
            placed.append((at, line, column, piece))
            column += len(piece)
        if token.endswith("↵"):
            line, column = line + 1, 0
    return placed


def coloured(words: Words, shape: str, tokens: Sequence[str], nats: Array) -> Figure:
    """A text, a darker ground under each token that surprised more; grey letters where nothing was foretold."""
    width = figures.SHAPES[shape][0] - 0.1
    columns = int(72 * width / (POINTS[shape] * WIDTH))
    placed = lines(tokens, columns)
    rows = placed[-1][1] + 1
    high = max(1.0, float(np.nanmax(nats)))
    made, axes = figures.figure(shape, rows * POINTS[shape] * HEIGHT / 72 + 0.75)
    axes.set(xlim=(0, columns + 1), ylim=(rows, 0))
    axes.axis("off")
    ground: list[Rectangle] = []
    shades: list[float] = []
    for at, line, column, piece in placed:
        shade = nats[at] / high
        if not np.isnan(shade):
            ground.append(Rectangle((column, line + 0.06), len(piece), 0.88))
            shades.append(shade)
        if bare := piece.lstrip():
            ink = "#8a8a8a" if np.isnan(shade) else "white" if shade > DARK else "black"
            axes.text(
                column + len(piece) - len(bare),
                line + 0.5,
                bare.rstrip(),
                color=ink,
                va="center_baseline",
                family="monospace",
                fontsize=0.97 * POINTS[shape],
                in_layout=False,
            )
    drawn = PatchCollection(ground, cmap=SHADES, lw=0.4, edgecolor="white")
    drawn.set_array(high * np.array(shades))
    drawn.set_clim(0, high)
    axes.add_collection(drawn)
    bar = made.colorbar(drawn, ax=axes, orientation="horizontal", aspect=40, shrink=0.7, pad=0.02)
    bar.set_label(words("axis_surprisal"))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ".6g")))
    bar.outline.set_edgecolor("#999999")
    return made


@dataclass
class Decision:
    """What the truth and the model pay at the tokens of one choice, in nats."""

    tokens: int = 0
    true: float = 0.0
    paid: float = 0.0

    @property
    def excess(self) -> float:
        return self.paid - self.true


def merged(owner: Owner) -> Owner:
    """Ways to word a part are one decision each, and all told as one."""
    return tuple("telling" if name.startswith("telling") else name for name in owner)


def named(words: Words, owner: Owner) -> str:
    return " + ".join(words(f"choice_{name}") for name in owner) if owner else words("certain")


def decided(reading: Reading, truth: TrueTokens) -> dict[Owner, Decision]:
    """The sums of each decision, in the order of the text; last the wording, and () of what was certain."""
    found: dict[Owner, Decision] = {}
    paid = reading.expected.nats
    true, owners = truth.nats[-len(paid) :], truth.owners[-len(paid) :]
    for owner, ours, theirs in zip(map(merged, owners), paid, true, strict=True):
        decision = found.setdefault(owner, Decision())
        decision.tokens += 1
        decision.paid += ours
        decision.true += theirs
    for last in (("telling",), ()):
        if last in found:
            found[last] = found.pop(last)
    return found


def decisions(section: Section, reading: Reading, truth: TrueTokens) -> None:
    """Where the model still loses nats over the floor."""
    found = decided(reading, truth)
    certain = found.get((), Decision())
    paid, floor = sum(d.paid for d in found.values()), sum(d.true for d in found.values())
    chosen = paid - floor - certain.excess
    section.text("truth_means", floor=floor, paid=paid)
    if paid < floor:
        section.text("truth_luck", gain=floor - paid)
    else:
        numbers = {"excess": paid - floor, "choices": chosen, "certain": certain.excess, "places": certain.tokens}
        kind = "chance" if chosen < 0 else "choices" if chosen > certain.excess else "certain"
        section.text(f"truth_{'close' if paid - floor < CLOSE else kind}", **numbers, gain=-chosen)
    worst = max(found, key=lambda owner: found[owner].excess)
    section.figure(
        "decisions",
        lambda words, shape: dumbbells(words, shape, found),
        worst=lambda words: named(words, worst),
        excess=found[worst].excess,
    )

    def number(value: float) -> Number:
        return Number(value, ",.2f")

    def label(owner: Owner) -> Callable[[Words], str]:
        return lambda words: named(words, owner)

    section.table(
        "decisions",
        [[label(owner), d.tokens, number(d.true), number(d.paid), number(d.excess)] for owner, d in found.items()],
    )


def dumbbells(words: Words, shape: str, found: dict[Owner, Decision]) -> Figure:
    made, axes = figures.figure(shape, 1.0 + 0.2 * len(found))
    places = np.arange(len(found))
    true, paid = ([getattr(d, which) for d in found.values()] for which in ("true", "paid"))
    axes.hlines(places, true, paid, color="#999999", linewidth=1.2, zorder=1)
    open_: dict[str, Any] = {"facecolor": "white", "edgecolor": figures.COLORS[1]}
    axes.scatter(true, places, marker="D", s=26, label=words("the_truth"), **open_)
    axes.scatter(paid, places, marker="o", s=20, label=words("the_model"), color=figures.COLORS[0])
    axes.set_yticks(places, [named(words, owner) for owner in found], fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=-0.02 * max(*true, *paid))
    finish(axes, words, "axis_surprisal")
    axes.grid(axis="y", color=figures.FAINT, linewidth=0.4)
    made.legend(loc="outside upper right", ncols=2, frameon=False, borderpad=0.1)
    return made


def page_data(lab: Lab, reading: Reading, tokens: Sequence[str]) -> dict[str, Any]:
    """What the live page shows: at each place, and behind the text, what was expected and what came."""
    likely = expectations(reading.logits, np.zeros(reading.foretold + 1), top=TOP)
    found, truth = reading.expected, reading.truth
    data: dict[str, Any] = {
        "tokens": list(tokens),
        "given": reading.given,
        "ids": reading.ids,
        "best": likely.top_ids,
        "p": np.round(likely.top_p, 5),
        "entropy": np.round(likely.entropy, 3),
        "nats": np.round(found.nats, 3),
        "rank": found.rank,
        "colors": [to_hex(SHADES(shade / 20)) for shade in range(21)],
        "dark": DARK,
        "truth": None,
    }
    shown = {*likely.top_ids.flat, *reading.ids.tolist()}
    if truth is not None:
        rows = [reading.true_row(at) for at in range(reading.foretold + 1)]
        p = np.exp(reading.logits - np.logaddexp.reduce(reading.logits.astype(np.float64), axis=1)[:, None])
        best = [sorted(row.items(), key=lambda pair: -pair[1])[:TOP] for row in rows]
        # Of the likeliest in truth and to the model: id, the model's probability, the true one.
        data["best"] = [
            list(dict.fromkeys([*likely.top_ids[at].tolist(), *(i for i, _ in best[at])]))[: TOP + 4]
            for at in range(len(rows))
        ]
        data["p"] = [[round(float(p[at, i]), 5) for i in some] for at, some in enumerate(data["best"])]
        data["truth"] = {
            "p": [[round(rows[at].get(i, 0.0), 5) for i in some] for at, some in enumerate(data["best"])],
            "nats": np.round(truth.nats[-reading.foretold :], 3),
            "entropy": np.round(truth.entropy[-reading.foretold - 1 :], 3),
            "possible": [len(row) for row in rows],
        }
        shown |= {i for some in data["best"] for i in some}
    return {**data, "names": {str(i): alone(lab, i) for i in map(int, shown)}}
