"""What goes wrong in a training, said while it trains: a few rules over the text's ids and the training's records.

Each advice is given at most once in a run and stands in its metrics as {"step", "advice", …numbers}, so a resumed
run repeats nothing. Where two rules hold for one cause, the cause alone is named. A training of a few dozen steps
gets none: it is a trial.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptlab.config import TrainConfig
from gptlab.model.transformer import Transformer
from gptlab.run import Run
from gptlab.training.loop import Listener, Trainer

Ids = NDArray[np.unsignedinteger]

SHORT = 100  # steps that a training needs to be given advice
FEW = 100  # tokens of which nothing can be said
SPANS, SPAN = 16, 1 << 18  # the training part is judged by so many pieces, of so many tokens at most
PAIRS = 512  # up to this vocabulary, pairs of tokens are counted
UNLIKE = {1: 0.9, 2: 0.55}  # nats, of single tokens and of pairs: less than between any two of our five languages
PASSES, PER_TOKEN = 40, 5  # over the text; parameters per token of it
SLOW = 0.05  # nats above the entropy of single tokens
RISEN = 0.3  # nats: what a training loss rises by when it diverges
WORSE = 0.05  # nats: what a validation loss rises by, at least, when a model overfits
IN_A_ROW = 3  # evaluations that get worse
AVERAGED = 5  # training records

# Who learns a text by heart that is too short, or unlike the validation part, gets worse at validation. Overfitting
# is then what follows, and its own advice would hide what helps.
CAUSES = {"overfitting": {"small", "unlike"}}


@dataclass(frozen=True)
class Advice:
    """name: the catalogues have its sentence as advice_NAME, in which `numbers` are filled in."""

    name: str
    numbers: Mapping[str, float | str]


# Before the first step: the text


def unlike(train_ids: Ids, val_ids: Ids, vocab_size: int) -> Advice | None:
    """Whether the validation part is another kind of text than the training part, such as another language.

    The excess of a text is the relative entropy, in nats, of its token frequencies to those of the training part:
    what it costs to predict each token by the frequencies of the training part instead of the text's own. Of few
    tokens it is large by chance alone, and no two books are alike; so the excess of the validation part is held
    against that of pieces of the training part, just as long, each to all the others.
    """
    # Of characters, pairs are counted: single ones are much the same in neighbouring languages, and say more about
    # a page's layout. A bpe token holds a pair or more already, and its pairs are too many to be counted.
    order = 2 if vocab_size <= PAIRS else 1
    length = min(SPAN, len(val_ids), len(train_ids) // 4)
    if length < FEW:
        return None
    pieces = [counts(piece, vocab_size, order) for piece in spans(train_ids, length)]
    whole = np.sum(pieces, axis=0)
    usual = max(excess(piece, whole - piece) for piece in pieces)
    found = excess(counts(val_ids[:length], vocab_size, order), whole)
    return Advice("unlike", {"excess": found, "usual": usual}) if found > usual + UNLIKE[order] else None


def spans(ids: Ids, length: int) -> list[Ids]:
    """At most SPANS pieces of `length` tokens, evenly spaced over the text and disjoint."""
    number = max(1, min(SPANS, len(ids) // length))
    return [ids[start : start + length] for start in np.linspace(0, len(ids) - length, number).astype(int)]


def counts(ids: Ids, vocab_size: int, order: int) -> NDArray[np.int64]:
    """How often each token (order 1) or pair of neighbours (order 2) occurs: (V,) or (V²,)."""
    if order == 1:
        return np.bincount(ids, minlength=vocab_size)
    ids = ids.astype(np.int64)
    return np.bincount(ids[:-1] * vocab_size + ids[1:], minlength=vocab_size**2)


def excess(found: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    """Relative entropy of one count's frequencies to another's, half a count added to each of the latter's."""
    seen = found > 0
    p = found[seen] / found.sum()
    q = (reference[seen] + 0.5) / (reference.sum() + 0.5 * len(reference))
    return float((p * np.log(p / q)).sum())


def entropy(ids: Ids, vocab_size: int) -> float:
    """Nats per token of a text's token frequencies: the loss of a model that knows these and nothing else."""
    found = np.sum([counts(piece, vocab_size, 1) for piece in spans(ids, min(SPAN, len(ids)))], axis=0)
    p = found[found > 0] / found.sum()
    return float(-(p * np.log(p)).sum())


def small(config: TrainConfig, *, parameters: int, context: int, tokens: int) -> Advice | None:
    """Whether a model with room for the whole text will see it so often that it must learn it by heart.

    Up to 4 passes over a text are as good as new text, and after 40 another one is worth nothing (Muennighoff et al.
    2023, arXiv 2305.16264). Parameters are counted beside them since a model that is too small to hold the text
    can pass over it without end.
    """
    assert config.steps
    passes = config.steps * config.batch * context / tokens
    if passes > PASSES and parameters > PER_TOKEN * tokens:
        return Advice("small", {"tokens": tokens, "parameters": parameters, "passes": passes})
    return None


# While it trains: the records


