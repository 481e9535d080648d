"""How well does the model do what it was fine-tuned for, and what did that cost?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from gptlab import tasks
from gptlab.config import FinetuneConfig
from gptlab.experiments import figures
from gptlab.experiments.base import Number, Section, Words
from gptlab.finetuning import builtin, lora
from gptlab.finetuning.scores import BINS, Classification
from gptlab.lab import Lab
from gptlab.messages import LANGUAGES
from gptlab.run import load_tensors
from gptlab.tasks import Result
from gptlab.text.fables.choices import CHOICES, Choice

Array = NDArray[Any]
Told = Callable[[Words], str]

LISTED = 6  # labels that a sentence names
MOST = 20  # labels that fit into a confusion matrix
ROOM = {"wide": 18, "narrow": 11}  # characters of a label in a figure
LETTER = 0.0086  # inches that one of them takes, for each point
WRONG, CUT = 5, 120  # mistakes that are shown, and characters of their texts
ANSWERS, LONGEST = 3, 700  # texts that are shown, and characters of them
CHANCE = 2.0  # standard errors, or deviations, that chance explains
PERFECT = 0.99  # a share of which one says so
APART = 0.1  # between two shares: how far apart they are to be called different
# What a scores' table shows: in which unit, with how many digits.
UNITS = {
    "accuracy": (100, ".1f"),
    "macro_f1": (1, ".3f"),
    "calibration_error": (1, ".3f"),
    "choices": (100, ".1f"),
    "all_choices": (100, ".1f"),
    "whole": (100, ".1f"),
    "exact": (100, ".1f"),
    "bleu": (1, ".1f"),
    "chrf": (1, ".1f"),
}
SOLVED = 0.01  # nats of a validation loss that leave nothing to wish for
# Nats per token of the pretraining text that were lost: the least to be called a little, much, and most. The last
# doubles the perplexity.
LITTLE, MUCH, DOUBLED = 0.01, 0.1, math.log(2)


def conduct(lab: Lab, section: Section) -> None:
    config = lab.run.finetune_config
    if config is None:
        raise ValueError(
            f"{lab.run.path} was not fine-tuned, so that there is no task to look at; `gptlab finetune {lab.run.path} "
            "--task …` makes a run that has one"
        )
    examples = tasks.examples_of_run(lab.run)
    result = tasks.evaluate_task(lab, examples)
    about(lab, section, config, trained_on=len(examples.train), judged=len(result.examples))
    if result.classification is not None:
        train = [example.output for example in examples.train]
        labels(section, result, result.classification, train, certain=config.built_in)
    else:
        texts(section, result, tasks.languages(lab.run)[-1] if config.built_in else "")
    forgotten(lab, section, config)
    course(lab, section, config)


# What was trained


def about(lab: Lab, section: Section, config: FinetuneConfig, *, trained_on: int, judged: int) -> None:
    learned, total = trained(lab, config)
    how = "scratch" if config.from_scratch else "adapters" if config.rank else "all"
    numbers = {"learned": learned, "total": total, "share": 100 * learned / total, "rank": config.rank}
    section.text(f"trained_{how}", parent=Path(config.parent).name, **numbers)
    langs = tasks.languages(lab.run) if config.built_in else ()
    values = {
        "languages": " → ".join(LANGUAGES[lang] for lang in langs),
        "labels": len(config.labels),
        "listed": listed(config.labels),
    }
    section.text(
        "task",
        what=lambda words: words(f"task_{config.task}", **values),
        train=trained_on,
        judged=judged,
    )
    if config.kind == "classify":
        section.text(f"answer_{config.answer}")


def trained(lab: Lab, config: FinetuneConfig) -> tuple[int, int]:
    """(parameters that were trained, parameters of the model): of adapters, r (inputs + outputs) for each matrix that
    has one, and the rows of the tokens that the task brought."""
    total = sum(p.numel() for p in lab.model.parameters())
    if not config.rank:
        return total, total
    learned = sum(config.rank * sum(module.weight.shape) for _, module in lora.matrices(lab.model, config.targets))
    rows = lab.run.path / "adapter" / lora.TOKENS
    if rows.is_file():
        learned += sum(table.numel() for table in load_tensors(rows).values())
    return learned, total


def listed(labels: Sequence[str]) -> str:
    return ", ".join(cut(label, 30) for label in labels[:LISTED]) + (", …" if len(labels) > LISTED else "")


def cut(text: str, characters: int) -> str:
    """A text on one line, and of a long one its beginning."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def score(name: str, *values: float) -> list[Any]:
    """A row of a table of scores."""
    scale, spec = UNITS[name]
    return [lambda words: words(f"score_{name}"), *(Number(scale * value, spec) for value in values)]


