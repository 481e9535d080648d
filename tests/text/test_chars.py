"""The character tokenizer: the table look-up against a dictionary, and its vocabulary."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.text import chars
from gptlab.text.chars import CharTokenizer

TEXT = st.text(min_size=1)


@given(text=TEXT, data=st.data())
def test_the_table_is_a_dictionary(text: str, data: st.DataObject) -> None:
    """Encoding by table = encoding by a dictionary from sorted distinct characters, character by character."""
    tokenizer = CharTokenizer.train([text])
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    other = data.draw(st.text(alphabet=sorted(ids)))
    assert tokenizer.encode(text + other).tolist() == [ids[c] for c in text + other]
    assert tokenizer.decode(tokenizer.encode(other)) == other


@given(text=TEXT, other=st.text(st.characters(codec="utf-32")))
def test_unknown_characters(text: str, other: str) -> None:
    """`unknown` gives the sorted distinct characters without an id; encoding names the first and its place."""
    tokenizer = CharTokenizer.train([text])
    missing = sorted(set(other) - set(text))
    assert tokenizer.unknown(other) == missing
    if missing:
        at = next(i for i, c in enumerate(other) if c in missing)
        with pytest.raises(ValueError) as error:
            tokenizer.encode(other)
        assert f"U+{ord(other[at]):04X}) at position {at} " in str(error.value)
    else:
        tokenizer.encode(other)


@given(text=TEXT, size=st.integers(1, 9))
def test_training_in_chunks(text: str, size: int) -> None:
    """The vocabulary does not depend on how the text arrives."""
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert CharTokenizer.train(chunks).characters == "".join(sorted(set(text)))


def test_more_than_one_block() -> None:
    """Blocks join without a seam, and a character missing in a later one is found at its place."""
    text = "abc" * chars.BLOCK
    tokenizer = CharTokenizer.train([text])
    assert np.array_equal(tokenizer.encode(text), np.tile([0, 1, 2], chars.BLOCK))
    with pytest.raises(ValueError, match=f"at position {len(text)} "):
        tokenizer.encode(text + "\U0010ffff")


@pytest.mark.parametrize("size", [255, 256, 257, 65536])
def test_full_vocabularies(size: int) -> None:
    """A vocabulary that fills its dtype to the last id still tells an unknown character from that id."""
    characters = "".join(chr(0x10000 + i) for i in range(size))
    tokenizer = CharTokenizer(characters)
    assert tokenizer.encode(characters).tolist() == list(range(size))
    assert tokenizer.unknown(characters + "a") == ["a"]


def test_ids_are_in_code_point_order() -> None:
    """Capitals before small letters before accented ones before emoji, as Unicode has them."""
    assert CharTokenizer.train(["🙂é", "zaZ\n"]).characters == "\nZazé🙂"


def test_nothing_to_learn() -> None:
    """No characters at all are an error."""
    with pytest.raises(ValueError, match="at least one"):
        CharTokenizer.train([])


def test_the_reference_sentence(shared: Path) -> None:
    """With the 115 characters of Machado's tales, the reference sentence has the reference ids."""
    facts = tomllib.loads((shared / "reference" / "seed_results.toml").read_text(encoding="utf-8"))["tokenizer"]
    text = (shared / "corpora" / "machado_de_assis_conto.txt").read_text(encoding="utf-8")
    tokenizer = CharTokenizer.train([text])
    assert tokenizer.vocab_size == facts["vocab_size"] == 115
    assert tokenizer.encode(facts["sentence"]).tolist() == facts["ids"]
