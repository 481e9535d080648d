"""The training loop on examples: loss on the answers alone, a model extended by tokens, adapters if they are wanted.

K labels, N examples, T tokens, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize

from gptlab import files, runtime
from gptlab.config import FinetuneConfig, ModelConfig, TrainConfig
from gptlab.finetuning import lora
from gptlab.finetuning.data import Example, Examples
from gptlab.finetuning.rows import Coder, Row, label_token
from gptlab.finetuning.scores import Classification
from gptlab.model.kernels import Kernel
from gptlab.model.transformer import Transformer, build
from gptlab.run import Run, save_tensors
from gptlab.text.batches import generator
from gptlab.text.objectives import IGNORED, Batch
from gptlab.text.tokenizer import END, START, Tokenizer
from gptlab.training.evaluate import inputs, together
from gptlab.training.loop import Loop

VALIDATED = 256  # examples that an evaluation on the way looks at, at most; the end looks at all
NOISE = 0.1  # of a new token's row: the deviation around the mean of all rows, in theirs


def special_tokens(tokenizer: Tokenizer, config: ModelConfig, labels: Sequence[str]) -> list[str]:
    """The special tokens that a task needs and a tokenizer lacks."""
    wanted = [*([] if config.bridge else [START]), END, *map(label_token, labels)]
    return [name for name in wanted if name not in tokenizer.specials]


def extended(
    model: Transformer,
    tokenizer: Tokenizer,
    new: int,
    *,
    context: int | None = None,
    seed: int,
    kernel: Kernel,
    dropout: float = 0.0,
) -> Transformer:
    """The same model, with rows for the last `new` tokens of its tokenizer, and perhaps another context.

    A new row is the mean of all others, and a little noise: what a token is like of which nothing is known (Hewitt,
    2021, nlp.stanford.edu/~johnhew/vocab-expansion.html). ValueError for a context longer than a table of positions.
    """
    config = model.config.but(vocab_size=max(model.vocab_size, tokenizer.vocab_size))
    if context is not None and context != config.context:
        if context > config.context and (config.position == "learned" or config.query_layer):
            raise ValueError(
                f"this model has a table of {config.context} positions, and cannot take in {context} tokens: leave "
                "--context out, or choose a model with other positions (rope, alibi, t5-relative, …)"
            )
        config = config.but(context=context)
    out = build(config, dropout=dropout, kernel=kernel)
    first = tokenizer.vocab_size - new
    old = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            known: Tensor = old[name]
            if name not in lora.TABLES:
                parameter.copy_(known[: len(parameter)] if parameter.shape != known.shape else known)
                continue
            parameter[: len(known)] = known
            rows = known[:first]
            shape = parameter[first : first + new].shape
            noise = torch.from_numpy(generator(seed, "new tokens", name).standard_normal(shape)).float()
            parameter[first : first + new] = rows.mean(0) + NOISE * rows.std() * noise.to(rows.device)
    return out


@dataclass(frozen=True)
class Encoded:
    """Examples as rows: those to train on, and those to validate on."""

    train: list[Row]
    val: list[Row]
    examples: Examples
    coder: Coder

    @classmethod
    def of(cls, examples: Examples, coder: Coder, *, balanced: bool = False) -> "Encoded":
        """balanced: each label counts alike: the weights are inverse to how often it occurs, 1 on the mean.

        Warns of what is cut and left out; ValueError where not one example fits into the context.
        """
        weights: Mapping[str, float] = {}
        if balanced:
            counts = {label: sum(e.output == label for e in examples.train) for label in examples.labels}
            weights = {label: len(examples.train) / (len(counts) * n) for label, n in counts.items()}
        train = [coder.row(e, weights.get(e.output, 1.0)) for e in examples.train]
        coded = cls(train, [coder.row(e, weights.get(e.output, 1.0)) for e in examples.val], examples, coder)
        if coder.cut == coder.seen:
            raise ValueError(
                f"no example fits into this model's context of {coder.config.context} tokens (the shortest has "
                f"{coder.shortest}): take a model with a longer context, or shorter examples; a model without a table "
                "of positions takes --context, too"
            )
        coder.warn()
        return coded


class Finetuner(Loop):
    """Trains on the answers of examples; the best weights are those with the least validation loss."""

    margin = math.inf  # who learns a few examples by heart is far more wrong on others than guessing: patience ends it

    def __init__(self, model: Transformer, data: Encoded, config: FinetuneConfig, new: Sequence[int]) -> None:
        """new: the ids of the tokens that the model was extended by."""
        self.data, self.how, self.new = data, config, list(new)
        if config.rank:
            lora.adapt(model, config, new)
        super().__init__(model, config.training())
        self.draws = self.draws or bool(config.rank and config.adapter_dropout)
        self.label_ids = torch.tensor(list(data.coder.labels.values()), device=self.device)
        self.guess = math.log(len(self.label_ids) or model.vocab_size)
        mean = np.mean([sum(data.coder.sizes(row)) for row in data.train[:1000]])
        self.tokens_per_step = round(config.batch * float(mean))

    # What the loop asks

    def batch(self, step: int) -> Batch:
        """The examples of a step: every example once in a pass, in an order of its own in each pass."""
        n, first = len(self.data.train), step * self.config.batch
        chosen = []
        for number in range(first, first + self.config.batch):
            epoch, at = divmod(number, n)
            chosen.append(self.data.train[self.order(epoch)[at]])
        return self.data.coder.batch(chosen)

    def order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "ordered", (-1,))[0] != epoch:
            self.ordered = epoch, generator(self.config.seed, "examples", epoch).permutation(len(self.data.train))
        return self.ordered[1]

    def nats(self, batch: Batch) -> Tensor:
        return costs(*self.answered(batch))

    def answered(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of each target, logits (N, V), or (N, K) of a head; what is right (N,); its weight (N,), None where all are
        1."""
        with parametrize.cached():
            given = inputs(batch, self.device)
            targets, weights = given.pop("targets"), given.pop("weights", None)
            asked = targets != IGNORED
            logits = self.model(**given, asked=asked).float()
        wanted = targets[asked]
        if len(self.label_ids):  # a linear head: softmax over the labels alone
            logits, wanted = logits[:, self.label_ids], (wanted[:, None] == self.label_ids).int().argmax(1)
        return logits, wanted, None if weights is None else weights[asked].float()

    def assessed(self, config: TrainConfig) -> dict[str, float]:
        """Nats per answer token of some validation examples, the same each time; of labels, how many are right, too."""
        rows = self.data.val[:VALIDATED]
        loss, asked, right = 0.0, 0.0, 0
        self.model.eval()
        with torch.inference_mode(), runtime.autocast(self.device, config.precision):
            for batch in self.batches(rows):
                logits, wanted, weights = self.answered(batch)
                loss += float(costs(logits, wanted, weights))
                asked += batch.asked
                right += int((logits.argmax(1) == wanted).sum())
        found = {"val_loss": loss / asked}
        if self.how.head:
            found["accuracy"] = right / len(rows)
        elif self.how.kind == "classify":  # what writing each of the other labels costs must be computed, too
            some = self.data.examples.val[:VALIDATED]
            found["accuracy"] = classified(self.model, self.data.coder, self.how.labels, some).accuracy
        self.model.train()
        return found

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}

    def restore(self, weights: dict[str, Tensor], source: Path) -> None:
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if differing := sorted(named.keys() ^ weights.keys()):
            raise ValueError(f"{source} does not fit this fine-tuning: {', '.join(differing[:5])}")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])

    def keep(self, run: Run) -> None:
        """The whole model, and its adapters alone, in RUN/adapter."""
        whole = lora.merged(self.model)
        with files.write_whole(run.path / "model.safetensors") as temporary:
            save_tensors(whole, temporary)
        if not self.how.rank:
            return
        with files.write_whole(run.path / "adapter") as folder:
            lora.write(folder, lora.adapters(self.model), self.how.parent)
            files.write_text(folder / lora.TASK, tomli_w.dumps({"finetune": self.how.to_dict()}))
            if self.new:
                rows = {name: whole[name][self.new].contiguous() for name in lora.TABLES if name in whole}
                save_tensors(rows, folder / lora.TOKENS)

    # What else can be asked

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """Rows in batches of similar lengths, none packed: what is measured is measured plainly."""
        coder = self.data.coder
        at_once = together(self.model, self.model.context)
        in_order = sorted(rows, key=lambda row: sum(coder.sizes(row)))
        return [coder.batch(in_order[i : i + at_once], packed=False) for i in range(0, len(rows), at_once)]


