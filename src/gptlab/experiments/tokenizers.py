"""What are tokens, what do they cost, and which are best?"""

import base64
import json
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gptlab import lab as laboratory
from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words
from gptlab.lab import Lab
from gptlab.lens.tokenizers import Piece, Share, bits_per_character, cut, embedding_share, smaller, spent
from gptlab.messages import LANGUAGES
from gptlab.model.count import count
from gptlab.presets import preset
from gptlab.text import corpora
from gptlab.text.bpe import BPETokenizer
from gptlab.text.fables import corpus as fables
from gptlab.text.gpt2 import SIZE as GPT2_SIZE
from gptlab.text.gpt2 import GPT2Tokenizer
from gptlab.text.labels import whole
from gptlab.text.reading import Text
from gptlab.text.tokenizer import Tokenizer, without
from gptlab.training.evaluate import TextLoss
from gptlab.training.log import Display

SIZES = (256, 512, 1024, 2048, 4096)  # of the byte-pair vocabularies that are learned
ALIKE = 0.02  # difference in size, as a fraction, below which two of a kind are not both shown
LEARNED = 2_000_000  # characters of the training part, at most, that they are learned from
COUNTED = 100_000  # characters of the validation part whose tokens are counted
JUDGED = 10_000  # characters of it that models predict
EXCERPT = 12_000  # characters of it that the live page searches
STORIES = 100  # fables in each language
LONGEST = 160  # characters of the sentence
SENTENCE = re.compile(r"\S[^.!?\n]{20,80}[.!?]")
ORDER = ("char", "bpe", "gpt2", "hf")  # of kinds
PRESET, TRAINED_SIZE = "gptlab-cpu", 512  # of the small models, and their byte-pair vocabulary
ENOUGH = 100  # steps below which a loss says how slow a model is, not how good
EVERY, WINDOWS = 100, 64  # steps between their evaluations; windows, of 6 MB of logits each with GPT-2's vocabulary
NOTHING = "–"

# The old GPTLab's README. (preset, context, vocabulary) -> the token table's share of all parameters, in percent.
PUBLISHED_SHARES = {
    ("gptlab-cpu", 32, 115): 3.54,
    ("gptlab-cpu", 32, GPT2_SIZE): 94.13,
    ("gptlab-gpu", 64, 115): 0.41,
    ("gptlab-gpu", 64, GPT2_SIZE): 64.46,
    ("gptlab-gpu", 32, GPT2_SIZE): 64.46,
}
PUBLISHED_LOSSES = {"characters": 1.44, "gpt2": 3.42}  # nats per token on Machado's tales
PUBLISHED_LENGTH = 172_423 / 70_753  # characters per GPT-2 token of their validation part
SHAKESPEARE = 65  # characters: what the old README counted the gpu model's parameters with

SHADES = ("#a9cfe9", "#fbe7c1")  # of neighbours; one is the darker in grey, too
FONT, ID_FONT, LETTER, DIGIT = 8.5, 6.0, 0.0711, 0.0502  # points, and the width of a character in inches
LINE, GAP, HEAD = 0.36, 0.07, 0.24  # heights in inches: of a line of boxes, between two, of a name


@dataclass(frozen=True)
class Named:
    """A tokenizer and what it is called."""

    tokenizer: Tokenizer
    own: bool = False

    def name(self, words: Words) -> str:
        name = words(f"name_{self.tokenizer.kind}", size=self.tokenizer.vocab_size)
        return words("name_own", name=name) if self.own else name


@dataclass(frozen=True)
class Judged:
    """What a model makes of the text that all are judged by."""

    named: Named | None  # the tokenizer that a small model was trained with here
    run: str  # else the run's name; empty for the run that the experiment is about
    vocabulary: int
    parameters: int
    steps: int | None
    loss: TextLoss

    def name(self, words: Words) -> str:
        return self.named.name(words) if self.named else shortened(self.run) or words("this_run")

    @property
    def bits(self) -> float:
        return bits_per_character(self.loss.per("token"), self.loss.characters / self.loss.tokens)


