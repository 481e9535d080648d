"""What a tokenizer is, how one is saved and loaded, and where a text may be cut without changing its tokens.

A tokenizer is known by the bytes that each id stands for: decoding is joining them, and losses per character
and per byte follow from them, whatever the kind. Special tokens stand for no bytes, come last, and are never
produced from a text: only a program puts them in.
"""

import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from gptlab.files import write_text
from gptlab.registry import TOKENIZERS

START, END = "<start>", "<end>"  # special tokens before what a model is to write, and behind it

LIMIT = 1 << 22  # characters that are held back, at most, in the search for a place to cut
SURROGATE = re.compile("[\ud800-\udfff]")
LAST_BREAK = re.compile(r".+(?=[ \n]\S)", re.DOTALL)  # greedy: everything before the last place to cut
NEXT_BREAK = re.compile(r"(?=[ \n]\S)")


class Tokenizer(Protocol):
    """Text to ids and back. Ids of `specials` are the last ones, in their order."""

    kind: str  # its name in registry.TOKENIZERS
    vocab_size: int  # ids, special ones included
    pieces: list[bytes]  # what each id stands for, in UTF-8; b"" for the special ones
    specials: tuple[str, ...]

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Self:
        """Learn the vocabulary from a text that arrives in chunks of any size."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, in the smallest unsigned dtype that holds them all."""

    def decode(self, ids: Any) -> str:
        """The text of ids, U+FFFD where their bytes are no UTF-8."""

    def unknown(self, text: str) -> list[str]:
        """The distinct characters of a text that the vocabulary cannot spell."""

    def extended(self, specials: Sequence[str]) -> Self:
        """The same, with more special tokens, whose ids come after all others."""

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs: no other file, no network."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""


def train(kind: str, chunks: Iterable[str], vocab_size: int | None = None, specials: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of the kind "char", "bpe" or "gpt2", its vocabulary learned from `chunks` where it learns one.

    vocab_size counts the special tokens, too. ValueError where the kind's vocabulary has no choice of size.
    """
    tokenizer: Tokenizer = TOKENIZERS[kind].train(chunks, vocab_size, specials)
    return tokenizer


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as JSON, whole or not at all."""
    write_text(path, json.dumps(tokenizer.to_json(), ensure_ascii=False) + "\n")


def load(path: Path) -> Tokenizer:
    """Read what `save` wrote. ValueError, with the path, for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or "kind" not in data:
            raise ValueError('it has no "kind"')
        tokenizer: Tokenizer = TOKENIZERS[data["kind"]].from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not a tokenizer's file: {reason}") from error
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of what somebody typed, leaving out, with one warning, what the vocabulary cannot spell.

    Some keyboards send an accented letter as two characters, so a text that is not spelled as it stands is
    tried in Unicode's composed form (NFC) before anything is given up.
    """
    if missing := tokenizer.unknown(text):
        composed = unicodedata.normalize("NFC", text)
        if len(still := tokenizer.unknown(composed)) < len(missing):
            text, missing = composed, still
    if missing:
        text = without(text, missing)
        listed = ", ".join(map(named, missing))
        warnings.warn(f"not in the vocabulary, left out of the prompt: {listed}", stacklevel=2)
    return tokenizer.encode(text)


def within(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of white space as it is encoded before a word: at the end of a text it may be merged otherwise."""
    letter = next((c for c in "aeio" if not tokenizer.unknown(c)), "")  # a vocabulary of characters may lack any
    return tokenizer.encode(text + letter)[: -len(tokenizer.encode(letter)) or None]


def opening(tokenizer: Tokenizer, separator: str) -> np.ndarray:
    """What stands before a text that is read from its beginning: the last token of the separator between texts.

    Not all of it: of several tokens that are alike, with nothing before them, a model without absolute positions cannot
    tell how many there are, and would expect another.
    """
    return within(tokenizer, separator)[-1:]


def without(text: str, characters: Iterable[str]) -> str:
    """The text less some characters."""
    return text.translate(dict.fromkeys(map(ord, characters)))


def named(character: str) -> str:
    """A character as an error shows it: itself, for who can see it, and its code point, for who cannot."""
    return f"{character!r} (U+{ord(character):04X})"


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token. ValueError, listing the known ones, where there is none of that name."""
    if name not in tokenizer.specials:
        known = ", ".join(tokenizer.specials) or "none"
        raise ValueError(f"the tokenizer has no special token {name!r}; it has: {known}")
    return tokenizer.vocab_size - len(tokenizer.specials) + tokenizer.specials.index(name)


def check_specials(specials: Sequence[str]) -> tuple[str, ...]:
    """Special tokens' names as a tuple. ValueError for one given twice, or for one string."""
    if isinstance(specials, str) or len(set(specials)) != len(specials):
        raise ValueError(f"special tokens are a sequence of distinct names, not {specials!r}")
    return tuple(specials)


def id_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned dtype that holds the ids 0 … vocab_size - 1."""
    return np.dtype(np.min_scalar_type(max(vocab_size - 1, 0)))


def join_pieces(pieces: list[bytes], ids: Any) -> str:
    """The text of ids: their bytes joined, U+FFFD where these are no UTF-8. ValueError for an id out of range."""
    ids = np.asarray(ids).reshape(-1)
    if len(ids) and not (ids.min() >= 0 and ids.max() < len(pieces)):
        raise ValueError(f"ids go from {ids.min()} to {ids.max()}; the vocabulary's from 0 to {len(pieces) - 1}")
    return b"".join([pieces[i] for i in ids.tolist()]).decode("utf-8", "replace")


# Byte-level tokenizers first split a text into words, and never merge across two of them. GPT-2's pattern makes
# a run of white space one token but for its last character, which begins the next word, or is a token of its
# own. So wherever a space or a newline comes right before another character, a token begins, and what is on
# either side is split as if the other side were not there. Python's \S leaves out all that the tokenizers'
# patterns call white space (and U+001C to U+001F), hence is on the safe side.


def at_breaks(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in other chunks, whose encodings joined are the encoding of the whole.

    A text that has no such place in LIMIT characters (no space nor newline before another character: not a
    text in words, nor in lines) is cut wherever the chunk ends; the word that is cut there is then encoded as
    two, and still decodes to the same characters.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        if found := LAST_BREAK.match(rest):
            yield rest[: found.end()]
            rest = rest[found.end() :]
        elif len(rest) >= LIMIT:
            yield rest
            rest = ""
    if rest:
        yield rest


def small_pieces(text: str, size: int = 1 << 16) -> Iterator[str]:
    """The text cut at breaks into pieces of about `size` characters, for the encoder to work on in parallel."""
    start = 0
    while start < len(text):
        found = NEXT_BREAK.search(text, start + size)
        stop = found.start() if found else len(text)
        yield text[start:stop]
        start = stop


def characters_only(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which is no character and has no UTF-8."""
    return text if text.isascii() else SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
