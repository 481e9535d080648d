"""Another project's byte-level tokenizer, as the `tokenizers` library reads it from a tokenizer.json.

For those that `bpe` and `gpt2` cannot hold: special tokens at the beginning, or another way of splitting into words.
It comes with an imported model, and is not trained.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gptlab.text.bpe import BYTE_OF, library_tokenizer
from gptlab.text.tokenizer import characters_only, check_specials, id_dtype, join_pieces

if TYPE_CHECKING:
    import tokenizers

PROBE = "It's 1839;\n\n\tum café,  中文 🙂\r\n <s></s> ... \N{NO-BREAK SPACE}fim \n"


class HFTokenizer:
    """model: the library's tokenizer. Its special tokens stand for no bytes and are never made from a text; specials:
    more of them, whose ids come after its own.

    Raises ValueError for one whose ids are no bytes that, joined, give the text again (SentencePiece's, for one).
    """

    kind = "hf"

    def __init__(self, model: "tokenizers.Tokenizer", specials: Sequence[str] = ()) -> None:
        model.no_truncation()
        model.no_padding()
        model.encode_special_tokens = True  # their names in a text are text
        self.model = model
        added = model.get_added_tokens_decoder()
        ordinary = {i: token for token, i in model.get_vocab(with_added_tokens=False).items() if i not in added}
        if not set(BYTE_OF) <= set(ordinary.values()) or not set("".join(ordinary.values())) <= set(BYTE_OF):
            raise ValueError("its vocabulary is not a byte-level one, so its ids stand for no bytes of their own")
        if greedy := [
            token.content for token in added.values() if not token.special and (token.lstrip or token.rstrip)
        ]:
            raise ValueError(f"its token {greedy[0]!r} swallows the spaces around it")
        self.vocab_size = max(*ordinary, *added) + 1 if added else max(ordinary) + 1
        self.pieces = [b""] * self.vocab_size
        for i, token in ordinary.items():
            self.pieces[i] = bytes(map(BYTE_OF.__getitem__, token))
        for i, extra in added.items():
            self.pieces[i] = b"" if extra.special else extra.content.encode()
        self.specials = check_specials(specials)  # those that our programs put in; the library's may be any ids
        self.pieces += [b""] * len(self.specials)
        self.vocab_size = len(self.pieces)
        if self.decode(self.encode(PROBE)) != PROBE:
            raise ValueError("it changes the text that it reads")

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Self:
        """A ValueError: there is nothing to train."""
        raise ValueError("a tokenizer of the kind hf comes with an imported model and is not trained; use bpe")

    def encode(self, text: str) -> np.ndarray:
        # In one piece: where such a tokenizer may be cut, nobody knows.
        return np.array(
            self.model.encode(characters_only(text), add_special_tokens=False).ids, id_dtype(self.vocab_size)
        )

    def decode(self, ids: Any) -> str:
        return join_pieces(self.pieces, ids)

    def unknown(self, text: str) -> list[str]:
        return []

    def extended(self, specials: Sequence[str]) -> Self:
        return type(self)(self.model, (*self.specials, *specials))

    def to_json(self) -> dict[str, Any]:
        data = {"kind": self.kind, "tokenizers": json.loads(self.model.to_str())}
        return data | {"specials": list(self.specials)} if self.specials else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(library_tokenizer(data["tokenizers"]), data.get("specials", ()))
