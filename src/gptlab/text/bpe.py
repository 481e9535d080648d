"""Byte-pair encoding learned on the text at hand, by the `tokenizers` library (Sennrich et al., arXiv 1508.07909).

The alphabet is the 256 bytes, so any text can be spelled, in any language, and comes back exactly; merges of
frequent neighbours, within words only, are added until the vocabulary is full (GPT-2's way: Radford et al. 2019,
section 2.2).
"""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gptlab.text.tokenizer import (
    at_breaks,
    characters_only,
    check_specials,
    id_dtype,
    join_pieces,
    small_pieces,
)

if TYPE_CHECKING:
    import tokenizers

VOCAB_SIZE = 1024
BATCH = 32  # pieces of text that are encoded at once, on all cores

# GPT-2's files, and the library, write a token's bytes as visible characters: a byte that Latin-1 prints is that
# character, and the others (control characters, spaces, the soft hyphen) are U+0100 and on, in their order.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}


class BPETokenizer:
    """model: the library's byte-level tokenizer; specials: names whose ids come after its own."""

    kind = "bpe"

    def __init__(self, model: "tokenizers.Tokenizer", specials: Sequence[str] = ()) -> None:
        self.model = model
        self.specials = check_specials(specials)
        ordinary = model.get_vocab_size()
        spelled = [model.id_to_token(i) or "" for i in range(ordinary)]
        if not all(spelled) or not set("".join(spelled)) == set(BYTE_OF):
            raise ValueError("its vocabulary is not a byte-level one")
        self.pieces = [bytes(map(BYTE_OF.__getitem__, token)) for token in spelled] + [b""] * len(self.specials)
        self.vocab_size = len(self.pieces)

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Self:
        """Merge the most frequent neighbours until there are `vocab_size` ids (default 1024), special ones included.

        A text so small that no pair of neighbours is left to occur twice gives fewer. ValueError below 256,
        the number of bytes.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        vocab_size = VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size < 256 + len(specials):
            tokens = f" and {len(specials)} special tokens" if specials else ""
            raise ValueError(f"a vocabulary of {vocab_size} is too small: it holds the 256 bytes{tokens} first")
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(specials),
            min_frequency=2,
            initial_alphabet=sorted(BYTE_OF),
            show_progress=False,
        )
        # In small pieces, because the library takes in hundreds of them before it counts their words.
        pieces = (piece for chunk in at_breaks(chunks) for piece in small_pieces(characters_only(chunk)))
        model.train_from_iterator(pieces, trainer)
        return cls(model, specials)

    def encode(self, text: str) -> np.ndarray:
        dtype = id_dtype(self.vocab_size)
        pieces = small_pieces(characters_only(text))
        arrays = [np.zeros(0, dtype)]
        while batch := list(islice(pieces, BATCH)):
            encoded = self.model.encode_batch_fast(batch, add_special_tokens=False)
            arrays += [np.array(one.ids, dtype) for one in encoded]
        return np.concatenate(arrays)

    def decode(self, ids: Any) -> str:
        return join_pieces(self.pieces, ids)

    def unknown(self, text: str) -> list[str]:
        return []

    def extended(self, specials: Sequence[str]) -> Self:
        return type(self)(self.model, (*self.specials, *specials))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokenizers": json.loads(self.model.to_str()), "specials": list(self.specials)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(library_tokenizer(data["tokenizers"]), data.get("specials", ()))


def library_tokenizer(data: dict[str, Any]) -> "tokenizers.Tokenizer":
    """What the library makes of its own JSON; ValueError where it cannot."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(f"the tokenizers library cannot read it: {error}") from error
