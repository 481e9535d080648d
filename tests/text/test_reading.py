"""Reading files: encodings, line ends, chunks, folders, and what is not a text."""

import codecs
import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gptlab.text.corpora import find
from gptlab.text.reading import detect

LATIN = "Não há\r\nnada de novo;\nera só isso.\rfim"  # without a final newline, and with all three line ends
PLAIN = LATIN.replace("\r\n", "\n").replace("\r", "\n")
LINES = st.lists(st.sampled_from(["a", "bé", "☃", "🙂", " ", "\n", "\r", "\r\n", "\t", "\ufeff"]), min_size=1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def write(folder: Path, content: bytes) -> str:
    (folder / "tale.txt").write_bytes(content)
    return str(folder / "tale.txt")


@pytest.mark.parametrize(
    ("content", "encoding", "notes"),
    [
        (LATIN.encode(), "utf-8", ()),
        (codecs.BOM_UTF8 + LATIN.encode(), "utf-8", ("byte order mark left out",)),
        (
            codecs.BOM_UTF16_LE + LATIN.encode("utf-16-le"),
            "utf-16-le",
            ("read as UTF-16 (little-endian)", "byte order mark left out"),
        ),
        (
            codecs.BOM_UTF16_BE + LATIN.encode("utf-16-be"),
            "utf-16-be",
            ("read as UTF-16 (big-endian)", "byte order mark left out"),
        ),
        (LATIN.encode("utf-16-le"), "utf-16-le", ("read as UTF-16 (little-endian)",)),
        (LATIN.encode("utf-16-be"), "utf-16-be", ("read as UTF-16 (big-endian)",)),
        (LATIN.encode("windows-1252"), "windows-1252", ("read as Windows-1252",)),
    ],
    ids=["utf-8", "utf-8 marked", "le marked", "be marked", "le", "be", "windows-1252"],
)
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_encodings(folder: Path, content: bytes, encoding: str, notes: tuple[str, ...], block: int) -> None:
    """Each encoding is detected and named, its mark dropped, and every line end is read as LF."""
    text = find(write(folder, content), block=block)
    assert text.read() == PLAIN and text.encodings == (encoding,)
    assert text.notes == (*notes, "line ends CRLF read as LF", "line ends CR read as LF")
    assert (text.characters, text.bytes) == (len(PLAIN), len(PLAIN.encode()))
    assert text.sha256 == hashlib.sha256(PLAIN.encode()).hexdigest()


def test_plain_text_needs_no_note(folder: Path) -> None:
    """UTF-8 with LF is what a text is; nothing is said about it."""
    text = find(write(folder, "Olá 🙂\n".encode()))
    assert text.notes == () and text.name == "tale" and text.read() == "Olá 🙂\n"


@given(parts=LINES, encoding=st.sampled_from(["utf-8", "utf-16"]), block=st.integers(1, 9), data=st.data())
def test_chunks_join_to_the_text(
    folder: Path, parts: list[str], encoding: str, block: int, data: st.DataObject
) -> None:
    """Chunks of any size, read in blocks of any size, join to text[start:stop], all but the last of that size."""
    raw = "".join(parts)
    assume(raw.strip() and not raw.startswith("\ufeff"))
    expected = raw.replace("\r\n", "\n").replace("\r", "\n")
    text = find(write(folder, raw.encode(encoding)), block=block)
    bounds = st.none() | st.integers(-len(expected) - 2, len(expected) + 2)
    start, stop = data.draw(bounds) or 0, data.draw(bounds)
    size = data.draw(st.integers(1, len(expected) + 2))
    chunks = list(text.chunks(start, stop, size))
    assert "".join(chunks) == text.read(start, stop) == expected[start:stop]
    assert all(len(chunk) == size for chunk in chunks[:-1]) and all(0 < len(chunk) <= size for chunk in chunks)
    assert (text.characters, text.sha256) == (len(expected), hashlib.sha256(expected.encode()).hexdigest())


@given(
    raw=st.text(
        st.characters(codec="windows-1252", exclude_characters="\x7f", min_codepoint=32) | st.sampled_from("\n\t")
    ),
    block=st.integers(1, 9),
)
def test_any_windows_text(folder: Path, raw: str, block: int) -> None:
    """Whatever Windows-1252 can spell and UTF-8 cannot be mistaken for comes back exactly."""
    raw = "não " + raw
    text = find(write(folder, raw.encode("windows-1252")), block=block)
    assert text.encodings == ("windows-1252",) and text.read() == raw


def test_the_last_byte_counts(folder: Path) -> None:
    """A byte that is not UTF-8 is found at the end of megabytes that are."""
    path = write(folder, b"word " * 500_000 + "é".encode() + b"\xe9")
    text = find(path)
    assert text.encodings == ("windows-1252",) and text.read(-3) == "Ã©é"


@pytest.mark.parametrize(
    ("content", "offset", "byte"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 6, 0x1A),
        ("não \0".encode(), 5, 0x00),
        (b"caf\xe9 \x81", 5, 0x81),
        (b"caf\xe9 \x7f", 5, 0x7F),
        (bytes(100), 0, 0x00),
        (codecs.BOM_UTF8 + b"abc\xff", 6, 0xFF),
        (codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"\x00\xdc", 6, 0x00),
        (codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"c", 6, 0x63),
        ("ab\x01".encode("utf-16-be"), 4, 0x01),
    ],
)
@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_what_is_not_a_text(folder: Path, content: bytes, offset: int, byte: int, block: int) -> None:
    """A file that no encoding fits is refused with its path and the byte that shows it, wherever blocks end."""
    path = write(folder, content)
    with pytest.raises(ValueError, match=f"is not a text.*byte 0x{byte:02X} at offset {offset} ") as error:
        find(path, block=block)
    assert str(error.value).startswith(path)


