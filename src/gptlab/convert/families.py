"""Models of Hugging Face's transformers, as tables: a class there is a row of settings and of weights here.

Every table is read in both directions, so that what is imported can be exported again. A weight's row is (their names,
our name, operation), {i} being a layer; a row counts where our model has such a weight.

H heads, K key and value heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.registry import unknown


class Operation(NamedTuple):
    """Their weights -> ours, and back; a bias is treated as the weight whose rows it belongs to."""

    join: Callable[[ModelConfig, list[Tensor]], Tensor]
    part: Callable[[ModelConfig, Tensor], list[Tensor]]


def sections(config: ModelConfig) -> list[int]:
    """Rows of q, k and v in our one matrix."""
    return [heads * config.head_dim for heads in (config.n_heads, config.n_kv_heads, config.n_kv_heads)]


def swapped(x: Tensor, *shape: int) -> Tensor:
    """Rows that count through (a, b, c) counted through (a, c, b) instead."""
    return x.unflatten(0, shape).transpose(1, 2).flatten(0, 2)


def paired(config: ModelConfig, parts: list[Tensor]) -> Tensor:
    q, k, v = parts
    half = config.head_dim // 2
    return torch.cat([swapped(q, config.n_heads, 2, half), swapped(k, config.n_kv_heads, 2, half), v])


def halved(config: ModelConfig, x: Tensor) -> list[Tensor]:
    q, k, v = x.split(sections(config))
    half = config.head_dim // 2
    return [swapped(q, config.n_heads, half, 2), swapped(k, config.n_kv_heads, half, 2), v]


SAME = Operation(lambda c, parts: parts[0], lambda c, x: [x])
# GPT-2's Conv1D holds its matrix as (inputs, outputs).
TRANSPOSED = Operation(lambda c, parts: parts[0].t(), lambda c, x: [x.t()])
QKV = Operation(lambda c, parts: torch.cat(parts), lambda c, x: list(x.split(sections(c))))
# Their RoPE turns the pair (n, n + D/2), ours, as the papers', (2n, 2n + 1): the same function of other rows.
TURNED_QKV = Operation(paired, halved)
# BLOOM's rows are head after head, each with its q, k and v.
HEADS = Operation(
    lambda c, parts: parts[0].unflatten(0, (c.n_heads, 3, c.head_dim)).transpose(0, 1).flatten(0, 2),
    lambda c, x: [x.unflatten(0, (3, c.n_heads, c.head_dim)).transpose(0, 1).flatten(0, 2)],
)
GATE_AND_VALUE = Operation(lambda c, parts: torch.cat(parts), lambda c, x: list(x.chunk(2)))

Row = tuple[tuple[str, ...], str, Operation]


def rows(theirs: str, ours: str, operation: Operation = SAME, parts: tuple[str, ...] = ("",)) -> list[Row]:
    """The rows of a weight and of its bias; `parts` fill the % in their names."""
    return [
        (tuple(f"{theirs.replace('%', part)}.{kind}" for part in parts), f"{ours}.{kind}", operation)
        for kind in ("weight", "bias")
    ]


def table(name: str, ours: str = "embedding") -> Row:
    return (f"{name}.weight",), ours, SAME


HEAD = table("lm_head", "head")
Q_K_V = ("q", "k", "v")
GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_new": "geglu_tanh", "gelu_pytorch_tanh": "geglu_tanh"}
PLAIN = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
RMS: dict[str, Any] = dict(norm="rmsnorm", norm_affine="weight", norm_eps=1e-6)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One of their classes; the order of the tables is of no importance."""

    config: str  # the names of the classes in transformers
    model: str
    prefix: str  # of the weights; a file of the model without its head lacks it
    parts: dict[str, Any]  # fields of ours that every such model has
    settings: dict[str, tuple[str, ...]]  # theirs -> our fields of the same value
    choices: dict[str, tuple[str, dict[Any, Any]]]  # theirs -> our field, and our words for theirs
    required: dict[str, Any]  # theirs, of which another value would be another function
    read: Callable[[Any], dict[str, Any]] = lambda theirs: {}  # whatever else their config says, in our fields
    write: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}  # the inverse
    weights: Callable[[ModelConfig], list[Row]]
    copies: tuple[str, ...] = ("lm_head.weight",)  # what repeats the token table
    derived: tuple[str, ...] = ()  # endings of what is computed, and only old files hold

    def ours(self, theirs: Any) -> ModelConfig:
        """Their config in our terms; ValueError for a variant that we do not build."""
        for key, value in self.required.items():
            if getattr(theirs, key, value) != value:
                found = getattr(theirs, key)
                raise ValueError(f"{key} = {found!r} is a variant of {self.model} that gptlab does not build")
        values = dict(self.parts)
        for key, fields in self.settings.items():
            if (value := getattr(theirs, key, None)) is not None:
                values |= dict.fromkeys(fields, value)
        for key, (name, words) in self.choices.items():
            if (value := getattr(theirs, key)) not in words:
                raise unknown(f"{key} of {self.model}", value, map(str, words))
            values[name] = words[value]
        return ModelConfig(**values | self.read(theirs))

    def theirs(self, config: ModelConfig) -> dict[str, Any]:
        """The settings of their config that come nearest to ours."""
        values = {key: getattr(config, fields[0]) for key, fields in self.settings.items()}
        for key, (name, words) in self.choices.items():
            values[key] = next((w for w, ours in words.items() if ours == getattr(config, name)), next(iter(words)))
        nothing = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # what tokens mean is not ours to say
        return {**nothing, **values, **self.required, **self.write(config)}