def conduct(
    lab: Lab, section: Section, *, text: str | None, minutes: float, steps: int | None, others: Sequence[str]
) -> None:
    if minutes < 0 or (steps is not None and steps < 1):
        wrong = f"minutes must be 0 or more, not {minutes}" if minutes < 0 else f"steps must be 1 or more, not {steps}"
        raise ValueError(wrong)
    beside = [laboratory.load(other, device=str(lab.model.embedding.device)) for other in others]  # before any work
    read, own_text = text_of(lab)
    learned = learn(lab, read)
    held_out = read.read(read.cut, min(read.characters, read.cut + COUNTED))
    section.text("mean", gpt2=GPT2_SIZE)
    section.text("from_text" if own_text else "from_fables", text=read.name)
    if not any(named.tokenizer.kind == "gpt2" for named in learned):
        section.text("no_gpt2")
    said = sentence(read, held_out, section, text)
    pieces(section, few(learned), said)
    alive(section, few(learned), said, held_out[:EXCERPT], read.name)
    sizes(lab, section, learned, held_out)
    languages(section, few(learned))
    shares(section)
    found = [judged(lab, held_out[:JUDGED])]
    found += [judged(other, held_out[:JUDGED], name=other.run.name) for other in beside]
    section.text("losses_mean")
    if steps is not None or minutes:
        length = {"minutes": minutes} if steps is None else {"steps": steps}
        kinds = {named.tokenizer.kind for named in learned} & {"char", "bpe", "gpt2"}
        for kind in sorted(kinds, key=ORDER.index):
            small = trained(lab, section, read.name if own_text else None, kind, **length)
            found.append(judged(small, held_out[:JUDGED], named=Named(small.tokenizer)))
        steps_done = {one.steps for one in found if one.named}
        if len(steps_done) == 1:
            section.text("trained_steps", preset=PRESET, text=read.name, steps=steps_done.pop())
        else:
            section.text("trained_minutes", preset=PRESET, text=read.name, minutes=minutes)
    losses(section, read.name, found, characters=len(held_out[:JUDGED]))


# Texts and tokenizers


def text_of(lab: Lab) -> tuple[Text, bool]:
    """The text that a run was trained on, and whether it is; else the English fables."""
    config = lab.run.train_config
    if config is not None:
        try:
            found = corpora.find(config.corpus)
        except (ValueError, OSError) as error:
            warnings.warn(f"the run's text is not to be had, the fables are used: {error}", stacklevel=2)
        else:
            if found.sha256 == lab.run.text.get("sha256"):
                return found, True
            warnings.warn(f"{config.corpus} has changed since the training, the fables are used", stacklevel=2)
    return corpora.find("fables"), False


def learn(lab: Lab, text: Text) -> list[Named]:
    """Characters, byte pairs in several sizes, GPT-2's (where it can be had), and the run's own, which takes the place
    of one that is of its kind and about its size."""
    largest = BPETokenizer.train(text.chunks(0, min(text.cut, LEARNED)), SIZES[-1])
    fitting = [size for size in SIZES if size < largest.vocab_size] + [largest.vocab_size]
    found: list[Tokenizer] = [corpora.make_tokenizer("char", text), *(smaller(largest, size) for size in fitting)]
    try:
        found.append(GPT2Tokenizer.published())
    except OSError as error:
        warnings.warn(f"GPT-2's tokenizer is left out. {error}", stacklevel=2)
    own = lab.tokenizer
    rest = [one for one in found if one.kind != own.kind or abs(one.vocab_size / own.vocab_size - 1) > ALIKE]
    every = [*(Named(one) for one in rest), Named(own, own=True)]
    return sorted(every, key=lambda named: (ORDER.index(named.tokenizer.kind), named.tokenizer.vocab_size))


