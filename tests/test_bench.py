"""`gptlab bench`: that what it counts is so, and that it says what it measured. No test is about speed."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptlab import bench, doctor, lab
from gptlab.config import SampleConfig
from gptlab.generate.generate import tokens
from gptlab.messages import LANGUAGES
from gptlab.model import cost
from gptlab.model.count import count
from gptlab.model.transformer import Transformer, build
from gptlab.presets import preset
from gptlab.run import find_runs
from tests.test_cli import gptlab
from tests.training.helpers import write_text

CPU = torch.device("cpu")
TINY = preset("gptlab-cpu", n_layers=2, d_model=16, n_heads=2, context=16, vocab_size=11)
SHAPES = {
    "tied": TINY,
    "untied": TINY.but(tied_embeddings=False, context=9),
    "gated": preset("llama-mini", n_layers=1, context=8),
    "grouped": preset("palm-mini", n_layers=3, context=16),
}


def tiny(corpus: str) -> bench.Plan:
    return bench.Plan(
        small=TINY,
        large=TINY.but(n_layers=1),
        long=TINY.but(context=24),
        trained="gptlab-cpu",
        batch=4,
        seconds=0.01,
        loss_seconds=0.05,
        windows=20,
        streams=(1, 3),
        starts=1,
        corpus=corpus,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> bench.Report:
    """Everything, measured on a model of nothing."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        patch.setattr(bench, "SQUARE", {"cpu": 16})
        patch.chdir(folder)
        return bench.measure(tiny(str(write_text(folder / "text.txt"))), device="cpu")


def test_products_are_those_of_a_step() -> None:
    """The listed products are, shape by shape, the matrix products that PyTorch computes in a step."""
    model = build(TINY).train()
    asked: Counter[tuple[int, ...]] = Counter()

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            matrices = [a for a in args if isinstance(a, torch.Tensor) and a.ndim == 2]
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                asked[matrices[-2].shape[0], matrices[-2].shape[1], matrices[-1].shape[1]] += 1
            return func(*args, **(kwargs or {}))

    with Seen():
        model(torch.zeros(3, 16, dtype=torch.long)).sum().backward()
    listed: Counter[tuple[int, ...]] = Counter()
    for (_, m, k, n), number in bench.products(TINY, 48).items():
        listed[tuple(sorted((m, k, n)))] += number
    taken: Counter[tuple[int, ...]] = Counter()
    for shape, number in asked.items():
        taken[tuple(sorted(shape))] += number
    assert listed == taken


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_products_and_attention(name: str) -> None:
    """What `cost` counts of a step is the listed products, and 12 T H D a token and layer for attention."""
    shape = SHAPES[name]
    rows = 5 * shape.context
    listed = sum(2 * m * k * n * number for (_, m, k, n), number in bench.products(shape, rows).items())
    attention = 3 * 4 * rows * shape.context * shape.n_heads * shape.head_dim * shape.n_layers
    assert listed + attention == cost.TRAINING * cost.flops(shape, batch=5, length=shape.context)


def test_the_reference_models_operations() -> None:
    """A step of gptlab-gpu (32 windows of 64) has 134.6 GFLOP: 131.0 in products with weights, by PyTorch's counter."""
    shape = preset("gptlab-gpu")
    with torch.device("meta"):
        model = Transformer(shape)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(32, 64, dtype=torch.long)).sum().backward()
    step = cost.TRAINING * cost.flops(shape, batch=32, length=64)
    weights = sum(2 * m * k * n * number for (_, m, k, n), number in bench.products(shape, 2048).items())
    counted = sum(
        n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op) and "bmm" not in str(op)
    )
    assert weights == counted
    assert (round(weights / 1e8), round(step / 1e8)) == (1310, 1346)


@pytest.mark.parametrize("context", [1, 2, 7, 16])
def test_passes_are_those_of_sampling(context: int) -> None:
    """(tokens read, tokens seen) of each forward pass, as a model that writes is asked for them."""
    model = build(TINY.but(context=context))
    seen: list[tuple[int, int]] = []

    class Counted(Transformer):  # of a class of its own, so that no fast path knows it
        def forward(self, ids: torch.Tensor, cache: Any = None, **rest: Any) -> torch.Tensor:
            logits = super().forward(ids, cache=cache, **rest)
            seen.append((ids.shape[1], cache.length))
            return logits

    model.__class__ = Counted
    list(tokens(model, [0], SampleConfig(tokens=40), n=1, bias={}))
    assert seen == bench.passes(context, 40)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("streams", [1, 5])
