import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptlab
from gptlab.config import RECIPES, TrainConfig, recipe
from gptlab.model.transformer import Transformer
from gptlab.run import Run
from gptlab.training.loop import Diverged, Listener, Trainer
from tests.training.helpers import TINY, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def weights(run: Run) -> dict[str, torch.Tensor]:
    state = run.load_state()
    assert state
    return state.weights | state.optimizer


def assert_same(one: Run, two: Run) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (one.path / "model.safetensors").read_bytes() == (two.path / "model.safetensors").read_bytes()
    losses = [[(m["step"], m.get("train_loss"), m.get("val_loss")) for m in run.metrics()] for run in (one, two)]
    assert losses[0] == losses[1]


class Interrupt(Listener):
    """Presses Ctrl-C when a step is reached."""

    def __init__(self, step: int) -> None:
        self.at = step

    def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGINT)


def trainer(**settings: Any) -> Trainer:
    ids = np.random.default_rng(0).integers(0, 9, 400).astype(np.uint8)
    shape = gptlab.preset("gptlab-cpu", context=8, n_layers=2, d_model=16, n_heads=2, vocab_size=9)
    config = TrainConfig(**{"batch": 8, **settings})
    model = gptlab.build(shape, dropout=config.dropout, seed=config.seed).train()
    return Trainer(model, ids, ids, config)


def test_accumulation_is_the_whole_batch() -> None:
    """A batch in one part or in four gives the same loss and, to rounding, the same steps."""
    whole, parts = trainer(), trainer(accumulate=4)
    for step in range(3):
        a, b = whole.step(step, 0.1), parts.step(step, 0.1)
        assert torch.allclose(a[0], b[0], rtol=1e-5)
        assert torch.allclose(a[1], b[1], rtol=1e-4)


def test_one_batch_can_be_learned_by_heart() -> None:
    """On a text of a single window, the loss goes to nearly nothing, under both recipes' optimizers."""
    ids = np.arange(9, dtype=np.uint8)
    for settings in ({}, {"optimizer": "adamw", "lr": 0.01}):
        one = trainer(**settings)
        one.train_ids = ids
        loss = [one.step(s, 1.0)[0].item() for s in range(60)]
        assert loss[0] > 2 and loss[-1] < 0.02


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_first_losses_are_golden(name: str) -> None:
    """Twenty steps of the seed's model on a made text, to 1e-3: a changed function, draw or recipe shows here."""
    text = (np.arange(4000) ** 2 // 7 % 31).astype(np.uint8)
    config = recipe(name).but(seed=1)
    shape = gptlab.preset("gptlab-cpu", vocab_size=31)
    model = gptlab.build(shape, seed=1, init=config.init, dropout=config.dropout).train()
    one = Trainer(model, text, text, config)
    losses = [one.step(step, 0.5)[0].item() for step in range(20)]
    golden = json.loads((Path(__file__).parent / "golden.json").read_text())
    assert losses == pytest.approx(golden[name], abs=1e-3)


def test_dropout_is_a_function_of_the_step() -> None:
    """The same step drops the same units whatever was drawn before, and another step drops others."""
    one, two = trainer(dropout=0.5), trainer(dropout=0.5)
    torch.rand(1000)
    assert torch.equal(one.step(7, 0.0)[0], two.step(7, 0.0)[0])
    three, four = trainer(dropout=0.5), trainer(dropout=0.0)
    assert not torch.equal(three.step(7, 0.0)[0], four.step(7, 0.0)[0])


def test_clipping_bounds_the_step() -> None:
    """The reported norm is that before clipping; the gradients used have at most the wanted norm."""
    one = trainer(clip=0.01)
    _, norm = one.step(0, 0.0)
    used = torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None]).norm()
    assert norm > 0.02 and used == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("recipe", ["default", "classic"])
def test_interrupted_and_resumed_is_the_run_that_was_not(text: Path, tmp_path: Path, recipe: str) -> None:
    """Ctrl-C at any step, then --resume: the same weights, optimizer, losses and best weights, bit by bit."""
    settings = {**TINY, "recipe": recipe, "steps": 40, "dropout": 0.1, "save_every": 7}
    whole = gptlab.train(text, out=tmp_path / "whole", **settings)
    for at in (0, 18):
        out = tmp_path / f"cut-{at}"
        gptlab.train(text, out=out, listeners=[Interrupt(at)], **settings)
        stopped = Run(out).load_state()
        assert stopped and stopped.step < 40
        cut = gptlab.train(text, out=out, resume=True, **settings)
        assert_same(whole, cut)


