"""What a step does to each part of a model, watched."""

import numpy as np
import pytest
import torch

import gptlab
from gptlab.config import TrainConfig
from gptlab.presets import SIZES
from gptlab.training.layers import Watch, part_of
from gptlab.training.loop import Trainer

CONFIG = TrainConfig(steps=4, batch=4, eval_every=4, eval_windows=4, dropout=0.1)


def trainer(optimizer: str = "muon") -> Trainer:
    model = gptlab.build(gptlab.preset("gptlab-cpu", context=16, vocab_size=20), seed=0, dropout=CONFIG.dropout)
    ids = np.random.default_rng(0).integers(0, 20, 400).astype(np.uint16)
    return Trainer(model.train(), ids, ids, CONFIG.but(optimizer=optimizer))


@pytest.mark.parametrize("name", [name for name in SIZES if name.endswith("-mini")])
def test_every_parameter_is_in_one_part(name: str) -> None:
    """The parts of every architecture share all of its parameters among them, and each block has its own."""
    with torch.device("meta"):
        model = gptlab.model.transformer.Transformer(gptlab.preset(name))
    parts = Watch(model).parts
    members = [id(parameter) for part in parts.values() for parameter in part]
    assert sorted(members) == sorted(map(id, model.parameters()))
    config = model.config
    for stack, layers in (("blocks", config.n_layers), ("encoder.blocks", config.n_encoder_layers)):
        assert {part.rsplit(".", 1)[0] for part in parts if part.startswith(f"{stack}.")} == {
            f"{stack}.{layer}" for layer in range(layers)
        }


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_norms_are_those_of_gradient_step_and_weights(optimizer: str) -> None:
    """Of each part: the norm of the gradient before clipping, of what the weights have changed by, and of the weights
    before; the gradients of all parts together have the norm that the step returns."""
    trained = trainer(optimizer)
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    watch = Watch(trained.model)
    _, norm = trained.step(0, 1.0, watch)
    found = watch.norms()
    for part, (_, move, weight) in found.items():
        own = [name for name in before if part_of(name) == part]
        after = dict(trained.model.named_parameters())
        moved = torch.cat([(after[name].detach() - before[name]).flatten() for name in own])
        assert move == pytest.approx(moved.norm().item(), rel=1e-3)
        assert weight == pytest.approx(torch.cat([before[name].flatten() for name in own]).norm().item(), rel=1e-3)
    assert sum(move > 0 for _, move, _ in found.values()) > len(found) / 2
    gradients = [gradient for gradient, _, _ in found.values()]
    assert norm.item() > CONFIG.clip  # or else before and after clipping would be the same
    assert np.linalg.norm(gradients) == pytest.approx(norm.item(), rel=1e-3)


def test_watching_changes_nothing() -> None:
    """The weights after some steps are the same to the last bit, whether they were watched or not."""
    plain, watched = trainer(), trainer()
    for step in range(3):
        plain.step(step, 1.0)
        watched.step(step, 1.0, Watch(watched.model))
    pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