# Labels. N examples, K labels


def labels(section: Section, result: Result, found: Classification, train: Sequence[str], *, certain: bool) -> None:
    """train: the labels of the training examples; certain: no label is in doubt."""
    base = baseline(found, train)
    before = base.told()
    section.table("scores", [score(name, value, before[name]) for name, value in found.told().items()])
    right = found.given == found.truth
    n = len(right)
    verdict, error = compared(right, base.given == base.truth)
    section.text(
        f"scores_{verdict}",
        number=n,
        accuracy=100 * found.accuracy,
        error=100 * error,
        base=100 * base.accuracy,
        label=cut(found.labels[int(base.given[0])], 30),
        bound=100 * (1 - 0.05 ** (1 / n)),
    )
    confused(section, found)
    section.text("labels_mean")
    section.table("labels", by_label(found))
    reliability(section, found)
    mistakes(section, result, found, certain=certain)
    section.data(
        "task",
        labels=np.array(found.labels),
        probabilities=found.probabilities,
        truth=found.truth,
        given=found.given,
        confusion=found.confusion,
        calibration=found.calibration,
    )
    section.csv(
        "predictions",
        ["text", "label", "given", "probability"],
        [
            [example.input, found.labels[truth], found.labels[given], f"{p.max():.6g}"]
            for example, truth, given, p in zip(
                result.examples, found.truth, found.given, found.probabilities, strict=True
            )
        ],
    )


def baseline(found: Classification, train: Sequence[str]) -> Classification:
    """The same examples, judged by somebody who knows how common each label was in training, and nothing else."""
    shares = np.array([train.count(label) for label in found.labels]) / len(train)
    return Classification(found.labels, np.tile(shares, (len(found.truth), 1)), found.truth)


def compared(right: Array, base: Array) -> tuple[str, float]:
    """How a model stands beside another one on the same examples: all (nothing is wrong), better, alike (chance may be
    the difference) or worse; and the standard error of the share that it has right."""
    n = len(right)
    gain = right.astype(float) - base
    spread = gain.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
    share = right.mean()
    error = math.sqrt(share * (1 - share) / n)
    if right.all():
        return "all", error
    mean = float(gain.mean())
    return ("better" if mean > CHANCE * spread else "worse" if mean < -CHANCE * spread else "alike"), error


def by_label(found: Classification) -> list[list[Any]]:
    """A row for each label; what is undefined, since it was never given or never asked, stands as a dash."""
    confusion = found.confusion
    rows: list[list[Any]] = []
    for k, label in enumerate(found.labels):
        asked, given = int(confusion[k].sum()), int(confusion[:, k].sum())
        values = ((found.precision[k], given), (found.recall[k], asked), (found.f1[k], asked + given))
        cells = [Number(value, ".3f") if of else "–" for value, of in values]
        rows.append([cut(label, 60), *cells, Number(asked, ",d")])
    return rows


def confused(section: Section, found: Classification) -> None:
    """The confusion matrix, and in words where it goes wrong most often."""
    confusion = found.confusion
    wrong = confusion - np.diag(np.diag(confusion))
    if wrong.any():
        true, given = np.unravel_index(int(wrong.argmax()), wrong.shape)
        names = {"true": cut(found.labels[true], 30), "given": cut(found.labels[given], 30)}
        section.text("confusion_most", **names, times=int(wrong.max()))
    chosen = np.arange(len(found.labels))
    if len(chosen) > MOST:
        chosen = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:MOST])
    some = confusion[np.ix_(chosen, chosen)]
    section.figure(
        "confusion" if len(chosen) == len(found.labels) else "confusion_some",
        lambda words, shape: matrix(words, shape, some, confusion[chosen].sum(1), [found.labels[k] for k in chosen]),
        shown=len(chosen),
        labels=len(found.labels),
        number=int(confusion.sum()),
        right=int(np.diag(confusion).sum()),
    )


