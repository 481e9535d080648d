"""Texts by name, their split, and their ids on the disk."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from gptlab.files import cache_dir
from gptlab.text.chars import CharTokenizer
from gptlab.text.corpora import CORPORA, check_length, find, lasting, make_tokenizer, prepare
from gptlab.text.reading import Text
from gptlab.text.tokenizer import Tokenizer, train

STORY = "Once upon a time é 🙂\r\n\r\n  there was  a tale,\n" * 30 + "the end"


@pytest.fixture
def story(tmp_path: Path) -> Text:
    (tmp_path / "story.txt").write_text(STORY, encoding="utf-8", newline="")
    return find(str(tmp_path / "story.txt"))


@pytest.mark.parametrize(
    ("name", "characters", "distinct"), [("shakespeare", 1_115_394, 65), ("machado", 1_724_227, 115)]
)
def test_the_known_texts(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, characters: int, distinct: int
) -> None:
    """The texts have the characters that are published of them, and come back from their ids."""
    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    text = find(name)
    tokenizer = make_tokenizer("char", text)
    data = prepare(text, tokenizer)
    assert (text.name, text.characters, tokenizer.vocab_size) == (name, characters, distinct)
    assert text.bytes == CORPORA[name].bytes and text.sha256 == CORPORA[name].sha256 and text.notes == ()
    assert len(data.train) == data.train_characters == int(0.9 * characters)
    assert len(data.val) == data.val_characters == characters - int(0.9 * characters)
    assert tokenizer.decode(data.val) == text.read(text.cut)


def test_every_known_text_is_well_described() -> None:
    """Each entry stands under its own name, with an https address and a whole hash."""
    for name, source in CORPORA.items():
        assert source.name == name and source.url.startswith("https://") and source.bytes > 0
        assert re.fullmatch("[0-9a-f]{64}", source.sha256) and len(source.language) == 2


def test_a_text_is_found_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is kept by its whole path; a known text by its name, also where a folder happens to be called so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fables").mkdir()
    (tmp_path / "book.txt").write_text("Once.")
    assert lasting("book.txt") == str(tmp_path.resolve() / "book.txt")
    assert [lasting(name) for name in ("fables", "fables:pt", "shakespeare", "none")] == [
        "fables",
        "fables:pt",
        "shakespeare",
        "none",
    ]
    assert find("fables").name == find(lasting("fables")).name == "fables"


def test_an_unknown_name() -> None:
    """Neither a text nor a file: the error lists the texts, guesses the one meant, and says where it looked."""
    with pytest.raises(ValueError, match=r"Did you mean 'machado'.*Known: fables, shakespeare, machado.*no such file"):
        find("machdo")


@pytest.mark.parametrize("characters", [1, 9, 10, 11, 100003])
def test_the_split(tmp_path: Path, characters: int) -> None:
    """The first int(0.9 n) of n characters train."""
    (tmp_path / "text.txt").write_text("x" * characters)
    assert find(str(tmp_path / "text.txt")).cut == int(0.9 * characters)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_parts_are_encoded_apart(story: Text, kind: str) -> None:
    """Each part's ids are the part's own encoding and decode to it; no token lies across the split."""
    tokenizer = make_tokenizer(kind, story)
    data, whole, cut = prepare(story, tokenizer), story.read(), story.cut
    for ids, part in ((data.train, whole[:cut]), (data.val, whole[cut:])):
        assert ids.tolist() == tokenizer.encode(part).tolist() and tokenizer.decode(ids) == part
    assert (data.train_characters, data.val_characters) == (cut, len(whole) - cut)
    assert data.val_bytes == len(whole[cut:].encode())


def test_gpt2_ids_of_a_known_text(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of several chunks has the ids of GPT-2's encoding of the whole part."""
    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    text = find("machado")
    tokenizer = make_tokenizer("gpt2", text)
    data = prepare(text, tokenizer)
    assert np.array_equal(data.train, tokenizer.encode(text.read(0, text.cut)))
    assert tokenizer.decode(data.val) == text.read(text.cut)


def test_ids_are_mapped_and_read_only(story: Text) -> None:
    """Ids lie on the disk, in the smallest dtype, and cannot be written to."""
    data = prepare(story, make_tokenizer("char", story))
    assert isinstance(data.train, np.memmap) and data.train.dtype == np.uint8
    with pytest.raises(ValueError):
        data.train[0] = 1


