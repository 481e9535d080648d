"""The model's function: against the formulas, causal, the same in pieces as whole, and blind to padding."""

import dataclasses
import functools
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import CHOICES, OWNERS, ModelConfig
from gptlab.model import kernels
from gptlab.model.attention import Attention
from gptlab.model.cache import Cache
from gptlab.model.mlps import MLP
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES
from gptlab.registry import ACTIVATIONS, NORMS, POSITIONS, RESIDUALS
from tests.model import plain
from tests.model.plain import CONFIGS, PRESETS, beside, error, random_ids, random_model, shrunk

KERNELS = {"reference": kernels.reference, "sdpa": kernels.sdpa}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
ROUNDING = 1e-11  # relative, of float64


def twin(config: ModelConfig, model: Transformer, ids: torch.Tensor, **more: torch.Tensor) -> np.ndarray:
    """What the formulas give for a batch, with the model's weights."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    rows = []
    for i, row in enumerate(ids.tolist()):
        source = more["source"][i].tolist() if "source" in more else ()
        prefix = int(more["prefix"][i]) if "prefix" in more else 0
        rows.append(plain.plain_logits(config, w, row, source=source, prefix=prefix))
    return np.array(rows)


@functools.cache
def twin_of(config: ModelConfig) -> np.ndarray:
    return twin(config, random_model(config), random_ids(config, 2, config.context), **beside(config, 2))


def test_every_preset_is_tried() -> None:
    """Each preset, shrunk, is one of those tried here: a new one is, too."""
    assert {shrunk(name) for name in SIZES} == set(PRESETS.values()) and PRESETS.items() <= CONFIGS.items()
    assert len(PRESETS) > 14


@each_kernel
@each_config
def test_formulas(config: ModelConfig, kernel: kernels.Kernel) -> None:
    """The model = the formulas of its papers, token by token and head by head, to the rounding of float64."""
    model = random_model(config, kernel=kernel)
    with torch.no_grad():
        ours = model(random_ids(config, 2, config.context), **beside(config, 2))
    assert error(ours, twin_of(config)) < ROUNDING


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    """Any parts together that the configuration allows."""
    category = draw(st.sampled_from(CHOICES["category"]))
    groups, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    chosen = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items() if name != "category"}
    chosen |= {
        "norm": draw(st.sampled_from(list(NORMS))),
        "norm_placement": draw(st.sampled_from(list(RESIDUALS))),
        "activation": draw(st.sampled_from(list(ACTIVATIONS))),
        "position": draw(
            st.sampled_from([p for p in POSITIONS if category == "causal" or p != "transformer-xl-relative"])
        ),
    }
    for name in (f.name for f in dataclasses.fields(ModelConfig) if f.type is bool):
        chosen[name] = draw(st.booleans())
    chosen["query_layer"] &= category != "encoder-decoder"
    more = {
        "residual_alpha": draw(st.floats(0.5, 2)),
        "position_offset": draw(st.integers(0, 3)),
        "rope_base": draw(st.floats(10, 1000)),
        "rope_fraction": draw(st.sampled_from([0.5, 1.0])),
        "rope_pairing": chosen.pop("rope_pairing"),
        "relative_buckets": draw(st.integers(4, 9)),
        "relative_max_distance": 11,  # of no bucket's border a whole number, which float32 might round either way
    }
    chosen |= {name: value for name, value in more.items() if chosen[OWNERS[name][0]] == OWNERS[name][1]}
    return ModelConfig(
        category=category,
        vocab_size=5,
        context=13,
        n_layers=draw(st.integers(1, 2)),
        n_encoder_layers=draw(st.integers(1, 2)) if category == "encoder-decoder" else 0,
        d_model=draw(st.integers(2, 7)),
        n_heads=heads * groups,
        n_kv_heads=heads,
        head_dim=draw(st.sampled_from([4, 8]) if chosen["position"] == "rope" else st.integers(2, 5)),
        d_ff=draw(st.integers(1, 5)),
        d_embedding=draw(st.integers(0, 4)),
        norm_eps=draw(st.floats(0.01, 1)),
        band_width=draw(st.integers(0, 4)),
        embedding_scale=draw(st.floats(0.5, 2)),
        logit_scale=draw(st.floats(0.5, 2)),
        **chosen,
    )


@settings(max_examples=40)
@given(config=models(), length=st.integers(1, 13), kernel=st.sampled_from(sorted(KERNELS)), seed=st.integers(0, 99))
def test_formulas_of_any_parts(config: ModelConfig, length: int, kernel: str, seed: int) -> None:
    """Whatever parts are joined, the model = the formulas, at every length."""
    model = random_model(config, seed=seed, kernel=KERNELS[kernel])
    ids, more = random_ids(config, 1, length, seed=seed), beside(config, 1)
    if "prefix" in more:
        more["prefix"] = more["prefix"].clamp(max=length)
    with torch.no_grad():
        assert error(model(ids, **more), twin(config, model, ids, **more)) < 1e-9


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
def test_who_sees_whom(config: ModelConfig, kernel: kernels.Kernel) -> None:
    """A token changes its own logit and none before it, not by one bit; one of the prefix all; one of the source all,
    and all that the encoder makes of it."""
    model = random_model(config, kernel=kernel, size=0.4)
    ids, more = random_ids(config, 2, config.context), beside(config, 2)
    prefixes = more.get("prefix", torch.zeros(2, dtype=torch.long))
    other = lambda x, t: torch.cat((x[:, :t], (x[:, t : t + 1] + 1) % config.vocab_size, x[:, t + 1 :]), 1)  # noqa: E731
    with torch.no_grad():
        before = model(ids, **more)
        for t in range(config.context):
            after = model(other(ids, t), **more)
            for row, prefix in enumerate(prefixes.tolist()):
                changed = (before[row] != after[row]).any(-1)
                assert changed[t] and (changed.all() if t < prefix else not changed[:t].any())
        if model.encoder is not None:
            source = more["source"]
            memory = model.encoder(model.embed(source), None)
            for s in range(source.shape[1]):
                assert (before != model(ids, source=other(source, s))).any(-1).all()
                assert (memory != model.encoder(model.embed(other(source, s)), None)).any(-1).all()


@each_config
@settings(max_examples=4)
@given(data=st.data(), kernel=st.sampled_from(sorted(KERNELS)))
def test_cached(config: ModelConfig, data: st.DataObject, kernel: str) -> None:
    """Fed in any pieces, up to the whole context, with a cache, the logits are those of reading all at once.

    The source is given with the first piece alone; a prefix is in the first piece.
    """
    model = random_model(config, kernel=KERNELS[kernel])
    ids, more = random_ids(config, 2, config.context), beside(config, 2)
    least = max(1, int(more["prefix"].max())) if "prefix" in more else 1
    edges = [0, *sorted(data.draw(st.sets(st.integers(least, config.context - 1)))), config.context]
    with torch.no_grad():
        whole = model(ids, **more)
        cache = Cache(config, 2, dtype=torch.float64)
        for _ in range(2):  # and once more after clear()
            pieces = [model(ids[:, a:b], cache=cache, **({} if a else more)) for a, b in pairwise(edges)]
            assert error(torch.cat(pieces, dim=1), whole) < ROUNDING
            cache.clear()


@each_config
@settings(max_examples=4)
@given(data=st.data(), kernel=st.sampled_from(sorted(KERNELS)))
def test_padding(config: ModelConfig, data: st.DataObject, kernel: str) -> None:
    """Texts of several lengths, padded on the left, have the logits that each has alone: at once, or cached in pieces;
    and so have sources of several lengths, padded on the right.

    What the padding is does not matter, and nothing becomes NaN.
    """
    model = random_model(config, kernel=KERNELS[kernel])
    T, rows = config.context, data.draw(st.integers(2, 3))
    pads = data.draw(st.lists(st.integers(0, T - 1), min_size=rows, max_size=rows))
    ids = random_ids(config, rows, T, seed=data.draw(st.integers(0, 9)))
    valid = torch.tensor([[t >= pad for t in range(T)] for pad in pads])
    positions = torch.tensor([[max(t - pad, 0) for t in range(T)] for pad in pads])
    each: list[dict[str, torch.Tensor]] = [{} for _ in pads]
    together, least = beside(config, rows), 1
    if "prefix" in together:
        lengths = [data.draw(st.integers(0, T - pad)) for pad in pads]
        together["prefix"] = torch.tensor(lengths)
        each = [{"prefix": torch.tensor([n])} for n in lengths]
        least = max(1, *(pad + n for pad, n in zip(pads, lengths, strict=True)))
    if "source" in together:
        S = together["source"].shape[1]
        lengths = [data.draw(st.integers(1, S)) for _ in pads]
        together["source_valid"] = torch.tensor([[s < n for s in range(S)] for n in lengths])
        each = [{"source": row[:n][None]} for row, n in zip(together["source"], lengths, strict=True)]
    cuts = data.draw(st.sets(st.integers(least, T - 1))) if least < T else set()
    edges = [0, *sorted(cuts), T]
    with torch.no_grad():
        alone = [model(row[pad:][None], **more)[0] for row, pad, more in zip(ids, pads, each, strict=True)]
        at_once = model(ids, positions=positions, valid=valid, **together)
        cache = Cache(config, rows, dtype=torch.float64)
        pieces = []
        for a, b in pairwise(edges):
            # No more padding to come: `valid` may then be left out.
            left_out = a >= max(pads) and data.draw(st.booleans())
            known = None if left_out else valid[:, a:b]
            more = {} if a else together
            pieces.append(model(ids[:, a:b], positions=positions[:, a:b], valid=known, cache=cache, **more))
        for found in (at_once, torch.cat(pieces, dim=1)):
            assert found.isfinite().all()
            for row, pad, expected in zip(found, pads, alone, strict=True):
                assert error(row[pad:], expected) < ROUNDING


@each_config
def test_kernels_agree(config: ModelConfig) -> None:
    """The fused kernel = the formula, with all gradients; rows and sources of nothing but padding make nothing NaN."""
    T, S = config.context, config.context - 2
    ids, more = random_ids(config, 3, T), beside(config, 3)
    pads = torch.tensor([[0], [3], [T]])
    where = {"valid": torch.arange(T) >= pads, "positions": (torch.arange(T) - pads).clamp(min=0)}
    if "source" in more:
        more["source_valid"] = torch.arange(S) < torch.tensor([[S], [0], [2]])
    if "prefix" in more:
        more["prefix"] = torch.tensor([T, 2, 0])
    results = []
    for kernel in KERNELS.values():
        model = random_model(config, kernel=kernel)
        logits = model(ids, **where, **more)
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        results.append({"logits": logits.detach()} | {name: p.grad for name, p in model.named_parameters()})
    for name, expected in results[0].items():
        # The gradient of a key's bias is nothing but rounding.
        scale = max(float(expected.abs().max()), 1e-3)
        assert float((results[1][name] - expected).abs().max()) / scale < ROUNDING, name


def test_a_prefix_is_read_at_once() -> None:
    """A prefix that the first piece does not hold, padding not counted, or that comes later is a ValueError with the
    numbers; the cache is left as it was, and usable."""
    config = CONFIGS["glm-mini"]
    model = random_model(config)
    ids, prefix = random_ids(config, 2, 6), torch.tensor([2, 4])
    cache = Cache(config, 2, size=5, dtype=torch.float64)
    late = {"valid": torch.arange(5) >= torch.tensor([[0], [2]])}
    late["positions"] = (torch.arange(5) - torch.tensor([[0], [2]])).clamp(min=0)
    with torch.no_grad():
        for piece, more in ((ids[:, :3], {}), (ids[:, :5], late)):
            with pytest.raises(ValueError, match=rf"prefix of 4 tokens .* at once, not in pieces of {piece.shape[1]}"):
                model(piece, prefix=prefix, cache=cache, **more)
        with pytest.raises(ValueError, match="room for 5"):
            model(ids, prefix=prefix, cache=cache)
        assert cache.length == 0 and error(model(ids[:, :4], cache=cache), model(ids[:, :4])) < ROUNDING
        with pytest.raises(ValueError, match="prefix of 4 tokens"):
            model(ids[:, 4:5], prefix=prefix, cache=cache)
        assert error(model(ids[:, 4:5], cache=cache), model(ids[:, :5])[:, 4:]) < ROUNDING


def test_a_source_where_it_belongs() -> None:
    """No source for an encoder, a source without one, and one beyond the context are ValueErrors that say so."""
    config = CONFIGS["t5-mini"]
    model, ids = random_model(config), random_ids(config, 1, 4)
    with pytest.raises(ValueError, match="needs a source"):
        model(ids)
    with pytest.raises(ValueError, match="10 source tokens exceed the context of 9"):
        model(ids, source=random_ids(config, 1, 10))
    with pytest.raises(ValueError, match="no encoder"):
        random_model(CONFIGS["gpt2"])(ids, source=ids)


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


@each_config
def test_gradients_reach_every_parameter(config: ModelConfig) -> None:
    """No parameter is without effect on the loss: each has a gradient that is not 0, and so have each of q, k and v,
    and gate and value, which are one parameter (but a bias of keys alone: all scores of a query move with it)."""
    model = random_model(config, size=0.4)
    ids = random_ids(config, 2, config.context)
    torch.nn.functional.cross_entropy(model(ids, **beside(config, 2)).flatten(0, 1), ids.flatten()).backward()
    parts = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention | MLP):
            parts[f"{name}.{'qkv' if isinstance(module, Attention) else 'up'}.weight"] = module.sections
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        for part in parameter.grad.split(parts.get(name, (len(parameter),))):
            assert part.abs().max() > 1e-12 or name.endswith("k_norm.bias"), name  # one that is 0 is 1e-17


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