def short(labels: Sequence[str], room: int) -> list[str]:
    """Labels cut to so many characters; those that are then alike are told apart by a number."""
    names = [cut(label, room) for label in labels]
    return [
        name if names.count(name) == 1 else f"{name[: room - 1 - len(str(k))].rstrip('…')}…{k}"
        for k, name in enumerate(names, 1)
    ]


def matrix(words: Words, shape: str, counts: Array, asked: Array, labels: Sequence[str]) -> Figure:
    """counts (K, K), a row for each true label; asked (K,): examples of each."""
    names = short(labels, ROOM[shape])
    width, K = figures.SHAPES[shape][0], len(names)
    points = 8.5 if K <= 6 else 7.0
    longest = LETTER * points * max(map(len, names))
    cell = (width - longest - 0.4) / K
    upright = longest > cell - 0.05
    height = max(0.18 if shape == "narrow" else 0.2, min(0.5, 1.6 / K))
    made, axes = figures.figure(shape, 1.3 + height * K + (longest if upright else 0.1))
    axes.set_facecolor("#bbbbbb")  # the row of a label that nothing has
    shares = counts / np.where(asked, asked, np.nan)[:, None]
    image = figures.heat(axes, np.ma.masked_invalid(shares), vmin=0, vmax=1)
    told = [(k, j, words.number(int(counts[k, j]), ",d")) for k, j in np.argwhere(counts)]
    digits = max((len(number) for *_, number in told), default=1)
    size = float(np.clip(0.8 * 72 * cell / (0.62 * digits), 4.5, 9))
    for k, j, number in told:
        ink = "black" if shares[k, j] > 0.5 else "white"
        axes.text(j, k, number, ha="center", va="center", fontsize=size, color=ink, in_layout=False)
    figures.labelled(axes, "y", names, fontsize=points)
    figures.labelled(axes, "x", names, fontsize=points, rotation=90 if upright else 0)
    axes.tick_params(length=0)
    axes.set_xlabel(words("axis_given"))
    axes.set_ylabel(words("axis_true"))
    axes.spines[:].set_visible(False)
    bar = made.colorbar(image, ax=axes, location="top", aspect=45, pad=0.02, shrink=0.9)
    bar.set_ticks([0, 0.5, 1], labels=[words("percent", value=100 * value) for value in (0, 0.5, 1)])
    bar.set_label(words("axis_row"), fontsize=8.5)
    bar.outline.set_visible(False)
    return made


def reliability(section: Section, found: Classification) -> None:
    """Whether the probabilities of what was given are how often it is right."""
    confidence, right = found.probabilities.max(1), found.given == found.truth
    deviation = excess(confidence, right)
    verdict = "too_sure" if deviation > CHANCE else "too_careful" if deviation < -CHANCE else "calibrated"
    section.text(verdict, confidence=100 * confidence.mean(), accuracy=100 * right.mean())
    section.figure(
        "reliability",
        lambda words, shape: reliable(words, shape, found.calibration),
        error=found.calibration_error,
        listed=lambda words: "; ".join(
            words("at_probability", p=float(p), share=100 * float(share), number=int(n))
            for n, p, share in found.calibration
        ),
    )


def excess(confidence: Array, right: Array) -> float:
    """By how many standard deviations of chance the mean probability is above the share that is right."""
    difference = float((confidence - right).sum())
    spread = math.sqrt(float((confidence * (1 - confidence)).sum()))
    return difference / spread if spread else math.copysign(math.inf, difference) if difference else 0.0


