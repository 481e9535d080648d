"""The embedding tables of a training, kept on the way."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptlab import lab
from gptlab.run import Run, table_bytes
from gptlab.training import loop
from gptlab.training.loop import Listener, moments
from tests.training.helpers import TINY, write_text

STEPS = 8
SETTINGS: dict[str, Any] = {**TINY, "steps": STEPS, "eval_every": 1, "eval_windows": 4, "save_every": 3, "warmup": 2}


class Cut(Exception):
    """What a power cut is to a training."""


class Keeper(Listener):
    """Keeps the tables of every step as the model itself has them; may cut the training off."""

    def __init__(self, until: int = STEPS) -> None:
        self.tables: dict[int, dict[str, Tensor]] = {}
        self.until = until

    def evaluated(self, record: dict[str, Any], model: nn.Module) -> None:
        names = ("embedding", "position.weight")
        self.tables[record["step"]] = {name: model.get_parameter(name).detach().clone() for name in names}
        if record["step"] > self.until:
            raise Cut


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", words=600)


def test_snapshots_are_the_tables_of_their_steps(text: Path, tmp_path: Path) -> None:
    """Token and position table of a snapshot are the model's after that step, to the last bit, and the last state's."""
    keeper = Keeper()
    run = lab.train(text, out=tmp_path / "run", snapshots=5, listeners=[keeper], **SETTINGS)
    assert run.snapshots() == sorted(moments(5, STEPS)) and {0, STEPS} <= set(run.snapshots())
    assert all(same(run.snapshot(step), keeper.tables[step]) for step in run.snapshots())
    state = run.load_state()
    assert state and state.step == STEPS
    assert same(run.snapshot(STEPS), {name: state.weights[name] for name in ("embedding", "position.weight")})
    assert not same(run.snapshot(0), run.snapshot(STEPS))


def test_resumed_run_has_the_same_snapshots(text: Path, tmp_path: Path) -> None:
    """Cut off after step 5 and resumed from the state of step 3, a run has the snapshots of one that was not; what was
    kept after the state is taken anew, whatever became of it meanwhile."""
    whole = lab.train(text, out=tmp_path / "whole", snapshots=STEPS + 1, **SETTINGS)
    with pytest.raises(Cut):
        lab.train(text, out=tmp_path / "cut", snapshots=STEPS + 1, listeners=[Keeper(until=5)], **SETTINGS)
    cut = Run(tmp_path / "cut")
    assert max(cut.states()) < max(cut.snapshots()) < STEPS
    damaged = cut.snapshot_path(max(cut.snapshots()))
    damaged.write_bytes(b"half a file")
    lab.train(out=cut.path, resume=True)
    assert cut.snapshots() == whole.snapshots()
    assert all(same(cut.snapshot(step), whole.snapshot(step)) for step in whole.snapshots())


def test_cut_off_before_the_first_step(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cut off as its first state is there has the snapshot of step 0 once it has been resumed."""

    class Early(Run):
        def save_state(self, state: Any) -> None:
            super().save_state(state)
            raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(lab, "Run", Early)
        lab.train(text, out=tmp_path / "run", snapshots=3, **SETTINGS)
    run = lab.train(out=tmp_path / "run", resume=True)
    assert run.snapshots() == sorted(moments(3, STEPS))


def test_no_snapshots(text: Path, tmp_path: Path) -> None:
    """--snapshots 0 keeps none."""
    assert lab.train(text, out=tmp_path / "run", snapshots=0, **SETTINGS).snapshots() == []


def test_default_keeps_to_its_room(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --snapshots there are as many as fit into SNAPSHOT_ROOM, and what was asked for is taken all the same."""
    whole = lab.train(text, out=tmp_path / "whole", **SETTINGS)
    assert len(whole.snapshots()) == len(moments(loop.SNAPSHOTS, STEPS)) == STEPS + 1
    size = table_bytes(whole.model())
    monkeypatch.setattr(loop, "SNAPSHOT_ROOM", int(3.5 * size))
    some = lab.train(text, out=tmp_path / "some", **SETTINGS)
    assert some.snapshots() == sorted(moments(3, STEPS))
    held = sum(some.snapshot(step)[name].nbytes for step in some.snapshots() for name in some.snapshot(step))
    assert held == 3 * size <= loop.SNAPSHOT_ROOM
    asked = lab.train(text, out=tmp_path / "asked", snapshots=4, **SETTINGS)
    assert asked.snapshots() == sorted(moments(4, STEPS))


def test_moments() -> None:
    """So many steps, from the first to the last, ever further apart."""
    steps = sorted(moments(60, 10_000))
    assert len(steps) == 60 and steps[0] == 0 and steps[-1] == 10_000
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(abs(b - a) for a, b in pairwise(gaps)) <= 7 and gaps == sorted(gaps)
    assert moments(0, 100) == set() and moments(1, 100) == {0} and moments(2, 100) == {0, 100}
