"""Texts by name or path, their split, and their ids: made once, cached by content, mapped into memory.

The first 90% of the characters train and the last 10% validate. The two are encoded separately, so that no token
crosses the split. Nothing is held whole in memory: a text of many gigabytes is read and encoded in chunks.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from gptlab.files import cache_dir, write_whole
from gptlab.registry import unknown
from gptlab.text.download import fetch
from gptlab.text.fables import corpus as fables
from gptlab.text.reading import BLOCK, Text, bar, scan
from gptlab.text.tokenizer import Tokenizer, at_breaks, id_dtype, named, train, without

SUFFIXES = (".txt", ".md", ".text")  # of the files in a folder that are read
BPE_CHARACTERS = 100_000_000  # merges are learned on so many at most: more changes them little and takes memory
FORMAT = "ids 2"  # to be changed with what `prepare` writes, so that no old cache is read
INFO = "info.json"
NAMED = 10  # characters that a warning shows


@dataclass(frozen=True)
class Source:
    """A text in the public domain and where it is to be had."""

    name: str
    title: str
    language: str  # ISO 639-1
    filename: str
    url: str
    sha256: str
    bytes: int


CORPORA = {
    source.name: source
    for source in (
        Source(
            name="shakespeare",
            title="William Shakespeare (1564-1616), parts of the plays",
            language="en",
            filename="shakespeare.txt",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            bytes=1115394,
        ),
        Source(
            name="machado",
            title="Joaquim Maria Machado de Assis (1839-1908), tales",
            language="pt",
            filename="machado_de_assis_conto.txt",
            url="https://raw.githubusercontent.com/wmelo52/GPTLab/master/corpus/machado_de_assis_conto.txt",
            sha256="f7eaaccb575b68bdd7995bd688a4c52deb7f611678a429ec9ffcf2a2b4940720",
            bytes=1779401,
        ),
    )
}


def find(source: str, *, block: int = BLOCK) -> Text:
    """The text of a known name, a file, or a folder: all its .txt, .md and .text files, in order of their paths.

    Hidden files and folders are passed over. `block` is how many bytes are read at a time.
    """
    if is_fables(source):
        return fables.find(source)
    if source in CORPORA:
        known = CORPORA[source]
        return scan(known.name, [fetch(known.filename, known.url, known.sha256, known.bytes)], block)
    path = Path(source).expanduser()
    if path.is_dir():
        files = _texts_in(path)
        if not files:
            raise ValueError(f"no file in {path} ends in {', '.join(SUFFIXES)}")
        return scan(path.resolve().name, files, block)
    if path.is_file():
        return scan(path.stem, [path], block)
    raise ValueError(f"{unknown('text', source, ['fables', *CORPORA])}; and no such file or folder: {path.absolute()}")


def lasting(source: str) -> str:
    """How a text is found again from any folder: by its known name, else by its whole path."""
    known = is_fables(source) or source in CORPORA
    return source if known or not Path(source).expanduser().exists() else str(Path(source).expanduser().resolve())


def is_fables(source: str) -> bool:
    """Whether a text's name is that of the built-in corpus, in some language."""
    return source == "fables" or source.startswith("fables:")


def _texts_in(folder: Path) -> list[Path]:
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    texts = [
        path
        for path in relative
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
    ]
    return [folder / path for path in sorted(texts, key=Path.as_posix)]


