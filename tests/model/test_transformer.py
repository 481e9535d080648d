"""The model's function: against the formulas, causal, the same in pieces as whole, and blind to padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig
from gptlab.model import kernels
from gptlab.model.cache import Cache
from gptlab.model.transformer import Transformer, build
from gptlab.registry import ACTIVATIONS, NORMS
from tests.model import plain
from tests.model.plain import CONFIGS, error, random_ids, random_model

KERNELS = {"reference": kernels.reference, "sdpa": kernels.sdpa}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
ROUNDING = 1e-11  # relative, of float64


@each_kernel
@each_config
def test_formulas(config: ModelConfig, kernel: kernels.Kernel) -> None:
    """The model = the formulas of its papers, token by token and head by head, to the rounding of float64."""
    model = random_model(config, kernel=kernel)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    ids = random_ids(config, 2, config.context)
    with torch.no_grad():
        ours = model(ids)
    for row in range(2):
        assert error(ours[row], plain.plain_logits(config, weights, ids[row].tolist())) < ROUNDING


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_norm_and_activation(norm: str, activation: str) -> None:
    """Each norm with each activation is its formula, from one token on; a new one needs a plain twin in plain.py."""
    config = CONFIGS["grouped"].but(norm=norm, activation=activation, n_layers=1)
    model = random_model(config, seed=1)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    for length in (1, 4):
        ids = random_ids(config, 1, length)
        assert error(model(ids).detach()[0], plain.plain_logits(config, weights, ids[0].tolist())) < ROUNDING


@each_kernel
@each_config
def test_causality(config: ModelConfig, kernel: kernels.Kernel) -> None:
    """A token changes no logit before it, not by one bit, and its own."""
    model = random_model(config, kernel=kernel).float()
    ids = random_ids(config, 2, config.context)
    with torch.no_grad():
        before = model(ids)
        for t in range(config.context):
            changed = ids.clone()
            changed[:, t] = (ids[:, t] + 1) % config.vocab_size
            after = model(changed)
            assert torch.equal(before[:, :t], after[:, :t])
            assert not torch.equal(before[:, t], after[:, t])


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(sorted(CONFIGS)), kernel=st.sampled_from(sorted(KERNELS)))
def test_cached(data: st.DataObject, name: str, kernel: str) -> None:
    """Fed in any pieces, up to the whole context, with a cache, the logits are those of reading all at once."""
    config = CONFIGS[name]
    model = random_model(config, kernel=KERNELS[kernel])
    cuts = data.draw(st.sets(st.integers(1, config.context - 1)))
    edges = [0, *sorted(cuts), config.context]
    ids = random_ids(config, 2, config.context)
    with torch.no_grad():
        whole = model(ids)
        cache = Cache(config, 2, dtype=torch.float64)
        for _ in range(2):  # and once more after clear()
            pieces = [model(ids[:, a:b], cache=cache) for a, b in pairwise(edges)]
            assert error(torch.cat(pieces, dim=1), whole) < ROUNDING
            cache.clear()


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(["gpt2", "grouped", "old-gptlab"]), kernel=st.sampled_from(sorted(KERNELS)))
def test_padding(data: st.DataObject, name: str, kernel: str) -> None:
    """Texts of several lengths, padded on the left, have the logits that each has alone: at once, or cached in pieces.

    What the padding is does not matter, and nothing becomes NaN.
    """
    config = CONFIGS[name]
    model = random_model(config, kernel=KERNELS[kernel])
    pads = data.draw(st.lists(st.integers(0, config.context - 1), min_size=2, max_size=3))
    T = config.context
    ids = random_ids(config, len(pads), T, seed=data.draw(st.integers(0, 9)))
    valid = torch.tensor([[t >= pad for t in range(T)] for pad in pads])
    positions = torch.tensor([[max(t - pad, 0) for t in range(T)] for pad in pads])
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, T - 1)))), T]
    with torch.no_grad():
        alone = [model(row[pad:][None])[0] for row, pad in zip(ids, pads, strict=True)]
        at_once = model(ids, positions=positions, valid=valid)
        cache = Cache(config, len(pads), dtype=torch.float64)
        pieces = []
        for a, b in pairwise(edges):
            known = valid[:, a:b]
            # No more padding to come: `valid` may then be left out.
            left_out = a >= max(pads) and data.draw(st.booleans())
            pieces.append(
                model(ids[:, a:b], positions=positions[:, a:b], valid=None if left_out else known, cache=cache)
            )
        for found in (at_once, torch.cat(pieces, dim=1)):
            assert found.isfinite().all()
            for row, pad, expected in zip(found, pads, alone, strict=True):
                assert error(row[pad:], expected) < ROUNDING


def test_the_context_limit() -> None:
    """One token more than the context is a ValueError with both numbers; a cache is left as it was, and usable."""
    config = CONFIGS["gpt2"]
    model = random_model(config)
    ids = random_ids(config, 1, 10)
    with pytest.raises(ValueError, match=r"10 tokens exceed the context of 9"):
        model(ids)
    cache = Cache(config, 1, dtype=torch.float64)
    with torch.no_grad():
        model(ids[:, :7], cache=cache)
        with pytest.raises(ValueError, match=r"10 tokens exceed the context of 9"):
            model(ids[:, 7:], cache=cache)
        assert cache.length == 7
        assert error(model(ids[:, 7:9], cache=cache), model(ids[:, :9])[:, 7:]) < ROUNDING


def test_a_small_cache() -> None:
    """A cache with less room than the context refuses what does not fit, with the numbers, and is left as it was."""
    config = CONFIGS["gpt2"]
    model = random_model(config)
    cache = Cache(config, 1, size=4, dtype=torch.float64)
    ids = random_ids(config, 1, 5)
    with torch.no_grad():
        model(ids[:, :3], cache=cache)
        with pytest.raises(ValueError, match=r"3 cached tokens and 2 new ones exceed the room for 4"):
            model(ids[:, 3:], cache=cache)
        assert error(model(ids[:, 3:4], cache=cache), model(ids[:, :4])[:, 3:]) < ROUNDING


def test_dropout() -> None:
    """Dropout acts in training only, and every kind of it: embeddings, attention pattern, and both branches."""
    config = CONFIGS["gpt2"]
    model = build(config, dropout=0.5)
    ids = random_ids(config, 1, 9)
    still = build(config, dropout=0.0)
    with torch.no_grad():
        assert torch.equal(model(ids), still(ids)) and torch.equal(still.train()(ids), still.eval()(ids))
        for place in (model.dropout, model.blocks[0].attention.dropout, model.blocks[1].mlp.dropout):
            place.train()
            assert not torch.equal(model(ids), still(ids))
            place.eval()
        # The pattern's dropout is told by `training` of the attention itself, whose output's Dropout stays off here.
        model.blocks[0].attention.training = True
        assert not torch.equal(model(ids), still(ids))


def test_gradients_reach_every_parameter() -> None:
    """No parameter is without effect on the loss: each has a gradient that is not 0 (the key's bias has none)."""
    for config in CONFIGS.values():
        model = random_model(config)
        ids = random_ids(config, 2, config.context)
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


def test_rows_of_a_batch() -> None:
    """One row alone and the same row in a batch have the same logits."""
    config = CONFIGS["grouped"]
    model = random_model(config)
    ids = random_ids(config, 4, 6)
    with torch.no_grad():
        assert error(model(ids)[2], model(ids[2:3])[0]) < ROUNDING


def test_from_the_formulas_of_torch() -> None:
    """GPT-2's block = torch's own TransformerEncoderLayer (norm first), a third implementation."""
    config = ModelConfig(vocab_size=5, context=6, n_layers=1, d_model=12, n_heads=3, activation="gelu")
    model = random_model(config)
    block = model.blocks[0]
    layer = torch.nn.TransformerEncoderLayer(
        12, 3, 48, dropout=0.0, activation="gelu", layer_norm_eps=1e-5, batch_first=True, norm_first=True
    ).double()
    pairs = {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.out.weight,
        "self_attn.out_proj.bias": block.attention.out.bias,
        "linear1.weight": block.mlp.up.weight,
        "linear1.bias": block.mlp.up.bias,
        "linear2.weight": block.mlp.down.weight,
        "linear2.bias": block.mlp.down.bias,
        "norm1.weight": block.residual.norms[0].weight,
        "norm1.bias": block.residual.norms[0].bias,
        "norm2.weight": block.residual.norms[1].weight,
        "norm2.bias": block.residual.norms[1].bias,
    }
    layer.load_state_dict(pairs)
    ids = random_ids(config, 2, 6)
    seen: list[torch.Tensor] = []
    block.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    with torch.no_grad():
        model(ids)
        hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
        assert error(seen[1], layer.train()(seen[0], src_mask=hidden)) < ROUNDING


def test_norms_keep_a_large_mean() -> None:
    """A vector far from the origin is normed as the formula says: relative error of float32, not of its square."""
    x = np.random.default_rng(0).normal(size=(1, 16)) + 1000
    for name, part in plain.NORMS.items():
        norm = NORMS.build(name, d_model=16, affine="none")
        ours = norm(torch.tensor(x, dtype=torch.float32))[0]
        assert error(ours, part(x.astype(np.float32)[0].astype(np.float64), 1e-5)) < 1e-3


def test_meta() -> None:
    """A model can be made without memory, as counting does."""
    with torch.device("meta"):
        model = Transformer(CONFIGS["gpt2"])
    assert all(p.is_meta for p in model.parameters())
