"""Fetching against a real server on this machine that serves well, and in every way badly."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gptlab.files import TEMPORARY, cache_dir
from gptlab.text.download import fetch

CONTENT = "Era uma vez… ".encode() * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.over = threading.Event()  # lets those who stall go home

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        way = self.path.strip("/")
        if way == "silent":
            self.server.over.wait(30)
            return
        if way == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if way not in ("unannounced", "unannounced-short"):
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        body = {"wrong": CONTENT[::-1], "short": CONTENT[:HALF], "unannounced-short": CONTENT[:HALF]}
        if way == "stall":
            self.wfile.write(CONTENT[:HALF])
            self.wfile.flush()
            self.server.over.wait(30)
            return
        if way == "slow":
            self.server.over.wait(0.5)
        self.wfile.write(body.get(way, CONTENT))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("way", ["good", "unannounced"])
def test_a_download_is_cached(server: Server, way: str) -> None:
    """The bytes arrive whole in the cache, whether or not their number was announced, and are asked for once."""
    path = fetch("tale.txt", server.url(way), SHA256, len(CONTENT))
    assert path.read_bytes() == CONTENT and cache_dir() in path.parents
    assert fetch("tale.txt", server.url(way), SHA256, len(CONTENT)) == path
    assert server.requests == [f"/{way}"]


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("missing", "the server answers 404 Not Found"),
        ("short", f"{HALF} of {len(CONTENT)} bytes"),
        ("unannounced-short", f"truncated: got {HALF} of {len(CONTENT)} bytes"),
        ("stall", f"stalled: nothing came for 0.2 s, after .* of {len(CONTENT)} bytes"),
        ("silent", "no answer for 0.2 s|nothing came for 0.2 s"),
        ("wrong", f"another file: sha256 {hashlib.sha256(CONTENT[::-1]).hexdigest()}, expected {SHA256}"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(server: Server, way: str, reason: str) -> None:
    """Each failure is one error with the address, what happened and what to do; nothing is left in the cache."""
    with pytest.raises(OSError, match=reason) as error:
        fetch("tale.txt", server.url(way), SHA256, len(CONTENT), timeout=0.2)
    assert server.url(way) in str(error.value) and "put tale.txt in a folder DIR" in str(error.value)
    assert "GPTLAB_DATA=DIR" in str(error.value)
    left = {path.name for path in (cache_dir() / "downloads").iterdir()}
    assert left <= {".tale.txt.lock"} and not any(TEMPORARY in name for name in left)


def test_a_file_that_does_not_end(server: Server) -> None:
    """A file longer than it should be is given up, not filled up to the disk's end."""
    with pytest.raises(OSError, match="longer than the 100 bytes"):
        fetch("tale.txt", server.url("good"), SHA256, 100)


def test_no_server() -> None:
    """Nobody at the address: the error says that there is no connection."""
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9/tale: no connection"):
        fetch("tale.txt", "http://127.0.0.1:9/tale", SHA256)


def test_after_a_failure_it_may_succeed(server: Server) -> None:
    """A failed download is in nobody's way: the next one works, and mends a cached file that was damaged."""
    with pytest.raises(OSError):
        fetch("tale.txt", server.url("wrong"), SHA256)
    path = fetch("tale.txt", server.url("good"), SHA256)
    path.write_bytes(b"damaged")
    assert fetch("tale.txt", server.url("good"), SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["", "corpora", "tokenizers/gpt2"])
def test_a_given_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A file in GPTLAB_DATA, in any of its places, is used where it is; nothing is asked of the network."""
    monkeypatch.setenv("GPTLAB_DATA", str(tmp_path))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "tale.txt").write_bytes(CONTENT)
    assert fetch("tale.txt", "http://127.0.0.1:9/", SHA256) == tmp_path / place / "tale.txt"


def test_a_given_file_that_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in GPTLAB_DATA with other bytes is an error with both hashes: it is neither used nor passed over."""
    monkeypatch.setenv("GPTLAB_DATA", str(tmp_path))
    (tmp_path / "tale.txt").write_bytes(b"another")
    with pytest.raises(ValueError, match=f"{hashlib.sha256(b'another').hexdigest()}, expected {SHA256}") as error:
        fetch("tale.txt", "http://127.0.0.1:9/", SHA256)
    assert str(tmp_path / "tale.txt") in str(error.value)


def test_a_given_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTLAB_DATA that names no folder is said to; a folder without the file is passed over."""
    monkeypatch.setenv("GPTLAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        fetch("tale.txt", "http://127.0.0.1:9/", SHA256)
    monkeypatch.setenv("GPTLAB_DATA", str(tmp_path))
    with pytest.raises(OSError, match="no connection"):
        fetch("tale.txt", "http://127.0.0.1:9/", SHA256)


def test_two_processes_at_once(server: Server) -> None:
    """Two processes that want the same file download it once, and both get it."""
    code = "import sys; from gptlab.text.download import fetch; print(fetch(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, "tale.txt", server.url("slow"), SHA256]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == CONTENT
    assert server.requests == ["/slow"]
