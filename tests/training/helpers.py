"""A text that is small, has something to learn, and is made here."""

import random
from pathlib import Path

TINY = {"preset": "gptlab-cpu", "context": 16, "batch": 8, "sample_every": 0}


def write_text(path: Path, words: int = 3000, seed: int = 0) -> Path:
    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(" ".join(rng.choice(("the cat", "sat", "on a", "mat.", "Ünder", "1907\n")) for _ in range(words)))
    return path
