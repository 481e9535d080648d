"""Models of transformers and ours compute the same, in both directions, and every weight is accounted for.

Their classes compute softmax, norms or rotations in float32 whatever the weights are, but for GPT-2's, GPT-Neo's alone
its scores: so they agree to float32's rounding.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import gptlab
from gptlab.config import SampleConfig
from gptlab.convert.families import FAMILIES
from gptlab.convert.hf import family_of, from_hf, to_hf
from gptlab.generate.generate import tokens
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from tests.convert.hf_models import MODELS, drawn, transformers

T, S = 13, 11  # T: the context of the models


def ids(vocabulary: int, length: int, seed: int = 1, batch: int = 3) -> Tensor:
    return torch.randint(1, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(ours: Transformer, theirs: Any) -> tuple[Tensor, Tensor]:
    """Logits of both over a full context; with an encoder, of sources with padding of three lengths."""
    target = ids(ours.vocab_size, ours.context)
    if ours.encoder is None:
        return ours(target), theirs(input_ids=target, attention_mask=torch.ones_like(target)).logits
    source = ids(ours.vocab_size, S, seed=2)
    valid = torch.arange(S) < torch.tensor([[S], [S - 4], [1]])
    out = theirs(input_ids=source, attention_mask=valid.long(), decoder_input_ids=target)
    return ours(target, source=source, source_valid=valid), out.logits


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float64
    return float((ours - theirs).norm() / theirs.norm())


def allowed(theirs: Any) -> float:
    """GPT-2's computes in float64 throughout; T5's norms in float32, and what is left of them in small logits."""
    return {"GPT2LMHeadModel": 1e-12, "T5ForConditionalGeneration": 5e-6}.get(type(theirs).__name__, 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_imported_it_computes_the_same(name: str) -> None:
    """||ours - theirs|| <= 1e-6 ||theirs|| (see `allowed`) up to the context's limit."""
    theirs = drawn(name)
    ours = from_hf(theirs)
    assert not ours.training and ours.context == T
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert off(*logits_of(ours, theirs)) <= allowed(theirs)


@pytest.mark.parametrize("name", MODELS)
def test_exported_it_is_what_it_was(name: str) -> None:
    """to_hf(from_hf(x)) has x's class and weights, bit for bit, and so has from_hf of that, its config too."""
    theirs = drawn(name)
    ours = from_hf(theirs)
    again = to_hf(ours)
    assert type(again) is type(theirs) and not again.training
    weights, expected = again.state_dict(), theirs.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[n], expected[n]) for n in expected)
    back = from_hf(again)
    assert back.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), ours.parameters(), strict=True))