@dataclass
class Watch:
    """The rules over records, which are read in order. The same records give the same advice."""

    config: TrainConfig  # resolved
    entropy: float  # of the training part's single tokens
    evaluated: int  # validation tokens that an evaluation predicts
    trained: list[tuple[int, float]] = field(default_factory=list)  # step, training loss
    validated: list[tuple[int, float]] = field(default_factory=list)  # step, validation loss

    def read(self, record: Mapping[str, Any]) -> Advice | None:
        """The next record of the metrics; what it gives reason to say."""
        found = None
        if "train_loss" in record:
            self.trained.append((record["step"], record["train_loss"]))
            found = self.diverging() or self.slow()
        elif "val_loss" in record:
            self.validated.append((record["step"], record["val_loss"]))
            found = self.overfitting()
        return found if (self.config.steps or 0) >= SHORT else None

    def trained_in(self, after: float, until: float) -> float:
        """The mean training loss of the steps in between; NaN where there is no record."""
        losses = [loss for step, loss in self.trained if after < step <= until]
        return sum(losses) / len(losses) if losses else math.nan

    def rates(self, factor: float = 1.0) -> str:
        """The learning rates, times a factor, as they are given on the command line."""
        config = self.config
        adam = f" --lr-adam {config.lr_adam * factor:.2g}" if config.optimizer == "muon" else ""
        return f"--lr {config.lr * factor:.2g}{adam}"

    def diverging(self) -> Advice | None:
        """The mean of a few records is well above its best, and beyond what one record differs from the next."""
        if len(self.trained) < 2 * AVERAGED:
            return None
        losses = np.array([loss for _, loss in self.trained])
        means = np.convolve(losses, np.full(AVERAGED, 1 / AVERAGED), "valid")
        noise = float(np.median(np.abs(np.diff(losses))))
        best, now = float(means.min()), float(means[-1])
        if now < best + RISEN + 2 * noise:
            return None
        return Advice("diverging", {"best": best, "now": now, "rates": self.rates(), "lower": self.rates(0.1)})

    def slow(self) -> Advice | None:
        """Halfway, or after 1000 steps, no better than token frequencies, which any model learns first; yet falling.

        A rate that is far too high may hold a model up there, too, but then the loss falls at once and stays.
        """
        config, (step, loss) = self.config, self.trained[-1]
        assert config.steps
        if loss < self.entropy:
            return None
        if step < max(SHORT, 2 * config.warmup, min(config.steps // 2, 1000)) or not config.lr:  # 0 is no mistake
            return None
        ends = step * 5 // 8, step
        halfway, now = (self.trained_in(end - step / 8, end) for end in ends)
        fallen = self.trained[0][1] - now
        if not now > self.entropy + SLOW or fallen < -SLOW or not halfway - now >= 0.1 * fallen:
            return None
        return Advice("slow", {"now": now, "entropy": self.entropy, "rates": self.rates(), "higher": self.rates(10)})

    def overfitting(self) -> Advice | None:
        """Validation gets worse and worse, clearly beyond what it varies by, and training is better than at its best.

        The windows are the same each time, so what chance leaves is how two models differ on a token, half a nat or
        less (twice its standard error is 1/sqrt(tokens)), and what a noisy optimizer does from one evaluation to the
        next.
        """
        if len(self.validated) <= IN_A_ROW:
            return None
        losses = np.array([loss for _, loss in self.validated])
        means = np.convolve(losses, np.full(IN_A_ROW, 1 / IN_A_ROW), "valid")
        margin = max(WORSE, 1 / math.sqrt(self.evaluated)) + float(np.median(np.abs(np.diff(losses))))
        if means[-1] < means.min() + margin or np.diff(losses[-IN_A_ROW:]).min() <= 0:
            return None
        best_step, best = min(self.validated, key=lambda pair: pair[1])
        (before, _), (step, now) = self.validated[-2:]
        ends = best_step, step
        at_best, lately = (self.trained_in(end - (step - before), end) for end in ends)
        if not lately < at_best:
            return None
        numbers = {"best": best, "best_step": best_step, "now": now, "train": lately}
        return Advice("overfitting", {**numbers, "dropout": self.config.dropout})


class Adviser(Listener):
    """Gives advice on a training, through `tell`, and notes it in the run's metrics."""

    def __init__(self, trainer: Trainer, run: Run, tell: Callable[[Advice], None]) -> None:
        self.trainer, self.run, self.tell = trainer, run, tell
        self.given: set[str] = set()

    def started(self, step: int, steps: int, tokens: int) -> None:
        model, config = self.trainer.model, self.trainer.config
        train_ids, val_ids, vocab_size = self.trainer.train_ids, self.trainer.val_ids, model.vocab_size
        assert config.eval_windows
        evaluated = min(config.eval_windows * model.context, len(val_ids))
        self.watch = Watch(config, entropy(train_ids, vocab_size), evaluated)
        for record in self.run.metrics():
            if "advice" in record:
                self.given.add(record["advice"])
            else:
                self.watch.read(record)
        if steps >= SHORT:
            parameters = sum(p.numel() for p in model.parameters())
            size = {"parameters": parameters, "context": model.context, "tokens": len(train_ids)}
            self.give(step, unlike(train_ids, val_ids, vocab_size))
            self.give(step, small(config, **size))

    def logged(self, record: dict[str, Any]) -> None:
        self.give(record["step"], self.watch.read(record))

    def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
        self.give(record["step"], self.watch.read(record))

    def give(self, step: int, advice: Advice | None) -> None:
        if advice is None or self.given & {advice.name, *CAUSES.get(advice.name, ())}:
            return
        self.given.add(advice.name)
        self.run.add_metrics({"step": step, "advice": advice.name, **advice.numbers})
        self.tell(advice)
