"""Byte-pair encoding learned on a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.text.bpe import BYTE_OF, BPETokenizer

TEXT = "the cat sat on the mat; the other cat ate the oat\n" * 20


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([TEXT], 270)


@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back(bpe: BPETokenizer, text: str) -> None:
    """All of Unicode comes back exactly from a vocabulary learned on a few English words."""
    assert bpe.decode(bpe.encode(text)) == text


def test_the_alphabet_is_all_bytes(bpe: BPETokenizer) -> None:
    """Each of the 256 bytes has exactly one id, the first 256; every other piece joins two earlier ones."""
    assert sorted(bpe.pieces[:256]) == [bytes([b]) for b in range(256)]
    assert sorted(BYTE_OF.values()) == list(range(256))
    for i, piece in enumerate(bpe.pieces[256:], 256):
        before = set(bpe.pieces[:i])
        assert any(piece[:cut] in before and piece[cut:] in before for cut in range(1, len(piece)))


def test_merges_shorten(bpe: BPETokenizer) -> None:
    """Frequent words become single tokens, their leading space included."""
    assert b" the" in bpe.pieces and b" cat" in bpe.pieces
    assert len(bpe.encode(TEXT)) < len(TEXT) / 2


def test_size(bpe: BPETokenizer) -> None:
    """The vocabulary has the size asked for; 1024 by default, less where the text has too few pairs."""
    assert bpe.vocab_size == 270
    assert 270 < BPETokenizer.train([TEXT]).vocab_size < 1024
    assert BPETokenizer.train(["ab"]).vocab_size == 256
    assert BPETokenizer.train([], 256).vocab_size == 256
    for size, specials in ((255, ()), (256, ("<sep>",))):
        with pytest.raises(ValueError, match=f"{size} is too small.*256 bytes"):
            BPETokenizer.train([TEXT], size, specials)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_training_does_not_depend_on_the_chunks(bpe: BPETokenizer, size: int) -> None:
    """The same text gives the same vocabulary, in whatever chunks it arrives, each time."""
    chunks = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert BPETokenizer.train(chunks, 270).to_json() == bpe.to_json()