def make_tokenizer(kind: str, text: Text, vocab_size: int | None = None, specials: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer for a text: all its characters (char), or merges learned on its training part (bpe).

    Of a very large text, bpe learns on the first hundred million characters. gpt2 learns nothing.
    """
    stop = text.characters if kind == "char" else min(text.cut, BPE_CHARACTERS)
    with bar(f"learn the vocabulary of {text.name}", stop) as advance:

        def chunks() -> Iterator[str]:
            for chunk in text.chunks(0, stop):
                yield chunk
                advance(len(chunk))

        return train(kind, chunks(), vocab_size, specials)


@dataclass(frozen=True)
class Data:
    """A text as ids. The counts are of what the ids stand for: what the vocabulary lacks is not in them.

    train, val: (N,) and (M,), unsigned, read-only, mapped from the disk.
    """

    text: Text
    train: np.ndarray
    val: np.ndarray
    train_characters: int
    val_characters: int
    val_bytes: int


def prepare(text: Text, tokenizer: Tokenizer, *, whole: bool = False) -> Data:
    """Encode a text's two parts, or find them encoded before; ids are kept under a hash of text and tokenizer.

    whole: all of the text is the training part, and nothing is left to validate.
    Characters that the vocabulary lacks (a tokenizer of another text) are left out, with one warning.
    """
    dtype = id_dtype(tokenizer.vocab_size)
    cut = text.characters if whole else text.cut
    recipe = json.dumps([FORMAT, text.sha256, cut, tokenizer.to_json()], sort_keys=True)
    folder = cache_dir() / "ids" / hashlib.sha256(recipe.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # a second process waits, and finds the ids
        if (info := _complete(folder, dtype)) is None:
            with write_whole(folder) as temporary, bar(f"encode {text.name}", text.characters) as advance:
                temporary.mkdir()
                info = {
                    part: _encode(text.chunks(start, stop), tokenizer, temporary / f"{part}.ids", advance)
                    for part, start, stop in (("train", 0, cut), ("val", cut, text.characters))
                }
                (temporary / INFO).write_text(json.dumps(info), encoding="utf-8")
    if lacking := Counter(info["train"]["lacking"]) + Counter(info["val"]["lacking"]):
        listed = ", ".join(f"{named(character)} {count}x" for character, count in lacking.most_common(NAMED))
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        warnings.warn(
            f"left out of {text.name}: {lacking.total()} of {text.characters} characters, which the tokenizer's "
            f"vocabulary lacks: {listed}{more}",
            stacklevel=2,
        )
    return Data(
        text=text,
        train=_mapped(folder / "train.ids", dtype),
        val=_mapped(folder / "val.ids", dtype),
        train_characters=info["train"]["characters"],
        val_characters=info["val"]["characters"],
        val_bytes=info["val"]["bytes"],
    )


def _encode(chunks: Iterator[str], tokenizer: Tokenizer, path: Path, advance: Callable[[int], None]) -> dict[str, Any]:
    """Write one part's ids to a file, and count what they are of."""
    tokens, characters, length, lacking = 0, 0, 0, Counter[str]()
    with path.open("wb") as file:
        for chunk in at_breaks(chunks):
            advance(len(chunk))
            if missing := tokenizer.unknown(chunk):
                lacking.update({character: chunk.count(character) for character in missing})
                chunk = without(chunk, missing)
            ids = tokenizer.encode(chunk)
            file.write(ids.tobytes())
            tokens += len(ids)
            characters += len(chunk)
            length += len(chunk.encode())
    return {"tokens": tokens, "characters": characters, "bytes": length, "lacking": dict(lacking)}


def _complete(folder: Path, dtype: np.dtype) -> dict[str, Any] | None:
    """What `prepare` noted about the ids in a folder; None where they are not there, or not all."""
    try:
        info: dict[str, Any] = json.loads((folder / INFO).read_text(encoding="utf-8"))
        sizes = {part: (folder / f"{part}.ids").stat().st_size for part in ("train", "val")}
    except (OSError, ValueError):
        return None
    return info if all(info[part]["tokens"] * dtype.itemsize == sizes[part] for part in sizes) else None


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def check_length(data: Data, context: int) -> None:
    """ValueError where a window of `context` tokens and the one after does not fit in both parts."""
    shorter = min(len(data.train), len(data.val))
    if shorter < context + 1:
        shrink = f" or --context at most {shorter - 1}" if shorter > 1 else ""
        raise ValueError(
            f"{data.text.name} gives {len(data.train)} training and {len(data.val)} validation tokens; context "
            f"{context} needs at least {context + 1} of each: use a longer text{shrink}"
        )
