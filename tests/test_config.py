"""The three records: what goes out to TOML and JSON comes back, and what cannot work is one error that says why."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gptlab.config import OWNERS, RECIPES, Config, ModelConfig, SampleConfig, TrainConfig, recipe
from gptlab.model.count import count
from gptlab.model.transformer import Transformer, build
from gptlab.registry import ACTIVATIONS, NORMS, OPTIMIZERS, POSITIONS, RESIDUALS, SCHEDULES, TOKENIZERS

SMALL = dict(vocab_size=11, context=8, n_layers=2, d_model=12, n_heads=3)
COUNTS = st.integers(1, 10**9)
RATES = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)

MODELS = st.builds(
    lambda heads, groups, width, **rest: ModelConfig(
        n_heads=heads * groups, n_kv_heads=heads, d_model=heads * groups * width, **rest
    ),
    heads=st.integers(1, 9),
    groups=st.integers(1, 9),
    width=st.integers(2, 99),  # 1 is no width for seed-layernorm, which is refused
    family=st.text(st.characters(exclude_categories=["Cs"])),
    vocab_size=COUNTS,
    context=COUNTS,
    n_layers=COUNTS,
    head_dim=st.just(0) | COUNTS,
    d_ff=st.just(0) | COUNTS,
    norm=st.sampled_from(list(NORMS)),
    norm_eps=st.floats(0, 1),
    norm_affine=st.sampled_from(["weight+bias", "weight", "none"]),
    final_norm=st.booleans(),
    activation=st.sampled_from(list(ACTIVATIONS)),
    bias_qkv=st.booleans(),
    bias_lm_head=st.booleans(),
    tied_embeddings=st.booleans(),
)
TRAININGS = st.builds(
    TrainConfig,
    corpus=NAMES,
    tokenizer=st.sampled_from(list(TOKENIZERS)),
    vocab_size=st.none() | COUNTS,
    steps=st.none() | COUNTS,
    minutes=st.none() | POSITIVE,
    batch=COUNTS,
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    lr=POSITIVE,
    beta2=RATES,
    decay_all=st.booleans(),
    schedule=st.sampled_from(list(SCHEDULES)),
    clip=st.none() | POSITIVE,
    patience=st.none() | COUNTS,
    prompt=st.text(st.characters(exclude_categories=["Cs"])),
)
SAMPLES = st.builds(
    SampleConfig,
    tokens=st.integers(0, 10**9),
    logit_bias=st.dictionaries(NAMES, st.floats(-1e6, 1e6) | st.just(-math.inf)),
    repetition_penalty=POSITIVE,
    frequency_penalty=st.floats(allow_nan=False, allow_infinity=False),
    temperature=st.floats(0, allow_infinity=False),
    top_k=st.none() | COUNTS,
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    min_p=st.none() | st.floats(0, 1),
    stop=st.lists(NAMES).map(tuple),
    seed=st.integers(0, 2**62),
    window=st.sampled_from(["halves", "slide"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@given(config=MODELS | TRAININGS | SAMPLES)
def test_round_trips(folder: Path, config: Config) -> None:
    """Written to TOML or JSON, alone or as a table among others, and read again, a record is equal to itself."""
    kind, values = type(config), config.to_dict()
    table = kind.__name__.removesuffix("Config").lower()
    for content in (values, {"other": {"x": 1}, table: values}):
        (folder / "c.toml").write_text(tomli_w.dumps(content), encoding="utf-8", newline="")
        (folder / "c.json").write_text(json.dumps(content), encoding="utf-8")
        assert kind.read(folder / "c.toml") == kind.read(folder / "c.json") == kind.read(content) == config
    assert config.but() == config


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    """A recipe keeps its settings when it is saved, or when one other setting is changed: no clipping, too."""
    first = recipe(name)
    assert TrainConfig.from_dict(first.to_dict()) == first
    changed = dataclasses.asdict(first.but(steps=7))
    assert changed == {**dataclasses.asdict(first), "steps": 7}
    assert {k: changed[k] for k in RECIPES[name] if k != "steps"} == {
        k: v for k, v in RECIPES[name].items() if k != "steps"
    }


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """A file that Windows' Notepad saved, with a mark before the first character, is read as any other."""
    path = tmp_path / "c.toml"
    path.write_text(tomli_w.dumps(SMALL), encoding="utf-8-sig")
    assert ModelConfig.read(path) == ModelConfig(**SMALL)


