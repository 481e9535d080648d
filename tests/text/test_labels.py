"""Labels of tokens: each has something to see, and each character stands where its bytes are."""

import re
import unicodedata
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.text import tokenizer as tokenizers
from gptlab.text.labels import SHOWN, labels
from gptlab.text.tokenizer import Tokenizer

# Letters, signs and pictures of one to four bytes, none of which a label changes, and no subscripts.
VISIBLE = "aZ7.éßłżçãЖ中文の€🙂🌍"


class Pieces:
    """A tokenizer of which only the pieces are known."""

    kind = "pieces"

    def __init__(self, pieces: list[bytes], specials: tuple[str, ...] = ()) -> None:
        self.pieces = [*pieces, *(b"" for _ in specials)]
        self.vocab_size, self.specials = len(self.pieces), specials


def labelled(*pieces: bytes) -> list[str]:
    made: Any = Pieces(list(pieces))
    return labels(made, range(len(pieces)))


def test_white_space_is_seen() -> None:
    """Every white space character has a sign or a code, and no label is blank."""
    assert labelled(b" the", b"\n", b"\t", b"a\r\n", "a\N{NO-BREAK SPACE}b".encode()) == [
        "␣the",
        "↵",
        "→",
        "a←↵",
        "a⍽b",
    ]
    for code in range(0x3001):
        character = chr(code)
        if character.isspace():
            [label] = labelled(character.encode())
            assert label == SHOWN.get(character, f"\\u{code:04X}") and not label.isspace()


def test_a_character_over_several_tokens() -> None:
    """It is named in each, numbered; its neighbours in the same tokens stay where they are."""
    accent, face = "é".encode(), "🙂".encode()
    assert labelled(accent[:1], accent[1:]) == ["é₁", "é₂"]
    assert labelled(b"caf" + accent[:1], accent[1:] + b" au") == ["café₁", "é₂␣au"]
    assert labelled(*(face[i : i + 1] for i in range(4))) == ["🙂₁", "🙂₂", "🙂₃", "🙂₄"]
    assert labelled(face[:1], face[1:3], face[3:] + accent[:1], accent[1:]) == ["🙂₁", "🙂₂", "🙂₃é₁", "é₂"]
    nbsp = "\N{NO-BREAK SPACE}".encode()
    assert labelled(nbsp[:1], nbsp[1:]) == ["⍽₁", "⍽₂"]


def test_bytes_that_make_no_character() -> None:
    """Each is a code; what is whole around it is read as usual: a lone half, a wrong beginning, a cut end."""
    assert labelled(b"\xc3") == ["\\xC3"]
    assert labelled(b"a\xc3", b"b") == ["a\\xC3", "b"]
    assert labelled(b"\xa9", "é".encode()) == ["\\xA9", "é"]
    assert labelled("🙂".encode()[:3]) == ["\\xF0\\x9F\\x99"]
    assert labelled("é".encode()[:1], "é".encode()[:1], "é".encode()[1:]) == ["\\xC3", "é₁", "é₂"]
    assert labelled(b"\xed\xa0\x80") == ["\\xED\\xA0\\x80"]  # a surrogate
    assert labelled(b"\xc0\xaf") == ["\\xC0\\xAF"]  # longer than it need be


def test_what_has_no_form_of_its_own() -> None:
    """Controls and invisible signs are codes; an accent that begins a label stands on a circle."""
    assert labelled(b"\x00", "\N{ZERO WIDTH JOINER}".encode(), "\N{SOFT HYPHEN}".encode()) == [
        "\\u0000",
        "\\u200D",
        "\\u00AD",
    ]
    acute = "\N{COMBINING ACUTE ACCENT}"
    assert labelled(b"e", acute.encode()) == ["e", f"◌{acute}"]
    assert labelled(f"e{acute}x".encode()) == [f"e{acute}x"]


def test_special_tokens_and_empty_rows() -> None:
    """Special tokens by name, the last ids; rows that only round the vocabulary up, and ids of no bytes, by number."""
    made: Any = Pieces([b"a", b"", b"b"], ("<start>", "<mask>"))
    assert labels(made, [3, 0, 4, 2]) == ["<start>", "a", "<mask>", "b"]
    assert labels(made, np.array([1, 5, 600], np.uint16)) == ["#1", "#5", "#600"]
    assert labels(made, []) == []


@given(st.text(st.sampled_from(VISIBLE), max_size=12), st.data())
def test_every_character_stands_where_its_bytes_are(text: str, data: st.DataObject) -> None:
    """Cut anywhere: the label of a token is made of the characters whose bytes it has, numbered where it has not all of
    them."""
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1)))) if len(raw) > 1 else []
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    expected = []
    for a, b in pairwise(edges):
        label, at = "", 0
        for character in text:
            first, at = at, at + len(character.encode())
            if a < at and first < b:
                whole = a <= first and at <= b
                # Which part it is: how many cuts lie inside the character, up to here.
                part = 1 + sum(first < cut <= a for cut in cuts)
                label += character if whole else character + "₀₁₂₃₄"[part]
        expected.append(label)
    assert labelled(*pieces) == (expected if raw else ["#0"])


@given(st.binary(min_size=1, max_size=12))
def test_one_token_of_any_bytes(raw: bytes) -> None:
    """Python's decoder finds the same characters and the same bytes that are none."""
    [label] = labelled(raw)
    # Piece by piece, so that what is decoded and what is not are told apart.
    expected = ""
    for part in re.findall(r"[\udc80-\udcff]|[^\udc80-\udcff]", raw.decode("utf-8", "surrogateescape"), re.DOTALL):
        code = ord(part)
        if 0xDC80 <= code <= 0xDCFF:
            expected += f"\\x{code - 0xDC00:02X}"
        elif part in SHOWN or part.isprintable():
            expected += SHOWN.get(part, part)
        else:
            expected += f"\\u{code:04X}"
    if unicodedata.category(expected[0]).startswith("M"):
        expected = f"◌{expected}"
    assert label == expected


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_of_a_trained_tokenizer(kind: str) -> None:
    """Labels of a text, put together, are the text with its white space made visible and split characters twice."""
    text = "São 3 cafés:\n\tum çedilha, 中文 e 🙂!" * 3
    made: Tokenizer = tokenizers.train(kind, [text], None if kind == "char" else 280, ("<start>",))
    found = labels(made, made.encode(text))
    if kind == "char":
        assert found == [SHOWN.get(character, character) for character in text]
    else:
        whole = "".join(found)
        seen = re.sub(r"(.)₁(?:\1[₂₃₄])+", r"\1", whole)  # the parts of a character are side by side
        assert "₂" in whole and seen == "".join(SHOWN.get(character, character) for character in text)
    assert labels(made, [made.vocab_size - 1]) == ["<start>"]
