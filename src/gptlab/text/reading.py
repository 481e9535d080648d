"""Files as one text: their encoding detected, their line ends made LF, read in chunks and never held whole.

What was detected and done is kept in `Text.notes`, to be shown to whoever chose the file: a wrong guess must be
seen, not guessed at. Positions in a text are characters (code points), after line ends were made LF.
"""

import codecs
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from gptlab.messages.progress import progress

CHUNK = 1 << 20  # characters; several copies of one live at a time, each of up to four bytes a character
BLOCK = 1 << 20  # bytes that are read at a time
LONG = 1 << 24  # bytes or characters of work that are worth a progress bar
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
NAMES = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16 (little-endian)",
    "utf-16-be": "UTF-16 (big-endian)",
    "windows-1252": "Windows-1252",
}
LINE_ENDS = {"\r\n": "CRLF", "\r": "CR"}
# In UTF-8, which random bytes hardly ever are, only NUL shows that a file is no text. Any bytes at all are
# near to Windows-1252 or UTF-16, so there no control character may occur but tab, LF, VT, FF and CR.
NUL = re.compile("\0")
CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class File:
    """One file, how its bytes are read, and how many at its start are a byte order mark to be skipped."""

    path: Path
    encoding: str
    mark: int = 0

    def decoded(self, block: int = BLOCK, newlines: io.IncrementalNewlineDecoder | None = None) -> Iterator[str]:
        """The file's text in pieces, line ends as they are or as `newlines` makes them.

        ValueError at bytes that are not of the encoding, or mean a character that no text has.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)()
        unusual = NUL if self.encoding == "utf-8" else CONTROL
        with self.path.open("rb") as file:
            file.seek(self.mark)
            begin = self.mark  # the offset of the first byte that is not yet in a piece
            while True:
                data = file.read(block)
                try:
                    piece = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    raise self._fault(begin + error.start, error.object[error.start]) from error
                if found := unusual.search(piece):
                    at = begin + len(piece[: found.start()].encode(self.encoding))
                    raise self._fault(at, ord(found[0]))
                begin = file.tell() - len(decoder.getstate()[0])
                if newlines:
                    piece = newlines.decode(piece, final=not data)
                if piece:
                    yield piece
                if not data:
                    return

    def _fault(self, offset: int, byte: int) -> ValueError:
        return ValueError(f"byte 0x{byte:02X} at offset {offset} is not of a text in {NAMES[self.encoding]}")


def detect(path: Path, block: int = BLOCK, advance: Callable[[int], None] = lambda n: None) -> File:
    """How a file is to be read, known to hold for all its bytes. ValueError where it is not a text.

    A byte order mark decides; then UTF-16 without one, where every other byte is 0; then UTF-8; then Windows-1252.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if marked := [File(path, encoding, len(mark)) for mark, encoding in MARKS if head.startswith(mark)]:
        candidates = marked
    else:
        # Latin letters in UTF-16 have a zero byte each, always on the same side.
        even, odd = head[0::2].count(0) / max(len(head) // 2, 1), head[1::2].count(0) / max(len(head) // 2, 1)
        if odd > 0.5 and even < 0.1:
            candidates = [File(path, "utf-16-le")]
        elif even > 0.5 and odd < 0.1:
            candidates = [File(path, "utf-16-be")]
        else:
            candidates = [File(path, "utf-8"), File(path, "windows-1252")]
    faults = []
    for candidate in candidates:
        try:
            for piece in candidate.decoded(block):
                advance(len(piece))
            return candidate
        except ValueError as error:
            faults.append(str(error))
    raise ValueError(f"{path} is not a text: {'; '.join(faults)}")


@dataclass(frozen=True)
class Text:
    """A text and where it is. Several files are joined by a blank line.

    characters, bytes (as UTF-8) and sha256 (of that UTF-8) are of the text as `chunks` gives it.
    """

    name: str
    files: tuple[Path, ...]
    encodings: tuple[str, ...]
    notes: tuple[str, ...]
    characters: int
    bytes: int
    sha256: str
    marks: tuple[int, ...]
    cut: int  # how many of the characters train, from the first on; the rest validates
    block: int = BLOCK

    def chunks(self, start: int = 0, stop: int | None = None, size: int = CHUNK) -> Iterator[str]:
        """The characters text[start:stop] in chunks of `size`, the last one shorter."""
        start, stop, _ = slice(start, stop).indices(self.characters)
        if size < 1:
            raise ValueError(f"chunks have at least one character, not {size}")
        sources = [File(*row) for row in zip(self.files, self.encodings, self.marks, strict=True)]
        end, held, waiting = 0, 0, []
        for piece in _joined(sources, self.block):
            begin, end = end, end + len(piece)
            piece = piece[max(0, start - begin) : max(0, stop - begin)]
            waiting.append(piece)
            held += len(piece)
            if held >= size:
                joined = "".join(waiting)
                whole = held - held % size
                yield from (joined[at : at + size] for at in range(0, whole, size))
                waiting, held = [joined[whole:]], held - whole
            if end >= stop:
                break
        if end < stop:
            raise ValueError(f"{self.name} was changed while it was read: it ends after {end} characters, not {stop}")
        if held:
            yield "".join(waiting)

    def read(self, start: int = 0, stop: int | None = None) -> str:
        """The characters text[start:stop]."""
        return "".join(self.chunks(start, stop))


def scan(name: str, paths: list[Path], block: int = BLOCK, *, cut: int | None = None) -> Text:
    """Detect how each file is read, and measure the text they are together. ValueError for one without content.

    cut: how many characters train, where the text itself knows; else the first 90%.
    """
    size = sum(path.stat().st_size for path in paths)
    with bar(f"detect the encoding of {name}", size) as advance:
        sources = [detect(path, block, advance) for path in paths]
    characters, length, blank, hashed = 0, 0, True, hashlib.sha256()
    ends: Counter[str] = Counter()
    with bar(f"read {name}", size) as advance:
        for piece in _joined(sources, block, ends):
            data = piece.encode()
            hashed.update(data)
            characters += len(piece)
            length += len(data)
            blank = blank and piece.isspace()
            advance(len(data))
    if blank:
        where = str(paths[0]) if len(paths) == 1 else f"{name} ({len(paths)} files)"
        raise ValueError(f"{where} holds no text: " + ("nothing but white space" if characters else "it is empty"))
    notes = Counter(f"read as {NAMES[s.encoding]}" for s in sources if s.encoding != "utf-8")
    notes += Counter("byte order mark left out" for s in sources if s.mark)
    notes += Counter({f"line ends {name} read as LF": ends[end] for end, name in LINE_ENDS.items()})
    return Text(
        name=name,
        files=tuple(paths),
        encodings=tuple(source.encoding for source in sources),
        notes=tuple(note if len(paths) == 1 else f"{note} ({n} of {len(paths)} files)" for note, n in notes.items()),
        characters=characters,
        bytes=length,
        sha256=hashed.hexdigest(),
        marks=tuple(source.mark for source in sources),
        cut=int(0.9 * characters) if cut is None else cut,
        block=block,
    )


def bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar for work of `total` bytes or characters, none for what is done at once."""
    return progress(what, total) if total > LONG else nullcontext(lambda n: None)


def _joined(sources: list[File], block: int, ends: Counter[str] | None = None) -> Iterator[str]:
    """All files' text, with LF line ends and a blank line between two; `ends` counts files by line end."""
    last = ""  # the character before; empty at the very beginning
    for source in sources:
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        first = True
        for piece in source.decoded(block, newlines):
            if first and last:
                yield "\n" if last == "\n" else "\n\n"
            first, last = False, piece[-1]
            yield piece
        if ends is not None:
            seen = newlines.newlines or ()
            ends.update([seen] if isinstance(seen, str) else seen)