def test_ids_are_made_once(story: Text, tmp_path: Path) -> None:
    """The same content and vocabulary, under any name, find their ids; another vocabulary has its own."""
    tokenizer = make_tokenizer("char", story)
    prepare(story, tokenizer)
    made = {path: path.stat().st_mtime_ns for path in (cache_dir() / "ids").rglob("*.ids")}
    assert len(made) == 2
    (tmp_path / "copy.txt").write_text(STORY.replace("\r\n", "\n"), encoding="utf-8", newline="")
    assert np.array_equal(prepare(find(str(tmp_path / "copy.txt")), tokenizer).train, prepare(story, tokenizer).train)
    assert {path: path.stat().st_mtime_ns for path in (cache_dir() / "ids").rglob("*.ids")} == made
    prepare(story, make_tokenizer("bpe", story, 300))
    assert len(list((cache_dir() / "ids").rglob("*.ids"))) == 4


def test_damaged_ids_are_made_again(story: Text) -> None:
    """Ids that were cut short, or lost their description, are made again."""
    tokenizer = make_tokenizer("char", story)
    expected = prepare(story, tokenizer).val.tolist()
    (ids,) = (cache_dir() / "ids").rglob("val.ids")
    ids.write_bytes(ids.read_bytes()[:-1])
    assert prepare(story, tokenizer).val.tolist() == expected
    ids.with_name("info.json").write_text("{", encoding="utf-8")
    assert prepare(story, tokenizer).val.tolist() == expected


def test_a_vocabulary_of_another_text(story: Text) -> None:
    """Characters that the vocabulary lacks are left out, counted and named, in one warning each time."""
    tokenizer = CharTokenizer.train([STORY.replace("é", "e").replace("🙂", " ")])
    for _ in range(2):  # encoding, and finding the ids
        with pytest.warns(UserWarning) as seen:
            data = prepare(story, tokenizer)
        assert len(seen) == 1
        assert f"60 of {story.characters} characters" in str(seen[0].message)
        assert "'é' (U+00E9) 30x" in str(seen[0].message) and "'🙂' (U+1F642) 30x" in str(seen[0].message)
    kept = story.read(story.cut).replace("é", "").replace("🙂", "")
    assert tokenizer.decode(data.val) == kept
    assert (data.val_characters, data.val_bytes) == (len(kept), len(kept.encode()))


def test_a_warning_stays_short(tmp_path: Path) -> None:
    """Of many characters that are lacking, the most frequent ten are named, the others counted."""
    (tmp_path / "t.txt").write_text("".join(map(chr, range(0x4E00, 0x4E40))) * 2, encoding="utf-8")
    with pytest.warns(UserWarning, match="and 54 more"):
        prepare(find(str(tmp_path / "t.txt")), CharTokenizer("a"))


def test_the_vocabularies(story: Text) -> None:
    """Characters are those of the whole text; merges come from the training part alone."""
    assert make_tokenizer("char", story).pieces == [c.encode() for c in sorted(set(story.read()))]
    learned = make_tokenizer("bpe", story, 300)
    assert learned.to_json() == train("bpe", [story.read(0, story.cut)], 300).to_json()
    assert make_tokenizer("char", story, specials=("<sep>",)).pieces[-1] == b""
    with pytest.raises(ValueError, match=r"unknown tokenizer 'chars'\. Did you mean 'char'"):
        make_tokenizer("chars", story)


def tiny(tmp_path: Path, content: str) -> tuple[Text, Tokenizer]:
    (tmp_path / "tiny.txt").write_text(content, encoding="utf-8")
    text = find(str(tmp_path / "tiny.txt"))
    return text, make_tokenizer("char", text)


def test_lengths(tmp_path: Path) -> None:
    """Both parts need context + 1 tokens; the error has the numbers and the longest context that would do."""
    data = prepare(*tiny(tmp_path, "abcdefghij" * 10))
    check_length(data, 9)
    with pytest.raises(ValueError) as error:
        check_length(data, 10)
    assert str(error.value) == (
        "tiny gives 90 training and 10 validation tokens; context 10 needs at least 11 of each: "
        "use a longer text or --context at most 9"
    )


@pytest.mark.parametrize("content", ["a", "ab"])
def test_one_character(tmp_path: Path, content: str) -> None:
    """A text of a character or two is prepared, and then found too short for any context."""
    data = prepare(*tiny(tmp_path, content))
    assert len(data.train) + len(data.val) == len(content)
    with pytest.raises(ValueError, match=r"use a longer text$"):
        check_length(data, 1)


def test_nothing_is_said_of_what_is_right(story: Text) -> None:
    """A text with its own vocabulary gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(story, make_tokenizer("char", story))


def test_importing_is_cheap() -> None:
    """The package imports neither torch nor the tokenizers' libraries until they are needed."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import gptlab.text; assert 'numpy' not in sys.modules; "
        "from gptlab.text import corpora, tokenizer, chars, bpe, gpt2, batches; "
        "heavy = {'torch', 'tokenizers', 'tiktoken', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