def alternating(n_layers: int) -> list[str]:
    return ["local" if layer % 2 else "global" for layer in range(n_layers)]


def neo_band(theirs: Any) -> dict[str, Any]:
    kinds = list(theirs.attention_layers)
    if "local" not in kinds:
        return {"band_width": 0}
    if kinds != alternating(len(kinds)):
        raise ValueError(f"attention layers {kinds} do not alternate, global first, as gptlab's do")
    return {"band_width": theirs.window_size}


def neo_pattern(config: ModelConfig) -> dict[str, Any]:
    kinds = alternating(config.n_layers) if config.band_width else ["global"] * config.n_layers
    return {"attention_types": [[[kind], 1] for kind in kinds], "window_size": config.band_width or 256}


def opt_rest(theirs: Any) -> dict[str, Any]:
    bare = not theirs.layer_norm_elementwise_affine
    before = theirs.do_layer_norm_before
    return {"family": "galactica" if bare else "opt", "final_norm": before and not theirs._remove_final_layer_norm}


def rope(theirs: Any) -> dict[str, Any]:
    said = theirs.rope_parameters
    if said.get("rope_type", "default") != "default" or said.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"rope_parameters = {said} are a variant that gptlab does not build")
    return {"rope_base": float(said["rope_theta"])}


def to_rope(config: ModelConfig) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}}


