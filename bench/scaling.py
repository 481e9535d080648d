"""How a training step's time grows with width, depth, context and batch; and what a training spends beside its steps.

    python bench/scaling.py                      the steps, some minutes
    python bench/scaling.py --only loop          the loop alone: data, logging, evaluation, saving, report

Each of the four is varied alone, around 4 layers of 128, 16 windows of 64. All sizes of a table are measured in turn,
a step of each and then again, so that a busy moment meets them alike. GFLOP are the operations of the products of a
step, forward and backward (model/cost.py); as a model grows, its GFLOP/s should rise to what the machine's products
reach, and the time beside them should grow no faster than they do. `times` and `GFLOP times` say by how much the two
have grown since the row above. Muon's own products are not among them, and do not grow with context and batch: where
there are few tokens in a step they show, and `--recipe classic` is without.

The loop: a whole `gptlab.train`, in which each call of Trainer.step is timed, and what is called beside it: evaluation,
logging, saving, snapshots, samples; and, inside the step, the drawing of its batch, which is not counted as the step's.
On a GPU, a step's time is that of asking for it, so this table is for the CPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gptlab
import gptlab.training.loop
from gptlab import bench, doctor, lab, runtime
from gptlab.config import ModelConfig, recipe
from gptlab.model.cost import TRAINING, flops
from gptlab.run import Run
from gptlab.training.loop import Listener, Outcome, Trainer

BASE: dict[str, int] = {"width": 128, "layers": 4, "context": 64, "batch": 16}
VARIED = {
    "width": (32, 64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 16),
    "context": (16, 32, 64, 128, 256, 512),
    "batch": (2, 4, 8, 16, 32, 64, 128),
}


def shape_of(sizes: dict[str, int]) -> ModelConfig:
    """Heads are 32 wide, whatever the width."""
    width = sizes["width"]
    return gptlab.preset(
        "gptlab-cpu", d_model=width, n_heads=width // 32, n_layers=sizes["layers"], context=sizes["context"]
    )


def trainer_of(sizes: dict[str, int], recipe: str, device: torch.device) -> Trainer:
    shape = shape_of(sizes)
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, 100_000, dtype=np.uint16)
    return bench.prepared("gptlab-cpu", recipe, shape, ids, ids, device=device, batch=sizes["batch"])


def steps(varied: str, args: argparse.Namespace, device: torch.device) -> None:
    fixed = ", ".join(f"{name} {value}" for name, value in BASE.items() if name != varied)
    print(f"\n{varied} ({fixed}; recipe {args.recipe})")
    print(f"  {varied:>8} {'parameters':>12} {'GFLOP':>9} {'ms: median (quartiles)':>28} {'GFLOP/s':>9}", end="")
    print(f" {'times':>7} {'GFLOP times':>12}")
    calls: dict[int, Callable[[], object]] = {}
    for value in VARIED[varied]:
        trainer = trainer_of({**BASE, varied: value}, args.recipe, device)
        calls[value] = partial(trainer.step, 0, 0.01)
    times = bench.alternate(calls, seconds=args.seconds, device=device, least=7)
    before: tuple[float, float] | None = None
    for value, seconds in times.items():
        sizes = {**BASE, varied: value}
        shape = shape_of(sizes)
        operations = TRAINING * flops(shape, batch=sizes["batch"], length=shape.context)
        low, middle, high = (1000 * s for s in statistics.quantiles(seconds, n=4))
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rate = operations / middle / 1e6
        print(
            f"  {value:>8} {gptlab.count(shape).total:>12,} {operations / 1e9:>9.3f} {spread:>28} {rate:>9.1f}", end=""
        )
        print(f" {middle / before[0]:>7.2f} {operations / before[1]:>12.2f}" if before else "", flush=True)
        before = middle, operations


class Clock(Listener):
    """Adds up what a training's listeners and its whole loop take."""

    def __init__(self) -> None:
        self.began = self.ended_at = 0.0
        self.outcome: Outcome | None = None

    def started(self, step: int, steps: int, tokens: int) -> None:
        self.began = time.perf_counter()

    def ended(self, outcome: Outcome) -> None:
        self.ended_at, self.outcome = time.perf_counter(), outcome


class Parts:
    """Seconds by part; what is called inside another part counts in its own alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inside: list[str] = []

    def timed(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed as a part."""

        def outer(*args: Any, **more: Any) -> Any:
            self.inside.append(name)
            began = time.perf_counter()
            try:
                return inner(*args, **more)
            finally:
                seconds = time.perf_counter() - began
                self.inside.pop()
                self.add(name, seconds)
                if self.inside:
                    self.add(self.inside[-1], -seconds)

        return outer

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def loop(args: argparse.Namespace) -> None:
    """Time the parts of whole trainings, default settings otherwise."""
    source = args.corpus or bench.at_hand()
    print(f"\nwhole trainings on {source}, {args.steps} steps each (default: 20 evaluations, 60 snapshots, samples)")
    told = ("data", "evaluation", "logging", "saving", "snapshots", "samples", "rest")
    print(f"  {'preset':<12} {'in all, s':>10} {'steps':>8} {'beside':>8}   of which " + ", ".join(told))
    for name in args.presets:
        parts = Parts()
        clock = Clock()
        patched: list[tuple[Any, str, Any]] = []
        for owner, method, part in (
            (gptlab.training.loop, "windows", "data"),
            (Trainer, "step", "steps"),
            (Trainer, "evaluate", "evaluation"),
            (Run, "add_metrics", "logging"),
            (Run, "save_weights", "saving"),
            (Run, "save_state", "saving"),
            (Run, "add_snapshot", "snapshots"),
            (lab.Sampler, "evaluated", "samples"),
        ):
            inner = getattr(owner, method)
            patched.append((owner, method, inner))
            setattr(owner, method, parts.timed(part, inner))
        try:
            with tempfile.TemporaryDirectory() as folder:
                lab.train(
                    source,
                    out=Path(folder) / "run",
                    preset=name,
                    steps=args.steps,
                    recipe=args.recipe,
                    device=args.device,
                    listeners=[clock],
                )
        finally:
            for owner, method, inner in patched:
                setattr(owner, method, inner)
        whole = clock.ended_at - clock.began
        seconds = parts.seconds
        seconds["rest"] = whole - sum(seconds.values())
        shares = ", ".join(f"{part} {100 * seconds.get(part, 0.0) / whole:.1f}%" for part in told)
        beside = 1 - seconds["steps"] / whole
        print(f"  {name:<12} {whole:>10.1f} {seconds['steps']:>8.1f} {100 * beside:>7.1f}%   {shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=(*VARIED, "loop"))
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each table, about")
    parser.add_argument("--steps", type=int, default=1000, help="of the trainings whose loop is timed")
    parser.add_argument("--presets", nargs="+", default=["gptlab-cpu"], help="of these trainings")
    parser.add_argument("--corpus", help="their text; default: the best one at hand")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    chosen = lab.machine(args.device, recipe(args.recipe).precision)
    device = chosen.device
    env = runtime.environment()
    print(f"{doctor.processor()}: {env['processor']}; torch {env['torch']}, {env['threads']} threads; {env['system']}")
    print(f"gptlab {env['gptlab']}, {device}, {chosen.precision}, attention kernel {chosen.kernel_name}")
    for varied in VARIED:
        if args.only in (None, varied):
            steps(varied, args, device)
    if args.only in (None, "loop"):
        loop(args)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
