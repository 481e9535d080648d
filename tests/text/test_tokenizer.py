"""Laws of every tokenizer, saving and loading, prompts, and the places where a text may be cut."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.registry import TOKENIZERS
from gptlab.text.bpe import BPETokenizer, library_tokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.gpt2 import GPT2Tokenizer
from gptlab.text.hf import HFTokenizer
from gptlab.text.tokenizer import (
    LIMIT,
    Tokenizer,
    at_breaks,
    id_dtype,
    load,
    prompt_ids,
    save,
    small_pieces,
    special_id,
    train,
    within,
)

SAMPLE = "Não há nada novo sob o sol.\n\n  O sol, 1839, é o mesmo sol; it's ours 🙂\r\n\tfim " * 3
# Every kind of character that the splitting into words tells apart, white space of several widths among them.
WORDS = st.text(alphabet="aé1'st.,   \n\n\t\r\v\x1c\x85\u00a0\u2003\u2028\u3000中🙂", max_size=60)


@pytest.fixture(scope="session")
def given_data(shared: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_DATA", str(shared))
        yield


@pytest.fixture(scope="session")
def gpt2(given_data: None) -> GPT2Tokenizer:
    return GPT2Tokenizer.published()


@pytest.fixture(scope="session")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([SAMPLE, "  \n\n   \n\t\t  a  \n\n" * 9, "é.é'st 's 1 1 1\u3000\u3000中中 " * 5], 400)


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2")
    if request.param == "hf":  # as OPT's: with special tokens before all others
        data = train("bpe", ["<s></s>" + SAMPLE]).to_json()["tokenizers"]
        words = dict.fromkeys(("<s>", "</s>")) | data["model"]["vocab"]
        model = library_tokenizer(data | {"model": data["model"] | {"vocab": {w: i for i, w in enumerate(words)}}})
        model.add_special_tokens(["<s>", "</s>"])
        return HFTokenizer(model)
    return train(request.param, [SAMPLE])


def test_a_text_comes_back(tokenizer: Tokenizer) -> None:
    """decode(encode(text)) = text, and the bytes that the ids stand for are the text's UTF-8."""
    ids = tokenizer.encode(SAMPLE)
    assert tokenizer.decode(ids) == SAMPLE
    assert b"".join(tokenizer.pieces[i] for i in ids) == SAMPLE.encode()


def test_ids_are_small_and_in_range(tokenizer: Tokenizer) -> None:
    """Ids have the smallest unsigned dtype that holds the vocabulary, and every id has a piece."""
    ids = tokenizer.encode(SAMPLE)
    assert ids.dtype == id_dtype(tokenizer.vocab_size) and ids.max() < tokenizer.vocab_size
    assert len(tokenizer.pieces) == tokenizer.vocab_size


def test_nothing_is_no_ids(tokenizer: Tokenizer) -> None:
    """The empty text has no ids, of the right dtype, and no ids are the empty text."""
    ids = tokenizer.encode("")
    assert ids.shape == (0,) and ids.dtype == id_dtype(tokenizer.vocab_size)
    assert tokenizer.decode(ids) == tokenizer.decode([]) == ""


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """load(save(t)) has t's kind, pieces and ids, from its one file alone."""
    save(tokenizer, tmp_path / "tokenizer.json")
    loaded = load(tmp_path / "tokenizer.json")
    assert loaded.kind == tokenizer.kind and loaded.pieces == tokenizer.pieces
    assert loaded.specials == tokenizer.specials
    assert loaded.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()
    assert loaded.to_json() == tokenizer.to_json()


def test_ids_out_of_range_are_refused(tokenizer: Tokenizer) -> None:
    """An id that the vocabulary does not have is an error with the number, not another text."""
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"{wrong}.*{tokenizer.vocab_size - 1}"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_special_tokens(kind: str) -> None:
    """Special tokens have the last ids, come from no text, stand for nothing, and are saved."""
    plain, special = train(kind, [SAMPLE]), train(kind, [SAMPLE], specials=("<sep>", "<pad>"))
    assert special.vocab_size == plain.vocab_size + 2
    assert special_id(special, "<pad>") == special.vocab_size - 1 == special_id(special, "<sep>") + 1
    assert special.pieces[-2:] == [b"", b""]
    ids = special.encode(SAMPLE)
    assert ids.tolist() == plain.encode(SAMPLE).tolist()
    assert special.decode([*ids[:5], special.vocab_size - 1, *ids[5:]]) == SAMPLE
    assert TOKENIZERS[kind].from_json(special.to_json()).specials == ("<sep>", "<pad>")
    with pytest.raises(ValueError, match="no special token '<eos>'; it has: <sep>, <pad>"):
        special_id(special, "<eos>")
    with pytest.raises(ValueError, match="distinct"):
        train(kind, [SAMPLE], specials=("<a>", "<a>"))


