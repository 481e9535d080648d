"""Accuracy against labelled examples, of a model that was pretrained and of one that was not: why one pretrains.

    python bench/labels.py runs/fables --out docs/images/labels

Fine-tunes the mood task (does a fable end well?) on more and more examples, from the run's weights and from weights
drawn anew, and scores each on the 400 validation fables. Prints a table, and draws it with --out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from gptlab import tasks
from gptlab.experiments.figures import figure, png
from gptlab.report.figures import LOOK

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16000)


def accuracy(run: str, examples: int, seed: int, scratch: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        # Weights drawn anew learn at the rate of a pretraining, and as long as they like.
        more = {"from_scratch": True, "lr": 0.012, "steps": 300} if scratch else {}
        made = tasks.finetune(run, task="mood", out=Path(folder) / "run", examples=examples, seed=seed, **more)
        return float(made.metrics()[-1]["scores"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    curves: dict[bool, list[list[float]]] = {False: [], True: []}
    print("| labelled examples | pretrained | from scratch |\n|---|---|---|")
    for n in args.sizes:
        for scratch, found in curves.items():
            found.append([accuracy(args.run, n, seed, scratch) for seed in range(args.seeds)])
        row = [f"{100 * np.mean(c[-1]):.1f} ± {100 * np.std(c[-1]):.1f}" for c in curves.values()]
        print(f"| {n:,} | {row[0]} | {row[1]} |", flush=True)
    if args.out is not None:
        draw(args.sizes, curves, args.out)


def draw(sizes: Sequence[int], curves: dict[bool, list[list[float]]], out: Path) -> None:
    """accuracies by whether it was from scratch, and by size, one for each seed, as a PNG."""
    with rc_context(LOOK):
        made, axes = figure("wide", 2.8)
        for found, label, marker in zip(curves.values(), ("pretrained", "from scratch"), "os", strict=True):
            mean, spread = 100 * np.mean(found, 1), 100 * np.std(found, 1)
            axes.errorbar(sizes, mean, spread, marker=marker, label=label, capsize=2)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("labelled examples")
        axes.set_ylabel("accuracy, %")
        made.legend(loc="outside upper right", ncols=2, frameon=False)
        png(made, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
