"""One text on its way through a model: every array by name.

T tokens that the decoder reads, S that an encoder reads, C model width, H heads, K key and value heads, D head width,
V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gptlab.model import kernels, taps
from gptlab.model.layouts import begin
from gptlab.model.transformer import Transformer
from gptlab.text.labels import labels
from gptlab.text.tokenizer import Tokenizer

Array = NDArray[Any]

# What a trace has of every layer -> the tap's name in a block.
LAYERED = {
    "resid_pre": "resid_pre",  # (T, C), the residual stream before the block,
    "resid_mid": "resid_mid",  # between its branches (not where they are parallel),
    "resid_mid_cross": "resid_mid_cross",  # between cross-attention and MLP,
    "resid_post": "resid_post",  # and after the block
    "q": "attention.q",  # (H, T, D), as scores are made of them
    "k": "attention.k",  # (K, T, D)
    "v": "attention.v",  # (K, T, D)
    "pattern": "attention.pattern",  # (H, T, T), rows sum to one
    "z": "attention.z",  # (H, T, D), what each head has collected
    "attn_out": "attention.out",  # (T, C), what attention adds
    "cross_pattern": "cross.pattern",  # (H, T, S)
    "cross_out": "cross.out",  # (T, C)
    "mlp_hidden": "mlp.hidden",  # (T, d_ff), what the second matrix is given
    "mlp_out": "mlp.down",  # (T, C)
}


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, Array]):
    """What flowed through a model while it read a text: arrays, one text's, by the names of model/taps.py.

        trace["blocks.2.attention.pattern"]    (H, T, T)
        trace.pattern[2]                       the same: a list, layer by layer, of each name in LAYERED
        trace.encoder.pattern[0]               the encoder's, where there is one
        trace.logits                           (T, V); trace.norm, trace.embed: (T, C)

    ids (T,) are the tokens that were read, `tokens` their labels; `source_ids`, `source_tokens` what the encoder read.
    """

    ids: Array
    tokens: Sequence[str]
    arrays: Mapping[str, Array] = field(repr=False)
    source_ids: Array | None = None
    source_tokens: Sequence[str] = ()
    prefix: int = 0  # so many first tokens are seen by all, also from before

    # A mapping compares its values, and arrays have no truth value: a trace is equal to itself alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def encoder(self) -> "Trace":
        """The encoder's own trace. ValueError where there is none."""
        if self.source_ids is None:
            raise ValueError("this model has no encoder")
        own = {name.removeprefix("encoder."): x for name, x in self.items() if name.startswith("encoder.")}
        return Trace(self.source_ids, self.source_tokens, own)

    def __getattr__(self, name: str) -> Any:
        if name in LAYERED:
            found = {}
            for whole, x in self.arrays.items():
                head, _, rest = whole.partition(".")
                layer, _, tap = rest.partition(".")
                if head == "blocks" and tap == LAYERED[name]:
                    found[int(layer)] = x
            if found:
                return [found[layer] for layer in sorted(found)]
        elif name in self.__dict__.get("arrays", {}):
            return self.arrays[name]
        raise AttributeError(f"this trace has no {name!r}; it has: {', '.join(self.__dict__.get('arrays', {}))}")


@torch.inference_mode()
def trace(
    model: Transformer,
    tokenizer: Tokenizer,
    ids: Array,
    then: Array | None = None,
    *,
    names: Sequence[str] = (),
) -> Trace:
    """What a model does with a text.

    ids: the text, put to the model as its architecture wants it (`layouts.begin`): an encoder reads it, a prefix sees
    it both ways; then: what follows it, read by the decoder; names: patterns of what to keep ("*.pattern"), default
    all. Attention is computed by the formula, since a fused kernel never holds a pattern.

    Raises ValueError for a text that is empty, or longer than the context.
    """
    device = model.embedding.device
    given = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=device)[None]
    follows = torch.as_tensor(np.asarray([] if then is None else then, dtype=np.int64), device=device)[None]
    begun = begin(model.config, given)
    begun["ids"] = torch.cat([begun["ids"], follows], 1)
    longest = max(begun[name].shape[1] for name in ("ids", "source") if name in begun)
    if not given.shape[1]:
        raise ValueError("there is nothing to trace: the text has no tokens")
    if longest > model.context:
        raise ValueError(f"the text is {longest} tokens long, and the model reads {model.context}: trace a shorter one")
    with taps.record(model, *names, kernel=kernels.reference) as found:
        model(**begun)
    arrays: dict[str, Array] = {name: x[0].cpu().numpy() for name, x in found.items()}
    read_ids = begun["ids"][0].cpu().numpy()
    if "source" not in begun:
        prefix = int(begun["prefix"][0]) if "prefix" in begun else 0
        return Trace(read_ids, labels(tokenizer, read_ids), arrays, prefix=prefix)
    source = begun["source"][0].cpu().numpy()
    return Trace(read_ids, labels(tokenizer, read_ids), arrays, source, labels(tokenizer, source))