def test_a_damaged_state_is_noticed_and_the_one_before_used(text: Path, tmp_path: Path) -> None:
    """A flipped byte in the newest state is named in a warning; the ending is the same as ever."""
    settings = {**TINY, "steps": 30}
    whole = gptlab.train(text, out=tmp_path / "whole", **settings)
    cut = gptlab.train(text, out=tmp_path / "cut", listeners=[Interrupt(12)], **settings)
    newest = cut.states()[-1]
    assert len(cut.states()) == 2
    victim = cut.path / "state" / str(newest) / "optimizer.safetensors"
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"state.{newest} is damaged"):
        gptlab.train(out=cut.path, resume=True)
    assert_same(whole, Run(cut.path))


def test_a_finished_run_can_be_extended(text: Path, tmp_path: Path) -> None:
    """With a constant rate, 20 steps and 20 more are 40 at once; resuming without more does nothing."""
    settings = {**TINY, "schedule": "constant", "warmup": 0, "eval_every": 10, "eval_windows": 32}
    whole = gptlab.train(text, out=tmp_path / "whole", steps=40, **settings)
    run = gptlab.train(text, out=tmp_path / "run", steps=20, **settings)
    gptlab.train(out=run.path, resume=True)
    assert run.states()[-1] == 20
    gptlab.train(out=run.path, resume=True, steps=40)
    assert_same(whole, Run(run.path))
    with pytest.raises(ValueError, match="40 steps already; --steps 10"):
        gptlab.train(out=run.path, resume=True, steps=10)


def test_a_resumed_run_keeps_its_settings(text: Path, tmp_path: Path) -> None:
    """Another learning rate, or a text that has changed, is refused with the values."""
    run = gptlab.train(text, out=tmp_path / "run", steps=4, **TINY)
    with pytest.raises(ValueError, match=r"lr = 0\.03, not 0\.5"):
        gptlab.train(out=run.path, resume=True, lr=0.5)
    with pytest.raises(ValueError, match="is there already"):
        gptlab.train(text, out=run.path, steps=4, **TINY)
    text.write_text(text.read_text() + "more")
    with pytest.raises(ValueError, match="has changed since"):
        gptlab.train(out=run.path, resume=True, steps=8)


def test_divergence_is_told_and_the_last_state_stays(text: Path, tmp_path: Path) -> None:
    """A hopeless learning rate ends in an error that names it; what is on disk is finite and loads."""
    with pytest.raises(Diverged, match=r"diverged. Lower --lr \(now 1e\+08\)"):
        gptlab.train(text, out=tmp_path / "run", steps=100, lr=1e8, lr_adam=1e8, clip=None, **TINY)
    state = Run(tmp_path / "run").load_state()
    assert state and all(t.isfinite().all() for t in state.weights.values())
    gptlab.load(tmp_path / "run").generate("the", tokens=3)


def test_patience_stops_early(tmp_path: Path) -> None:
    """A text too small for the model: the training stops when the validation loss no longer falls."""
    text = write_text(tmp_path / "small.txt", words=120)
    ends: list[Any] = []

    class Ends(Listener):
        def ended(self, outcome: Any) -> None:
            ends.append(outcome)

    settings = {**TINY, "steps": 2000, "eval_every": 20, "patience": 3}
    run = gptlab.train(text, out=tmp_path / "run", listeners=[Ends()], **settings)
    (outcome,) = ends
    assert outcome.reason == "no better" and outcome.step < 2000
    losses = {m["step"]: m["val_loss"] for m in run.metrics() if "val_loss" in m}
    assert outcome.step - outcome.best_step == 60
    assert min(losses, key=lambda s: losses[s]) == outcome.best_step
    best = gptlab.load(run.path)
    worse = run.load_state()
    assert worse and not torch.equal(best.model.embedding, worse.weights["embedding"])


def test_minutes_become_a_saved_number_of_steps(text: Path, tmp_path: Path) -> None:
    """--minutes is measured once; the configuration then holds steps, which a resumed run keeps."""
    run = gptlab.train(text, out=tmp_path / "run", minutes=0.05, **TINY)
    saved = Run(run.path).train_config
    assert saved and saved.steps and saved.steps == run.states()[-1]
    gptlab.train(out=run.path, resume=True, minutes=0.05)
    assert run.states()[-1] == saved.steps


