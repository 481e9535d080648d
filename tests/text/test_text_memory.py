"""Memory: a text is read, learned and encoded without ever being held."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.files import cache_dir

# The peak of anonymous memory (what is not a mapped file) over what the process had after a small text was done.
SCRIPT = """
import re, sys, threading, time
from pathlib import Path
from gptlab.text.corpora import find, make_tokenizer, prepare

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def work(source):
    text = find(source)
    data = prepare(text, make_tokenizer(sys.argv[3], text))
    assert len(data.train) and data.train_characters + data.val_characters == text.characters
    return text.bytes

work(sys.argv[1])
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
size = work(sys.argv[2])
done.set()
thread.join()
print(size, max(peak, anonymous()) - before, peak)
"""


def measure(folder: Path, size: int, kind: str) -> tuple[int, int, int]:
    """(bytes of the text, peak of anonymous memory over the start, the peak itself)."""
    line = "Sol e lua, água e céu; nada de novo — 1839 🙂\n".encode()
    (folder / "small.txt").write_bytes(line * 10)
    block = line * (1 << 14)
    with (folder / "large.txt").open("wb") as file:
        for _ in range(size // len(block) + 1):
            file.write(block)
    command = [sys.executable, "-c", SCRIPT, str(folder / "small.txt"), str(folder / "large.txt"), kind]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (folder / "large.txt").unlink()  # pytest keeps the folders of its last runs
    shutil.rmtree(cache_dir())
    length, growth, peak = map(int, result.stdout.split())
    return length, growth, peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc/self/status")
def test_memory_does_not_hold_the_text(tmp_path: Path) -> None:
    """From file to ids, 160 MB grow anonymous memory by less than 96 MB: neither bytes, text nor ids are held."""
    length, growth, _ = measure(tmp_path, 160 << 20, "char")
    assert length >= 160 << 20 and growth < 96 << 20, f"{growth >> 20} MB for a text of {length >> 20} MB"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc/self/status")
def test_two_gigabytes(tmp_path: Path) -> None:
    """A file of 2 GB goes from file to ids in less than 1 GB of anonymous memory, the program's own included."""
    length, _, peak = measure(tmp_path, 2 << 30, "char")
    print(f"peak of anonymous memory: {peak >> 20} MB for a text of {length >> 20} MB")
    assert length >= 2 << 30 and peak < 1 << 30, f"{peak >> 20} MB for a text of {length >> 20} MB"
