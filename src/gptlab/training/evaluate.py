"""How good a model is: nats per token over random windows, or over one text read from its start."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab.model.layouts import begin, room
from gptlab.model.transformer import Transformer
from gptlab.text.batches import generator, windows
from gptlab.text.objectives import IGNORED, Batch, NextToken, Objective
from gptlab.training.loss import summed

NEXT_TOKEN = NextToken()
TOKENS, LOGITS = 8192, 1 << 26  # evaluated at once, at most: they bound memory, not the result


@torch.inference_mode()
def window_loss(
    model: Transformer,
    ids: NDArray[np.unsignedinteger],
    *,
    count: int,
    seed: int = 0,
    context: int | None = None,
    objective: Objective = NEXT_TOKEN,
    starts: NDArray[np.int64] | None = None,
) -> float:
    """Nats per token: the mean over every position of `count` random windows of exactly `context` tokens.

    With another objective than the next token, the mean over what it asks of them; starts: where windows may begin, by
    default anywhere.

    The same (ids, seed, count) are the same windows, so two models are compared on the same text.
    """
    context = context or model.context
    was_training = model.training
    model.eval()
    rows = windows(ids, count=count, context=context, seed=seed, stream="evaluate", starts=starts)
    total, asked, at_once = 0.0, 0, together(model, context)
    for first in range(0, count, at_once):
        batch = objective(rows[first : first + at_once], generator(seed, "evaluate-objective", first))
        total += batch_nats(model, batch).double().item()
        asked += int((batch.targets != IGNORED).sum())
    model.train(was_training)
    return total / asked


@dataclass(frozen=True)
class TextLoss:
    """The loss of one text under a model that reads it from its start; its first token is not predicted."""

    nats: float  # summed over the predicted tokens
    tokens: int  # predicted
    characters: int  # that the predicted tokens spell
    bytes: int  # of those, in UTF-8

    def per(self, unit: str) -> float:
        """Nats per "token", "char" or "byte"."""
        count = {"token": self.tokens, "char": self.characters, "byte": self.bytes}.get(unit)
        if count is None:
            raise ValueError(f"per must be token, char or byte, not {unit!r}")
        return self.nats / count


@torch.inference_mode()
def sliding_nats(
    model: Transformer, ids: NDArray[np.unsignedinteger], *, stride: int | None = None, limit: int | None = None
) -> tuple[float, int]:
    """Summed nats of ids[1:], and how many they are; each token is predicted once.

    Windows of the model's context advance by `stride` tokens (default half the context, at least 1), so after
    the first window each prediction sees at least context - stride tokens. limit: only so many predictions.
    """
    context = room(model.config)
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context:
        raise ValueError(f"stride must be from 1 to the context of {context}, not {stride}")
    if len(ids) < 2:
        raise ValueError(f"the loss of a text needs at least 2 tokens; this one has {len(ids)}")
    was_training = model.training
    model.eval()
    ids = ids[: None if limit is None else limit + 1]
    text = torch.from_numpy(np.asarray(ids, dtype=np.int64))
    first = text[: context + 1]
    total, done = nats(model, first[None, :-1], first[None, 1:]), len(first) - 1
    full = (len(text) - 1 - done) // stride  # whole strides after the first window, computed together
    if full:
        starts = done + stride * torch.arange(full) + stride - context
        rows = text[starts[:, None] + torch.arange(context + 1)]
        for x, y in zip(*chunks(model, rows[:, :-1], rows[:, 1:]), strict=True):
            total += nats(model, x, y, last=stride)
        done += full * stride
    rest = len(text) - 1 - done
    if rest:
        row = text[-context - 1 :]
        total += nats(model, row[None, :-1], row[None, 1:], last=rest)
    model.train(was_training)
    return total, len(text) - 1


@torch.inference_mode()
def story_nats(
    model: Transformer,
    stories: Sequence[NDArray[np.unsignedinteger]],
    separator: NDArray[np.unsignedinteger],
    lead: NDArray[np.unsignedinteger] | None = None,
) -> float:
    """Summed nats of texts that are each read whole from its start, after a separator, to the separator behind it.

    What comes before the first token of a story is the separator alone (or `lead`, the part of it that the model was
    trained to begin with), so the sum is comparable with the stories' own surprisal. A story that is longer than the
    context is read by a sliding window, and loses what that forgets.
    """
    was_training = model.training
    model.eval()
    total = 0.0
    context = room(model.config)
    lead = separator if lead is None else lead
    given = len(lead) - 1  # of the predicted tokens, these belong to the separator in front
    rows = [np.concatenate([lead, story, separator]) for story in stories]
    for row in (row for row in rows if len(row) - 1 > context):
        total += sliding_nats(model, row)[0]
        if given:
            total -= sliding_nats(model, lead)[0]
    # Side by side, the shorter ones filled up behind their end, where no earlier token looks.
    fitting = sorted((row for row in rows if len(row) - 1 <= context), key=len)
    at_once = together(model, context)
    for group in (fitting[i : i + at_once] for i in range(0, len(fitting), at_once)):
        x, y = np.zeros((len(group), len(group[-1]) - 1), np.int64), np.full((len(group), len(group[-1]) - 1), IGNORED)
        for i, row in enumerate(group):
            x[i, : len(row) - 1], y[i, given : len(row) - 1] = row[:-1], row[given + 1 :]
        total += nats(model, torch.from_numpy(x), torch.from_numpy(y))
    model.train(was_training)
    return total


def together(model: Transformer, length: int) -> int:
    """How many rows of a length are evaluated at once."""
    return max(1, min(TOKENS, LOGITS // model.vocab_size) // length)


def chunks(model: Transformer, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    rows = together(model, x.shape[1])
    return list(x.split(rows)), list(y.split(rows))


def batch_nats(model: Transformer, batch: Batch) -> Tensor:
    """Summed over what a batch asks, a scalar."""
    given = inputs(batch, model.embedding.device)
    targets = given.pop("targets")
    return summed(model(**given), targets)


def inputs(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """What there is of a batch, as tensors on a device."""
    return {name: torch.from_numpy(a).to(device) for name, a in vars(batch).items() if a is not None}


def nats(model: Transformer, x: Tensor, y: Tensor, *, last: int | None = None) -> float:
    """Summed over all positions, or over the last few of each row; added up in double precision.

    x and y are (B, T), y[:, t] following x[:, t]. A model that is no plain decoder is given what stands before the
    first token that is asked, and the rest to go on with.
    """
    device = model.embedding.device
    x, y = x.to(device), y.to(device)
    y = y if last is None else y[:, -last:]
    inputs = begin(model.config, x[:, : x.shape[1] - y.shape[1] + 1])
    inputs["ids"] = torch.cat([inputs["ids"], x[:, x.shape[1] - y.shape[1] + 1 :]], 1)
    logits = model(**inputs)[:, -y.shape[1] :]
    return summed(logits, y).double().item()
