"""What tokens look like on a figure: each with something to see, and no two halves of a character alike."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from gptlab.text.tokenizer import Tokenizer

SHOWN = {"\n": "↵", "\t": "→", "\r": "←", " ": "␣", "\N{NO-BREAK SPACE}": "⍽"}


def labels(tokenizer: Tokenizer, ids: Any) -> list[str]:
    """A label for each id: its text with white space made visible, or a special token's name.

    A character that is spread over several tokens is named in each of them: é₁ é₂; bytes that make none: \\xC3; an
    accent that would stand on the label before it stands on a circle.
    """
    ids = [int(i) for i in ids]
    texts = list(spread([tokenizer.pieces[i] if i < len(tokenizer.pieces) else b"" for i in ids]))
    first_special = tokenizer.vocab_size - len(tokenizer.specials)
    for at, i in enumerate(ids):
        if i >= tokenizer.vocab_size:  # a row that only rounds the vocabulary up
            texts[at] = f"#{i}"
        elif i >= first_special:
            texts[at] = tokenizer.specials[i - first_special]
    return [carried(text) or f"#{i}" for text, i in zip(texts, ids, strict=True)]


def carried(text: str) -> str:
    """A label whose first character is an accent: on a circle, for it would stand on the label before it."""
    return f"\N{DOTTED CIRCLE}{text}" if text and unicodedata.category(text[0]).startswith("M") else text


def spread(pieces: Sequence[bytes]) -> Iterator[str]:
    """The text of each piece, as it stands among the others."""
    whole = b"".join(pieces)
    owner = [at for at, piece in enumerate(pieces) for _ in piece]
    texts = [""] * len(pieces)
    start = 0
    while start < len(whole):
        length = character_at(whole, start)
        if length == 0:
            texts[owner[start]] += f"\\x{whole[start]:02X}"
            start += 1
            continue
        character = visible(whole[start : start + length].decode())
        owners = list(dict.fromkeys(owner[start : start + length]))
        for part, at in enumerate(owners, 1):
            texts[at] += character if len(owners) == 1 else character + subscript(part)
        start += length
    yield from texts


def character_at(text: bytes, start: int) -> int:
    """The length in bytes of the UTF-8 character that begins there; 0 if none does."""
    for length in range(1, 5):
        try:
            text[start : start + length].decode()
        except UnicodeDecodeError:
            continue
        return length if start + length <= len(text) else 0
    return 0


def whole(piece: bytes) -> bool:
    """Whether bytes are UTF-8 by themselves, with no character cut."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def visible(character: str) -> str:
    """A character that is seen: itself, a sign for white space, a code for what has no form."""
    if character in SHOWN:
        return SHOWN[character]
    return character if character.isprintable() else f"\\u{ord(character):04X}"


def subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
