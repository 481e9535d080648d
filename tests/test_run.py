import json
import os
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab import files
from gptlab.run import Run, State, find_runs, latest_run, load_weights
from gptlab.text.chars import CharTokenizer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = gptlab.preset("gptlab-cpu", n_layers=1, d_model=8, n_heads=2, vocab_size=3)
    run = Run.create(tmp_path / "run", config, CharTokenizer("abc"))
    run.save_weights(gptlab.build(config))
    return run


def state(step: int) -> State:
    return State(step, {"w": torch.full((3,), float(step))}, {"w|m": torch.zeros(3)}, {"best_loss": 1.0})


def test_a_file_is_whole_or_untouched(tmp_path: Path) -> None:
    """An error while writing leaves the old file as it was and no other behind; success replaces it."""
    target = tmp_path / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.write_whole(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"] and target.read_text() == "old"
    files.write_text(target, "new")
    assert target.read_text() == "new"


def test_a_run_holds_all_that_its_model_needs(run: Run, tmp_path: Path) -> None:
    """Moved elsewhere, it loads with the same configuration, tokenizer and weights."""
    elsewhere = run.path.rename(tmp_path / "elsewhere")
    lab = gptlab.load(elsewhere)
    assert lab.config == run.model_config and lab.tokenizer.decode([2, 0]) == "ca"
    expected = gptlab.build(lab.config)
    assert all(torch.equal(a, b) for a, b in zip(lab.model.parameters(), expected.parameters(), strict=True))


def test_the_last_two_states_are_kept(run: Run) -> None:
    """Older ones go; the newest is what is loaded, with all its parts."""
    for step in (5, 10, 15):
        run.save_state(state(step))
    assert run.states() == [10, 15]
    loaded = run.load_state()
    assert loaded and loaded.step == 15 and loaded.weights["w"][0] == 15 and loaded.counters == {"best_loss": 1.0}


@pytest.mark.parametrize("victim", ["state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut", "emptied"])
def test_a_damaged_state_is_passed_over(run: Run, victim: str, harm: str) -> None:
    """Whatever happened to a file of the newest state, a warning names it and the one before is loaded."""
    run.save_state(state(5))
    run.save_state(state(10))
    path = run.path / "state" / "10" / victim
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2] if harm == "cut" else b"")
    with pytest.warns(UserWarning, match="damaged"):
        loaded = run.load_state()
    assert loaded and loaded.step == 5


def test_half_a_line_of_metrics_is_no_line(run: Run) -> None:
    """What a killed writer leaves behind is passed over, and truncation drops what came after the state."""
    for step in (1, 2, 3):
        run.add_metrics({"step": step, "train_loss": 0.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tr')
    assert [m["step"] for m in run.metrics()] == [1, 2, 3]
    run.truncate(2)
    run.add_metrics({"step": 3})
    assert [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_leftovers_are_swept(run: Run) -> None:
    """The next writer removes temporary files and folders that a killed one left."""
    (run.path / f"{files.TEMPORARY}7-model.safetensors").write_bytes(b"x")
    (run.path / "state" / f"{files.TEMPORARY}7-10").mkdir(parents=True)
    with run.lock():
        assert not list(run.path.rglob(f"{files.TEMPORARY}*"))


def test_what_cannot_be_loaded_is_named(run: Run, tmp_path: Path) -> None:
    """A missing run, a damaged or foreign file: one ValueError with the path."""
    with pytest.raises(ValueError, match="'nowhere' does not exist"):
        gptlab.load("nowhere")
    with pytest.raises(ValueError, match="no run directory"):
        gptlab.load(tmp_path)
    weights = run.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        gptlab.load(run.path)
    weights.unlink()
    with pytest.raises(ValueError, match="stopped before its first weights"):
        gptlab.load(run.path)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("d_model = 8", "d_model = 'wide'"))
    with pytest.raises(ValueError, match=r"config\.toml is damaged: d_model must be int, not 'wide'"):
        gptlab.load(run.path)


def test_weights_that_do_not_fit_are_named(run: Run) -> None:
    """A tensor missing, unknown or of another shape is an error that says which, and both shapes."""
    model = gptlab.build(run.model_config)
    named = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="missing or unknown: embedding"):
        load_weights(model, {k: v for k, v in named.items() if k != "embedding"}, Path("f"))
    with pytest.raises(ValueError, match=r"embedding is \(4, 8\) in the file, \(3, 8\) in the model"):
        load_weights(model, {**named, "embedding": torch.zeros(4, 8)}, Path("f"))


def test_the_latest_run_is_the_one_last_written(run: Run, tmp_path: Path) -> None:
    """By the time of the last measurement, not by name."""
    other = Run.create(tmp_path / "aaa", run.model_config, CharTokenizer("abc"))
    other.add_metrics({"step": 0})
    os.utime(other.path / "metrics.jsonl", (4e9, 4e9))
    assert latest_run(tmp_path) == other.path and find_runs(tmp_path) == [run.path, other.path]
    with pytest.raises(ValueError, match="gptlab train"):
        latest_run(tmp_path / "none")
