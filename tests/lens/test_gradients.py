"""What a training recorded of its gradients, against gradients computed again from the seed and the text."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gptlab
from gptlab import lab
from gptlab.lens.gradients import Learning, learning, order, place
from gptlab.model.transformer import build
from gptlab.run import Run
from gptlab.text import corpora
from gptlab.text.batches import generator, windows
from gptlab.text.chars import CharTokenizer
from gptlab.training.layers import part_of
from tests.training.helpers import write_text


@pytest.mark.parametrize("preset", ["gptlab-cpu", "t5-mini", "glm-mini"])
def test_first_gradient_computed_again(preset: str, tmp_path: Path) -> None:
    """The recorded norms of step 1, and the sizes of the parts, are those of a model that is built from the seed, given
    the first batch, and asked for the derivatives of its mean cross-entropy."""
    text = write_text(tmp_path / "text.txt", words=600)
    settings = {"context": 16, "batch": 8, "accumulate": 2, "eval_windows": 4, "sample_every": 0}
    run = lab.train(text, out=tmp_path / "run", preset=preset, steps=3, **settings)
    found, config = learning(run), run.train_config
    assert config and found.steps.tolist() == [1, 2, 3]

    model = build(run.model_config, seed=config.seed, init=config.init)
    data = corpora.prepare(corpora.find(config.corpus), run.tokenizer())
    rows = windows(data.train, count=config.batch, context=16, seed=config.seed, step=0)
    batch = lab.objective_of(run.model_config, run.tokenizer(), config)(rows, generator(config.seed, "objective", 0))
    more = {name: getattr(batch, name) for name in ("source", "prefix") if getattr(batch, name) is not None}
    logits = model(torch.as_tensor(batch.ids), **{name: torch.as_tensor(x) for name, x in more.items()})
    loss = F.cross_entropy(logits.flatten(0, 1), torch.as_tensor(batch.targets).flatten(), ignore_index=-100)
    names, weights = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    for at, part in enumerate(found.parts):
        own = [i for i, name in enumerate(names) if part_of(name) == part]
        entries = [gradients[i].flatten() for i in own if gradients[i] is not None]
        expected = torch.cat(entries).norm().item() if entries else 0.0
        assert found.gradients[0, at] == pytest.approx(expected, rel=2e-3, abs=1e-7), part
        assert found.weights[0, at] == pytest.approx(
            torch.cat([weights[i].flatten() for i in own]).norm().item(), rel=1e-3
        )
        assert found.sizes[at] == sum(weights[i].numel() for i in own)
        assert found.rms[0, at] == pytest.approx(expected / found.sizes[at] ** 0.5, rel=2e-3, abs=1e-9)
    assert found.gradients[0].max() > 0


def some(steps: list[int], relative: list[list[float]]) -> Learning:
    moves = np.array(relative, dtype=float)
    ones = np.ones_like(moves)
    return Learning(np.array(steps), ("embedding", "norm"), np.array([9, 4]), 6 * ones, moves * 2, 2 * ones)


def test_path_and_halfway() -> None:
    """A part that moves by 1% in each step has gone 1% a step, however few are watched, and is half-way in the middle;
    one that slows down is half-way earlier."""
    found = some([1, 2, 5, 101], [[0.01, 0.04], [0.01, 0.03], [0.01, 0.02], [0.01, 0.0]])
    np.testing.assert_allclose(found.path[:, 0], [0.01, 0.02, 0.05, 1.01])
    assert found.halfway()[0] == pytest.approx(50.5) and found.halfway()[1] < 50
    np.testing.assert_allclose(found.rms, np.tile([2, 3], (4, 1)))
    np.testing.assert_allclose(found.relative[:, 0], 0.01)


def test_zeros_have_no_relative_step() -> None:
    """Weights of zero have no relative step, and a part that never moved is nowhere half-way."""
    found = Learning(np.array([1, 2]), ("a", "b"), np.ones(2, int), *(np.array([[1.0, 1], [1, 1]]) for _ in range(3)))
    still = Learning(found.steps, found.parts, found.sizes, found.gradients, found.moves * 0, found.weights * [1, 0])
    assert np.isnan(still.relative[:, 1]).all() and np.isnan(still.halfway()).all()


def test_span() -> None:
    """The steps of a part of the training; the nearest one where none was watched."""
    found = some([1, 10, 55, 100], [[0.1, 0.1]] * 4)
    assert found.span(0, 0.1).tolist() == [True, True, False, False]
    assert found.span(0.45, 0.6).tolist() == [False, False, True, False]
    assert found.span(0.2, 0.3).tolist() == [False, True, False, False]


def test_parts_are_in_the_order_of_the_way_through_the_model() -> None:
    """Tables, encoder, decoder, output; kinds together, and layers in the order of their numbers."""
    parts = [
        "head",
        "norm",
        "blocks.10.mlp",
        "blocks.2.mlp",
        "blocks.2.attention",
        "encoder.norm",
        "encoder.blocks.0.mlp",
    ]
    assert sorted([*parts, "position", "embedding"], key=order) == [
        *("embedding", "encoder.blocks.0.mlp", "encoder.norm", "position", "blocks.2.attention"),
        *("blocks.2.mlp", "blocks.10.mlp", "norm", "head"),
    ]
    assert place("blocks.10.cross") == ("", "cross", 10) and place("encoder.norm") == ("encoder", "norm", None)


def test_without_records(tmp_path: Path) -> None:
    """A run that was not trained here says so, and what to do."""
    run = Run.create(tmp_path / "run", gptlab.preset("gptlab-cpu", vocab_size=3), CharTokenizer.train(["abc"]))
    with pytest.raises(ValueError, match=r"imported.*gptlab train"):
        learning(run)