def few(learned: list[Named]) -> list[Named]:
    """Of the byte-pair vocabularies only a small one, the largest, and the run's own."""
    bpe = [named for named in learned if named.tokenizer.kind == "bpe"]
    small = min((n for n in bpe if n.tokenizer.vocab_size >= TRAINED_SIZE), default=bpe[-1], key=size_of)
    kept = [small, max(bpe, key=size_of)]
    return [named for named in learned if named.tokenizer.kind != "bpe" or named.own or named in kept]


def size_of(named: Named) -> int:
    return named.tokenizer.vocab_size


def sentence(text: Text, held_out: str, section: Section, given: str | None) -> str:
    """What is cut up: what was given, else one of ours in the text's language, or, where that is not known, one of
    its own."""
    if given is not None:
        if not given.strip():
            raise ValueError("there is nothing to cut: the text is empty")
        if len(given) > LONGEST:
            warnings.warn(f"the text has {len(given)} characters; the first {LONGEST} are shown", stacklevel=2)
        return given[:LONGEST]
    if text.name in corpora.CORPORA:
        return section.words[corpora.CORPORA[text.name].language]("sentence")
    for lang in LANGUAGES:
        if text.name in ("fables" if lang == "en" else f"fables-{lang}", f"fables-{lang}"):
            return section.words[lang]("sentence")
    found = SENTENCE.search(held_out)
    return found[0] if found else held_out.strip()[:80]


# A sentence in pieces


def pieces(section: Section, shown: list[Named], text: str) -> None:
    rows = [(named, cut(named.tokenizer, text)) for named in shown]
    section.text(
        "pieces_mean",
        characters=len(text),
        sentence=text,
        listed=lambda words: "; ".join(words("pair", name=named.name(words), value=len(row)) for named, row in rows),
    )

    def draw(words: Words, shape: str) -> Figure:
        return boxes(shape, [(words("cut_into", name=n.name(words), tokens=len(row)), row) for n, row in rows])

    section.figure("pieces", draw, sentence=text, count=len(rows))
    every = [piece for _, row in rows for piece in row]
    if any(piece.id is not None and not whole(piece.bytes) for piece in every):
        section.text("pieces_split")
    if missing := "".join(dict.fromkeys(piece.label for piece in every if piece.id is None)):
        section.text("pieces_lacking", listed=" ".join(missing))


def boxes(shape: str, rows: list[tuple[str, list[Piece]]]) -> Figure:
    """Each row a name and, below it, a box for each piece with its label and its number, on as many lines as needed."""
    width = figures.SHAPES[shape][0]
    placed: list[tuple[float, float, float, int, Piece]] = []  # x, y (downwards), width, number in its row, piece
    names: list[tuple[float, str]] = []
    y = 0.0
    for name, row in rows:
        names.append((y, name))
        x, y = 0.04, y + HEAD
        for number, piece in enumerate(row):
            digits = len(str(piece.id)) if piece.id is not None else 1
            wide = max(len(piece.label) * LETTER, digits * DIGIT) + 0.07
            if x + wide > width - 0.04:
                x, y = 0.04, y + LINE + GAP / 2
            placed.append((x, y, wide, number, piece))
            x += wide
        y += LINE + GAP
    made, _ = figures.figure(shape, y, ncols=0)
    made.set_layout_engine("none")  # everything has its place in inches
    axes = made.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(y, 0))
    axes.set_axis_off()
    for top, name in names:
        axes.text(0.04, top + HEAD - 0.05, name, va="bottom", fontsize=FONT, weight="bold")
    mono: Any = {"ha": "center", "va": "center", "family": "DejaVu Sans Mono"}
    for x, top, wide, _, piece in placed:
        axes.text(x + wide / 2, top + 0.12, piece.label, fontsize=FONT, **mono)
        axes.text(x + wide / 2, top + 0.28, "?" if piece.id is None else str(piece.id), fontsize=ID_FONT, **mono)
    looks: list[Any] = [{"facecolor": shade, "edgecolor": "white", "linewidth": 1.2} for shade in SHADES]
    looks.append({"facecolor": "white", "edgecolor": figures.INK, "linestyle": ":"})
    for look, kind in zip(looks, (0, 1, None), strict=True):
        drawn = [
            Rectangle((x, top), wide, LINE)
            for x, top, wide, number, piece in placed
            if (None if piece.id is None else number % 2) == kind
        ]
        axes.add_collection(PatchCollection(drawn, **look), autolim=False)
    return made