def random_preset(name: str, **changes: Any) -> Transformer:
    """A preset in float64, with gains and biases drawn, too."""
    model = build(preset(name, **changes)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
    return model


MINIS = [name for name in SIZES if name.endswith("-mini")]
NO_CLASS = {"gpt3-mini", "pangu-alpha-mini", "gopher-mini", "chinchilla-mini", "lamda-mini", "glm-mini"}
SMALL = dict(vocab_size=37, context=T)


@pytest.mark.parametrize("name", [*(name for name in MINIS if name not in NO_CLASS), "nanogpt-cpu"])
def test_a_preset_exported(name: str) -> None:
    """Presets whose class transformers has compute there what they compute here, and come back as they were; biases
    that a class has beyond the preset's are zeros."""
    ours = random_preset(name, **SMALL)
    theirs = to_hf(ours)
    theirs.set_attn_implementation("eager")
    assert off(*logits_of(ours, theirs)) <= allowed(theirs)
    back = dict(from_hf(theirs).named_parameters())
    named = dict(ours.named_parameters())
    assert named.keys() <= back.keys()
    assert all(torch.equal(back[n], named[n]) if n in named else not back[n].any() for n in back)
    assert named.keys() == back.keys() or name == "nanogpt-cpu"


REASONS = {
    "gpt3-mini": "GPT2LMHeadModel has band_width 0, not 16; GPTNeoForCausalLM has attention_scale 'none'.*bias_qkv",
    "pangu-alpha-mini": "query_layer False, not True",
    "gopher-mini": "position 'rope', not 'transformer-xl-relative'",
    "chinchilla-mini": "position 'rope', not 'transformer-xl-relative'",
    "lamda-mini": "position 'rope', not 't5-relative'",
    "glm-mini": "category 'causal', not 'prefix'.*norm_placement 'pre', not 'post-deepnorm'",
    "gptlab-cpu": "norm 'layernorm', not 'seed-layernorm'",
    "gptlab-fables": "activation 'swiglu', not 'relu_squared'",
}


@pytest.mark.parametrize("name", REASONS)
def test_no_class(name: str) -> None:
    """An architecture that transformers lacks is a ValueError that says what the nearest classes do otherwise."""
    with pytest.raises(ValueError, match=REASONS[name]):
        to_hf(build(preset(name, **SMALL)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2-mini", dict(position="none")),
        ("gpt2-mini", dict(position="sinusoidal")),
        ("gpt2-mini", dict(bias_lm_head=True)),
        ("gpt2-mini", dict(embedding_scale=2.0)),
        ("gpt2-mini", dict(n_kv_heads=2)),
        ("opt-mini", dict(norm_eps=1e-6)),
        ("bloom-mini", dict(d_ff=500)),
        ("llama-mini", dict(rope_fraction=0.5)),
        ("llama-mini", dict(rope_pairing="rotate-half")),
        ("palm-mini", dict(qk_norm=True)),
        ("t5-mini", dict(logit_scale=0.5)),
        ("t5-mini", dict(tied_embeddings=False)),
        ("palm-mini", dict(d_model=97, n_heads=5, head_dim=8, rope_fraction=0.5)),
    ],
)
def test_no_such_variant(name: str, changes: dict[str, Any]) -> None:
    """A single setting that a class cannot say is refused, and named: nothing is silently left out."""
    with pytest.raises(ValueError, match="transformers has no class for this model") as error:
        family_of(preset(name, **SMALL).but(**changes))
    assert any(key in str(error.value) for key in changes)


@pytest.mark.parametrize("name", SIZES)
def test_any_size(name: str) -> None:
    """At any size a preset has the same class as its miniature, or none: found from the settings alone."""
    try:
        family, there = family_of(preset(name))
    except ValueError:
        known = {n.removesuffix("-mini") for n in NO_CLASS} | {"gptlab"}
        assert any(name.startswith(n) for n in known)
    else:
        assert family in FAMILIES.values()
        ours = preset(name)
        assert there.but(family=ours.family) == ours or name == "nanogpt-cpu"


def test_gpt3_is_gpt_neo_at_heart() -> None:
    """The gpt3 preset's own pattern: with q, k, v biases of 0 and W_q times sqrt(D), it is GPT-Neo."""
    theirs = drawn("gpt-neo, alternating")
    imported = from_hf(theirs)
    config = imported.config.but(attention_scale="1/sqrt(head_dim)", bias_qkv=True)
    ours = build(config).double()
    weights = dict(imported.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(weights.get(name, torch.zeros(())))
            if name.endswith("qkv.weight"):
                parameter[: config.n_heads * config.head_dim] *= config.head_dim**0.5
    shape = ("vocab_size", "context", "n_layers", "d_model", "n_heads", "band_width")
    assert config == preset("gpt3-mini", **{key: getattr(config, key) for key in shape})
    assert off(*logits_of(ours, theirs)) <= 1e-6


def test_transformer_xl_is_xlnets() -> None:
    """Gopher's attention gives what XLNet's relative attention does, causally masked, over a full context."""
    from transformers.models.xlnet.configuration_xlnet import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    from gptlab.model import kernels

    H, D, N = 3, 4, 9
    config = preset("gopher-mini", vocab_size=7, context=N, d_model=H * D, n_heads=H, n_layers=1, d_ff=5)
    seen = []

    def listening(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Any:
        out = kernels.reference(q, k, v, **how)
        seen.append((q, k, v, out[0]))
        return out

    ours = build(config, kernel=listening).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        ours(ids(7, N))
    ((q, k, v, out),) = seen
    core = XLNetRelativeAttention(XLNetConfig(d_model=H * D, n_head=H, d_inner=5, dropout=0.0)).double()
    own = ours.blocks[0].attention.relative
    core.r_w_bias.data = own.content_bias.data.view(H, D)
    core.r_r_bias.data = own.position_bias.data.view(H, D)
    width = torch.arange(0, H * D, 2, dtype=torch.float64)
    angle = torch.arange(N, -N, -1.0, dtype=torch.float64)[:, None] / 10000 ** (width / (H * D))  # distances T … -T+1
    R = torch.cat((angle.sin(), angle.cos()), -1) @ own.weight.detach().T
    first = [x.permute(2, 0, 1, 3) for x in (q, k, v)]  # theirs: (tokens, batch, heads, width)
    mask = torch.triu(torch.ones(N, N, dtype=torch.float64), 1)[:, :, None, None]
    r = R.view(2 * N, 1, H, D).expand(-1, len(q), -1, -1)
    theirs = core.rel_attn_core(*first, r, seg_mat=None, attn_mask=mask)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert off(out.permute(2, 0, 1, 3), theirs.detach()) <= 1e-12


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("t5")])
def test_greedy(name: str) -> None:
    """What transformers generates greedily, with its cache, is what our generate does, token by token."""
    theirs = drawn(name)
    ours = from_hf(theirs)
    prompt = ids(37, 3, batch=1)
    written = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=T - 3, do_sample=False, pad_token_id=0
    )
    config = SampleConfig(tokens=T - 3, temperature=0)
    found = [int(chosen) for chosen, _ in tokens(ours, prompt[0].numpy(), config, n=1, bias={})]
    assert found == written[0, 3:].tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("t5")])