def test_two_writers_are_one_too_many(text: Path, tmp_path: Path) -> None:
    """While one training holds the run, a second is refused, and the first is not disturbed."""
    settings = {**TINY, "steps": 4}
    seen: list[str] = []

    class Second(Listener):
        def started(self, step: int, steps: int, tokens: int) -> None:
            def try_it() -> None:
                try:
                    gptlab.train(out=tmp_path / "run", resume=True)
                except ValueError as error:
                    seen.append(str(error))

            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()

    run = gptlab.train(text, out=tmp_path / "run", listeners=[Second()], **settings)
    assert "another process is training" in seen[0] and run.states()[-1] == 4


def test_samples_and_metrics_are_left_behind(text: Path, tmp_path: Path) -> None:
    """Samples stand at their steps, and every measurement has step and seconds."""
    run = gptlab.train(text, out=tmp_path / "run", steps=40, **{**TINY, "sample_every": 10}, prompt="the ")
    steps = sorted(int(p.stem) for p in (run.path / "samples").glob("*.txt"))
    assert steps == [20, 40]
    assert (run.path / "samples" / "40.txt").read_text(encoding="utf-8").startswith("the ")
    metrics = run.metrics()
    assert [m["step"] for m in metrics] == sorted(m["step"] for m in metrics)
    assert {m["step"] for m in metrics if "val_loss" in m} == set(range(0, 41, 2))
    assert json.loads((run.path / "environment.json").read_text())["torch"] == torch.__version__


def gptlab_process(*args: object, limit: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = " ".join(map(str, (sys.executable, "-m", "gptlab", *args)))
    shell = f"{limit}{command}"
    return subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env={**os.environ, **env}, timeout=300, check=False
    )


def test_a_full_disk_is_told_and_the_states_stay(text: Path, tmp_path: Path) -> None:
    """When no more can be written (here: a limit on file sizes), one message, status 2, and good states."""
    base = ("train", text, "--out", tmp_path / "run", "--quiet", "--context", 16)
    assert gptlab_process(*base, "--steps", 4).returncode == 0
    size = max(f.stat().st_size for f in (tmp_path / "run" / "state").rglob("*"))
    more = gptlab_process(*base, "--steps", 8, "--resume", limit=f"trap '' XFSZ; ulimit -f {size // 1024 - 20}; ")
    assert more.returncode == 2 and more.stderr.startswith("gptlab: the disk is full"), more.stderr
    assert len(more.stderr.splitlines()) == 1
    state = Run(tmp_path / "run").load_state()
    assert state and state.step >= 4


def test_out_of_memory_is_told(text: Path, tmp_path: Path) -> None:
    """A batch that does not fit into memory: one message that says what would help, and status 2."""
    result = gptlab_process(
        *("train", text, "--out", tmp_path / "run", "--quiet", "--batch", 1_500_000, "--steps", 3),
        limit="ulimit -v 6000000; ",
    )
    assert result.returncode == 2 and "--accumulate 2" in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """The short version of bench/kill.py: kill -9 whenever, resume, and end with the same bytes."""
    command = [sys.executable, str(ROOT / "bench" / "kill.py"), "--trials", "4", "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 of 4 endings identical" in result.stdout


def test_a_termination_saves_like_ctrl_c(text: Path, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it, ends a training with its state saved; who handled signals before does again."""

    class Terminate(Interrupt):
        def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
            if record["step"] == self.at:
                signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    gptlab.train(text, out=tmp_path / "run", listeners=[Terminate(2)], steps=40, **TINY)
    assert Run(tmp_path / "run").states()[-1] == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_names_of_new_runs_do_not_collide(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out, each training makes a new folder under runs/, named for text and preset."""
    monkeypatch.chdir(tmp_path)
    names = [gptlab.train(text, steps=2, **TINY).path.as_posix() for _ in range(2)]
    assert names == ["runs/text-gptlab-cpu", "runs/text-gptlab-cpu-2"]
    assert gptlab.load().run.path.name == "text-gptlab-cpu-2"
    assert gptlab.load("text-gptlab-cpu").run.path == Path("runs/text-gptlab-cpu")


def test_loss_falls_whatever_the_tokenizer(text: Path, tmp_path: Path) -> None:
    """Characters and byte-level BPE both train, and both are far better than guessing, per character."""
    for kind, more in (("char", {}), ("bpe", {"vocab_size": 280})):
        out = tmp_path / kind
        run = gptlab.train(text, out=out, steps=60, tokenizer=kind, **{**TINY, **more})
        lab = gptlab.load(run.path)
        assert lab.loss("the cat sat on a mat. the cat sat", per="char") < 1.0
        assert all(a["step"] <= b["step"] for a, b in itertools.pairwise(lab.metrics))
