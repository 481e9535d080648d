"""What a model costs, against what PyTorch counts when a small one runs."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gptlab.config import ModelConfig, TrainConfig
from gptlab.doctor import CHECKS
from gptlab.model import kernels, native
from gptlab.model.cache import Cache
from gptlab.model.cost import activation_bytes, cache_bytes, flops, training_memory
from gptlab.model.count import count
from gptlab.model.outline import outline
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from gptlab.registry import OPTIMIZERS

MINIATURES = [name for name in SIZES if name.endswith("-mini")]
NARROW_TABLE = dict(d_embedding=40)  # opt-350m's


def inputs(config: ModelConfig, batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(batch, length, dtype=torch.long)
    return {"ids": ids, "source": ids} if config.n_encoder_layers else {"ids": ids}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*MINIATURES, "opt-mini, narrow table", "t5-mini, narrow table"])
def test_flops(name: str, batch: int) -> None:
    """The formula gives the number that torch's counter sees in the matrix products of a forward pass, exactly."""
    name, _, narrow = name.partition(",")
    config = preset(name, **(NARROW_TABLE if narrow else {}))
    model = build(config, kernel=kernels.reference)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs(config, batch, 20))
    assert flops(config, batch=batch, length=20) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["gpt2-mini", "llama-mini", "t5-mini"])
def test_training_has_three_times_as_many(name: str) -> None:
    """Backward, each product has two: by its input and by its weights (but the first has no input that learns)."""
    config = preset(name)
    model = build(config, kernel=kernels.reference)
    with FlopCounterMode(display=False) as counter:
        model(**inputs(config, 2, 20)).sum().backward()
    assert counter.get_total_flops() == pytest.approx(3 * flops(config, batch=2, length=20), rel=1e-3)


@pytest.mark.parametrize("name", MINIATURES)
def test_cache(name: str) -> None:
    """The bytes per token are those of a real cache over its room."""
    config = preset(name)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        cache = Cache(config, 3, size=10, dtype=dtype)
        assert cache_bytes(config, precision) * 3 * 10 == cache.k.nbytes + cache.v.nbytes


def test_cache_of_a_source() -> None:
    """Keys and values of source tokens take as much each."""
    config = preset("t5-mini")
    cache, ids = Cache(config, 2), torch.zeros(2, 7, dtype=torch.long)
    build(config)(ids, source=ids, cache=cache)
    assert sum(x.nbytes for pair in cache.cross.values() for x in pair) == cache_bytes(config) * 2 * 7


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("name", ["gptlab-cpu", *MINIATURES])
def test_training_memory(name: str, optimizer: str) -> None:
    """Weights, gradients and states are as many bytes as a real training holds, but for counters of steps."""
    config = preset(name)
    model = build(config)
    states = OPTIMIZERS[optimizer](model, TrainConfig(optimizer=optimizer)).state()
    memory = training_memory(config, optimizer=optimizer)
    assert memory.weights == memory.gradients == sum(p.nbytes for p in model.parameters())
    assert memory.optimizer == sum(x.nbytes for x in states.values() if x.ndim)


def test_training_memory_in_bf16() -> None:
    """Two bytes for weights and gradients each; AdamW's two numbers and the copy of the weights in four each."""
    config = preset("gpt2-mini")
    memory, n = training_memory(config, optimizer="adamw", precision="bf16"), count(config).total
    assert (memory.weights, memory.gradients, memory.optimizer, memory.total) == (2 * n, 2 * n, 12 * n, 16 * n)


@pytest.mark.parametrize("name", MINIATURES)
def test_activations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is within a sixth of what autograd keeps on the CPU at this size, where nothing is compiled."""
    monkeypatch.setattr(native, "WRONG", set(CHECKS))
    config = preset(name)
    model = build(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        logits = model(**inputs(config, 3, 20))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.zeros(60, dtype=torch.long))
    loss.detach()
    held = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert activation_bytes(outline(config, batch=3, length=20)) == pytest.approx(held, rel=1 / 6)


@pytest.mark.parametrize("name", MINIATURES)
def test_outline(name: str) -> None:
    """Every layer of the model is of one kind, and has the parameters of the block that stands for it."""
    config = preset(name)
    found, model = outline(config), Transformer(config)
    assert sorted(layer for kind in found.decoder for layer in kind.layers) == list(range(config.n_layers))
    for kind in found.decoder:
        for layer in kind.layers:
            shapes = {n: p.shape for n, p in model.blocks[layer].named_parameters()}
            assert shapes == {n: p.shape for n, p in kind.block.named_parameters()}
    assert len(found.decoder) == (2 if config.band_width or config.query_layer else 1)