def test_more_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A tokenizer extended by special tokens gives every text the same ids; theirs are new, the last, and saved."""
    more = tokenizer.extended(("<start>", "<end>"))
    assert more.vocab_size == tokenizer.vocab_size + 2 == len(more.pieces)
    assert [special_id(more, name) for name in ("<start>", "<end>")] == [more.vocab_size - 2, more.vocab_size - 1]
    assert more.pieces == [*tokenizer.pieces, b"", b""] and more.specials[:-2] == tokenizer.specials
    text = SAMPLE + "<start><end>" if tokenizer.kind != "char" else SAMPLE
    assert more.encode(text).tolist() == tokenizer.encode(text).tolist()
    save(more, tmp_path / "tokenizer.json")
    loaded = load(tmp_path / "tokenizer.json")
    assert loaded.specials == more.specials and loaded.encode(SAMPLE).tolist() == more.encode(SAMPLE).tolist()
    with pytest.raises(ValueError, match="distinct"):
        more.extended(("<end>",))


def test_id_dtype() -> None:
    """256 ids go into a byte, 257 into two, 65,537 into four."""
    sizes = {1: 1, 256: 1, 257: 2, 65536: 2, 65537: 4}
    assert {size: id_dtype(size).itemsize for size in sizes} == sizes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[1]", '"kind"'),
        ('{"kind": "chars"}', "Did you mean 'char'"),
        ('{"kind": "char"}', "characters"),
        ('{"kind": "char", "characters": 3}', "int"),
        ('{"kind": "char", "characters": "aa"}', "twice"),
        ('{"kind": "char", "characters": ""}', "at least one"),
        ('{"kind": "char", "characters": "\\ud800"}', "half"),
        ('{"kind": "bpe"}', "tokenizers"),
        ('{"kind": "bpe", "tokenizers": {}}', "cannot read"),
        ('{"kind": "gpt2"}', "pieces"),
        ('{"kind": "gpt2", "pieces": "IQ== Ig=="}', "50256 distinct ordinary tokens, not 2"),
        ('{"kind": "gpt2", "pieces": "?"}', "base64"),
        ('{"kind": "gpt2", "pieces": 4}', "base64"),
        ("\xff", "utf-8"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: str, reason: str) -> None:
    """What is not a tokenizer's file is a ValueError that says which file, and why."""
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(path) in str(error.value) and reason in str(error.value)


def test_a_vocabulary_of_another_kind_is_refused(bpe: BPETokenizer, tmp_path: Path) -> None:
    """A model of the tokenizers library that is not byte-level does not pass for one that is."""
    data = bpe.to_json()
    data["tokenizers"]["model"]["vocab"] = {"<unk>": 0, "a": 1}
    data["tokenizers"]["model"]["merges"] = []
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="byte-level"):
        load(tmp_path / "t.json")


def test_sizes_that_a_kind_does_not_have() -> None:
    """A vocabulary size is for bpe alone; where it says nothing, it is an error, not passed over."""
    for kind in ("char", "gpt2"):
        with pytest.raises(ValueError, match=r"512.*use bpe"):
            train(kind, [SAMPLE], 512)
    with pytest.raises(ValueError, match="only special token"):
        train("gpt2", [], specials=("<sep>",))