def alive(section: Section, shown: list[Named], text: str, excerpt: str, source: str) -> None:
    """The page on which a sentence of one's own is cut, and a piece found again in the text."""
    data = {
        "sentence": text,
        "excerpt": excerpt,
        "source": source,
        "tokenizers": [
            {
                "name": {lang: n.name(words) for lang, words in section.words.items()},
                **rules(n.tokenizer, text, excerpt),
            }
            for n in shown
        ],
    }
    section.page("tokenizers", data, height=680)


def rules(tokenizer: Tokenizer, *texts: str) -> dict[str, str]:
    """What the page needs to cut texts as a tokenizer does, packed; of one that splits words in a way of its own, how
    it cuts the texts that the page shows.

    Pieces are written as strings of characters U+0000 … U+00FF, one for each byte.
    """
    told: dict[str, Any] = {"kind": tokenizer.kind}
    if tokenizer.kind == "hf":
        cuts = {text: tokenizer.encode(text).tolist() for text in texts}
        used = {i for ids in cuts.values() for i in ids}
        told |= {"cuts": cuts, "pieces": {i: tokenizer.pieces[i].decode("latin-1") for i in sorted(used)}}
    else:
        last = tokenizer.vocab_size - len(tokenizer.specials)
        told["pieces"] = [piece.decode("latin-1") for piece in tokenizer.pieces[:last]]
        if isinstance(tokenizer, BPETokenizer):
            model = json.loads(tokenizer.model.to_str())["model"]
            vocab = model["vocab"]
            told["merges"] = [[vocab[a], vocab[b], vocab[a + b]] for a, b in model["merges"]]
    packed = zlib.compress(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(), 9)
    return {"packed": base64.b64encode(packed).decode()}


# What a larger vocabulary gives, and what it costs