def reliable(words: Words, shape: str, calibration: Array) -> Figure:
    """calibration (bins, 3): examples, mean probability, share that is right."""
    n, p, share = calibration.T
    low = 0.5 if p.min() >= 0.5 else 0.0
    made, (above, below) = figures.figure(
        shape, 4.2 if shape == "wide" else 4.0, nrows=2, sharex=True, height_ratios=(3, 1)
    )
    above.plot([low, 1], [low, 1], "--", color=figures.INK, linewidth=0.9, label=words("as_told"))
    reach = CHANCE * np.sqrt(p * (1 - p) / n)
    bottom = np.maximum(p - reach, 0)
    above.bar(p, np.minimum(p + reach, 1) - bottom, 0.012, bottom, color="#bbbbbb", label=words("by_chance"))
    above.plot(p, share, "-o", color=figures.COLORS[0], linewidth=0.8, markersize=5, label=words("right_share"))
    above.set(xlim=(low - 0.02, 1.02), ylim=(-0.04, 1.04))
    above.set_ylabel(words("right_share"))
    places = np.minimum(np.floor(p * BINS), BINS - 1)
    below.bar((places + 0.5) / BINS, n, 0.9 / BINS, color=figures.COLORS[0])
    size = 7.0 if shape == "wide" or n.max() < 10_000 else 5.5
    for at, number in zip(places, n, strict=True):
        below.annotate(
            words.number(int(number), ",d"),
            ((at + 0.5) / BINS, number),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            fontsize=size,
        )
    below.set_ylim(0, 1.3 * n.max())
    below.set_yticks([])
    below.set_ylabel(words("examples"))
    below.set_xlabel(words("axis_confidence"))
    ticks = np.arange(round(low * BINS), BINS + 1, 1 if low and shape == "wide" else 2 if not low else 1) / BINS
    below.set_xticks(ticks, [words.number(value, ".1f") for value in ticks])
    above.set_yticks(np.arange(0, 1.01, 0.2), [words.number(value, ".1f") for value in np.arange(0, 1.01, 0.2)])
    for axes in (above, below):
        axes.grid(axis="both" if axes is above else "x", color=figures.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    made.legend(loc="outside upper left", ncols=3 if shape == "wide" else 1, frameon=False, borderpad=0.1)
    return made


def mistakes(section: Section, result: Result, found: Classification, *, certain: bool) -> None:
    """The wrong answers of which it was most certain."""
    confidence, wrong = found.probabilities.max(1), np.flatnonzero(found.given != found.truth)
    if not len(wrong):
        return
    section.text("wrong_certain" if certain else "wrong", number=len(wrong))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG]
    section.table(
        "wrong",
        [
            [
                cut(result.examples[i].input, CUT),
                cut(found.labels[found.truth[i]], 60),
                cut(found.labels[found.given[i]], 60),
                Number(confidence[i], ".3f"),
            ]
            for i in worst
        ],
    )


# Texts


def texts(section: Section, result: Result, lang: str) -> None:
    """lang: of the fables that were to be written; "" where they were to be none."""
    section.table("scores_alone", [score(name, value) for name, value in result.told.items()])
    pairs = list(zip(result.written, result.examples, strict=True))
    marks = [builtin.judged(text, e.choices, lang)[0] if lang else {} for text, e in pairs]
    if lang:
        fables(section, result, marks)
    if "exact" in result.told:
        section.text("exact_means" if "bleu" in result.told else "no_bleu")
    answers(section, result, marks)
    section.csv(
        "written",
        ["given", "wanted", "written"],
        [[e.input, e.output, text] for e, text in zip(result.examples, result.written, strict=True)],
    )


@dataclass(frozen=True)
class Share:
    """Of the answers that were asked for a choice, how many tell it rightly."""

    choice: str
    asked: int
    right: int
    guessed: float  # the share that always the same value would get

    @property
    def share(self) -> float:
        return self.right / self.asked


def by_choice(marks: Sequence[dict[str, bool]]) -> list[Share]:
    """Those that were asked, in the order of the story."""
    found = []
    for choice in CHOICES:
        of = [mark[choice.name] for mark in marks if choice.name in mark]
        if of:
            found.append(Share(choice.name, len(of), sum(of), guess(choice)))
    return found


def guess(choice: Choice) -> float:
    """The probability of a choice's likeliest value, over all that can be chosen before."""
    if choice.odds:
        first = sum(choice.odds.values()) / len(choice.odds)
        return max(first, 1 - first)
    return 1 / len(choice.values)


def named(words: Words, choice: str) -> str:
    part = choice.removeprefix("telling")
    return words(f"choice_{choice}") if part == choice else f"{words('choice_telling')} {part}"


def fables(section: Section, result: Result, marks: Sequence[dict[str, bool]]) -> None:
    told = result.told
    shares = by_choice(marks)
    guesses = {s.choice: s.guessed for s in shares}
    base = sum(s.asked * s.guessed for s in shares) / sum(s.asked for s in shares)
    section.text("fables", base=100 * base, **{name: 100 * told[name] for name in ("choices", "all_choices", "whole")})
    gains = [sum(right - guesses[name] for name, right in mark.items()) for mark in marks]
    section.text(f"fables_{mastered(gains, told['choices'], told['whole'])}")
    best, worst = max(shares, key=lambda s: s.share), min(shares, key=lambda s: s.share)
    if best.share > worst.share:
        section.text(
            "choices_differ",
            best=lambda words: named(words, best.choice),
            most=100 * best.share,
            worst=lambda words: named(words, worst.choice),
            least=100 * worst.share,
        )
    section.figure(
        "choices",
        lambda words, shape: bars(words, shape, shares),
        listed=lambda words: ", ".join(
            f"{named(words, s.choice)} {words('percent', value=100 * s.share)}" for s in shares
        ),
    )
    section.csv(
        "choices",
        ["choice", "asked", "right", "share", "by_guessing"],
        [[s.choice, s.asked, s.right, f"{s.share:.4f}", f"{s.guessed:.4f}"] for s in shares],
    )