def t5_stack(theirs: str, ours: str, gated: bool) -> list[Row]:
    """The rows of T5's encoder or decoder; a decoder's second layer of three looks at the encoder."""
    block, blocks = f"{theirs}.block.{{i}}.layer", f"{ours}blocks.{{i}}"
    cross = theirs == "decoder"
    last = f"{block}.{1 + cross}"
    up = (
        rows(f"{last}.DenseReluDense.wi_%", f"{blocks}.mlp.up", GATE_AND_VALUE, ("0", "1"))
        if gated
        else rows(f"{last}.DenseReluDense.wi", f"{blocks}.mlp.up")
    )
    return [
        table(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{ours}position.buckets"),
        *rows(f"{block}.0.layer_norm", f"{blocks}.residual.norms.0"),
        *rows(f"{block}.0.SelfAttention.%", f"{blocks}.attention.qkv", QKV, Q_K_V),
        *rows(f"{block}.0.SelfAttention.o", f"{blocks}.attention.out"),
        *(rows(f"{block}.1.layer_norm", f"{blocks}.residual.norms.1") if cross else []),
        *(rows(f"{block}.1.EncDecAttention.%", f"{blocks}.cross.qkv", QKV, Q_K_V) if cross else []),
        *(rows(f"{block}.1.EncDecAttention.o", f"{blocks}.cross.out") if cross else []),
        *rows(f"{last}.layer_norm", f"{blocks}.residual.norms.{1 + cross}"),
        *up,
        *rows(f"{last}.DenseReluDense.wo", f"{blocks}.mlp.down"),
        *rows(f"{theirs}.final_layer_norm", f"{ours}norm"),
    ]


def t5_weights(config: ModelConfig) -> list[Row]:
    gated = config.activation in GATED.values()
    return [table("shared"), HEAD, *t5_stack("encoder", "encoder.", gated), *t5_stack("decoder", "", gated)]


GPT2_WEIGHTS = [
    table("transformer.wte"),
    table("transformer.wpe", "position.weight"),
    *rows("transformer.h.{i}.ln_1", "blocks.{i}.residual.norms.0"),
    *rows("transformer.h.{i}.attn.c_attn", "blocks.{i}.attention.qkv", TRANSPOSED),
    *rows("transformer.h.{i}.attn.c_proj", "blocks.{i}.attention.out", TRANSPOSED),
    *rows("transformer.h.{i}.ln_2", "blocks.{i}.residual.norms.1"),
    *rows("transformer.h.{i}.mlp.c_fc", "blocks.{i}.mlp.up", TRANSPOSED),
    *rows("transformer.h.{i}.mlp.c_proj", "blocks.{i}.mlp.down", TRANSPOSED),
    *rows("transformer.ln_f", "norm"),
    HEAD,
]
NEO_WEIGHTS = [
    table("transformer.wte"),
    table("transformer.wpe", "position.weight"),
    *rows("transformer.h.{i}.ln_1", "blocks.{i}.residual.norms.0"),
    *rows("transformer.h.{i}.attn.attention.%_proj", "blocks.{i}.attention.qkv", QKV, Q_K_V),
    *rows("transformer.h.{i}.attn.attention.out_proj", "blocks.{i}.attention.out"),
    *rows("transformer.h.{i}.ln_2", "blocks.{i}.residual.norms.1"),
    *rows("transformer.h.{i}.mlp.c_fc", "blocks.{i}.mlp.up"),
    *rows("transformer.h.{i}.mlp.c_proj", "blocks.{i}.mlp.down"),
    *rows("transformer.ln_f", "norm"),
    HEAD,
]
OPT_WEIGHTS = [
    table("model.decoder.embed_tokens"),
    table("model.decoder.embed_positions", "position.weight"),
    *rows("model.decoder.project_in", "embedding_in"),
    *rows("model.decoder.project_out", "embedding_out"),
    *rows("model.decoder.layers.{i}.self_attn_layer_norm", "blocks.{i}.residual.norms.0"),
    *rows("model.decoder.layers.{i}.self_attn.%_proj", "blocks.{i}.attention.qkv", QKV, Q_K_V),
    *rows("model.decoder.layers.{i}.self_attn.out_proj", "blocks.{i}.attention.out"),
    *rows("model.decoder.layers.{i}.final_layer_norm", "blocks.{i}.residual.norms.1"),
    *rows("model.decoder.layers.{i}.fc1", "blocks.{i}.mlp.up"),
    *rows("model.decoder.layers.{i}.fc2", "blocks.{i}.mlp.down"),
    *rows("model.decoder.final_layer_norm", "norm"),
    HEAD,
]
BLOOM_WEIGHTS = [
    table("transformer.word_embeddings"),
    *rows("transformer.word_embeddings_layernorm", "embedding_norm"),
    *rows("transformer.h.{i}.input_layernorm", "blocks.{i}.residual.norms.0"),
    *rows("transformer.h.{i}.self_attention.query_key_value", "blocks.{i}.attention.qkv", HEADS),
    *rows("transformer.h.{i}.self_attention.dense", "blocks.{i}.attention.out"),
    *rows("transformer.h.{i}.post_attention_layernorm", "blocks.{i}.residual.norms.1"),
    *rows("transformer.h.{i}.mlp.dense_h_to_4h", "blocks.{i}.mlp.up"),
    *rows("transformer.h.{i}.mlp.dense_4h_to_h", "blocks.{i}.mlp.down"),
    *rows("transformer.ln_f", "norm"),
    HEAD,
]


def llama_weights(qkv: Operation) -> list[Row]:
    return [
        table("model.embed_tokens"),
        *rows("model.layers.{i}.input_layernorm", "blocks.{i}.residual.norms.0"),
        *rows("model.layers.{i}.self_attn.%_proj", "blocks.{i}.attention.qkv", qkv, Q_K_V),
        *rows("model.layers.{i}.self_attn.o_proj", "blocks.{i}.attention.out"),
        *rows("model.layers.{i}.post_attention_layernorm", "blocks.{i}.residual.norms.1"),
        *rows("model.layers.{i}.mlp.%_proj", "blocks.{i}.mlp.up", GATE_AND_VALUE, ("gate", "up")),
        *rows("model.layers.{i}.mlp.down_proj", "blocks.{i}.mlp.down"),
        *rows("model.norm", "norm"),
        HEAD,
    ]


WIDTHS: dict[str, tuple[str, ...]] = {"vocab_size": ("vocab_size",), "hidden_size": ("d_model",)}
LLAMA_WIDTHS: dict[str, tuple[str, ...]] = WIDTHS | {
    "num_hidden_layers": ("n_layers",),
    "num_attention_heads": ("n_heads",),
    "num_key_value_heads": ("n_kv_heads",),
    "head_dim": ("head_dim",),
    "intermediate_size": ("d_ff",),
    "max_position_embeddings": ("context",),
    "tie_word_embeddings": ("tied_embeddings",),
}

# By model_type, as config.json says it.
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config="GPT2Config",
        model="GPT2LMHeadModel",
        prefix="transformer.",
        parts=dict(family="gpt2"),
        settings={
            "vocab_size": ("vocab_size",),
            "n_positions": ("context",),
            "n_embd": ("d_model",),
            "n_layer": ("n_layers",),
            "n_head": ("n_heads",),
            "n_inner": ("d_ff",),
            "layer_norm_epsilon": ("norm_eps",),
            "tie_word_embeddings": ("tied_embeddings",),
        },
        choices={
            "activation_function": ("activation", PLAIN),
            "scale_attn_weights": ("attention_scale", {True: "1/sqrt(head_dim)", False: "none"}),
        },
        required=dict(scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
        weights=lambda config: GPT2_WEIGHTS,
        derived=(".attn.bias", ".attn.masked_bias"),
    ),
    # GPT-3's dense and banded layers in turn; scores are not scaled, and q, k and v have no biases.
    "gpt_neo": Family(
        config="GPTNeoConfig",
        model="GPTNeoForCausalLM",
        prefix="transformer.",
        parts=dict(family="gpt3", bias_qkv=False, attention_scale="none"),
        settings=WIDTHS
        | {
            "max_position_embeddings": ("context",),
            "num_layers": ("n_layers",),
            "num_heads": ("n_heads",),
            "intermediate_size": ("d_ff",),
            "layer_norm_epsilon": ("norm_eps",),
            "tie_word_embeddings": ("tied_embeddings",),
        },
        choices={"activation_function": ("activation", PLAIN)},
        required={},
        read=neo_band,
        write=neo_pattern,
        weights=lambda config: NEO_WEIGHTS,
        derived=(".attn.attention.bias", ".attn.attention.masked_bias"),
    ),
    "opt": Family(
        config="OPTConfig",
        model="OPTForCausalLM",
        prefix="model.",
        parts=dict(position_offset=2),
        settings=WIDTHS
        | {
            "max_position_embeddings": ("context",),
            "num_hidden_layers": ("n_layers",),
            "num_attention_heads": ("n_heads",),
            "ffn_dim": ("d_ff",),
            "word_embed_proj_dim": ("d_embedding",),
            "enable_bias": ("bias_qkv", "bias_attn_out", "bias_ffn"),
            "tie_word_embeddings": ("tied_embeddings",),
        },
        choices={
            "activation_function": ("activation", PLAIN),
            "do_layer_norm_before": ("norm_placement", {True: "pre", False: "post"}),
            "layer_norm_elementwise_affine": ("norm_affine", {True: "weight+bias", False: "none"}),
        },
        required={},
        read=opt_rest,
        write=lambda config: {"_remove_final_layer_norm": config.norm_placement == "pre" and not config.final_norm},
        weights=lambda config: OPT_WEIGHTS,
        derived=(".decoder.version",),
    ),
    "bloom": Family(
        config="BloomConfig",
        model="BloomForCausalLM",
        prefix="transformer.",
        parts=dict(family="bloom", position="alibi", activation="gelu_tanh", embedding_norm=True),
        settings=WIDTHS
        | {
            "n_layer": ("n_layers",),
            "n_head": ("n_heads",),
            "layer_norm_epsilon": ("norm_eps",),
            "tie_word_embeddings": ("tied_embeddings",),
        },
        choices={},
        required=dict(apply_residual_connection_post_layernorm=False),
        # ALiBi has no table of positions: the context is what it was trained with.
        read=lambda theirs: {"context": getattr(theirs, "seq_length", 2048)},
        write=lambda config: {"seq_length": config.context},
        weights=lambda config: BLOOM_WEIGHTS,
    ),
    "llama": Family(
        config="LlamaConfig",
        model="LlamaForCausalLM",
        prefix="model.",
        parts=RMS | dict(family="llama", position="rope"),
        settings=LLAMA_WIDTHS
        | {
            "rms_norm_eps": ("norm_eps",),
            "attention_bias": ("bias_qkv", "bias_attn_out"),
            "mlp_bias": ("bias_ffn",),
        },
        choices={"hidden_act": ("activation", GATED)},
        required={},
        read=rope,
        write=to_rope,
        weights=lambda config: llama_weights(TURNED_QKV),
        derived=(".rotary_emb.inv_freq",),
    ),
    # PaLM's equations: parallel branches, norms without biases, neighbours paired.
    "cohere": Family(
        config="CohereConfig",
        model="CohereForCausalLM",
        prefix="model.",
        parts=dict(family="palm", norm_affine="weight", norm_placement="parallel", position="rope", bias_ffn=False),
        settings=LLAMA_WIDTHS
        | {
            "layer_norm_eps": ("norm_eps",),
            "attention_bias": ("bias_qkv", "bias_attn_out"),
            "logit_scale": ("logit_scale",),
        },
        choices={"hidden_act": ("activation", GATED)},
        required=dict(use_qk_norm=False),
        read=rope,
        write=to_rope,
        weights=lambda config: llama_weights(QKV),
        derived=(".rotary_emb.inv_freq",),
    ),
    "t5": Family(
        config="T5Config",
        model="T5ForConditionalGeneration",
        prefix="",
        parts=RMS
        | dict(family="t5", category="encoder-decoder", position="t5-relative", attention_scale="none")
        | dict.fromkeys(("bias_qkv", "bias_attn_out", "bias_ffn"), False),
        settings={
            "vocab_size": ("vocab_size",),
            "d_model": ("d_model",),
            "d_kv": ("head_dim",),
            "d_ff": ("d_ff",),
            "num_layers": ("n_encoder_layers",),
            "num_decoder_layers": ("n_layers",),
            "num_heads": ("n_heads",),
            "relative_attention_num_buckets": ("relative_buckets",),
            "relative_attention_max_distance": ("relative_max_distance",),
            "layer_norm_epsilon": ("norm_eps",),
        },
        choices={
            "feed_forward_proj": (
                "activation",
                {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh"}
                # Their "gated-gelu" is the tanh form, for the sake of old files.
                | {"gated-gelu": "geglu_tanh", "gated-silu": "swiglu"},
            )
        },
        required={},
        read=lambda theirs: {
            "context": getattr(theirs, "n_positions", 512),
            "logit_scale": theirs.d_model**-0.5 if theirs.scale_decoder_outputs else 1.0,
            "bridge": (start,) if (start := getattr(theirs, "decoder_start_token_id", 0)) else (),
        },
        # tie_word_embeddings means the factor there: the table stays tied.
        write=lambda config: {
            "n_positions": config.context,
            "tie_word_embeddings": config.logit_scale != 1,
            "pad_token_id": 0,
            "decoder_start_token_id": config.bridge[0] if config.bridge else 0,
        },
        weights=t5_weights,
        copies=("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        derived=(".EncDecAttention.relative_attention_bias.weight",),
    ),
}