def sizes(lab: Lab, section: Section, learned: list[Named], held_out: str) -> None:
    counted = [(named, spent(named.tokenizer, held_out)) for named in learned]
    shapes = {"gptlab-cpu": preset("gptlab-cpu"), "gptlab-gpu": preset("gptlab-gpu")}
    here = [(n, s) for n, s in counted if n.tokenizer.kind == "bpe" and not (n.own and lab.run.train_config is None)]
    bpe = [(n.tokenizer.vocab_size, s.characters_per_token) for n, s in here]
    (least, short), (most, long) = bpe[0], bpe[-1]
    section.text("sizes_mean", least=least, short=short, most=most, long=long, times=most / least, longer=long / short)
    for named, s in counted:
        if named.tokenizer.kind == "gpt2":
            section.text(
                "gpt2_longer" if s.characters_per_token >= long else "gpt2_shorter",
                length=s.characters_per_token,
                size=GPT2_SIZE,
                most=most,
                long=long,
            )
    section.text("sizes_cost")
    places = [115, *SIZES, 8192, 16384, 32768, GPT2_SIZE]
    curves = {name: [100 * embedding_share(shape, size).fraction for size in places] for name, shape in shapes.items()}
    own = embedding_share(lab.config, lab.config.vocab_size)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = panels(shape, 5.4)
        for kind, marker, color, style in (
            ("char", 1, 1, ""),
            ("bpe", 0, 0, "-"),
            ("gpt2", 2, 2, ""),
            ("hf", 3, 3, ""),
        ):
            found = [(n.tokenizer.vocab_size, s.characters_per_token) for n, s in counted if n.tokenizer.kind == kind]
            if found:
                x, y = zip(*found, strict=True)
                line = {"marker": figures.MARKERS[marker], "color": figures.COLORS[color], "linestyle": style or "none"}
                axes[0].plot(x, y, label=words(f"legend_{kind}"), **line)
        axes[0].set_ylabel(words("axis_length"))
        axes[0].set_ylim(0, 1.3 * max(s.characters_per_token for _, s in counted))
        for number, (name, model) in enumerate(shapes.items()):
            label = words("legend_width", width=model.d_model, name=name)
            line = {
                "marker": figures.MARKERS[number],
                "color": figures.COLORS[number],
                "linestyle": ("-", "--")[number],
            }
            axes[1].plot(places, curves[name], markersize=4, label=label, **line)
        point: Any = {"marker": "*", "markersize": 12, "color": figures.COLORS[3], "linestyle": "none"}
        axes[1].plot([lab.config.vocab_size], [100 * own.fraction], label=words("this_run"), **point)
        axes[1].set_ylabel(words("axis_share"))
        axes[1].set_ylim(0, 139)
        axes[1].yaxis.set_major_locator(FixedLocator([0, 20, 40, 60, 80, 100]))
        for ax in axes:
            ax.set_xscale("log", base=2)
            ax.set_xlim(90, 1.4 * max(GPT2_SIZE, lab.config.vocab_size))
            ax.xaxis.set_major_locator(FixedLocator([128, 512, 2048, 8192, 32768]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel(words("axis_vocabulary"))
            ax.legend(loc="upper left", frameon=False)
            localized(ax, words, "xy")
        return made

    section.figure(
        "sizes", draw, least=least, short=short, most=most, long=long, low=min(curves["gptlab-cpu"]), high=94.13
    )
    section.table(
        "sizes",
        [
            [
                named.name,
                named.tokenizer.vocab_size,
                round(s.characters_per_token, 3),
                round(s.pieces_per_word, 3),
                *(percent(embedding_share(shape, named.tokenizer.vocab_size)) for shape in shapes.values()),
            ]
            for named, s in counted
        ],
    )


def languages(section: Section, shown: list[Named]) -> None:
    """The same stories, told in five languages and counted by each tokenizer."""
    told = {
        lang: fables.SEPARATOR.join(
            story.text for story in islice(fables.stories((lang,), first=fables.FIRST_VALIDATION), STORIES)
        )
        for lang in LANGUAGES
    }
    counted = [(named, {lang: spent(named.tokenizer, text) for lang, text in told.items()}) for named in shown]
    section.text("languages_mean", stories=STORIES)

    def draw(words: Words, shape: str) -> Figure:
        made, axes = panels(shape, 6.2)
        for number, (named, by) in enumerate(counted):
            look: Any = {"marker": figures.MARKERS[number], "linestyle": "none", "label": named.name(words)}
            rows = range(len(by))
            axes[0].plot([s.characters_per_token for s in by.values()], rows, color=figures.COLORS[number], **look)
            axes[1].plot([s.pieces_per_word for s in by.values()], rows, color=figures.COLORS[number], **look)
        for ax, axis in zip(axes, ("axis_length", "axis_pieces"), strict=True):
            figures.labelled(ax, "y", [words(f"lang_{lang}") for lang in told])
            ax.set_ylim(len(told) - 0.5, -0.5)
            ax.set_xlim(0)
            ax.set_xlabel(words(axis))
            localized(ax, words, "x")
        handles = axes[0].get_legend_handles_labels()
        columns = 1 if shape == "narrow" else 2 if len(counted) == 4 else 3
        made.legend(*handles, loc="outside upper left", ncols=columns, frameon=False)
        return made

    section.figure("languages", draw, stories=STORIES)
    rows = []
    for named, by in counted:
        more = [round(s.tokens / by["en"].tokens, 3) for s in by.values()]
        rows.append([named.name, *more, sum(s.lacking for s in by.values())])
    section.table("languages", rows)
    section.text(
        "languages_longer",
        listed=lambda words: listed(words, {lang: len(told[lang]) / len(told["en"]) for lang in told if lang != "en"}),
    )
    for named, by in counted:
        if named.tokenizer.kind == "gpt2":
            most = max(by, key=lambda lang: by[lang].tokens)
            section.text(
                "languages_gpt2",
                language=lambda words, most=most: words(f"lang_{most}"),
                times=by[most].tokens / by["en"].tokens,
                characters=by[most].characters / by["en"].characters,
            )
    arrays = {f"{what}_{at}": [getattr(s, what) for s in by.values()] for at, (_, by) in enumerate(counted)
              for what in ("tokens", "characters_per_token", "pieces_per_word")}  # fmt: skip
    section.data("languages", languages=list(told), tokenizers=[n.name(section.words["en"]) for n in shown], **arrays)


def listed(words: Words, values: dict[str, float]) -> str:
    return "; ".join(f"{words(f'lang_{lang}')} {words.number(value, '.2f')}" for lang, value in values.items())


def shares(section: Section) -> None:
    """The published shares of the token table, counted again."""
    section.text("shares_mean")
    rows = []
    for (name, context, size), published in PUBLISHED_SHARES.items():
        share = embedding_share(preset(name, context=context), size)
        rows.append([name, preset(name).d_model, context, size, share.tokens, share.total, percent(share), published])
    section.table("shares", rows)
    gpu, table = preset("gptlab-gpu"), 115 * preset("gptlab-gpu").d_model
    old = count(gpu.but(vocab_size=SHAKESPEARE)).total
    gpt2 = GPT2_SIZE * gpu.d_model
    section.text(
        "shares_off",
        published=64.46,
        right=percent(embedding_share(gpu, GPT2_SIZE)),
        shorter=percent(embedding_share(gpu.but(context=32), GPT2_SIZE)),
        old=old,
        characters=SHAKESPEARE,
        own=115,
        table=table,
        gpt2=gpt2,
        wrong=100 * gpt2 / (old - table + gpt2),
    )


def percent(share: Share) -> float:
    return round(100 * share.fraction, 2)


# Models of several tokenizers, in the unit that they share


def losses(section: Section, text: str, found: list[Judged], *, characters: int) -> None:
    found.sort(key=lambda one: one.bits)
    section.text("judged", characters=characters, text=text)

    def draw(words: Words, shape: str) -> Figure:
        rows = range(len(found))
        tall = 0.9 + 0.27 * len(found)
        made, axes = panels(shape, 2 * tall, wide=tall, sharey=shape == "wide")
        for number, (ax, values, axis) in enumerate(
            (
                (axes[0], [one.loss.per("token") for one in found], "axis_nats"),
                (axes[1], [one.bits for one in found], "axis_bits"),
            )
        ):
            ax.barh(
                rows, values, height=0.62, color=figures.COLORS[number], hatch=("//", "")[number], edgecolor="white"
            )
            for row, value in zip(rows, values, strict=True):
                beside: Any = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5}
                ax.annotate(words.number(value, ".2f"), (value, row), **beside)
            ax.set_xlim(0, 1.22 * max(values))
            ax.set_xlabel(words(axis))
            localized(ax, words, "x")
            figures.labelled(ax, "y", [one.name(words) for one in found])
            ax.set_ylim(len(found) - 0.5, -0.5)
        if shape == "wide":
            axes[1].tick_params(labelleft=False)
        return made

    section.figure("losses", draw, listed=lambda words: compared(words, found))
    section.table(
        "losses",
        [
            [
                one.name,
                one.vocabulary,
                one.parameters,
                NOTHING if one.steps is None else one.steps,
                round(one.loss.per("token"), 3),
                round(one.loss.characters / one.loss.tokens, 3),
                round(one.bits, 3),
            ]
            for one in found
        ],
    )
    small = [one for one in found if one.named]
    begun = [one for one in small if one.steps is not None and one.steps < ENOUGH]
    # What was trained alike, if there is that; a run that was trained for longer says nothing about tokenizers.
    alike = [one for one in small if one not in begun] or found
    if len(alike) > 1:
        by_token = min(alike, key=lambda one: one.loss.per("token"))
        section.text(
            "losses_same" if by_token is alike[0] else "losses_differ", best=alike[0].name, token=by_token.name
        )
    if begun:
        section.text(
            "losses_few",
            listed=lambda words: "; ".join(words("pair", name=one.name(words), value=one.steps) for one in begun),
        )
    if len(small) > 1:
        context = preset(PRESET).context
        lengths = [context * one.loss.characters / one.loss.tokens for one in small]
        section.text("losses_context", context=context, least=min(lengths), most=max(lengths))
    share = embedding_share(preset("gptlab-gpu", context=32), GPT2_SIZE)
    section.text(
        "losses_published",
        **PUBLISHED_LOSSES,
        length=PUBLISHED_LENGTH,
        bits_characters=bits_per_character(PUBLISHED_LOSSES["characters"], 1),
        bits_gpt2=bits_per_character(PUBLISHED_LOSSES["gpt2"], PUBLISHED_LENGTH),
        parameters=share.total,
        fewer=count(preset("gptlab-gpu")).total,
        context=32,
        longer=preset("gptlab-gpu").context,
    )


def trained(lab: Lab, section: Section, text: str | None, kind: str, **length: Any) -> Lab:
    """A small model with a tokenizer of that kind, in RUN/tokenizers/KIND; one that is there goes on, or is taken as it
    is. text: None for the fables, where the run's own is not to be had; length: minutes or steps."""
    config = lab.run.train_config
    corpus = "fables" if text is None or config is None else config.corpus
    given: dict[str, Any] = {"vocab_size": TRAINED_SIZE} if kind == "bpe" else {}
    device = str(lab.model.embedding.device)
    display = Display(section.lang)
    try:
        run = laboratory.train(
            corpus,
            out=lab.run.path / "tokenizers" / kind,
            resume=True,
            device=device,
            display=display,
            preset=PRESET,
            tokenizer=kind,
            eval_every=EVERY,
            eval_windows=WINDOWS,
            sample_every=0,
            snapshots=0,
            accumulate=4 if kind == "gpt2" else 1,  # its logits would take a gigabyte
            **given,
            **length,
        )
    finally:
        display.close()
    return laboratory.load(run.path, device=device)


def judged(model: Lab, text: str, *, named: Named | None = None, name: str = "") -> Judged:
    """A model's loss on a text, less the characters that its vocabulary lacks."""
    if missing := model.tokenizer.unknown(text):
        warnings.warn(f"{model.run.path} cannot spell {' '.join(missing)}: left out of its text", stacklevel=2)
    loss = model.text_loss(model.tokenizer.encode(without(text, missing)))
    done = max((m["step"] for m in model.metrics), default=None)
    return Judged(named, name, model.tokenizer.vocab_size, count(model.config).total, done, loss)


def compared(words: Words, found: list[Judged]) -> str:
    values = [words.number(one.loss.per("token"), ".2f") + " / " + words.number(one.bits, ".2f") for one in found]
    pairs = zip(found, values, strict=True)
    return "; ".join(words("pair", name=one.name(words), value=value) for one, value in pairs)


# Drawing


def panels(shape: str, tall: float, wide: float = 3.2, **more: Any) -> tuple[Figure, Any]:
    """Two axes: side by side, or one above the other."""
    across = shape == "wide"
    grid = {"nrows": 1, "ncols": 2} if across else {"nrows": 2, "ncols": 1}
    made, axes = figures.figure(shape, wide if across else tall, **grid, **more)
    for ax in axes:
        ax.grid(color=figures.FAINT, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return made, axes


def localized(axes: Any, words: Words, which: str) -> None:
    """Numbers at the ticks as the language writes them."""
    told = FuncFormatter(lambda value, _: words.number(float(value), ",.6g"))
    for axis in which:
        getattr(axes, f"{axis}axis").set_major_formatter(told)


def shortened(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