def test_the_bound_of_sampling(name: str, streams: int) -> None:
    """With products for nothing, memory binds: bytes counted tensor by tensor, over the rate; else operations do."""
    shape = SHAPES[name]
    model = build(shape)
    read = sum(4 * p.numel() for p_name, p in model.named_parameters() if "position" not in p_name)
    read -= 0 if shape.tied_embeddings else 4 * model.embedding.numel()
    tokens_written = shape.context  # no second window
    kept = 4 * 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim
    bytes_read = sum(read + streams * kept * (i + 1) for i in range(tokens_written))
    given: dict[str, Any] = {"tokens": tokens_written, "streams": streams, "precision": "fp32"}
    by_memory = bench.sampling_bound(shape, **given, rate=math.inf, memory=lambda size: 1e6)
    assert by_memory["binds"] == "memory"
    assert by_memory["bound"] == pytest.approx(streams * tokens_written * 1e6 / bytes_read)
    by_products = bench.sampling_bound(shape, **given, rate=1e6, memory=lambda size: math.inf)
    # Of a whole forward pass, but each token sees those before it only, and only the matrices' part is linear in them.
    whole = cost.flops(shape, batch=streams, length=tokens_written)
    pairs = 4 * shape.n_layers * shape.n_heads * shape.head_dim * streams
    operations = whole - pairs * tokens_written**2 + pairs * tokens_written * (tokens_written + 1) // 2
    assert by_products["binds"] == "products"
    assert by_products["bound"] == pytest.approx(streams * tokens_written * 1e6 / operations)


def test_the_less_of_two_bounds() -> None:
    """Both rates together allow no more than either alone, and half the rates half the speed."""
    given: dict[str, Any] = {"tokens": 30, "streams": 4, "precision": "fp32"}
    both = bench.sampling_bound(TINY, **given, rate=3e9, memory=lambda size: 1e9)["bound"]
    alone = [
        bench.sampling_bound(TINY, **given, rate=3e9, memory=lambda size: math.inf)["bound"],
        bench.sampling_bound(TINY, **given, rate=math.inf, memory=lambda size: 1e9)["bound"],
    ]
    assert both <= min(alone) * (1 + 1e-12)
    assert bench.sampling_bound(TINY, **given, rate=1.5e9, memory=lambda size: 5e8)["bound"] == pytest.approx(both / 2)


def test_a_row_for_each(found: bench.Report) -> None:
    """Every number that the bench promises is there, once, and positive, with its spread around it."""
    names = [row.name for row in found.rows]
    assert len(set(names)) == len(names)
    expected = {f"training/{m}/{r}/step" for m in ("gptlab-cpu", "gptlab-gpu") for r in ("default", "classic")}
    expected |= {"training/gptlab-cpu/default/loss", "training/gptlab-cpu/classic/loss", "training/gptlab-cpu/memory"}
    expected |= {f"sampling/{m}/{n}" for m in ("gptlab-cpu", "gptlab-gpu", "2 × 16, 24") for n in (1, 3)}
    expected |= {"startup/help", "startup/torch", "startup/sample"}
    assert expected == {name for name in names if not name.startswith("rates/")}
    for rates in ("square/16", "gptlab-cpu", "gptlab-gpu"):
        assert {f"rates/{rates}/fp32", f"rates/{rates}/bf16"} <= set(names)
    assert any(name.startswith("rates/memory/") for name in names)
    for row in found.rows:
        assert all(0 < value < math.inf for value in (row.value, *row.values)), row.name
        assert row.value >= min(row.values)
        # A rate is over the best time of each shape, and so may be above the best of any round.
        assert row.value <= max(row.values) or row.name.startswith("rates/")


def test_shares_are_of_what_was_measured(found: bench.Report) -> None:
    """A step's share is its operations over its time, over the rate in its row; speeds are tokens over seconds."""
    rows = {row.name: row for row in found.rows}
    for model, shape in (("gptlab-cpu", TINY), ("gptlab-gpu", TINY.but(n_layers=1))):
        for recipe in ("default", "classic"):
            row = rows[f"training/{model}/{recipe}/step"]
            operations = cost.TRAINING * cost.flops(shape, batch=4, length=16)
            rate = 1e9 * rows[f"rates/{model}/{row.facts['precision']}"].value
            assert row.facts["share"] == pytest.approx(operations / row.value / rate)
            best = max(rows[f"rates/{model}/{p}"].value for p in ("fp32", "bf16"))
            assert row.facts["best_share"] == pytest.approx(operations / row.value / best / 1e9)
            classic = rows[f"training/{model}/classic/step"].value
            assert row.facts["times_classic"] == pytest.approx(classic / row.value)
    for row in found.rows:
        if row.name.startswith("sampling/"):
            assert row.facts["share"] == pytest.approx(row.value / row.facts["bound"])
    more = rows["startup/sample"].value - rows["startup/torch"].value
    assert rows["startup/sample"].facts["more_than_torch"] == pytest.approx(more)
    assert rows["training/gptlab-cpu/memory"].value > 50e6  # Python and PyTorch alone are more


def test_every_language_says_all(found: bench.Report) -> None:
    """A line for each row and each remark, in five languages, none of them English by mistake."""
    told = {lang: found.told(lang) for lang in LANGUAGES}
    lines = sum(1 + len(row.remarks) for row in found.rows)
    for lang, text in told.items():
        assert "{" not in text and "@" not in text
        body = [line for line in text.splitlines() if line][-lines:]
        assert len(body) == lines
        own = {line for line in body if "gptlab --help" not in line and "import torch  " not in line}
        assert lang == "en" or not own & set(told["en"].splitlines())
    assert " MB" in told["it"] and " MB" not in told["fr"] and " Mo" in told["fr"]


