"""One id for each distinct character, in the order of their code points.

Encoding is one table look-up for a whole block of text: UTF-32 gives every character's code point as a number,
and the table gives that number's id. Blocks are small enough to stay in the processor's cache.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from gptlab.text.tokenizer import SURROGATE, check_specials, id_dtype, join_pieces, named

CODE_POINTS = 0x110000  # Unicode's size
BLOCK = 1 << 15  # characters


class CharTokenizer:
    """characters: the vocabulary in the order of its ids; specials: names whose ids come after."""

    kind = "char"

    def __init__(self, characters: str, specials: Sequence[str] = ()) -> None:
        if not characters:
            raise ValueError("a character tokenizer needs at least one character")
        if len(set(characters)) != len(characters):
            twice = next(c for i, c in enumerate(characters) if c in characters[:i])
            raise ValueError(f"the vocabulary holds {named(twice)} twice")
        if lone := SURROGATE.search(characters):
            raise ValueError(f"{named(lone[0])} is half of a character and cannot be in a vocabulary")
        self.characters = characters
        self.specials = check_specials(specials)
        self.pieces = [c.encode() for c in characters] + [b""] * len(self.specials)
        self.vocab_size = len(self.pieces)

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Self:
        """The sorted distinct characters of the chunks."""
        if vocab_size is not None:
            raise ValueError(f"a character vocabulary is as large as the text makes it, not {vocab_size}; use bpe")
        seen = np.zeros(CODE_POINTS, dtype=bool)
        for chunk in chunks:
            for _, codes in _blocks(chunk):
                seen[codes] = True
        return cls("".join(map(chr, np.flatnonzero(seen))), specials)

    @cached_property
    def _table(self) -> np.ndarray:
        """Code point -> id, and the vocabulary's size for all that has none.

        It ends one after the greatest code point; look-ups beyond it are clipped to that last, empty entry.
        """
        codes = np.array([ord(c) for c in self.characters])
        table = np.full(codes.max() + 2, self.vocab_size, dtype=np.min_scalar_type(self.vocab_size))
        table[codes] = np.arange(len(codes))
        return table

    def encode(self, text: str) -> np.ndarray:
        """ValueError for a character that is not in the vocabulary, with its place in the text."""
        ids = np.empty(len(text), id_dtype(self.vocab_size))
        for start, codes in _blocks(text):
            found = self._table.take(codes, mode="clip")
            if found.max() == self.vocab_size:
                at = start + int(found.argmax())
                raise ValueError(
                    f"{named(text[at])} at position {at} is not in the vocabulary of {self.vocab_size} ids"
                )
            ids[start : start + len(found)] = found
        return ids

    def decode(self, ids: Any) -> str:
        return join_pieces(self.pieces, ids)

    def unknown(self, text: str) -> list[str]:
        missing: set[int] = set()
        for _, codes in _blocks(text):
            lacks = self._table.take(codes, mode="clip") == self.vocab_size
            if lacks.any():
                missing.update(np.unique(codes[lacks]).tolist())
        return [chr(code) for code in sorted(missing)]

    def extended(self, specials: Sequence[str]) -> Self:
        return type(self)(self.characters, (*self.specials, *specials))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters, "specials": list(self.specials)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        if not isinstance(data["characters"], str):
            raise ValueError(f"its characters are not a string but {type(data['characters']).__name__}")
        return cls(data["characters"], data.get("specials", ()))


def _blocks(text: str) -> Iterator[tuple[int, np.ndarray]]:
    """(where it starts, its code points) for each block of the text. Lone surrogates pass: they are unknown."""
    for start in range(0, len(text), BLOCK):
        block = text[start : start + BLOCK].encode("utf-32-le", "surrogatepass")
        yield start, np.frombuffer(block, dtype="<u4")