def costs(logits: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """Nats summed over the targets, each by its weight."""
    each = F.cross_entropy(logits, wanted, reduction="none")
    return (each if weights is None else each * weights).sum()


@torch.inference_mode()
def classified(model: Transformer, coder: Coder, labels: Sequence[str], examples: Sequence[Example]) -> Classification:
    """The probabilities of all labels, of each example: by the head, or, where labels are written, by what writing each
    of them costs."""
    device = model.embedding.device
    training = model.training
    model.eval()
    ids = torch.tensor(list(coder.labels.values()), device=device)
    rows = [coder.row(e, answer=label) for e in examples for label in (labels[:1] if len(ids) else labels)]
    order = sorted(range(len(rows)), key=lambda i: sum(coder.sizes(rows[i])))
    scores = torch.zeros(len(rows), max(1, len(ids)), dtype=torch.float64)
    at_once = together(model, model.context)
    for some in (order[i : i + at_once] for i in range(0, len(order), at_once)):
        batch = coder.batch([rows[i] for i in some], packed=False)
        given = inputs(batch, device)
        targets = given.pop("targets")
        asked = targets != IGNORED
        logits = model(**given, asked=asked).float()
        if len(ids):
            scores[some] = logits[:, ids].double().cpu()
        else:
            nats = torch.zeros(targets.shape, device=device)
            nats[asked] = F.cross_entropy(logits, targets[asked], reduction="none")
            scores[some, 0] = -nats.sum(1).double().cpu()
    model.train(training)
    probabilities = scores.view(len(examples), len(labels)).softmax(1).numpy()
    number = {label: i for i, label in enumerate(labels)}
    return Classification(tuple(labels), probabilities, np.array([number.get(e.output, -1) for e in examples]))