def test_the_trainer_is_that_of_training() -> None:
    """A step of the bench is, bit for bit, the step of a Trainer of the same settings."""
    plan = tiny("")
    made = bench.Bench(plan, doctor.choose("cpu"))
    ids = np.random.default_rng(0).integers(0, TINY.vocab_size, 500).astype(np.uint16)
    losses = [made.trainer("gptlab-cpu", "default", TINY, ids, ids, batch=4).step(0, 1.0)[0].item() for _ in range(2)]
    assert losses[0] == losses[1] == pytest.approx(math.log(TINY.vocab_size), abs=0.5)


def test_a_texts_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The fables where nothing else is on the disk; a text that GPTLAB_DATA has where it has one."""
    assert bench.at_hand() == "fables:en"
    (tmp_path / "shakespeare.txt").write_text("to be")
    monkeypatch.setenv("GPTLAB_DATA", str(tmp_path))
    assert bench.at_hand() == "shakespeare"


def test_peak_memory_grows_by_what_is_held() -> None:
    """A process that holds 200 MB more has a peak 200 MB higher, and keeps it when they are gone."""
    code = "from gptlab import bench; a = bench.peak_resident(); x = b'1' * 200_000_000; del x; "
    code += "print(bench.peak_resident() - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 190e6 < int(done.stdout) < 260e6


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the table and saves the same as JSON, where asked for or in runs/; there is no run among these."""
    monkeypatch.setattr(bench, "plan", lambda **options: replace(tiny(""), corpus=None, seed=options["seed"]))
    result = gptlab("bench", "--only", "sampling", "--seed", "3", "--lang", "it", cwd=tmp_path, **environment())
    assert result.returncode == 0, result.stderr
    saved = list((tmp_path / "runs").glob("bench-*.json"))
    assert len(saved) == 1 and find_runs(tmp_path / "runs") == []
    kept = json.loads(saved[0].read_text(encoding="utf-8"))
    assert kept["seed"] == 3 and kept["torch"] == torch.__version__ and kept["device"] == "cpu"
    assert {row["name"].partition("/")[0] for row in kept["rows"]} == {"rates", "sampling"}
    assert "token/s scritti" in result.stdout and str(saved[0].relative_to(tmp_path)) in result.stdout
    result = gptlab("bench", "--only", "sampling", "--json", "--out", "x/b.json", cwd=tmp_path, **environment())
    assert json.loads(result.stdout) == json.loads((tmp_path / "x" / "b.json").read_text(encoding="utf-8"))


def environment() -> dict[str, str]:
    return {"GPTLAB_CACHE": os.environ["GPTLAB_CACHE"]}


def test_json_is_the_whole_report(found: bench.Report) -> None:
    """What is written as JSON and read again is what was found, with every single measurement."""
    again = json.loads(json.dumps(found.to_dict()))
    assert again == found.to_dict()
    for row, kept in zip(found.rows, again["rows"], strict=True):
        assert kept["values"] == row.values and kept["value"] == row.value and kept["count"] == len(row.values)
        assert kept["low"] == min(row.values) and kept["high"] == max(row.values)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--only", "trainning"), "unknown part 'trainning'. Did you mean 'training'?"),
        (("--only", "training", "--corpus", "no-such-text"), "no-such-text"),
        (("--seed", "-1"), "-1"),
        (("--out", "."), "is a folder"),
        (("--out", "short.txt/b.json"), "short.txt"),
        (("--device", "abacus"), "abacus"),
        (("--only", "training", "--corpus", "short.txt"), "short"),
    ],
)
def test_mistakes_are_told_at_once(args: tuple[str, ...], part: str, tmp_path: Path) -> None:
    """A mistake is one message with the wrong value, status 2, before anything is measured or written."""
    (tmp_path / "short.txt").write_text("abc")
    result = gptlab("bench", *args, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert part in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_runs_without_torch(tmp_path: Path) -> None:
    """Listing runs, and asking for help, needs no torch."""
    write_text(tmp_path / "text.txt")
    lab.train(tmp_path / "text.txt", out=tmp_path / "run", steps=1, preset="gptlab-cpu", batch=2, sample_every=0)
    for argv in (["runs", str(tmp_path)], ["corpora"], ["--help"]):
        code = f"import sys; from gptlab.cli import main; assert main({argv!r}) == 0; assert 'torch' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout
    code = (
        "import sys; from gptlab import lab; print([m for m in ('jinja2', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"  # a model that writes needs no page, no figure and no progress bar


def test_counts_agree_with_the_model(found: bench.Report) -> None:
    """The parameters in the table are those of the model."""
    row = next(row for row in found.rows if row.name == "training/gptlab-cpu/default/step")
    assert row.facts["parameters"] == sum(p.numel() for p in build(TINY).parameters()) == count(TINY).total
