"""What tokenizers do to texts, against slow twins, the published pieces, and training itself."""

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab import lab
from gptlab.experiments import tokenizers as experiment
from gptlab.lens.tokenizers import WORD, bits_per_character, cut, embedding_share, smaller, spent
from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.text import corpora
from gptlab.text.bpe import BPETokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.gpt2 import GPT2Tokenizer
from gptlab.text.labels import carried, visible
from gptlab.text.tokenizer import Tokenizer, characters_only

TEXT = "A raposa não é má; é só astuta, três vezes astuta. Die Füchsin schläft — żółw też śpi! 1839 🙂\n\n" * 3
BPE = BPETokenizer.train([TEXT], 300)
CHARS = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyzé ,."])
GLAD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@pytest.fixture
def gpt2(shared: Path, monkeypatch: pytest.MonkeyPatch) -> GPT2Tokenizer:
    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    return GPT2Tokenizer.published()


@pytest.fixture
def reference(shared: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((shared / "reference" / "seed_results.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tokenizer", [BPE, CHARS])
@given(text=GLAD)
def test_pieces_are_the_text_and_lack_what_is_unknown(tokenizer: Tokenizer, text: str) -> None:
    """The bytes of the pieces, joined, are the text; a piece has no id just where the vocabulary lacks a character."""
    pieces = cut(tokenizer, text)
    assert b"".join(piece.bytes for piece in pieces).decode() == text
    missing = tokenizer.unknown(text)
    assert [piece.label for piece in pieces if piece.id is None] == [carried(visible(c)) for c in text if c in missing]
    assert all(tokenizer.pieces[piece.id] == piece.bytes for piece in pieces if piece.id is not None)


@pytest.mark.parametrize("tokenizer", [BPE, CHARS])
@given(text=st.one_of(GLAD, st.just(TEXT)))
def test_spent_is_what_counting_byte_by_byte_gives(tokenizer: Tokenizer, text: str) -> None:
    """Tokens, words, tokens that hold some of a word, and words in one token, by walking through the bytes."""
    pieces = cut(tokenizer, text)
    owner = [at for at, piece in enumerate(pieces) for _ in piece.bytes]
    holders = []
    for word in WORD.finditer(text):
        start = len(text[: word.start()].encode())
        holders.append(len({owner[start + i] for i in range(len(word[0].encode()))}))
    found = spent(tokenizer, text)
    assert (found.tokens, found.characters, found.bytes) == (len(pieces), len(text), len(text.encode()))
    assert (found.words, found.in_words, found.whole) == (len(holders), sum(holders), holders.count(1))
    assert found.lacking == sum(piece.id is None for piece in pieces)
    assert found.pieces_per_word == pytest.approx(np.mean(holders) if holders else math.nan, nan_ok=True)


def test_characters_are_one_token_each() -> None:
    """With a vocabulary of characters, pieces per word are letters per word, even of words that it cannot spell."""
    found = spent(CHARS, "um żółw é sábio")
    assert found.characters_per_token == 1
    assert found.pieces_per_word == np.mean([2, 4, 1, 5]) and found.lacking == 4


def test_half_a_character_is_counted_as_the_tokenizer_reads_it() -> None:
    """A lone surrogate, which no text file holds, counts as the sign that stands for it."""
    assert spent(BPE, "a\ud800").bytes == len(characters_only("a\ud800").encode())
    with pytest.raises(ValueError, match="empty"):
        spent(BPE, "")


@pytest.mark.parametrize("size", [256, 261, 280, 300])
def test_a_smaller_vocabulary_is_what_training_gives(size: int) -> None:
    """Merges are learned one after another: cutting them short and training for fewer is the same tokenizer."""
    short, trained = smaller(BPE, size), BPETokenizer.train([TEXT], size)
    assert short.pieces == trained.pieces
    assert short.encode(TEXT).tolist() == trained.encode(TEXT).tolist()


def test_smaller_refuses_what_is_not_smaller() -> None:
    for size in (255, BPE.vocab_size + 1):
        with pytest.raises(ValueError, match=f"from 256 to {BPE.vocab_size}, not {size}"):
            smaller(BPE, size)


def test_published_pieces(gpt2: GPT2Tokenizer, reference: dict[str, dict[str, object]]) -> None:
    """GPT-2's pieces of the old GPTLab's sentence are the published ones."""
    text = reference["tokenizer"]["gpt2_pieces_of"]
    assert isinstance(text, str)
    assert [piece.bytes.decode() for piece in cut(gpt2, text)] == reference["tokenizer"]["gpt2_pieces"]


def test_published_shares(reference: dict[str, dict[str, dict[str, object]]]) -> None:
    """Tables and shares of the reference are counted again, but for the one that it says is off; and how it came
    about is what it says."""
    published = reference["embedding_share"]
    for name, key in (("chars_64", 115), ("gpt2_64", 50257), ("chars_384", 115), ("gpt2_384", 50257)):
        shape = preset("gptlab-cpu" if name.endswith("_64") else "gptlab-gpu")
        share = embedding_share(shape, key)
        assert share.tokens == published[name]["embedding"] == key * shape.d_model
        counted = "64.42%" if name == "gpt2_384" else published[name]["published"]
        assert f"{share.fraction:.2%}" == counted
        assert experiment.PUBLISHED_SHARES[shape_name(name), shape.context, key] == float(
            str(published[name]["published"]).rstrip("%")
        )
    gpu = preset("gptlab-gpu")
    assert f"{embedding_share(gpu.but(context=32), 50257).fraction:.2%}" == "64.45%"
    assert embedding_share(gpu.but(context=32), 50257).total == reference["gpt2_bpe"]["parameters"]
    old = embedding_share(gpu, 65).total
    assert old == 10_683_264
    assert f"{50257 * 384 / (old - 115 * 384 + 50257 * 384):.2%}" == published["gpt2_384"]["published"] == "64.46%"


def shape_name(entry: str) -> str:
    return "gptlab-cpu" if entry.endswith("_64") else "gptlab-gpu"


@pytest.mark.parametrize("name", ["gptlab-cpu", "llama-mini", "t5-mini"])
def test_a_share_is_that_of_the_model_itself(name: str) -> None:
    """Every id has a row of its own in the token table, and in the head where that is another one."""
    shape = preset(name)
    tables = 1 if shape.tied_embeddings else 2
    small, large = embedding_share(shape, 100), embedding_share(shape, 300)
    assert small.tokens == 100 * tables * shape.d_model
    assert large.total - small.total == 200 * tables * shape.d_model
    assert large.total == sum(p.numel() for p in build(shape.but(vocab_size=300)).parameters())


def test_bits_per_character() -> None:
    """Guessing bytes costs 8 bits for each; and a model's nats over a text give its loss per character."""
    assert bits_per_character(math.log(256), 1) == pytest.approx(8)
    model = lab.Lab(None, build(preset("gptlab-cpu", vocab_size=BPE.vocab_size)), BPE)  # type: ignore[arg-type]
    loss = model.text_loss(BPE.encode(TEXT))
    found = bits_per_character(loss.per("token"), loss.characters / loss.tokens)
    assert found == pytest.approx(loss.per("char") / math.log(2))


def test_the_published_losses_are_converted_with_the_length_of_a_token(
    gpt2: GPT2Tokenizer, reference: dict[str, dict[str, dict[str, object]]]
) -> None:
    """The length of a GPT-2 token that the prose names is that of the validation part of Machado's tales."""
    text = corpora.find("machado")
    found = spent(gpt2, text.read(text.cut))
    assert found.characters_per_token == experiment.PUBLISHED_LENGTH
    assert {
        "characters": reference["gpu"]["published"]["val_loss"],
        "gpt2": reference["gpt2_bpe"]["published"]["val_loss"],
    } == experiment.PUBLISHED_LOSSES
