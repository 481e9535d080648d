"""This project beside karpathy/nanoGPT and the old GPTLab (wmelo52/GPTLab): in one run, on one machine, in turn.

    git clone https://github.com/karpathy/nanoGPT ../nanogpt
    git clone https://github.com/wmelo52/GPTLab ../old
    python bench/peers.py --nanogpt ../nanogpt --old ../old             some minutes
    python bench/peers.py --nanogpt ../nanogpt --old ../old --full      and their trainings to the end: half an hour

Their models, their optimizers' settings and their ways to write are taken from the folders as they are; batches are
drawn by this project for all, in one gather, which is faster than either does it. A training step is that of each
one's own recipe, at the same shape, batch and context; a ratio is of two neighbours in time, with its quartiles. Times
to a loss are of training alone; the loss is the window loss over 6,400 windows. Without --full, those of the others
are their published number of steps times the step measured here.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gptlab
from gptlab import bench, doctor, lab, runtime
from gptlab.config import ModelConfig, SampleConfig
from gptlab.generate.generate import generate
from gptlab.model.transformer import Transformer
from gptlab.text.batches import windows
from gptlab.text.chars import CharTokenizer
from gptlab.training.evaluate import window_loss
from gptlab.training.schedule import rate

CPU = torch.device("cpu")
WRITTEN = 2  # times the context: tokens of one sample
NEAR = 0.03  # above the target, from where the loss is measured in full


@dataclass
class Racer:
    """Someone who trains: `step(i)` trains once, `loss()` is the window loss."""

    name: str
    step: Callable[[int], object]
    loss: Callable[[int], float]  # over so many windows


@dataclass(frozen=True)
class Race:
    """A published training."""

    title: str
    corpus: str
    shape: ModelConfig
    batch: int
    steps: int  # that were published
    target: float  # and the loss that they reached
    ours: int  # steps of this project, chosen to come to the target at their end
    peer: Callable[["Race", bench.Text], Racer]


def module(folder: Path, name: str) -> ModuleType:
    """A Python file of theirs, imported by its path; an error of the command line where it is not there."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"peer_{folder.name}_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"peers.py: {folder} has no {name}.py: name a clone of the project")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # where its dataclasses look themselves up
    spec.loader.exec_module(found)
    return found


