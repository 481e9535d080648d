"""Windows that begin at blank lines: in training and validation, and never where there are none."""

from pathlib import Path

import numpy as np
import pytest

import gptlab
from gptlab import lab
from gptlab.config import TrainConfig
from gptlab.text import corpora
from gptlab.training.evaluate import window_loss
from tests.training.helpers import TINY, write_text


def test_windows_follow_blank_lines(tmp_path: Path) -> None:
    """Both parts' starts are exactly the second of two line ends, less those too near to the end: a window begins with
    one, since a model cannot tell two that nothing precedes from one."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"story {i} is told here and ends." for i in range(90)), encoding="utf-8")
    found = corpora.find(str(text))
    tokenizer = corpora.make_tokenizer("char", found)
    data = corpora.prepare(found, tokenizer)
    model = gptlab.build(gptlab.preset("gptlab-cpu", vocab_size=tokenizer.vocab_size, context=16))
    config = TrainConfig(corpus=str(text), starts="blank-lines", steps=1, eval_every=1, eval_windows=5)
    trainer = lab.trainer_of(model, data, tokenizer, config, None)
    for starts, ids in zip(trainer.starts, (data.train, data.val), strict=True):
        spelled = tokenizer.decode(ids)
        expected = [at for at in range(len(spelled) - 16) if spelled[at - 1 : at + 1] == "\n\n"]
        assert starts is not None and starts.tolist() == expected and len(expected) > 3
    loss = window_loss(model, data.val, count=5, seed=0, starts=trainer.starts[1])
    assert trainer.evaluate(config) == loss != window_loss(model, data.val, count=5, seed=0)


def test_a_text_without_blank_lines(tmp_path: Path) -> None:
    """It is refused by the option's name, and no run is left behind."""
    text = str(write_text(tmp_path / "text.txt"))
    with pytest.raises(ValueError, match=r"blank-lines.*--starts anywhere"):
        gptlab.train(text, out=tmp_path / "run", steps=2, starts="blank-lines", **TINY)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_all_places_are_no_places() -> None:
    """Windows drawn from all places in order are those that are drawn without a list of places."""
    from gptlab.text.batches import windows

    ids = np.arange(300, dtype=np.uint16)
    everywhere = np.arange(300 - 7)
    for step in range(3):
        drawn = windows(ids, count=9, context=7, seed=1, step=step)
        assert np.array_equal(drawn, windows(ids, count=9, context=7, seed=1, step=step, starts=everywhere))
