"""Files written whole or not at all: a temporary file beside the target, flushed to disk, then renamed.

A reader, or the next process after a kill -9 or a power cut, finds the old file or the new one, never half
of one. What a killed writer leaves behind carries `TEMPORARY` in its name and may be swept away.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".part-"


def cache_dir() -> Path:
    """The folder for what can be made or fetched again: GPTLAB_CACHE, else the system's place for caches."""
    if chosen := os.environ.get("GPTLAB_CACHE"):
        return Path(chosen).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser() / "gptlab" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gptlab"


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to fill, then put it in the place of `path`; on an error leave `path` as it was.

    The temporary path may be filled as a file or made a directory; a directory that stands at `path` is
    replaced, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        if temporary.is_dir():
            for file in temporary.iterdir():
                flush(file)
            if path.is_dir():
                shutil.rmtree(path)
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)  # the rename itself must survive a power cut
    finally:
        remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle of a folder to flush
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
