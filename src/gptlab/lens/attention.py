"""What heads of attention do: which keys a query may see, measures of their patterns, and the test for induction.

L layers, H heads of each, T queries, S keys. A pattern (…, H, T, S) has rows that sum to one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab.lens.trace import Trace
from gptlab.model import kernels, taps
from gptlab.model.layouts import begin, room
from gptlab.model.masks import mask
from gptlab.model.transformer import Transformer
from gptlab.seeds import key
from gptlab.text.labels import whole
from gptlab.text.tokenizer import Tokenizer

Array = NDArray[Any]

LEAST = 4  # different tokens, for a sequence that is read twice

# What a head is called -> the measure that makes it so, and from where on; a sharp one lies below.
ROLES = {
    "previous": ("previous", 0.5),
    "first": ("first", 0.5),
    "own": ("own", 0.5),
    "next": ("next", 0.5),
    "induction": ("induction", 0.5),
    "sharp": ("evenness", 0.5),
    "broad": ("evenness", 0.9),
}


@dataclass(frozen=True, eq=False)
class Heads:
    """All heads of one kind: where a decoder looks at what it reads ("decoder"), an encoder at what that reads
    ("encoder"), and a decoder at what the encoder has read ("cross")."""

    kind: str
    pattern: Array = field(repr=False)  # (L, H, T, S)
    visible: Array = field(repr=False)  # (L, T, S), True where the architecture lets a query see a key
    queries: Sequence[str]  # labels of T tokens
    keys: Sequence[str]  # and of S


def heads(model: Transformer, trace: Trace) -> dict[str, Heads]:
    """The heads of a model that has read a text, by kind; the trace must hold the names "*.pattern"."""
    T = len(trace.ids)
    positions = torch.arange(T)[None]
    prefix = torch.tensor([trace.prefix]) if trace.prefix else None
    bands = [block.attention.band for block in model.blocks]  # type: ignore[union-attr]
    seen = [mask(positions, positions, prefix=prefix, band=band).allowed for band in bands]  # type: ignore[arg-type]
    back = np.stack([allowed[0, 0].numpy() for allowed in seen if allowed is not None])
    found = {"decoder": Heads("decoder", np.stack(trace.pattern), back, trace.tokens, trace.tokens)}
    if model.encoder is None:
        return found
    encoder = trace.encoder
    for kind, layers, queries in (
        ("encoder", encoder.pattern, encoder.tokens),
        ("cross", trace.cross_pattern, trace.tokens),
    ):
        pattern = np.stack(layers)
        everything = np.ones(pattern[:, 0].shape, dtype=bool)
        found[kind] = Heads(kind, pattern, everything, queries, encoder.tokens)
    return {kind: found[kind] for kind in ("encoder", "decoder", "cross")}


def measures(pattern: Array, visible: Array, *, cross: bool = False) -> dict[str, Array]:
    """What each head does on the mean, by name; pattern (…, H, T, S), visible (…, T, S) -> (…, H) each.

        entropy     -sum_j p_j ln p_j of a query's weights p, in nats
        evenness    the entropy over ln n, the most that n visible keys allow: 0 all on one key, 1 all alike
        previous    weight on the token before
        own         weight on the query itself
        next        weight on the token after, where some query sees it
        first       weight on the first key, by all queries but itself

    Means are over the queries that have a choice (n > 1) and see the key in question. cross: queries and keys are
    different tokens, of which only the first key has a name: entropy, evenness and first. Raises ValueError where no
    query has a choice.
    """
    T, S = pattern.shape[-2:]
    count = visible.sum(-1)  # (…, T)
    choice = count > 1
    if not choice.any(-1).all():
        raise ValueError("a head has no choice in a text of one token: read a longer one")
    logs = np.log(pattern, out=np.zeros(pattern.shape), where=pattern > 0)
    entropy = -(pattern * logs).sum(-1)  # (…, H, T)
    most = np.log(np.maximum(count, 2))[..., None, :]

    def mean(values: Array, asked: Array) -> Array:
        """Over the queries that are asked: values (…, H, N), asked (…, N)."""
        asked = np.broadcast_to(asked[..., None, :], values.shape)
        return np.asarray(values.mean(-1, where=asked))

    found = {"entropy": mean(entropy, choice), "evenness": mean(entropy / most, choice)}
    steps = np.arange(max(T, S))
    cells: dict[str, tuple[Any, Any]] = {"first": (steps[0 if cross else 1 : T], 0)}
    if not cross:
        cells = {
            "previous": (steps[1:T], steps[: T - 1]),
            "own": (steps[:T], steps[:T]),
            "next": (steps[: T - 1], steps[1:T]),
            **cells,
        }
    for name, (rows, columns) in cells.items():
        asked = visible[..., rows, columns] & choice[..., rows]
        if asked.any(-1).all():
            found[name] = mean(pattern[..., rows, columns], asked)
    return found


def roles(measured: Mapping[str, Array]) -> dict[str, Array]:
    """Which heads deserve a name, by `measures` (and `induction`, put beside them): role -> True where it fits.

    A head that gives half of its weight to one kind of key is named for it; sharp is one whose entropy is at most half
    of what is possible, and broad from nine tenths on. A head may have several roles, or none.
    """
    return {
        role: measured[name] <= limit if role == "sharp" else measured[name] >= limit
        for role, (name, limit) in ROLES.items()
        if name in measured
    }


def repeated(model: Transformer, tokenizer: Tokenizer, *, count: int = 16, longest: int = 32, seed: int = 0) -> Array:
    """Sequences to be read twice, (count, N): N different tokens in random order, as many as fit, at most `longest`.

    Tokens are those that spell whole characters. ValueError where fewer than LEAST fit.
    """
    usable = [i for i, piece in enumerate(tokenizer.pieces[: model.vocab_size]) if piece and whole(piece)]
    length = min(longest, room(model.config) // 2, len(usable))
    if length < LEAST:
        raise ValueError(
            f"induction is tested on at least {LEAST} different tokens, read twice; in a context of {model.context} "
            f"with {len(usable)} tokens to choose from, only {length} fit"
        )
    rng = np.random.default_rng(key(seed, "repeated"))
    return np.stack([rng.permutation(usable)[:length] for _ in range(count)])


@torch.inference_mode()
def induction(model: Transformer, sequences: Array) -> dict[str, Array]:
    """How much each head looks, when a sequence is read a second time, at what followed the same token the first time.

    sequences (R, N), as of `repeated`. Token j of the second reading is a query, token j + 1 of the first its key;
    the mean of these weights over j < N - 1 and the sequences. Olsson et al. 2022, arXiv 2209.11895, section "Defining
    induction heads" (prefix matching). A decoder reads both one after the other, a prefix model the first as its
    prefix: {"decoder": (L, H)}; an encoder reads the first, a decoder the second: {"cross": (L, H)}.
    """
    given = torch.as_tensor(sequences, dtype=torch.long, device=model.embedding.device)
    begun = begin(model.config, given)
    start = begun["ids"].shape[1]  # the row of the second reading's first token
    begun["ids"] = torch.cat([begun["ids"], given], 1)
    kind, name = ("decoder", "attention") if model.encoder is None else ("cross", "cross")
    with taps.record(model, f"blocks.*.{name}.pattern", kernel=kernels.reference) as found:
        model(**begun)
    j = torch.arange(given.shape[1] - 1, device=given.device)

    def score(pattern: Tensor) -> Tensor:
        return pattern[:, :, start + j, j + 1].mean((0, 2))

    layers = [found[f"blocks.{i}.{name}.pattern"] for i in range(len(model.blocks))]
    return {kind: torch.stack([score(pattern) for pattern in layers]).cpu().numpy()}