def quietly(make: Callable[[], Any]) -> Any:
    """What it returns, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make()


def revision(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown revision"


def peer_model(library: ModuleType, make: str, names: dict[str, str], shape: ModelConfig, **more: Any) -> nn.Module:
    """Their model of our shape; names: of their configuration, by ours."""
    config = library.GPTConfig(**{theirs: getattr(shape, ours) for ours, theirs in names.items()}, **more)
    built: nn.Module = quietly(lambda: getattr(library, make)(config))
    return built


SHAPE = {"vocab_size": "vocab_size", "n_layers": "n_layer", "n_heads": "n_head", "d_model": "n_embd"}


def nanogpt_model(library: ModuleType, shape: ModelConfig) -> nn.Module:
    return peer_model(library, "GPT", SHAPE | {"context": "block_size"}, shape, dropout=0.0, bias=False)


def old_model(library: ModuleType, shape: ModelConfig) -> nn.Module:
    return peer_model(library, "nanoGPTModel", SHAPE | {"context": "max_len"}, shape, dropout=0.2)


def loss_of(model: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], ids: np.ndarray, context: int) -> Any:
    """Their window loss, on the windows that ours are measured on."""

    @torch.no_grad()
    def measured(count: int) -> float:
        model.eval()
        rows = torch.from_numpy(windows(ids, count=count, context=context, seed=0, stream="evaluate"))
        total = sum(forward(part[:, :-1], part[:, 1:]).item() * len(part) for part in rows.split(128))
        model.train()
        return total / count

    return measured


def nanogpt_racer(library: ModuleType, race: Race, text: bench.Text) -> Racer:
    """Its README's recipe for a CPU: AdamW by its own groups, warm-up and cosine, clipping, no dropout."""
    torch.manual_seed(1337)
    model: Any = nanogpt_model(library, race.shape).train()
    optimizer = quietly(lambda: model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu"))

    def forward(x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = model(x, y.contiguous())[1]
        return loss

    def step(i: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate("cosine", min(i, race.steps), steps=race.steps, warmup=100, final=0.1)
        rows = torch.from_numpy(windows(text.train, count=race.batch, context=race.shape.context, seed=0, step=i))
        loss = forward(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # it logs every step

    return Racer("nanoGPT", step, loss_of(model, forward, text.val, race.shape.context))


def old_racer(library: ModuleType, race: Race, text: bench.Text) -> Racer:
    """Its training script for a CPU: a constant AdamW with torch's defaults, dropout 0.2."""
    torch.manual_seed(1337)
    model: Any = old_model(library, race.shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = model(x, y.contiguous()).loss
        return loss

    def step(i: int) -> None:
        rows = torch.from_numpy(windows(text.train, count=race.batch, context=race.shape.context, seed=0, step=i))
        loss = forward(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return Racer("old GPTLab", step, loss_of(model, forward, text.val, race.shape.context))


def our_racer(race: Race, text: bench.Text, recipe: str, *, steps: int, seed: int) -> Racer:
    settings = {"batch": race.batch, "seed": seed}
    trainer = bench.prepared(
        "gptlab-cpu", recipe, race.shape, text.train, text.val, device=CPU, steps=steps, **settings
    )
    config, model = trainer.config, trainer.model

    def step(i: int) -> None:
        warmup, final = config.warmup, config.final_lr
        trainer.step(i, rate(config.schedule, min(i, steps), steps=steps, warmup=warmup, final=final))

    return Racer(f"ours, {recipe}, {config.precision}", step, lambda count: window_loss(model, text.val, count=count))


def quartiles(values: list[float]) -> str:
    """The median, and the middle half of all values."""
    if len(values) < 4:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def in_turn(racers: list[Racer], seconds: float) -> dict[str, list[float]]:
    done = dict.fromkeys((r.name for r in racers), 0)

    def call(racer: Racer) -> Callable[[], None]:
        def step() -> None:
            racer.step(done[racer.name])
            done[racer.name] += 1

        return step

    return bench.alternate({r.name: call(r) for r in racers}, seconds=seconds, device=CPU, least=5)


def to_loss(racer: Racer, race: Race, *, steps: int, every: int) -> tuple[int, float, float] | None:
    """(steps, seconds of training, loss) when the target is first seen, looked for every so many steps."""
    seconds = 0.0
    for i in range(steps):
        began = time.perf_counter()
        racer.step(i)
        seconds += time.perf_counter() - began
        if (i + 1) % every == 0 or i + 1 == steps:
            near = racer.loss(400) < race.target + NEAR
            if near and (loss := racer.loss(6400)) <= race.target:
                return i + 1, seconds, loss
    return None


def compare_training(race: Race, args: argparse.Namespace) -> None:
    text = bench.text(race.corpus)
    race = replace(race, shape=race.shape.but(vocab_size=text.tokenizer.vocab_size))
    parameters = gptlab.count(race.shape).total
    print(f"\n{race.title}: {parameters:,} parameters, {race.batch} windows of {race.shape.context} of {text.name}")
    racers = [race.peer(race, text)]
    for recipe in ("default", "classic"):
        racers.append(our_racer(race, text, recipe, steps=race.ours, seed=0))
    times = in_turn(racers, args.seconds)
    theirs = times[racers[0].name]
    print(f"  {'training step':<26} {'ms: median (quartiles)':<32} times as fast as {racers[0].name}")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(theirs, values, strict=True)]
        faster = "" if values is theirs else quartiles(ratios)
        print(f"  {name:<26} {quartiles([1000 * v for v in values]):<32} {faster}", flush=True)

    print(f"  to a loss of {race.target}: steps, seconds of training")
    if args.full:
        found = to_loss(race.peer(race, text), race, steps=3 * race.steps, every=race.steps // 20)
        shown = f"{found[0]:,} steps, {found[1]:.1f} s, loss {found[2]:.4f}" if found else "not reached"
        peer_seconds = found[1] if found else None
    else:
        peer_seconds = race.steps * statistics.median(theirs)
        shown = f"{race.steps:,} steps as published, {peer_seconds:.1f} s by the step above (estimated)"
    print(f"  {racers[0].name:<26} {shown}", flush=True)
    ours = []
    for seed in range(args.seeds):
        racer = our_racer(race, text, "default", steps=race.ours, seed=seed)
        found = to_loss(racer, race, steps=race.ours, every=max(1, race.ours // 25))
        if found is None:
            print(
                f"  ours, default, seed {seed:<3} not reached in {race.ours} steps: {racer.loss(6400):.4f}", flush=True
            )
            continue
        ours.append(found[1])
        faster = f", {peer_seconds / found[1]:.0f} times faster" if peer_seconds else ""
        print(
            f"  ours, default, seed {seed:<3} {found[0]:,} steps, {found[1]:.2f} s, loss {found[2]:.4f}{faster}",
            flush=True,
        )
    if len(ours) > 1:
        print(f"  ours, {len(ours)} seeds           {statistics.mean(ours):.2f} ± {statistics.stdev(ours):.2f} s")


def write(model: Transformer, tokenizer: CharTokenizer, config: SampleConfig) -> None:
    for _ in generate(model, tokenizer, "", config):
        pass


def compare_sampling(libraries: dict[str, ModuleType], args: argparse.Namespace, chosen: doctor.Choice) -> None:
    small, large = gptlab.preset("gptlab-cpu"), gptlab.preset("gptlab-gpu")
    shapes = {"gptlab-cpu": small, "gptlab-gpu": large, "6 x 384, context 256": large.but(context=256)}
    print(f"\nsampling, one stream, {WRITTEN} times the context: tokens/s, median (quartiles), and times as fast")
    start = torch.zeros(1, 1, dtype=torch.long)
    for name, shape in shapes.items():
        number = WRITTEN * shape.context
        model, tokenizer = gptlab.build(shape, kernel=chosen.kernel), bench.letters(shape.vocab_size)
        config = SampleConfig(tokens=number)
        ways: dict[str, Callable[[], object]] = {"ours": partial(write, model, tokenizer, config)}
        if "model" in libraries:
            nano: Any = nanogpt_model(libraries["model"], shape).eval()
            ways["nanoGPT"] = partial(nano.generate, start, number)
        if "nanoGPT" in libraries:
            old = old_model(libraries["nanoGPT"], shape).eval()
            ways["old GPTLab"] = partial(libraries["generation"].generate, old, start, max_new_tokens=number)
        times = bench.alternate(ways, seconds=args.seconds, device=CPU, least=3)
        for who, values in times.items():
            ratios = [a / b for a, b in zip(values, times["ours"], strict=True)]
            faster = "" if who == "ours" else f"ours is {quartiles(ratios)} times as fast"
            print(f"  {name:<22} {who:<12} {quartiles([number / v for v in values]):<36} {faster}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--old", type=Path, help="a clone of wmelo52/GPTLab")
    parser.add_argument("--full", action="store_true", help="train the others until they reach their published losses")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each comparison, about")
    parser.add_argument("--seeds", type=int, default=1, help="of our trainings to a loss")
    parser.add_argument("--our-steps", type=int, nargs=2, default=(300, 500), help="on the tales, on tiny Shakespeare")
    parser.add_argument("--only", choices=("training", "sampling"))
    args = parser.parse_args()
    if args.nanogpt is None and args.old is None:
        parser.error("name at least one folder: --nanogpt DIR, --old DIR")
    libraries: dict[str, ModuleType] = {}
    if args.nanogpt:
        libraries["model"] = module(args.nanogpt, "model")
    if args.old:
        libraries |= {name: module(args.old, name) for name in ("nanoGPT", "generation")}
    chosen = lab.machine("cpu")
    env = runtime.environment()
    print(f"{doctor.processor()}: {env['processor']}; torch {env['torch']}, {env['threads']} threads; {env['system']}")
    folders = {"nanoGPT": args.nanogpt, "old GPTLab": args.old}
    clones = ", ".join(f"{name} {revision(folder)}" for name, folder in folders.items() if folder)
    print(f"gptlab {env['gptlab']}, attention kernel {chosen.kernel_name}; {clones}")
    races: list[Race] = []
    if args.old:
        shape = gptlab.preset("gptlab-cpu")
        tales = ("The old GPTLab's recipe", "machado", shape, 32, 5000, 2.02, args.our_steps[0])
        races.append(Race(*tales, peer=partial(old_racer, libraries["nanoGPT"])))
    if args.nanogpt:
        shape = gptlab.preset("nanogpt-cpu")
        plays = ("nanoGPT's recipe for a CPU", "shakespeare", shape, 12, 2000, 1.8857, args.our_steps[1])
        races.append(Race(*plays, peer=partial(nanogpt_racer, libraries["model"])))
    if args.only != "sampling":
        for race in races:
            compare_training(race, args)
    if args.only != "training":
        compare_sampling(libraries, args, chosen)


if __name__ == "__main__":
    main()