def test_pictures_are_not_texts(folder: Path) -> None:
    """Bytes at random are never taken for a text."""
    for seed in range(50):
        content = b"".join(hashlib.sha256(bytes([seed, i])).digest() for i in range(40))
        with pytest.raises(ValueError, match="is not a text"):
            detect(Path(write(folder, content)))


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, b" \n\t\r\n", "\u2003\n".encode()])
def test_nothing_to_read(folder: Path, content: bytes) -> None:
    """An empty file, or one of white space, is an error that says which."""
    path = write(folder, content)
    with pytest.raises(ValueError, match=re.escape(path) + " holds no text: (it is empty|nothing but white)"):
        find(path)


def test_a_folder_is_one_text(tmp_path: Path) -> None:
    """Files of the known endings, in order of their paths, with one blank line between two; hidden ones not."""
    for path, content in {
        "b/c.md": b"third\r\n",
        "a.txt": "first é\n".encode("windows-1252"),
        "b.TXT": b"second",
        "z.text": b"last",
        "empty.txt": b"",
        ".hidden.txt": b"no",
        ".git/x.txt": b"no",
        "b/.y/z.txt": b"no",
        "picture.png": b"\x89PNG\0",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    text = find(str(tmp_path))
    assert text.read() == "first é\n\nsecond\n\nthird\n\nlast"
    assert [path.relative_to(tmp_path).as_posix() for path in text.files] == [
        "a.txt",
        "b.TXT",
        "b/c.md",
        "empty.txt",
        "z.text",
    ]
    assert text.notes == ("read as Windows-1252 (1 of 5 files)", "line ends CRLF read as LF (1 of 5 files)")
    assert text.name == tmp_path.name and text.read(9, 15) == "second"


def test_a_folder_with_something_wrong(tmp_path: Path) -> None:
    """A folder without a text says what it looks for; a file in it that is not a text is named."""
    with pytest.raises(ValueError, match=r"no file in .* ends in \.txt, \.md, \.text"):
        find(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b" ")
    with pytest.raises(ValueError, match=r"a\.txt holds no text"):
        find(str(tmp_path))
    (tmp_path / "b.txt").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"b\.txt is not a text"):
        find(str(tmp_path))


def test_a_file_that_changes(folder: Path) -> None:
    """A text that has become shorter since it was found is an error with both numbers, not a shorter text."""
    text = find(write(folder, b"one two three"))
    write(folder, b"one")
    with pytest.raises(ValueError, match="ends after 3 characters, not 13"):
        text.read()


def test_chunks_of_nothing(folder: Path) -> None:
    """A size of no characters is an error, an empty range no chunk."""
    text = find(write(folder, b"one"))
    assert list(text.chunks(2, 2)) == [] and text.read(5) == ""
    with pytest.raises(ValueError, match="at least one character, not 0"):
        list(text.chunks(size=0))
