"""GPT-2's own vocabulary of 50,257 byte pairs (Radford et al. 2019), encoded by `tiktoken`.

Learned on English web pages, so other languages take more tokens. The vocabulary comes from two files, once;
what is saved with a run holds it whole.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from gptlab.files import cache_dir
from gptlab.text.bpe import BYTE_OF
from gptlab.text.download import DOWNLOADS, fetch
from gptlab.text.tokenizer import characters_only, check_specials, id_dtype, join_pieces, small_pieces

# Addresses and hashes as in tiktoken's own `gpt2` encoding.
ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
VOCAB_BPE = ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456318)
ENCODER_JSON = ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783", 1042301)

SIZE = 50257
END_OF_TEXT = "<|endoftext|>"
# How GPT-2 splits a text into words: contractions; letters, digits or signs, each with the space before them; white
# space but for the character before the next word. Possessive (++), which matches the same and never goes back.
WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class GPT2Tokenizer:
    """pieces: the bytes of the 50,256 ordinary tokens, in the order of their ids; more: specials beside its own."""

    kind = "gpt2"

    def __init__(self, pieces: Sequence[bytes], more: Sequence[str] = ()) -> None:
        import tiktoken

        if len(set(pieces)) != SIZE - 1 or len(pieces) != SIZE - 1:
            raise ValueError(f"GPT-2's vocabulary has {SIZE - 1} distinct ordinary tokens, not {len(set(pieces))}")
        self.specials = check_specials((END_OF_TEXT, *more))
        self.pieces = [*pieces, *[b""] * len(self.specials)]
        self.vocab_size = len(self.pieces)
        ranks = {piece: rank for rank, piece in enumerate(pieces)}
        self.encoding = tiktoken.Encoding(
            "gpt2", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: SIZE - 1}
        )

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Self:
        """The published vocabulary; nothing is learned from the chunks."""
        if vocab_size not in (None, SIZE):
            raise ValueError(f"GPT-2's vocabulary has {SIZE} ids, not {vocab_size}; use bpe to choose a size")
        if not set(specials) <= {END_OF_TEXT}:
            raise ValueError(f"GPT-2's only special token is {END_OF_TEXT}, not {', '.join(specials)}")
        return cls.published()

    @classmethod
    def published(cls) -> Self:
        """From vocab.bpe and encoder.json: given, fetched before, or downloaded. OSError where none can be had."""
        try:
            merges, encoder = (
                fetch(name, ADDRESS + name, sha256, size) for name, sha256, size in (VOCAB_BPE, ENCODER_JSON)
            )
        except OSError as error:
            raise OSError(
                f"GPT-2's vocabulary needs two files, vocab.bpe and encoder.json, in DIR or DIR/tokenizers/gpt2 with "
                f"GPTLAB_DATA=DIR, or in {cache_dir() / DOWNLOADS}: {error}"
            ) from error
        spelled = json.loads(encoder.read_text(encoding="utf-8"))
        del spelled[END_OF_TEXT]
        pieces = [bytes(map(BYTE_OF.__getitem__, token)) for token in sorted(spelled, key=spelled.__getitem__)]
        # tiktoken merges in the order of the ids, which is right only as long as it is the order of the merges.
        lines = merges.read_text(encoding="utf-8").splitlines()[1:]
        assert [line.replace(" ", "") for line in lines] == [t for t in spelled if spelled[t] >= 256]
        return cls(pieces)

    def encode(self, text: str) -> np.ndarray:
        dtype = id_dtype(self.vocab_size)
        arrays = [np.zeros(0, dtype)]
        for piece in small_pieces(characters_only(text)):
            arrays.append(np.array(self.encoding.encode_ordinary(piece), dtype))
        return np.concatenate(arrays)

    def decode(self, ids: Any) -> str:
        return join_pieces(self.pieces, ids)

    def unknown(self, text: str) -> list[str]:
        return []

    def extended(self, specials: Sequence[str]) -> Self:
        return type(self)(self.pieces[: SIZE - 1], (*self.specials[1:], *specials))

    def to_json(self) -> dict[str, Any]:
        pieces = " ".join(base64.b64encode(p).decode() for p in self.pieces[: SIZE - 1])
        data = {"kind": self.kind, "pieces": pieces}
        return data | {"specials": list(self.specials[1:])} if len(self.specials) > 1 else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        try:
            pieces = [base64.b64decode(piece, validate=True) for piece in data["pieces"].split(" ")]
        except (binascii.Error, AttributeError) as error:
            raise ValueError(f"its pieces are not base64 words: {error}") from error
        return cls(pieces, data.get("specials", ()))