WRONG: list[tuple[type[Config], str, Any]] = [
    *[(ModelConfig, name, 0) for name in ("vocab_size", "context", "n_layers", "d_model", "n_heads")],
    *[(ModelConfig, name, -3) for name in ("n_kv_heads", "head_dim", "d_ff")],
    (ModelConfig, "n_layers", 2.0),
    (ModelConfig, "n_layers", True),
    (ModelConfig, "n_layers", "2"),
    (ModelConfig, "n_layers", None),
    (ModelConfig, "tied_embeddings", 1),
    (ModelConfig, "tied_embeddings", "false"),
    (ModelConfig, "norm_eps", -1e-9),
    (ModelConfig, "norm_eps", math.nan),
    (ModelConfig, "n_kv_heads", 2),
    (ModelConfig, "norm", "layer norm"),
    (ModelConfig, "norm", ["layernorm"]),
    (ModelConfig, "norm_affine", "bias"),
    (ModelConfig, "norm_placement", "sandwich"),
    (ModelConfig, "position", "gps"),
    (ModelConfig, "activation", "swish9"),
    (TrainConfig, "batch", 0),
    (TrainConfig, "accumulate", 3),
    (TrainConfig, "steps", 0),
    (TrainConfig, "minutes", -1.5),
    (TrainConfig, "lr", -0.5),
    (TrainConfig, "lr", math.nan),
    (TrainConfig, "lr", "fast"),
    (TrainConfig, "beta1", 1.0),
    (TrainConfig, "dropout", 1.0),
    (TrainConfig, "final_lr", 1.5),
    (TrainConfig, "clip", 0.0),
    (TrainConfig, "tokenizer", "word"),
    (TrainConfig, "optimizer", "adamv"),
    (TrainConfig, "schedule", "cosin"),
    (SampleConfig, "tokens", -1),
    (SampleConfig, "temperature", -0.1),
    (SampleConfig, "temperature", math.nan),
    (SampleConfig, "repetition_penalty", 0.0),
    (SampleConfig, "frequency_penalty", math.nan),
    (SampleConfig, "presence_penalty", math.inf),
    (SampleConfig, "top_k", 0),
    (SampleConfig, "top_p", 0.0),
    (SampleConfig, "top_p", 1.1),
    (SampleConfig, "min_p", -0.1),
    (SampleConfig, "stop", "END"),
    (SampleConfig, "stop", ("a", "")),
    (SampleConfig, "stop", (1,)),
    (SampleConfig, "logit_bias", {"a": "much"}),
    (SampleConfig, "logit_bias", {"a": math.inf}),
    (SampleConfig, "window", "half"),
]


@pytest.mark.parametrize(("kind", "field", "value"), WRONG, ids=[f"{f}={v}" for _, f, v in WRONG])
def test_a_wrong_value(kind: type[Config], field: str, value: Any) -> None:
    """A value that cannot work is a ValueError of one line that names the field and the value."""
    values = {**SMALL, field: value} if kind is ModelConfig else {field: value}
    with pytest.raises(ValueError) as error:
        kind.from_dict(values)
    message = str(error.value)
    shown = next(iter(value)) if isinstance(value, dict | tuple) and value != ("a", "") else value
    words = {"norm_placement": "norm placement"}.get(field, field)
    assert words in message and str(shown) in message and "\n" not in message


def test_a_width_that_the_heads_do_not_divide() -> None:
    """d_model not divisible by n_heads: the error has both numbers, and its advice works; head_dim also settles it."""
    for width, heads, advice in ((10, 3, 9), (2, 3, 3)):
        with pytest.raises(ValueError, match=rf"d_model {width} .* n_heads {heads}.* d_model {advice}\b"):
            ModelConfig(**{**SMALL, "d_model": width, "n_heads": heads})
        ModelConfig(**{**SMALL, "d_model": advice, "n_heads": heads})
    assert ModelConfig(**{**SMALL, "d_model": 10, "head_dim": 5}).head_dim == 5


def test_a_width_that_was_given_stays() -> None:
    """A head's width that follows from no other is kept when something else changes; one that follows, follows."""
    given = ModelConfig(**{**SMALL, "d_model": 14, "head_dim": 4})
    assert given.but(n_layers=5).head_dim == given.but(d_model=20).head_dim == 4
    assert ModelConfig(**SMALL).but(d_model=24).head_dim == 8


OTHER_VALUES = {
    "residual_alpha": 2.5,
    "position_offset": 2,
    "rope_base": 500.0,
    "rope_fraction": 0.5,
    "rope_pairing": "rotate-half",
    "relative_buckets": 8,
    "relative_max_distance": 77,
}


