"""Every miniature, trained for what its kind is made for: cut and resumed, it is the run that was not."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab import lab
from gptlab.config import TrainConfig
from gptlab.presets import SIZES
from gptlab.registry import OBJECTIVES
from gptlab.run import Run
from gptlab.text import corpora
from gptlab.text.objectives import USUAL
from gptlab.training.loop import Listener, Trainer
from tests.training.helpers import write_text

STEPS = 6


class Cut(Exception):
    """What a power cut is to a training."""


class PowerCut(Listener):
    def logged(self, record: dict[str, float]) -> None:
        if record["step"] == 5:  # after the state of step 4
            raise Cut


@pytest.mark.parametrize("name", [name for name in SIZES if name.endswith("-mini")])
def test_resumed_is_the_run_that_was_not_cut(name: str, tmp_path: Path) -> None:
    """Killed after step 5, resumed from the state of step 4: the same weights, optimizer and losses, bit by bit."""
    text = corpora.find(str(write_text(tmp_path / "text.txt", words=600)))
    shape = gptlab.preset(name, context=16)
    specials = OBJECTIVES[USUAL[shape.category]].specials(shape.category, shape.context)
    tokenizer = corpora.make_tokenizer("char", text, None, specials)
    data = corpora.prepare(text, tokenizer)
    config = TrainConfig(
        preset=name, steps=STEPS, batch=4, dropout=0.1, eval_every=2, eval_windows=4, save_every=2, warmup=2
    )
    bridge = lab.objective_of(shape, tokenizer, config).bridge
    shape = shape.but(vocab_size=tokenizer.vocab_size, bridge=bridge)

    def fit(path: Path, listeners: Sequence[Listener] = ()) -> Run:
        model = gptlab.build(shape, seed=0, init=config.init, dropout=config.dropout)
        trainer: Trainer = lab.trainer_of(model, data, tokenizer, config, None)
        run = Run(path) if (path / "config.toml").is_file() else Run.create(path, shape, tokenizer, train=config)
        trainer.fit(run, listeners)
        return run

    whole = fit(tmp_path / "whole")
    with pytest.raises(Cut):
        fit(tmp_path / "cut", [PowerCut()])
    cut = fit(tmp_path / "cut")
    ends = [run.load_state() for run in (whole, cut)]
    assert ends[0] and ends[1] and ends[0].step == ends[1].step == STEPS
    for mine, other in ((ends[0].weights, ends[1].weights), (ends[0].optimizer, ends[1].optimizer)):
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
    losses = [[(m["step"], m.get("train_loss"), m.get("val_loss")) for m in run.metrics()] for run in (whole, cut)]
    assert losses[0] == losses[1] and len({step for step, *_ in losses[0]}) == STEPS + 1
