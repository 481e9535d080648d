"""A file with a known hash: given in GPTLAB_DATA, fetched before, or downloaded now.

Whatever the source, its SHA-256 is checked each time, and a download is put in the cache whole or not at all.
"""

import hashlib
import os
from pathlib import Path

from filelock import FileLock

from gptlab.files import cache_dir, sha256, write_whole
from gptlab.messages.progress import progress

DOWNLOADS = "downloads"  # the folder of the cache
PLACES = ("", "corpora", "tokenizers/gpt2")  # where in GPTLAB_DATA a file may be
BLOCK = 1 << 16  # bytes


def fetch(filename: str, url: str, expected: str, size: int | None = None, *, timeout: float = 30.0) -> Path:
    """The path of a file whose SHA-256 is `expected`.

    size: its bytes, where known; timeout: seconds without a byte after which a download has stalled.
    Raises ValueError for a file in GPTLAB_DATA that is another one, OSError where the download fails.
    """
    if path := _given(filename):
        if (found := sha256(path)) != expected:
            raise ValueError(
                f"{path} (found through GPTLAB_DATA) is not the file wanted: its sha256 is {found}, expected "
                f"{expected}. Replace it with the one at {url}, or take it away to have that downloaded"
            )
        return path
    path = cache_dir() / DOWNLOADS / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{filename}.lock")):  # a second process waits, and finds the file
        if not path.is_file() or sha256(path) != expected:
            with write_whole(path) as temporary:
                _download(filename, url, temporary, expected, size, timeout)
    return path


def _given(filename: str) -> Path | None:
    """The file in the folder that GPTLAB_DATA names, if there is one."""
    if not (chosen := os.environ.get("GPTLAB_DATA")):
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise ValueError(f"GPTLAB_DATA={chosen} is not a folder")
    return next((path for place in PLACES if (path := folder / place / filename).is_file()), None)


def _download(filename: str, url: str, path: Path, expected: str, size: int | None, timeout: float) -> None:
    """Stream an address into a file. OSError that says what went wrong, and how to do without the network."""
    import urllib.error  # here, because they take a twentieth of a second, and a download is rare
    import urllib.request
    from http.client import HTTPException

    got, hashed = 0, hashlib.sha256()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "gptlab"})
        with urllib.request.urlopen(request, timeout=timeout) as response, path.open("wb") as file:
            announced = response.headers.get("Content-Length", "")
            size = size or (int(announced) if announced.isdigit() else None)
            with progress(f"download {url}", size, bytes_=True) as advance:
                while block := response.read(BLOCK):
                    got += len(block)
                    if size is not None and got > size:
                        break
                    file.write(block)
                    hashed.update(block)
                    advance(len(block))
    except urllib.error.HTTPError as error:
        wrong = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        stalled = isinstance(error.reason, TimeoutError)
        wrong = f"no answer for {timeout:g} s" if stalled else f"no connection ({error.reason})"
    except TimeoutError:
        wrong = f"stalled: nothing came for {timeout:g} s, after {_amount(got, size)}"
    except (ConnectionError, HTTPException) as error:
        wrong = f"the connection broke after {_amount(got, size)} ({error})"
    else:
        if size is not None and got < size:
            wrong = f"truncated: got {_amount(got, size)}"
        elif size is not None and got > size:
            wrong = f"it is longer than the {size} bytes expected"
        elif hashed.hexdigest() != expected:
            wrong = f"it is another file: sha256 {hashed.hexdigest()}, expected {expected}"
        else:
            return
    raise OSError(
        f"cannot download {url}: {wrong}. Try again, or put {filename} in a folder DIR and set GPTLAB_DATA=DIR"
    )


def _amount(got: int, size: int | None) -> str:
    return f"{got} bytes" if size is None else f"{got} of {size} bytes"
