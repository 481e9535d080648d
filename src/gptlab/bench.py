"""What this machine makes of GPTLab, and how much of what it could: `gptlab bench`.

Each number stands beside its bound: the operations of a training step beside the measured rate of matrix products, the
bytes that a token needs beside the measured rate of reading memory. What is compared is measured in turn, so that a
busy moment of the machine meets both alike. A rate that bounds others is the best of several, for a bound is what is
possible; everything else is a median, with the least and the greatest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from gptlab import doctor, files, lab, runtime
from gptlab.config import ModelConfig, SampleConfig
from gptlab.generate.generate import generate
from gptlab.messages import filled, say
from gptlab.messages.progress import progress
from gptlab.model.cost import TRAINING, flops
from gptlab.model.count import count
from gptlab.model.mlps import GATED
from gptlab.model.transformer import Transformer, build
from gptlab.presets import preset, settings_for
from gptlab.registry import ACTIVATIONS, unknown
from gptlab.run import Run
from gptlab.text import corpora
from gptlab.text.chars import CharTokenizer
from gptlab.text.download import DOWNLOADS, PLACES
from gptlab.text.tokenizer import Tokenizer
from gptlab.training.evaluate import window_loss
from gptlab.training.loop import Trainer, resolved
from gptlab.training.schedule import rate as scheduled

K = TypeVar("K")
Shape = tuple[str, int, int, int]  # of a product: which, rows, inner, columns

PARTS = ("training", "sampling", "startup")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECIPES = ("default", "classic")
SQUARE = {"cpu": 2048, "cuda": 8192}  # a product that is large enough for the machine's best rate
MEMORY = 256 * 10**6  # bytes, more than any cache of a processor holds
BUSY = 0.5  # processes that want to run, a core, from which measurements say little
PATIENCE = 600.0  # seconds for a process of its own


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    small: ModelConfig
    large: ModelConfig
    long: ModelConfig  # of sampling past a longer context
    larger: ModelConfig | None = None  # trained where there is a GPU
    trained: str = "gptlab-gpu"  # the preset whose training's memory is measured
    batch: int = 32  # windows of a step
    larger_batch: int = 16
    seconds: float = 4.0  # of each measurement, about
    loss_seconds: float = 10.0  # of the training whose loss is measured
    windows: int = 6400  # of that loss
    streams: tuple[int, ...] = (1, 64)
    starts: int = 4  # processes started, of each kind
    corpus: str | None = None  # the text of the loss; default: the best one at hand
    seed: int = 0


def plan(*, quick: bool = False, corpus: str | None = None, seed: int = 0) -> Plan:
    """The models that GPTLab measures itself by; quick: a third of the time, and more noise."""
    large = preset("gptlab-gpu")
    shapes = {"small": preset("gptlab-cpu"), "large": large, "long": large.but(context=256)}
    times = {"seconds": 1.0, "loss_seconds": 3.0, "windows": 1600, "starts": 2} if quick else {}
    return Plan(**shapes, larger=preset("gpt2-124m"), corpus=corpus, seed=seed, **times)  # type: ignore[arg-type]


# What is found


@dataclass(frozen=True)
class Row:
    """One number: its name for programs, its line for people, and everything it was taken from."""

    name: str  # such as training/gptlab-gpu/default/step
    entry: str  # of the catalogues: what was measured
    about: dict[str, Any]  # values of that entry
    unit: str  # one of FORMATS
    value: float
    values: list[float]  # all measurements
    facts: dict[str, Any] = field(default_factory=dict)  # what it is made of and beside what it stands, for programs
    remarks: tuple[tuple[str, dict[str, Any]], ...] = ()  # the same for people: entries and their values

    def to_dict(self) -> dict[str, Any]:
        spread = {"low": min(self.values), "high": max(self.values), "count": len(self.values)}
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            **spread,
            "values": self.values,
            **self.facts,
        }

    def cells(self, lang: str) -> tuple[str, str, str]:
        """What, its value, and the spread of more than one measurement."""
        form, factor = FORMATS[self.unit]
        if lang == "fr":  # its byte is an octet
            form = form.replace("B", "o")
        low, high = (filled(form.split(" ")[0], lang, value=factor * v) for v in (min(self.values), max(self.values)))
        spread = f"{low} – {high} ({len(self.values)})" if len(self.values) > 1 else ""
        named = say(self.entry, lang, **self.about) if self.entry.startswith("bench_") else self.entry
        return named, filled(form, lang, value=factor * self.value), spread

    def said(self, lang: str) -> list[str]:
        """The remarks; a value "@entry" is an entry itself."""
        return [
            say(entry, lang, **{k: say(v[1:], lang) if str(v).startswith("@") else v for k, v in values.items()})
            for entry, values in self.remarks
        ]


FORMATS = {  # unit -> how it is shown, and by what it is multiplied for that
    "s": ("{value:.2f} s", 1.0),
    "s/step": ("{value:.1f} ms", 1e3),
    "GFLOP/s": ("{value:,.0f} GFLOP/s", 1.0),
    "bytes/s": ("{value:.1f} GB/s", 1e-9),
    "bytes": ("{value:,.0f} MB", 1e-6),
    "tokens/s": ("{value:,.0f}", 1.0),
    "nats/token": ("{value:.3f}", 1.0),
}


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured on and with."""

    machine: dict[str, Any]
    rows: list[Row]
    seconds: float
    date: str

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"date": self.date, "seconds": self.seconds, **self.machine, "rows": rows}

    def told(self, lang: str) -> str:
        """The machine, and a table: a row's remarks are below it, and between parts is an empty line."""
        cells = [("", say("bench_value", lang), say("bench_spread", lang)), *(row.cells(lang) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        out, part = [say("bench_machine", lang, **self.machine)], ""
        if self.machine["load"] is not None and self.machine["load"] > BUSY * self.machine["cores"]:
            out.append(say("bench_busy", lang, load=self.machine["load"], cores=self.machine["cores"]))
        out += ["", lines[0]]
        for line, row in zip(lines[1:], self.rows, strict=True):
            if row.name.partition("/")[0] != part:
                part = row.name.partition("/")[0]
                out.append("")
            out += [line, *(f"    {remark}" for remark in row.said(lang))]
        return "\n".join(out)


def measure(plan: Plan, *, only: str | None = None, device: str = "auto", lang: str = "en") -> Report:
    """Measure everything, or one part; ValueError for a part, a device or a text that is not there."""
    if only is not None and only not in PARTS:
        raise unknown("part", only, PARTS)
    parts = PARTS if only is None else (only,)
    chosen = lab.machine(device)
    source = plan.corpus or at_hand()
    given = text(source) if "training" in parts else None  # what is wrong with it is said before anything is measured
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before there is any of our own
    began, date = time.perf_counter(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    bench = Bench(plan, chosen, given)
    rows: list[Row] = []
    with progress(say("bench_measuring", lang), None) as advance:
        for part in parts:
            for row in getattr(bench, part)():
                rows.append(row)
                advance(1)
    about = {k: v for k, v in runtime.environment().items() if k != "command"}
    about |= {"processor": doctor.processor(), "cores": os.cpu_count(), "instructions": doctor.instructions()}
    about |= {"device": described(chosen.device), "seed": plan.seed, "kernel": chosen.kernel_name, "load": load}
    return Report(about, [*bench.rates.rows, *rows], time.perf_counter() - began, date)


def described(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def alternate(
    ways: Mapping[K, Callable[[], object]], *, seconds: float, device: torch.device, least: int = 3
) -> dict[K, list[float]]:
    """Seconds that each call takes, all of them in turn, over and over for `seconds`; the first ones do not count.

    At least so many rounds, unless they take four times as long as they may: then one is enough.
    """
    for call in ways.values():
        call()
    found: dict[K, list[float]] = {name: [] for name in ways}
    began, rounds, spent = time.perf_counter(), 0, 0.0
    while not rounds or ((spent < seconds or rounds < least) and spent < 4 * seconds):
        for name, call in ways.items():
            runtime.synchronize(device)
            started = time.perf_counter()
            call()
            runtime.synchronize(device)
            found[name].append(time.perf_counter() - started)
        rounds, spent = rounds + 1, time.perf_counter() - began
    return found


# The bounds: products and memory


def matrices(config: ModelConfig) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of the matrices that every token of a plain decoder is multiplied by."""
    c = config
    width, both = c.n_heads * c.head_dim, (c.n_heads + 2 * c.n_kv_heads) * c.head_dim
    gates = 2 if ACTIVATIONS[c.activation] in GATED else 1
    block = [(c.d_model, both), (width, c.d_model), (c.d_model, gates * c.d_ff), (c.d_ff, c.d_model)]
    return [*((inputs, outputs, c.n_layers) for inputs, outputs in block), (c.d_model, c.vocab_size, 1)]


def products(config: ModelConfig, rows: int) -> dict[Shape, int]:
    """The products with weights in a training step of so many tokens, and how many there are of each.

    For x (rows, inputs), W (outputs, inputs) and the gradient g of x W': this, and backward g W and g' x.
    """
    found: Counter[Shape] = Counter()
    for inputs, outputs, number in matrices(config):
        found["forward", rows, inputs, outputs] += number
        found["to inputs", rows, outputs, inputs] += number
        found["to weights", outputs, rows, inputs] += number
    return dict(found)


class Rates:
    """The machine's rates, measured when they are first asked for."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.rows: list[Row] = []
        self.known: dict[Any, Any] = {}

    def square(self, n: int) -> dict[str, float]:
        """Operations a second in products of square matrices, by precision."""
        if n not in self.known:
            self.known[n] = self.measured(f"rates/square/{n}", "bench_square", {"n": n}, {("forward", n, n, n): 1})
        found: dict[str, float] = self.known[n]
        return found

    def at_shapes(self, name: str, config: ModelConfig, rows: int) -> dict[str, float]:
        """Operations a second in the products of a training step, by precision: all of them over their best times."""
        asked = (name, config, rows)
        if asked not in self.known:
            about = {"model": name}
            self.known[asked] = self.measured(f"rates/{name}", "bench_products", about, products(config, rows))
        found: dict[str, float] = self.known[asked]
        return found

    def measured(self, name: str, entry: str, about: dict[str, Any], shapes: dict[Shape, int]) -> dict[str, float]:
        calls: dict[tuple[str, Shape], Callable[[], object]] = {}
        times: dict[tuple[str, Shape], int] = {}
        for precision, dtype in DTYPES.items():
            try:
                made = {shape: repeated(product(*shape, dtype, self.device), self.device) for shape in shapes}
            except RuntimeError:  # a device without such a product
                continue
            for shape, (call, number) in made.items():
                calls[precision, shape], times[precision, shape] = call, number
        found = alternate(calls, seconds=self.seconds, device=self.device, least=5)
        operations = sum(2 * m * k * n * number for (_, m, k, n), number in shapes.items())
        best: dict[str, float] = {}
        for precision in dict.fromkeys(precision for precision, _ in calls):
            taken = np.array(  # (shapes, rounds), seconds in a training step
                [[number * s / times[precision, k] for s in found[precision, k]] for k, number in shapes.items()]
            )
            best[precision] = operations / taken.min(1).sum()
            values = (operations / taken.sum(0) / 1e9).tolist()
            told = {**about, "precision": precision}
            self.rows.append(Row(f"{name}/{precision}", entry, told, "GFLOP/s", best[precision] / 1e9, values))
        return best

    def memory(self, size: int) -> float:
        """Bytes a second at which `size` bytes are read, again and again: small ones come from the cache."""
        asked = ("memory", size)
        if asked not in self.known:
            numbers = torch.ones(max(1, size // 4), device=self.device)
            times = max(1, 2**26 // size)
            rows = numbers.expand(times, -1)  # the same memory so many times, in one call
            found = alternate({"": lambda: rows.sum(1)}, seconds=self.seconds / 8, device=self.device, least=5)[""]
            values = [times * 4 * len(numbers) / seconds for seconds in found]
            about = {"size": size / 1e6}
            self.known[asked] = max(values)
            row = Row(f"rates/memory/{size}", "bench_memory_read", about, "bytes/s", max(values), values)
            self.rows.append(row)
        found_rate: float = self.known[asked]
        return found_rate


def product(which: str, m: int, k: int, n: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A product (m, k) x (k, n) of matrices that lie in memory as in a training step."""

    def made(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=device).to(dtype)

    left = made(k, m).T if which == "to weights" else made(m, k)
    right = made(n, k).T if which == "forward" else made(k, n)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return lambda: torch.mm(left, right, out=out)


def repeated(call: Callable[[], object], device: torch.device, least: float = 1e-3) -> tuple[Callable[[], None], int]:
    """A call so many times in a row that it can be timed, and how many."""
    call()
    runtime.synchronize(device)
    began = time.perf_counter()
    call()
    runtime.synchronize(device)
    times = max(1, round(least / max(1e-6, time.perf_counter() - began)))

    def row() -> None:
        for _ in range(times):
            call()

    return row, times


# The measurements


class Bench:
    """The three parts, each of which yields its rows."""

    def __init__(self, plan: Plan, chosen: doctor.Choice, text: "Text | None" = None) -> None:
        """text: what the small model is trained on; only the part `training` needs one."""
        self.plan, self.chosen, self.text = plan, chosen, text
        self.device = chosen.device
        self.rates = Rates(self.device, plan.seconds)

    def training(self) -> Iterator[Row]:
        plan = self.plan
        self.rates.square(SQUARE.get(self.device.type, 2048))
        steps: dict[tuple[str, str], float] = {}
        shapes = [("gptlab-cpu", plan.small, plan.batch), ("gptlab-gpu", plan.large, plan.batch)]
        for name, shape, batch in shapes:
            yield from self.steps(name, shape, batch, steps)
        if self.device.type == "cuda" and plan.larger:
            try:
                yield from self.steps("gpt2-124m", plan.larger, plan.larger_batch, steps)
            except torch.OutOfMemoryError:
                warnings.warn(f"gpt2-124m is left out: {self.device} has too little memory for it", stacklevel=2)
        yield from self.losses(steps)
        yield self.memory()

    def steps(self, name: str, shape: ModelConfig, batch: int, found: dict[tuple[str, str], float]) -> Iterator[Row]:
        """A step of each recipe, in turn."""
        ids = np.random.default_rng(self.plan.seed).integers(0, shape.vocab_size, 100 * shape.context, dtype=np.uint16)
        trainers = {recipe: self.trainer(name, recipe, shape, ids, ids, batch=batch) for recipe in RECIPES}
        done = dict.fromkeys(RECIPES, 0)

        def step(recipe: str) -> None:
            trainers[recipe].step(done[recipe], 0.01)  # a small rate, so that numbers stay as they are in a training
            done[recipe] += 1

        calls = {recipe: lambda recipe=recipe: step(recipe) for recipe in RECIPES}
        times = alternate(calls, seconds=self.plan.seconds, device=self.device, least=5)
        operations = TRAINING * flops(shape, batch=batch, length=shape.context)
        rates = self.rates.at_shapes(name, shape, batch * shape.context)
        best = max(rates, key=lambda precision: rates[precision])
        medians = {recipe: statistics.median(values) for recipe, values in times.items()}
        for recipe, values in times.items():
            used = trainers[recipe].config.precision
            median = found[name, recipe] = medians[recipe]
            reached = operations / median
            facts: dict[str, Any] = {
                "operations": operations,
                "gflops": reached / 1e9,
                "precision": used,
                "share": reached / rates[used],
                "best_precision": best,
                "best_share": reached / rates[best],
                "times_classic": medians["classic"] / median,
                "batch": batch,
                "context": shape.context,
                "parameters": count(shape).total,
            }
            shares = {"share": 100 * facts["share"], "best_share": 100 * facts["best_share"]}
            rate = {"gflop": operations / 1e9, "rate": reached / 1e9, "precision": used, "best": best}
            remarks = [("bench_share_best" if used == best else "bench_share", {**rate, **shares})]
            if recipe != "classic":
                remarks.insert(0, ("bench_times", {"times": facts["times_classic"], "what": "--recipe classic"}))
            about = {"model": name, "recipe": recipe}
            row = f"training/{name}/{recipe}/step"
            yield Row(row, "bench_step", about, "s/step", median, values, facts, tuple(remarks))

    def trainer(
        self, name: str, recipe: str, shape: ModelConfig, train: np.ndarray, val: np.ndarray, **settings: Any
    ) -> Trainer:
        return prepared(name, recipe, shape, train, val, device=self.device, seed=self.plan.seed, **settings)

    def losses(self, steps: Mapping[tuple[str, str], float]) -> Iterator[Row]:
        """The window loss of the small model after some seconds of training, evaluation not counted."""
        plan, data = self.plan, self.text
        assert data is not None
        shape = plan.small.but(vocab_size=data.tokenizer.vocab_size)
        for recipe in RECIPES:
            number = max(2, round(plan.loss_seconds / steps["gptlab-cpu", recipe]))
            trainer = self.trainer("gptlab-cpu", recipe, shape, data.train, data.val, batch=plan.batch, steps=number)
            config = trainer.config
            began = time.perf_counter()
            for step in range(number):
                warmup, final = config.warmup, config.final_lr
                trainer.step(step, scheduled(config.schedule, step, steps=number, warmup=warmup, final=final))
            runtime.synchronize(self.device)
            seconds = time.perf_counter() - began
            loss = window_loss(trainer.model, data.val, count=plan.windows, seed=plan.seed)
            about = {"model": "gptlab-cpu", "recipe": recipe, "seconds": seconds, "text": data.name}
            facts = {"seconds": seconds, "steps": number, "text": data.name, "windows": plan.windows}
            remarks = (("bench_loss_of", {"steps": number, "windows": plan.windows}),)
            yield Row(
                f"training/gptlab-cpu/{recipe}/loss", "bench_loss", about, "nats/token", loss, [loss], facts, remarks
            )

    def memory(self) -> Row:
        """The peak of a short training of the large model, with evaluation, samples and report, in its own process."""
        assert self.text is not None
        plan = self.plan
        asked = {"preset": plan.trained, "context": plan.large.context, "batch": plan.batch, "seed": plan.seed}
        asked |= {"corpus": self.text.source, "device": str(self.device), "out": ""}
        with tempfile.TemporaryDirectory() as folder:
            asked["out"] = str(Path(folder) / "run")
            printed = child("-c", f"from gptlab import bench; bench.peak({json.dumps(asked)!r})")
        found = json.loads(printed.splitlines()[-1])
        gpu = self.device.type == "cuda"
        value = found["gpu" if gpu else "resident"]
        remark: tuple[str, dict[str, Any]] = ("bench_memory_gpu" if gpu else "bench_memory_cpu", {})
        about = {"model": plan.trained}
        return Row(f"training/{plan.trained}/memory", "bench_memory", about, "bytes", value, [value], found, (remark,))

    def sampling(self) -> Iterator[Row]:
        plan = self.plan
        shapes = [("gptlab-cpu", plan.small), ("gptlab-gpu", plan.large)]
        label = f"{plan.long.n_layers} × {plan.long.d_model}, {plan.long.context}"
        for name, shape in [*shapes, (label, plan.long)]:
            model = build(shape, seed=plan.seed, kernel=self.chosen.kernel).to(self.device)
            for streams in plan.streams:
                yield self.written(name, model, streams)

    def written(self, name: str, model: Transformer, streams: int) -> Row:
        """Tokens a second of all streams together: half as many tokens again as the context holds, from nothing."""
        plan, shape = self.plan, model.config
        tokenizer = letters(shape.vocab_size)
        number = shape.context + shape.context // 2
        config = SampleConfig(tokens=number, seed=plan.seed)

        def write() -> None:
            for _ in generate(model, tokenizer, "", config, n=streams):
                pass

        times = alternate({"": write}, seconds=plan.seconds, device=self.device)[""]
        speeds = [streams * number / seconds for seconds in times]
        speed = statistics.median(speeds)
        precision = sampled_in(model)
        rows = plan.batch * plan.large.context
        best = self.rates.at_shapes("gptlab-gpu", plan.large, rows)[precision]
        bound = sampling_bound(
            shape, tokens=number, streams=streams, precision=precision, rate=best, memory=self.rates.memory
        )
        facts = {"streams": streams, "tokens": number, "precision": precision, **bound, "share": speed / bound["bound"]}
        what = "@bench_memory_rate" if bound["binds"] == "memory" else "@bench_product_rate"
        remark = {"share": 100 * facts["share"], "bound": bound["bound"], "what": what, "precision": precision}
        about = {"model": name, "streams": streams}
        key = f"sampling/{name}/{streams}"
        return Row(key, "bench_sample", about, "tokens/s", speed, speeds, facts, (("bench_bound", remark),))

    def startup(self) -> Iterator[Row]:
        """Processes in turn: the help, PyTorch alone, and a sample up to its first character."""
        with tempfile.TemporaryDirectory() as folder:
            shape = self.plan.small
            run = Run.create(Path(folder) / "run", shape, letters(shape.vocab_size))
            run.save_weights(build(shape, seed=self.plan.seed))
            sample = ("-m", "gptlab", "sample", str(run.path), "--tokens", "4", "--device", str(self.device))
            ways = {
                "help": ("-m", "gptlab", "--help"),
                "torch": ("-c", "import torch; print('.', flush=True)"),
                "sample": sample,
            }
            first_output(*sample)  # reads the libraries from the disk
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(self.plan.starts):
                for name, arguments in ways.items():
                    found[name].append(first_output(*arguments))
        medians = {name: statistics.median(values) for name, values in found.items()}
        yield Row("startup/help", "gptlab --help", {}, "s", medians["help"], found["help"])
        yield Row("startup/torch", "import torch", {}, "s", medians["torch"], found["torch"])
        more = medians["sample"] - medians["torch"]
        remarks = (("bench_more", {"more": more}),)
        facts = {"more_than_torch": more}
        yield Row("startup/sample", "bench_first", {}, "s", medians["sample"], found["sample"], facts, remarks)


def prepared(
    name: str,
    recipe: str,
    shape: ModelConfig,
    train: np.ndarray,
    val: np.ndarray,
    *,
    device: torch.device,
    steps: int = 1000,
    **settings: Any,
) -> Trainer:
    """A trainer as `gptlab train` makes it for a preset and a recipe, of a model of any shape."""
    config = resolved(settings_for(recipe, name).but(**settings), steps=steps)
    chosen = doctor.choose(str(device), config.precision)
    config = config.but(precision=chosen.precision)
    model = build(shape, seed=config.seed, init=config.init, dropout=config.dropout, kernel=chosen.kernel)
    return Trainer(model.to(device).train(), train, val, config)


def sampled_in(model: Transformer) -> str:
    """What a model's weights are kept in while it writes."""
    return next(name for name, dtype in DTYPES.items() if dtype == model.embedding.dtype)


def passes(context: int, tokens: int) -> list[tuple[int, int]]:
    """(tokens read, tokens seen) of each forward pass that writes `tokens` tokens after one, by the window `halves`."""
    out, length = [], 0
    for _ in range(tokens):
        new = max(1, context // 2) if length == context else 1
        length = new if length == context else length + 1
        out.append((new, length))
    return out


def sampling_bound(
    config: ModelConfig,
    *,
    tokens: int,
    streams: int,
    precision: str,
    rate: float,
    memory: Callable[[int], float],
) -> dict[str, Any]:
    """The tokens a second of all streams that the machine's rates allow, and which of the two binds.

    Each pass reads every weight but the position table once, and each stream's keys and values; it multiplies each
    new token by all matrices, the last one by the head, too, and 4 T H D per token and layer for attention. rate:
    operations a second; memory: bytes a second, by how many are read in a pass.
    """
    size = DTYPES[precision].itemsize
    parts = count(config)
    weights = size * (parts.total - parts.position - (0 if config.tied_embeddings else parts.embedding))
    kept = 2 * config.n_layers * config.n_kv_heads * config.head_dim * size  # a token's keys and values
    *block, head = matrices(config)
    each = sum(2 * inputs * outputs * number for inputs, outputs, number in block)
    seen = passes(config.context, tokens)
    cache = kept * streams * statistics.mean(length for _, length in seen)
    speed = memory(round(weights + cache))
    reading = computing = total = 0.0
    for new, length in seen:
        operations = new * each + 2 * head[0] * head[1]
        operations += 4 * config.n_layers * config.n_heads * config.head_dim * new * length
        times = (weights + kept * streams * length) / speed, streams * operations / rate
        reading, computing, total = reading + times[0], computing + times[1], total + max(times)
    return {
        "bound": streams * tokens / total,
        "binds": "memory" if reading > computing else "products",
        "weights_bytes": weights,
        "cache_bytes": round(cache),
        "bytes_per_second": speed,
        "operations_per_second": rate,
    }


def letters(number: int) -> CharTokenizer:
    """A vocabulary of so many characters, a line end among them."""
    return CharTokenizer("\n" + "".join(chr(0x100 + i) for i in range(number - 1)))


# Texts


@dataclass(frozen=True)
class Text:
    source: str  # how it was asked for
    name: str
    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray


def text(source: str) -> Text:
    """A text as characters; ValueError where there is none of that name."""
    found = corpora.find(source)
    tokenizer = corpora.make_tokenizer("char", found)
    data = corpora.prepare(found, tokenizer)
    corpora.check_length(data, preset("gptlab-gpu").context)
    return Text(source, found.name, tokenizer, data.train, data.val)


def at_hand() -> str:
    """A text that need not be fetched: the tales or Shakespeare where they are on the disk, else the fables."""
    folders = [files.cache_dir() / DOWNLOADS]
    if given := os.environ.get("GPTLAB_DATA"):
        folders += [Path(given).expanduser() / place for place in PLACES]
    for name in ("machado", "shakespeare"):
        if any((folder / corpora.CORPORA[name].filename).is_file() for folder in folders):
            return name
    return "fables:en"


# Processes of their own


def child(*arguments: str) -> str:
    """What another Python prints; RuntimeError with its last line where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"a process that gptlab bench started ended with status {done.returncode}: {said}")
    return done.stdout


def first_output(*arguments: str) -> float:
    """Seconds until another Python prints its first character."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        _, said = process.communicate()
    if process.returncode or not first:
        last = (said.decode(errors="replace").strip().splitlines() or [""])[-1]
        raise RuntimeError(f"`gptlab bench` could not start {' '.join(arguments)}: {last}")
    return seconds


def peak(asked: str) -> None:
    """In a process of its own: train a little, and print the greatest memory that was ever in use, as JSON.

    So many windows are evaluated that as many are taken at once as in a long training.
    """
    lab.train(**json.loads(asked), steps=4, eval_every=4, eval_windows=256)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print(json.dumps({"resident": peak_resident(), "gpu": gpu}))


def peak_resident() -> int:
    """The greatest number of bytes of memory that this process has held at once, its libraries included."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says on Linux counts the parent's, too
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if os.name == "nt":
        return windows_peak()
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def windows_peak() -> int:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS
        _fields_ = [("size", wintypes.DWORD), ("faults", wintypes.DWORD)] + [
            (name, ctypes.c_size_t) for name in ("peak", "now", "a", "b", "c", "d", "pagefile", "peak_pagefile")
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    asked: Any = getattr(ctypes, "windll")  # noqa: B009 (elsewhere there is no such attribute)
    here = wintypes.HANDLE(-1)  # this process
    found = asked.psapi.GetProcessMemoryInfo(here, ctypes.byref(counters), ctypes.sizeof(counters))
    return counters.peak if found else 0
