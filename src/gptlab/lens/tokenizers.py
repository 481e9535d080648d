"""What a tokenizer does to a text, and what its vocabulary costs a model.

Pieces per word is the "fertility" of Rust et al. 2021 (arXiv 2012.15613), but that what stands between words does not
count here; tokens for the same content, language by language, are compared as in Petrov et al. 2023 (arXiv 2305.15425).
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gptlab.config import ModelConfig
from gptlab.model.count import count
from gptlab.text.bpe import BPETokenizer
from gptlab.text.labels import carried, labels, visible
from gptlab.text.tokenizer import Tokenizer, characters_only

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Piece:
    """A token of a text, or, with no id, a character that the vocabulary lacks."""

    id: int | None
    label: str  # as labels.labels shows it
    bytes: bytes


@dataclass(frozen=True)
class Spent:
    """How many tokens a text takes. A character that the vocabulary lacks counts as a token of its own."""

    tokens: int
    characters: int
    bytes: int
    words: int  # runs of letters and digits
    in_words: int  # tokens that hold some of a word, counted for each word
    whole: int  # words that lie in one token
    lacking: int  # characters that the vocabulary lacks

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def pieces_per_word(self) -> float:
        """Mean over the words of how many tokens hold some of it; nan for a text without words."""
        return self.in_words / self.words if self.words else math.nan


@dataclass(frozen=True)
class Share:
    """What the tables of tokens (a head of its own included) are of all parameters."""

    tokens: int  # parameters in these tables
    total: int

    @property
    def fraction(self) -> float:
        return self.tokens / self.total


def cut(tokenizer: Tokenizer, text: str) -> list[Piece]:
    """The pieces of a text, whose bytes joined are the text's."""
    found = []
    for part, ids in encoded(tokenizer, text):
        if ids is None:
            found.append(Piece(None, carried(visible(part)), part.encode()))
        else:
            shown = zip(ids.tolist(), labels(tokenizer, ids), strict=True)
            found += [Piece(i, label, tokenizer.pieces[i]) for i, label in shown]
    return found


def encoded(tokenizer: Tokenizer, text: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """The text in parts with their ids; None for a character that the vocabulary lacks."""
    text = characters_only(text)
    missing = tokenizer.unknown(text)
    parts = re.split(f"([{re.escape(''.join(missing))}])", text) if missing else [text]
    for at, part in enumerate(parts):
        if part:
            yield part, None if at % 2 else tokenizer.encode(part)


def spent(tokenizer: Tokenizer, text: str) -> Spent:
    """How many tokens a text takes, and its words. ValueError for a text that is empty."""
    text = characters_only(text)
    if not text:
        raise ValueError("there is nothing to count: the text is empty")
    sizes = np.array([len(piece) for piece in tokenizer.pieces])
    parts = list(encoded(tokenizer, text))
    lengths = np.concatenate([[len(part.encode())] if ids is None else sizes[ids] for part, ids in parts])
    ends = np.cumsum(lengths)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    at_byte = np.concatenate([[0], np.cumsum(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF))])
    spans = np.array([word.span() for word in WORD.finditer(text)], np.int64).reshape(-1, 2)
    # The token that holds a byte is the first one that ends behind it.
    first = np.searchsorted(ends, at_byte[spans[:, 0]], side="right")
    last = np.searchsorted(ends, at_byte[spans[:, 1]] - 1, side="right")
    return Spent(
        tokens=len(lengths),
        characters=len(text),
        bytes=int(at_byte[-1]),
        words=len(spans),
        in_words=int((last - first + 1).sum()),
        whole=int((first == last).sum()),
        lacking=sum(ids is None for _, ids in parts),
    )


def bits_per_character(nats_per_token: float, characters_per_token: float) -> float:
    """nats per token / (characters per token · ln 2): a unit in which tokenizers compare."""
    return nats_per_token / (characters_per_token * math.log(2))


def embedding_share(config: ModelConfig, vocab_size: int) -> Share:
    """The token tables' share of a model of this shape with a vocabulary of that size."""
    counted = count(config.but(vocab_size=vocab_size, bridge=()))
    return Share(counted.embedding + counted.head, counted.total)


def smaller(tokenizer: BPETokenizer, vocab_size: int) -> BPETokenizer:
    """What the same training gives at a smaller size: merges are learned one after another, so these are the first.

    ValueError for a size below the 256 bytes, or above the tokenizer's own.
    """
    if not 256 <= vocab_size <= tokenizer.vocab_size:
        raise ValueError(f"vocab_size must be from 256 to {tokenizer.vocab_size}, not {vocab_size}")
    data = json.loads(tokenizer.model.to_str())
    model = data["model"]
    merges, kept = [], {token: i for token, i in model["vocab"].items() if len(token) == 1}
    for pair in model["merges"]:
        if len(kept) == vocab_size:
            break
        merges.append(pair)
        kept.setdefault("".join(pair), model["vocab"]["".join(pair)])
    model["vocab"], model["merges"] = kept, merges
    return BPETokenizer.from_json({"tokenizers": data})