def test_prompts_are_composed_before_anything_is_left_out() -> None:
    """A prompt typed with combining accents is spelled by the composed letters, without a warning."""
    tokenizer = CharTokenizer.train(["é logo"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer.decode(prompt_ids(tokenizer, "e\u0301 logo")) == "é logo"


def test_prompts_keep_what_is_known_as_it_is() -> None:
    """Nothing is composed where the vocabulary has the parts and not the whole, or needs nothing."""
    apart = CharTokenizer.train(["e\u0301 logo"])
    assert apart.decode(prompt_ids(apart, "e\u0301")) == "e\u0301"
    with pytest.warns(UserWarning, match="U\\+2603"):
        assert apart.decode(prompt_ids(apart, "e\u0301☃")) == "e\u0301"


def test_prompts_lose_only_what_is_unknown_and_say_so_once() -> None:
    """What no spelling helps is left out; one warning names each character once, with its code point."""
    tokenizer = CharTokenizer.train(["abc "])
    with pytest.warns(UserWarning) as seen:
        ids = prompt_ids(tokenizer, "a☃b\nc☃")
    assert tokenizer.decode(ids) == "abc" and len(seen) == 1
    assert "'☃' (U+2603)" in str(seen[0].message) and "'\\n' (U+000A)" in str(seen[0].message)
    assert str(seen[0].message).count("☃") == 1


def test_byte_level_prompts_lack_nothing(bpe: BPETokenizer) -> None:
    """A byte-level vocabulary spells any prompt."""
    assert bpe.unknown("☃ ਪੰਜਾਬੀ") == [] and bpe.decode(prompt_ids(bpe, "☃ ਪੰਜਾਬੀ")) == "☃ ਪੰਜਾਬੀ"


def chunked(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@given(text=WORDS, size=st.integers(1, 70))
def test_bpe_of_chunks_is_bpe_of_the_whole(bpe: BPETokenizer, text: str, size: int) -> None:
    """Cut at breaks, the pieces' ids joined are the library's ids of the whole text, whatever the chunks."""
    whole = bpe.model.encode(text).ids
    for pieces in (list(at_breaks(chunked(text, size))), list(small_pieces(text, size))):
        assert "".join(pieces) == text and all(pieces)
        assert [i for piece in pieces for i in bpe.model.encode(piece).ids] == whole
    assert bpe.encode(text).tolist() == whole


@given(text=WORDS, size=st.integers(1, 70))
def test_gpt2_of_chunks_is_gpt2_of_the_whole(gpt2: GPT2Tokenizer, text: str, size: int) -> None:
    """The same for GPT-2's vocabulary and tiktoken."""
    whole = gpt2.encoding.encode_ordinary(text)
    for pieces in (list(at_breaks(chunked(text, size))), list(small_pieces(text, size))):
        assert "".join(pieces) == text and all(pieces)
        assert [i for piece in pieces for i in gpt2.encoding.encode_ordinary(piece)] == whole
    assert gpt2.encode(text).tolist() == whole


def test_a_long_real_text_in_chunks(gpt2: GPT2Tokenizer, bpe: BPETokenizer, shared: Path) -> None:
    """On 300 KB of real prose, encoding in many pieces is the libraries' encoding of the whole."""
    for name in ("machado_de_assis_conto.txt", "shakespeare.txt"):
        text = (shared / "corpora" / name).read_text(encoding="utf-8")[:300_000]
        assert len(list(small_pieces(text))) > 3
        assert gpt2.encode(text).tolist() == gpt2.encoding.encode_ordinary(text)
        assert bpe.encode(text).tolist() == bpe.model.encode(text).ids


def test_a_text_without_a_place_to_cut_is_cut_all_the_same() -> None:
    """Neither space nor newline: the text is cut when LIMIT characters are held, and none is lost."""
    text = "x" * (2 * LIMIT + 3)
    pieces = list(at_breaks(chunked(text, LIMIT // 2)))
    assert "".join(pieces) == text and max(map(len, pieces)) < 2 * LIMIT and len(pieces) > 1


def test_half_characters(bpe: BPETokenizer, gpt2: GPT2Tokenizer) -> None:
    """A lone surrogate is no character: byte-level tokenizers read U+FFFD, a character vocabulary lacks it."""
    for tokenizer in (bpe, gpt2):
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert CharTokenizer("ab").unknown("a\ud800b") == ["\ud800"]


def test_gpt2_pieces(gpt2: GPT2Tokenizer) -> None:
    """The pieces of a Portuguese sentence in GPT-2's vocabulary are the published ones."""
    pieces = [gpt2.pieces[i].decode() for i in gpt2.encode("A figura é poética!")]
    assert pieces == ["A", " fig", "ura", " é", " po", "ét", "ica", "!"]


def test_gpt2_size_and_end_of_text(gpt2: GPT2Tokenizer) -> None:
    """50,257 ids in two bytes each; <|endoftext|> is 50256 and is not produced by its own spelling in a text."""
    assert gpt2.vocab_size == len(gpt2.pieces) == 50257 and gpt2.encode("x").dtype == np.uint16
    assert special_id(gpt2, "<|endoftext|>") == 50256
    assert 50256 not in gpt2.encode("a<|endoftext|>b") and gpt2.decode([64, 50256, 65]) == "ab"


def test_gpt2_against_its_publisher(gpt2: GPT2Tokenizer, shared: Path) -> None:
    """Ids and splitting into words are tiktoken's own, made from the same files."""
    tiktoken = pytest.importorskip("tiktoken")
    load_module = pytest.importorskip("tiktoken.load")
    openai_public = pytest.importorskip("tiktoken_ext.openai_public")
    files = [str(shared / "tokenizers" / "gpt2" / name) for name in ("vocab.bpe", "encoder.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        ranks = load_module.data_gym_to_mergeable_bpe_ranks(*files)
    theirs = tiktoken.Encoding(
        "theirs", pat_str=openai_public.r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    assert [theirs.decode_single_token_bytes(i) for i in range(50256)] == gpt2.pieces[:-1]
    for text in (SAMPLE, "I'll we're 'tis don'T  \n\n  \u00a0x\r\n 12ab ¼²  "):
        assert gpt2.encode(text).tolist() == theirs.encode_ordinary(text)


def test_gpt2_without_files_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither given nor cached nor to be downloaded: one error names both files and where they may be put."""
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # the discard port: nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError) as error:
        GPT2Tokenizer.published()
    for part in ("vocab.bpe", "encoder.json", "GPTLAB_DATA=DIR", "DIR/tokenizers/gpt2", "downloads", "https://"):
        assert part in str(error.value)


@pytest.mark.parametrize("letters", ["ab", "bc", "xyz"])
def test_white_space_within_a_text(tokenizer: Tokenizer, letters: str) -> None:
    """A blank line is encoded as it stands between two words, in every tokenizer; and where a vocabulary has few
    letters, or none that is tried first."""
    few = train("char", [f"{letters}\n"]) if tokenizer.kind == "char" else tokenizer
    ids = few.encode(f"{letters}\n\n{letters}").tolist()
    word = few.encode(letters).tolist()
    assert [*word, *within(few, "\n\n").tolist(), *word] == ids