def test_greedy_with_a_source(name: str) -> None:
    """The same of an encoder-decoder, whose source is the prompt: from token 0 on."""
    theirs = drawn(name)
    ours = from_hf(theirs)
    source = ids(37, S, batch=1)
    written = theirs.generate(source, attention_mask=torch.ones_like(source), max_new_tokens=T - 1, do_sample=False)
    config = SampleConfig(tokens=T - 1, temperature=0)
    found = [int(chosen) for chosen, _ in tokens(ours, source[0].numpy(), config, n=1, bias={})]
    assert found == written[0, 1:].tolist()


def test_half_precision_becomes_float32() -> None:
    """bfloat16's and float16's numbers are float32's: the weights arrive exactly, in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        theirs = drawn("gpt2").to(dtype)
        ours = from_hf(theirs)
        assert {p.dtype for p in ours.parameters()} == {torch.float32}
        assert torch.equal(ours.embedding, theirs.transformer.wte.weight.float())


def test_a_copy() -> None:
    """The two models share no memory: training one leaves the other."""
    theirs = drawn("opt")
    ours = from_hf(theirs)
    before = [p.detach().clone() for p in theirs.parameters()]
    again = to_hf(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, theirs.parameters(), strict=True))
    assert any(p.any() for p in again.parameters()) and all(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "tanh"),
        ("gpt-neo, alternating", "attention_layers", ["local", "global", "local", "global"]),
        ("bloom", "apply_residual_connection_post_layernorm", True),
        ("llama", "rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
        ("llama", "hidden_act", "relu"),
        ("palm", "use_qk_norm", True),
        ("t5", "feed_forward_proj", "gated-relu"),
    ],
)
def test_a_variant(name: str, key: str, value: Any) -> None:
    """A variant that computes another function is a ValueError with the setting's name."""
    theirs = drawn(name)
    setattr(theirs.config, key, value)
    with pytest.raises(ValueError, match=key.replace("_", ".")):
        from_hf(theirs)


def test_another_class() -> None:
    """A class that is not in the table is a ValueError that lists the known ones."""
    with pytest.raises(ValueError, match=r"'GPT2Model'.*T5ForConditionalGeneration"):
        from_hf(drawn("gpt2").transformer)


@pytest.mark.parametrize("name", ["gpt2", "t5, gated"])
def test_every_row_is_needed(name: str) -> None:
    """No weight of theirs is read by two rows, none is left, and each decides something: changed, the logits change."""
    theirs = drawn(name)
    ours = from_hf(theirs)
    reference, _ = logits_of(ours, theirs)
    for parameter in theirs.parameters():
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
        changed, expected = logits_of(from_hf(theirs), theirs)
        assert off(changed, expected) <= 1e-6
        assert not torch.allclose(changed, reference, rtol=0, atol=1e-12)
        reference = changed


def test_public_names() -> None:
    """gptlab.from_hf and gptlab.to_hf are these; what they are tested against is transformers 5."""
    assert gptlab.from_hf is from_hf and gptlab.to_hf is to_hf
    assert re.match(r"5\.", transformers.__version__)
