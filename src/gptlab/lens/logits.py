"""What a model says of the next token: at each place of a text, and what each layer would say of it.

L layers, T tokens that the decoder reads, C model width, V vocabulary. Probabilities are softmax(logits); all that is
in nats is by the natural logarithm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.lens.trace import Trace
from gptlab.model.transformer import Transformer

Array = NDArray[Any]
TAPS = ("blocks.0.resid_pre", "blocks.*.resid_post", "logits")  # what a trace must hold for the lens
TOP = 10


@dataclass(frozen=True)
class Expectations:
    """What was expected of the next token at T places of a text, and what came.

    top_ids, top_p (T, k): the likeliest tokens, from the likeliest on; p, rank, nats (T,): the probability of the one
    that came, its rank (1: nothing was likelier), and its surprisal -ln p; entropy (T,): the surprisal that the model
    itself expects, sum of -p ln p over the vocabulary; variance (T,): of the surprisal, if p is true.
    """

    top_ids: Array
    top_p: Array
    p: Array
    rank: Array
    nats: Array
    entropy: Array
    variance: Array

    @property
    def perplexity(self) -> float:
        """exp of the mean surprisal: one who is as uncertain chooses among so many equally probable tokens."""
        return float(np.exp(self.nats.mean()))

    @property
    def deviation(self) -> float:
        """How far the summed surprisal is from what the model expects, in standard deviations of that sum.

        If its probabilities were true, surprisal less entropy would have mean 0 at every place whatever came before,
        so that variances add up; beyond 2, chance alone is a poor explanation. 0 for a model that is always certain.
        """
        deviation = float(np.sqrt(self.variance.sum()))
        return float((self.nats - self.entropy).sum()) / deviation if deviation else 0.0


def expectations(logits: Array, targets: Array, *, top: int = TOP) -> Expectations:
    """logits (T, V) and the tokens (T,) that came -> what was expected of them. Computed in float64.

    Raises ValueError where logits and targets are not of one length.
    """
    if len(logits) != len(targets):
        raise ValueError(f"{len(logits)} rows of logits, but {len(targets)} tokens that came")
    x = torch.as_tensor(logits).double()
    log_p = x.log_softmax(-1)
    came = torch.as_tensor(np.asarray(targets, dtype=np.int64))[:, None]
    p = log_p.exp()
    entropy = -(p * log_p).nan_to_num().sum(-1)  # 0 ln 0 is 0
    nats = -log_p.gather(-1, came)[:, 0]
    variance = (p * log_p.square()).nan_to_num().sum(-1) - entropy.square()
    likeliest = log_p.topk(min(top, x.shape[-1]), -1)
    rank = 1 + (x > x.gather(-1, came)).sum(-1)
    found = (
        likeliest.indices,
        likeliest.values.exp(),
        (-nats).exp(),
        rank,
        nats,
        entropy.clamp(min=0),
        variance.clamp(min=0),
    )
    return Expectations(*(a.numpy() for a in found))


@torch.inference_mode()
def read_out(model: Transformer, stream: Array | Tensor) -> Tensor:
    """What the model would say of a residual stream (…, C) if it were the last: logits (…, V), head(norm(stream)).

    Norm and head are the model's own, with its projection, scale and bias. A model of post-norm blocks has no final
    norm: its streams are normed as they are.
    """
    return model.unembed(model.norm(torch.as_tensor(stream, device=model.embedding.device)))


@dataclass(frozen=True)
class Lens:
    """What each layer would say (nostalgebraist 2020, "interpreting GPT: the logit lens").

    Row 0 is the stream before the first block, row l the stream after block l; the last row is the model's own answer.
    All but the last two fields are (L + 1, T): `top` the likeliest token and `top_p` its probability; `choice_p` and
    `choice_rank` of the token that the last layer finds likeliest; `entropy` in nats; `kl` = KL(last || layer), what
    one who expects this layer's distribution loses, in nats, where the last one's is true. `next_nats` and
    `next_rank` (L + 1, T - 1) are of the token that comes: surprisal and rank. best_ids, best_p (L + 1, T, 10).
    """

    top: Array
    top_p: Array
    choice_p: Array
    choice_rank: Array
    entropy: Array
    kl: Array
    next_nats: Array
    next_rank: Array
    best_ids: Array
    best_p: Array

    @property
    def settled(self) -> Array:
        """(T,): the first row from which on every layer finds the same token likeliest as the last one does."""
        agree = self.top == self.top[-1]
        return np.logical_and.accumulate(agree[::-1])[::-1].argmax(0)


def streams(trace: Trace) -> list[Array]:
    """The residual stream before the first block and after each, L + 1 of (T, C). ValueError if it is not traced."""
    try:
        return [trace.resid_pre[0], *trace.resid_post]
    except AttributeError as error:
        raise ValueError(f"the lens needs the taps {', '.join(TAPS)}: {error}") from None


def first_asked(config: ModelConfig, trace: Trace) -> int:
    """The first place of a trace whose next token the model is to foretell: what stands before is given."""
    if config.category == "encoder-decoder":
        return max(1, len(config.bridge)) - 1
    return trace.prefix - (not config.bridge) if config.category == "prefix" else 0


def lens(model: Transformer, trace: Trace, *, top: int = TOP) -> Lens:
    """The logit lens of a trace that holds `TAPS`: `read_out` of each of its streams. See `Lens`.

    A query layer (PanGu-alpha's) is a block like any other here: the stream before it has not been asked yet for the
    next position, but it is what that block adds to. Of an encoder-decoder, the decoder's layers are read.
    """
    targets = trace.ids[1:]
    own = torch.as_tensor(trace.logits).double().log_softmax(-1)
    choice = own.argmax(-1).numpy()
    rows: list[dict[str, Array]] = []
    for logits in layers(model, trace):
        said = expectations(logits, choice, top=top)
        next_ = expectations(logits[:-1], targets, top=1)
        log_p = torch.as_tensor(logits).double().log_softmax(-1)
        # Rounding may leave a divergence of nothing below zero.
        kl = (own.exp() * (own - log_p)).nan_to_num().sum(-1).clamp(min=0).numpy()
        rows.append(
            {
                "top": said.top_ids[:, 0],
                "top_p": said.top_p[:, 0],
                "choice_p": said.p,
                "choice_rank": said.rank,
                "entropy": said.entropy,
                "kl": kl,
                "next_nats": next_.nats,
                "next_rank": next_.rank,
                "best_ids": said.top_ids,
                "best_p": said.top_p,
            }
        )
    return Lens(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def layers(model: Transformer, trace: Trace) -> Iterator[Array]:
    """Logits (T, V) of each stream in turn, one at a time: all of them together can be large."""
    for stream in streams(trace):
        yield read_out(model, stream).cpu().numpy()
