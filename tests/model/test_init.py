"""How weights are drawn: by one rule each, from the seed and the name alone."""

import math

import pytest
import torch
from torch import nn

from gptlab.config import ModelConfig
from gptlab.model.init import SCHEMES, initialise
from gptlab.model.transformer import Transformer, build
from gptlab.presets import preset
from tests.model.plain import CONFIGS, random_ids, shrunk

WIDE = ModelConfig(
    vocab_size=90, context=60, n_layers=3, d_model=64, n_heads=4, tied_embeddings=False, bias_lm_head=True
)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


@each_scheme
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_seed_decides(scheme: str, config: ModelConfig) -> None:
    """The same seed gives the same weights, bit by bit; another seed changes every matrix that is drawn at random."""
    torch.manual_seed(1)
    one = weights(build(config, seed=3, init=scheme))
    torch.manual_seed(2)
    two, other = weights(build(config, seed=3, init=scheme)), weights(build(config, seed=4, init=scheme))
    for name, value in one.items():
        assert value.isfinite().all() and torch.equal(value, two[name])
        if value.unique().numel() > 1:
            assert (value == other[name]).float().mean() < 0.1, name


@each_scheme
def test_a_draw_is_of_name_and_seed(scheme: str) -> None:
    """A parameter's draw does not depend on the others: fewer layers, a larger vocabulary, no biases leave it."""
    one = weights(build(WIDE, seed=3, init=scheme))
    for changes in (dict(vocab_size=40), dict(bias_qkv=False, bias_ffn=False), dict(tied_embeddings=True)):
        other = weights(build(WIDE.but(**changes), seed=3, init=scheme))
        same = [name for name in other if name in one and one[name].shape == other[name].shape]
        assert len(same) > 10 and all(torch.equal(one[name], other[name]) for name in same)
    fewer = weights(build(WIDE.but(n_layers=2), seed=3, init=scheme))
    assert torch.equal(one["blocks.1.attention.qkv.weight"], fewer["blocks.1.attention.qkv.weight"])
    blocks = [one[f"blocks.{i}.attention.qkv.weight"] for i in range(3)]
    assert not torch.equal(blocks[0], blocks[1]) and not torch.equal(blocks[1], blocks[2])


@each_scheme
def test_exactly_one_rule(scheme: str) -> None:
    """A parameter that no rule or more than one rule names is an AssertionError that names it, on meta, too."""
    for device in ("cpu", "meta"):
        for name, what in (("newcomer", "0 rules"), ("late_norm", "2 rules")):
            with torch.device(device):
                model = Transformer(WIDE)
                inner = nn.ModuleDict({"mlp": nn.ModuleDict({"up": nn.Linear(2, 2, bias=False)})})
                model.add_module(name, inner if what == "2 rules" else nn.PReLU())
            with pytest.raises(AssertionError, match=rf"{name}.*{what}"):
                initialise(model, WIDE, seed=0, scheme=scheme)