def mastered(gains: Sequence[float], choices: float, whole: float) -> str:
    """Whether an answer has more choices right than guessing (gains, on the mean over answers), and how the share of
    those that are right stands to that of whole fables."""
    spread = np.std(gains, ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    if np.mean(gains) <= CHANCE * spread:
        return "chance"
    if min(choices, whole) >= PERFECT:
        return "perfect"
    return "fluent" if whole - choices > APART else "faulty" if choices - whole > APART else "even"


def bars(words: Words, shape: str, shares: Sequence[Share]) -> Figure:
    made, axes = figures.figure(shape, 1.0 + 0.2 * len(shares))
    places = np.arange(len(shares))
    axes.barh(places, [s.share for s in shares], height=0.7, color=figures.COLORS[0], label=words("the_model"))
    axes.plot(
        [s.guessed for s in shares],
        places,
        linestyle="",
        marker="D",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor=figures.COLORS[1],
        label=words("by_guessing"),
    )
    axes.set_yticks(places, [named(words, s.choice) for s in shares], fontsize=8)
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    ticks = np.linspace(0, 1, 5 if shape == "wide" else 3)
    axes.set_xticks(ticks, [words("percent", value=100 * value) for value in ticks])
    axes.get_xticklabels()[-1].set_ha("right")
    axes.set_xlabel(words("axis_choices"))
    axes.grid(axis="x", color=figures.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    made.legend(loc="outside upper left", ncols=2 if shape == "wide" else 1, frameon=False, borderpad=0.1)
    return made


def answers(section: Section, result: Result, marks: Sequence[dict[str, bool]]) -> None:
    """Some examples as they come, and, of fables, the one that missed most."""
    shown = list(range(min(ANSWERS, len(result.examples))))
    missed = [sum(not right for right in mark.values()) for mark in marks]
    worst = int(np.argmax(missed))
    if missed[worst] and worst not in shown:
        shown.append(worst)
        section.text("answers_worst")
    else:
        section.text("answers")
    rows: list[list[Any]] = []
    for number, i in enumerate(shown, 1):
        example, mark = result.examples[i], marks[i]

        def row(entry: str, text: str | Told, number: int = number) -> list[Any]:
            return [lambda words: words(entry, number=number), text]

        rows.append(row("row_given", lines(example.input)))
        if len(mark) in (0, len(CHOICES)):  # to a request, any fable with what it names is an answer
            rows.append(row("row_wanted", lines(example.output)))
        rows.append(row("row_written", lines(result.written[i])))
        if mark:
            rows.append(row("row_choices", right_of(mark)))
    section.table("answers", rows)


def lines(text: str) -> str:
    shown = text.replace("\n", " ↵ ")
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"


def right_of(mark: dict[str, bool]) -> Told:
    """How many choices an answer tells, and which it does not."""
    missed = [name for name, right in mark.items() if not right]

    def told(words: Words) -> str:
        counts = {"right": len(mark) - len(missed), "asked": len(mark)}
        if not missed:
            return words("choices_all", **counts)
        return words("choices_but", **counts, missed=", ".join(named(words, name) for name in missed))

    return told


# What it cost


def forgotten(lab: Lab, section: Section, config: FinetuneConfig) -> None:
    """The loss on the pretraining text before and after; nothing is said where it was not measured."""
    records = lab.run.metrics()
    before = next((r["pretraining_loss"] for r in records if r["step"] == -1 and "pretraining_loss" in r), None)
    scored = [record["scores"] for record in records if "scores" in record]
    after = scored[-1].get("pretraining_loss") if scored else None
    if before is None or after is None:
        return
    lost = after - before
    section.text("cost")
    section.text(
        "forgot_scratch" if config.from_scratch else f"forgot_{how_much(lost)}",
        before=before,
        after=after,
        lost=abs(lost),
        times=math.exp(abs(lost)),
        guess=math.log(lab.config.vocab_size),
    )
    if config.rank and lost >= MUCH:
        section.text("without_adapters")


def how_much(lost: float) -> str:
    """The entry for so many nats per token."""
    if lost <= -LITTLE:
        return "nothing_better"
    return "nothing" if lost < LITTLE else "little" if lost < MUCH else "much" if lost < DOUBLED else "most"


# The course of the fine-tuning


@dataclass(frozen=True)
class Course:
    """(step, value) of what was measured on the way."""

    train: list[tuple[int, float]]
    val: list[tuple[int, float]]
    accuracy: list[tuple[int, float]]

    @classmethod
    def of(cls, records: Sequence[dict[str, Any]]) -> "Course":
        names = ("train_loss", "val_loss", "accuracy")
        return cls(*([(r["step"], r[name]) for r in records if name in r] for name in names))

    @property
    def best(self) -> tuple[int, float]:
        return min(self.val, key=lambda point: point[1])

    @property
    def verdict(self) -> str:
        """nothing (no step made it better), falling (at the end still), rising (after the best), or flat."""
        (best, loss), last = self.best, self.val[-1]
        if best == self.val[0][0]:
            return "nothing"
        if best == last[0]:
            earlier = self.val[-2][1]
            return "falling" if earlier - loss > max(0.02 * earlier, 0.002) else "flat"
        return "rising" if last[1] - loss > max(0.05 * loss, 0.01) else "flat"


def course(lab: Lab, section: Section, config: FinetuneConfig) -> None:
    found = Course.of(lab.run.metrics())
    if len(found.val) < 2:
        return
    best, loss = found.best
    values: dict[str, Any] = {"best": best, "loss": loss, "first": found.val[0][1], "last": found.val[-1][1]}
    section.text(f"course_{found.verdict}", **values)
    decayed = config.schedule != "constant" and found.val[-1][0] == config.steps
    if found.verdict == "flat" and decayed and loss > SOLVED:
        section.text("course_decayed")
    if config.steps and found.val[-1][0] < config.steps:
        section.text("course_stopped", step=found.val[-1][0], steps=config.steps)
    levels = math.log(len(config.labels)) if config.head else None
    section.figure("course", lambda words, shape: curves(words, shape, found, levels), **values)
    section.csv(
        "course",
        ["step", "validation_loss", "accuracy"],
        [[step, loss, dict(found.accuracy).get(step, "")] for step, loss in found.val],
    )


def curves(words: Words, shape: str, found: Course, guessing: float | None) -> Figure:
    wide = shape == "wide"
    panels = 2 if found.accuracy else 1
    grid: dict[str, int] = {"ncols": panels} if wide else {"nrows": panels}
    made, both = figures.figure(shape, 3.4 if wide else 1.1 + 2.1 * panels, sharex=True, squeeze=False, **grid)
    losses = both.flat[0]
    if found.train:
        losses.plot(*zip(*found.train, strict=True), color="#999999", linewidth=0.8, label=words("training_loss"))
    losses.plot(
        *zip(*found.val, strict=True), "-o", color=figures.COLORS[0], markersize=3.5, label=words("validation_loss")
    )
    losses.plot(
        *found.best,
        linestyle="",
        marker="D",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=figures.COLORS[1],
        label=words("kept"),
    )
    if guessing is not None:
        losses.axhline(guessing, color=figures.INK, linewidth=0.9, linestyle=(0, (4, 3)), label=words("guessing"))
    losses.set_ylabel(words("axis_loss"))
    losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(value, ",.6g")))
    if found.accuracy:
        shares = both.flat[1]
        shares.plot(*zip(*found.accuracy, strict=True), "-o", color=figures.COLORS[0], markersize=3.5)
        shares.set_ylabel(words("axis_accuracy"))
        shares.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words("percent", value=100 * value)))
    for axes in both.flat:
        axes.set_ylim(bottom=0)
        axes.margins(x=0.03)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.number(int(value), ",d")))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(color=figures.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if wide or axes is both.flat[-1]:
            axes.set_xlabel(words("step"))
    made.legend(loc="outside upper left", ncols=4 if wide else 1, frameon=False, borderpad=0.1, fontsize=8.5)
    return made