@pytest.mark.parametrize("name", list(OWNERS))
def test_an_option_of_another_part(name: str) -> None:
    """An option that only another part knows names that part and the model's own; with its part it is right."""
    owner, part = OWNERS[name]
    others = {"norm_placement": RESIDUALS, "position": POSITIONS}[owner]
    shape = dict(vocab_size=11, context=8, n_layers=2, d_model=24, n_heads=3)
    for other in others:
        values = {**shape, owner: other, name: OTHER_VALUES[name]}
        if other == part:
            assert getattr(ModelConfig(**values), name) == OTHER_VALUES[name]
            continue
        with pytest.raises(ValueError) as error:
            ModelConfig(**values)
        assert all(word in str(error.value) for word in (name, owner, repr(part), repr(other)))


# (fields, what the error must say, changes that settle it)
IMPOSSIBLE: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (dict(category="encoder-decoder"), r"n_encoder_layers is 0 .*'encoder-decoder'", dict(n_encoder_layers=1)),
    (dict(n_encoder_layers=2), r"n_encoder_layers is 2 .*'causal'", dict(category="encoder-decoder")),
    (dict(category="prefix", n_encoder_layers=2), r"n_encoder_layers is 2 .*'prefix'", dict(n_encoder_layers=0)),
    (dict(category="prefix", position="transformer-xl-relative"), r"positions ahead.*'prefix'", dict(position="rope")),
    (
        dict(category="encoder-decoder", n_encoder_layers=1, query_layer=True),
        r"query_layer.*encoder-decoder",
        dict(query_layer=False),
    ),
    (dict(position="t5-relative", relative_buckets=3), r"relative_buckets.* 4, not 3", dict(relative_buckets=4)),
    (
        dict(position="t5-relative", relative_max_distance=16),
        r"relative_max_distance.* more than 16, not 16",
        dict(relative_max_distance=17),
    ),
    (dict(position="rope", head_dim=5), r"head_dim 5 \* rope_fraction 1 is 5", dict(head_dim=6)),
    (dict(position="rope", rope_fraction=0.25), r"head_dim 4 \* rope_fraction 0.25 is 1", dict(rope_fraction=0.5)),
    (dict(position="rope", rope_fraction=1.5), r"rope_fraction 1.5", dict(rope_fraction=1.0)),
    (dict(band_width=-1), r"band_width.* 0 or more, not -1", dict(band_width=1)),
    (dict(position_offset=-2), r"position_offset.* 0 or more, not -2", dict(position_offset=2)),
    (dict(norm="seed-layernorm", d_model=1, n_heads=1), r"d_model.* 2 for seed-layernorm.*not 1", dict(d_model=2)),
    (
        dict(norm="seed-layernorm", qk_norm=True, head_dim=1),
        r"head_dim.* 2 for seed-layernorm.*not 1",
        dict(head_dim=2),
    ),
    *[
        (dict(norm_placement="post-deepnorm", **{name: value}), rf"{name}.*above 0, not {value}", {name: 0.5})
        for name, value in (("logit_scale", 0.0), ("embedding_scale", math.nan), ("residual_alpha", -1.5))
    ],
    (dict(attention_scale="1/head_dim"), r"attention_scale '1/head_dim'.*none", dict(attention_scale="none")),
    (dict(category="encoder"), r"category 'encoder'.*encoder-decoder", dict(category="causal")),
    (
        dict(rope_pairing="halves", position="rope"),
        r"rope_pairing 'halves'.*rotate-half",
        dict(rope_pairing="interleaved"),
    ),
]


@pytest.mark.parametrize(("fields", "message", "settled"), IMPOSSIBLE, ids=[m for _, m, _ in IMPOSSIBLE])
def test_parts_that_do_not_go_together(fields: dict[str, Any], message: str, settled: dict[str, Any]) -> None:
    """Parts and sizes that cannot be joined are one line with their numbers; what it advises builds a model."""
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**{**SMALL, **fields})
    assert "\n" not in str(error.value)
    build(ModelConfig(**{**SMALL, **fields, **settled}))


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (ModelConfig, "n_layer", "n_layers"),
        (TrainConfig, "learning_rate", ""),
        (TrainConfig, "warm_up", "warmup"),
        (SampleConfig, "temprature", "temperature"),
    ],
)
def test_an_unknown_field(kind: type[Config], wrong: str, right: str) -> None:
    """A field that does not exist is named, with the close one if there is one, and the known ones."""
    with pytest.raises(ValueError) as error:
        kind.from_dict({**(SMALL if kind is ModelConfig else {}), wrong: 1})
    message = str(error.value)
    assert repr(wrong) in message and all(f.name in message for f in dataclasses.fields(kind))  # type: ignore[arg-type]
    assert f"Did you mean {right!r}?" in message if right else True


