"""Every architecture learns: a batch by heart, and the same first steps as ever.

The golden losses are written anew by `python -m tests.training.test_architectures`.
"""

import json
import math
from pathlib import Path

import pytest
import torch.nn.functional as F

from gptlab.config import ModelConfig, TrainConfig, recipe
from gptlab.model.transformer import build
from gptlab.presets import SIZES, preset
from gptlab.registry import OPTIMIZERS
from tests.model.plain import PRESETS, beside, random_ids

GOLDEN = Path(__file__).parent / "golden_architectures.json"
MINI = [name for name in SIZES if name.endswith("-mini")]


def losses(config: ModelConfig, settings: TrainConfig, *, steps: int, fraction: float) -> list[float]:
    """Losses in nats per token of one batch, step after step; beside it a source or prefixes where they belong."""
    model = build(config, seed=1, init=settings.init).train()
    optimizer = OPTIMIZERS[settings.optimizer](model, settings)
    ids, more = random_ids(config, 2, config.context + 1, seed=5), beside(config, 2)
    assert ids[0, 0] != ids[1, 0]  # so that what comes can be known from the first token on
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(model(ids[:, :-1], **more).flatten(0, 1), ids[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        optimizer.step(fraction)
        found.append(loss.item())
    return found


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_a_batch_by_heart(config: ModelConfig) -> None:
    """A hundred steps of AdamW bring the loss of a batch, with source or prefix, from that of guessing to below 0.3."""
    settings = TrainConfig(optimizer="adamw", lr=0.02, weight_decay=0.0)
    found = losses(config, settings, steps=100, fraction=1.0)
    assert abs(found[0] - math.log(config.vocab_size)) < 0.1 and found[-1] < 0.3


def first_losses(name: str) -> list[float]:
    """Two layers are enough for a band, a query layer and a cross-attention; the context is longer than a band."""
    return losses(preset(name, vocab_size=31, context=20, n_layers=2), recipe("default"), steps=20, fraction=0.5)


@pytest.mark.parametrize("name", MINI)
def test_the_first_losses_are_golden(name: str) -> None:
    """Twenty steps of the default recipe's optimizer, to 1e-3: a changed function, draw or preset shows here."""
    assert first_losses(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], abs=1e-3)


if __name__ == "__main__":
    lines = [f' "{name}": {json.dumps([round(loss, 5) for loss in first_losses(name)])}' for name in MINI]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