def test_gpt2() -> None:
    """N(0, 0.02); onto the residual stream N(0, 0.02 / sqrt(2 layers)); gains 1 and biases 0. To 5 standard errors."""
    for name, value in weights(build(WIDE, seed=1)).items():
        if name.endswith("bias"):
            assert (value == 0).all(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std, n = 0.02 / math.sqrt(6) if residual else 0.02, value.numel()
            assert abs(value.mean()) < 5 * std / math.sqrt(n), name
            assert abs(value.pow(2).mean().sqrt() / std - 1) < 5 / math.sqrt(2 * n), name
            within = (value.abs() < std).double().mean()  # of a normal distribution 68.27%
            assert abs(within - 0.6827) < 5 * math.sqrt(0.6827 * 0.3173 / n), name


def test_scaled_starts_from_nothing() -> None:
    """Under `scaled`, blocks pass their input on unchanged; matrices draw by 1 / sqrt(inputs), tables as GPT-2's."""
    model = build(WIDE, seed=1, init="scaled")
    ids = random_ids(WIDE, 2, 30)
    with torch.no_grad():
        x = model.embedding[ids] + model.position.weight[:30]
        assert torch.allclose(model(ids), model.norm(x) @ model.head.T, atol=1e-5)
    tables, matrices = (
        ("embedding", "head", "position.weight"),
        ("blocks.0.attention.qkv.weight", "blocks.2.mlp.up.weight"),
    )
    for name in (*tables, *matrices):
        value = weights(model)[name]
        expected = 0.02 if name in tables else 1 / 8
        assert abs(value.std() / expected - 1) < 5 / math.sqrt(2 * value.numel()), name


@each_scheme
def test_deepnorm(scheme: str) -> None:
    """Of GLM, values, attention outputs and MLPs are drawn (2 layers)^-1/2 as large as the scheme's own; q and k are
    not. What `scaled` starts at 0 stays there."""
    config = shrunk("glm-mini", n_layers=8, d_model=64, n_heads=4, n_kv_heads=4, head_dim=16, d_ff=96)
    plain = config.but(norm_placement="post", residual_alpha=1.0)
    ours, others = (weights(build(c, seed=1, init=scheme)) for c in (config, plain))
    assert len(ours) == len(others)
    for name, value in ours.items():
        smaller = torch.ones(len(value))
        if name.endswith("qkv.weight"):
            smaller[128:] = 1 / 4
        elif name.endswith((".out.weight", ".up.weight", ".down.weight")):
            smaller[:] = 1 / 4
        assert torch.allclose(value, others[name] * smaller.view(-1, *[1] * (value.ndim - 1))), name
    q, k, v = ours["blocks.7.attention.qkv.weight"].split(64)
    std = 0.02 if scheme == "gpt2" else 1 / 8
    for part, expected in ((q, std), (k, std), (v, std / 4)):
        assert abs(part.std() / expected - 1) < 5 / math.sqrt(2 * part.numel())


@each_scheme
@pytest.mark.parametrize("name", ["t5-mini", "lamda-mini", "palm-mini"])
def test_small_queries_and_large_tables(name: str, scheme: str) -> None:
    """Where scores are not divided by sqrt(D), queries are drawn so much smaller, in self- and in cross-attention;
    where logits are multiplied by 1 / sqrt(C), the tokens' table is drawn so much larger."""
    config = shrunk(name, d_model=64, n_heads=4, n_kv_heads=1 if "palm" in name else 4, head_dim=16, vocab_size=90)
    found = weights(build(config, seed=1, init=scheme))
    std = 0.02 if scheme == "gpt2" else 1 / 8
    joined = [value for key, value in found.items() if key.endswith("qkv.weight")]
    assert len(joined) == 2 * config.n_layers + config.n_encoder_layers if "t5" in name else config.n_layers
    for value in joined:
        for part, expected in ((value[:64], std / 4 if name != "palm-mini" else std), (value[64:], std)):
            assert abs(part.std() / expected - 1) < 5 / math.sqrt(2 * part.numel())
    table = found["embedding"]
    assert (config.logit_scale == 1) == (name == "lamda-mini")
    expected = 0.02 / config.logit_scale
    assert abs(table.std() / expected - 1) < 5 / math.sqrt(2 * table.numel())


@each_scheme
def test_encoder_and_projections(scheme: str) -> None:
    """Onto the residual stream of an encoder-decoder, N(0, 0.02 / sqrt(2 layers of both)); a narrow table's projections
    keep its size, and a relative key's matrix is drawn as its layer's others."""
    config = shrunk("t5-mini", n_layers=5, n_encoder_layers=3, d_model=64, head_dim=20, d_ff=80, d_embedding=32)
    found = weights(build(config, seed=1, init=scheme))
    onto = [key for key in found if key.endswith((".out.weight", ".down.weight"))]
    assert len(onto) == 5 * 3 + 3 * 2
    for key in onto:
        if scheme == "copying" and key.endswith(".out.weight"):
            continue  # see the test of that scheme
        std = float(found[key].std())
        assert std == 0 if scheme != "gpt2" else abs(std / (0.02 / 4) - 1) < 5 / math.sqrt(2 * found[key].numel()), key
    for key, inputs in (("embedding_in.weight", 32), ("embedding_out.weight", 64)):
        assert abs(found[key].std() * math.sqrt(inputs) - 1) < 5 / math.sqrt(2 * found[key].numel())
    gopher = weights(build(shrunk("gopher-mini", d_model=64), seed=1, init=scheme))
    std = 0.02 if scheme == "gpt2" else 1 / 8
    for layer in range(3):
        relative = f"blocks.{layer}.attention.relative"
        matrix = gopher[f"{relative}.weight"]
        assert abs(matrix.std() / std - 1) < 5 / math.sqrt(2 * matrix.numel())
        assert not gopher[f"{relative}.content_bias"].any() and not gopher[f"{relative}.position_bias"].any()


def test_an_unknown_scheme() -> None:
    """An unknown initialisation is a ValueError with the known ones."""
    with pytest.raises(ValueError, match=r"'gpt3'.*gpt2.*scaled"):
        build(WIDE, init="gpt3")


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-774m", "llama-7b", "palm-540b", "opt-350m", "gptlab-gpu"])
def test_a_wide_model_begins_near_guessing(name: str) -> None:
    """Under `scaled` the loss of a new model is within 1 nat of ln V whatever the width, with a small vocabulary, too:
    no token foretells its own repetition so surely that training would seem to have diverged."""
    width = min(1280, preset(name).d_model)
    config = preset(name, vocab_size=65, context=16, n_layers=1, d_model=width, n_heads=4, n_kv_heads=1, head_dim=8)
    scale = {"logit_scale": width**-0.5} if config.logit_scale != 1 else {}
    config = config.but(**scale, d_ff=8, d_embedding=512 if name == "opt-350m" else width)
    model = build(config, seed=0, init="scaled")
    ids = random_ids(config, 8, 17)
    with torch.no_grad():
        logits = model(ids[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert abs(float(loss) - math.log(65)) < 1


@pytest.mark.parametrize("name", ["gptlab-fables", "palm-mini", "t5-mini", "lamda-mini"])
def test_copying_heads_repeat_what_they_look_at(name: str) -> None:
    """Under `copying` all heads together turn what they look at into half of it, plus noise: out W_v has a diagonal of
    about REPEATED times H D / C, and entries beside it around 0. The rest is as `scaled` draws it."""
    config = preset(name, vocab_size=50, context=16, n_layers=2)
    ours, scaled = (weights(build(config, seed=1, init=scheme)) for scheme in ("copying", "scaled"))
    outs = [key for key in ours if key.endswith((".attention.out.weight", ".cross.out.weight"))]
    for key, value in ours.items():
        if key not in outs:
            assert torch.equal(value, scaled[key]), key
    H, K, D, C = config.n_heads, config.n_kv_heads, config.head_dim, config.d_model
    for key in outs:
        values = ours[key.replace("out.weight", "qkv.weight")][(H + K) * D :]
        each = torch.cat([values[h * K // H * D : (h * K // H + 1) * D] for h in range(H)])  # heads of a group share
        whole = ours[key] @ each
        assert abs(whole.diagonal().mean() / (0.5 * H * D / C) - 1) < 0.15
        beside = whole - whole.diagonal().diag()
        assert abs(beside.mean()) < 0.01
        for h in range(H):
            assert torch.allclose(ours[key][:, h * D : (h + 1) * D], 0.5 * each[h * D : (h + 1) * D].T)