def test_a_missing_field() -> None:
    """A table that lacks what has no default is a ValueError that names all of it, in every dialect."""
    with pytest.raises(ValueError, match="ModelConfig needs context, n_heads"):
        ModelConfig.from_dict(dict(vocab_size=5, n_layers=1, d_model=4))
    for key in ("n_positions", "max_len", "block_size"):
        with pytest.raises(ValueError, match="needs vocab_size"):
            ModelConfig.read({key: 8, "n_embd": 4, "n_head": 2, "n_layer": 1})


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.toml", b"a = "), ("c.json", b"{"), ("c.json", b"[1]"), ("c.toml", b"a = '\xff'"), ("c.json", b'"\xff"')],
)
def test_a_broken_file(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that is no table of settings is a ValueError that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        TrainConfig.read(tmp_path / name)


def test_frozen() -> None:
    """A record does not change: neither by assignment nor through the dictionary that it was made from."""
    bias = {"a": 1.0}
    config = SampleConfig(logit_bias=bias)
    bias["a"] = 2.0
    assert config.logit_bias == {"a": 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]


# Other projects' files


def test_the_old_gptlab(shared: Path) -> None:
    """The old GPTLab's config.json is the model of 207,936 parameters, whatever its `bias` says."""
    path = shared / "reference" / "gptlab-cpu" / "config.json"
    config = ModelConfig.read(path)
    assert (config.n_layers, config.n_heads, config.d_model, config.context, config.vocab_size) == (4, 4, 64, 32, 115)
    assert count(config).total == 207_936
    values = json.loads(path.read_text(encoding="utf-8"))
    assert ModelConfig.read({**values, "bias": True}) == config


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(bias: bool) -> None:
    """nanoGPT's config: `bias` rules every Linear and LayerNorm, GELU is exact, the head is tied."""
    theirs = dict(block_size=16, vocab_size=65, n_layer=2, n_head=2, n_embd=8, dropout=0.2, bias=bias)
    config = ModelConfig.read(theirs)
    names = [name for name, _ in Transformer(config).named_parameters() if "bias" in name]
    # Per layer qkv, out, up, down and two norms; and the final norm.
    assert len(names) == (2 * 6 + 1 if bias else 0)
    assert (config.activation, config.norm, config.tied_embeddings, config.context) == ("gelu", "layernorm", True, 16)
    with pytest.raises(ValueError, match="block_siz"):
        ModelConfig.read({**theirs, "block_siz": 4})


HUGGING_FACE = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_inner": None,
    "n_layer": 12,
    "n_positions": 1024,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.1,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "transformers_version": "4.57.6",
    "use_cache": True,
    "vocab_size": 50257,
}


def test_hugging_face(tmp_path: Path) -> None:
    """A Hugging Face GPT-2 config.json is GPT-2 of 124,439,808 parameters."""
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE, indent=2), encoding="utf-8")
    config = ModelConfig.read(tmp_path / "config.json")
    assert count(config).total == 124_439_808
    assert (config.activation, config.norm_eps, config.d_ff) == ("gelu_tanh", 1e-5, 3072)
    other = ModelConfig.read({**HUGGING_FACE, "n_inner": 100, "activation_function": "relu", "layer_norm_epsilon": 0.1})
    assert (other.d_ff, other.activation, other.norm_eps) == (100, "relu", 0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
        ("add_cross_attention", True),
        ("model_type", "gptj"),
        ("activation_function", "silu"),
    ],
)
def test_hugging_face_variants(key: str, value: Any) -> None:
    """What gptlab would build as another function is refused, with its value, and not read as plain GPT-2."""
    with pytest.raises(ValueError, match=str(value)):
        ModelConfig.read({**HUGGING_FACE, key: value})


def test_emb_dim() -> None:
    """The `emb_dim` dialect: the head has a matrix of its own (163,009,536), and tied it is 38,597,376 fewer."""
    theirs = dict(
        vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1, qkv_bias=False
    )
    config = ModelConfig.read(theirs)
    assert count(config).total == 163_009_536
    assert count(config.but(tied_embeddings=True)).total == 124_412_160
    assert count(ModelConfig.read({**theirs, "qkv_bias": True})).total == 163_009_536 + 12 * 3 * 768
