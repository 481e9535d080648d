"""Kill a training with -9 at random moments, resume it, and compare its ending with that of an undisturbed run.

    python bench/kill.py --trials 100

Each trial kills its training twice, each time after a random part of the time that the whole run takes (so the
blow falls on steps, evaluations and half-written files alike), then resumes it to the end. Compared are the bytes
of the best weights, all tensors of the last state, and every loss in metrics.jsonl. Children are forked from one
process that has imported torch, which keeps a trial to a second or two.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import gptlab.lab
from gptlab.run import Run

SETTINGS = {"preset": "gptlab-cpu", "context": 16, "batch": 8, "steps": 60, "save_every": 2, "eval_every": 4}


def child(text: Path, out: Path) -> int:
    """Train (or resume) in a forked process; its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.environ["GPTLAB_CACHE"] = str(out.parent / "cache")
    torch.set_num_threads(1)
    try:
        gptlab.lab.train(text, out=out, resume=True, dropout=0.1, sample_every=3, **SETTINGS)
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def ending(out: Path) -> tuple[object, ...]:
    run = Run(out)
    state = run.load_state()
    assert state is not None
    tensors = tuple((name, t.numpy().tobytes()) for name, t in sorted((state.weights | state.optimizer).items()))
    losses = tuple((m["step"], m.get("train_loss"), m.get("val_loss")) for m in run.metrics())
    return state.step, tensors, (out / "model.safetensors").read_bytes(), losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        text = folder / "text.txt"
        text.write_text(" ".join(rng.choice(("ash", "birch", "oak,", "elm.\n")) for _ in range(4000)))

        began = time.perf_counter()
        os.waitpid(child(text, folder / "whole"), 0)
        whole_time = time.perf_counter() - began
        expected = ending(folder / "whole")

        same, kills, states = 0, 0, []
        for trial in range(args.trials):
            out = folder / f"trial-{trial}"
            for _ in range(2):
                pid = child(text, out)
                time.sleep(rng.uniform(0, whole_time))
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                kills += os.WIFSIGNALED(status)  # a child that had finished cannot be killed any more
                states.append(max(Run(out).states(), default=0) if (out / "config.toml").exists() else -1)
            _, status = os.waitpid(child(text, out), 0)
            same += status == 0 and ending(out) == expected
            shutil.rmtree(out)
        reached = sorted(set(states))
        print(f"{same} of {args.trials} endings identical after {kills} kills ({whole_time:.1f} s undisturbed)")
        span = f"from {reached[0]} to {reached[-1]}, at {len(reached)} different steps"
        print(f"newest state when killed, in steps (-1: no run yet): {span}")
        return 0 if same == args.trials else 1


if __name__ == "__main__":
    sys.exit(main())
