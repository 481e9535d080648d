"""Tiny models of transformers with weights drawn at random, gains and biases too, in float64."""

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs transformers: install the extra hf")

NO_TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
ROPE = dict(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})


def gpt2(**more: Any) -> Any:
    shape = dict(vocab_size=37, n_positions=13, n_embd=12, n_layer=3, n_head=3, n_inner=31)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**NO_TOKENS, **(shape | more)))


def neo(kinds: Any = ([["global", "local"], 2],), **more: Any) -> Any:
    shape = dict(vocab_size=37, max_position_embeddings=13, hidden_size=15, num_layers=4, num_heads=3, window_size=4)
    config = transformers.GPTNeoConfig(attention_types=list(kinds), **NO_TOKENS, **(shape | more))
    return transformers.GPTNeoForCausalLM(config)


def opt(**more: Any) -> Any:
    shape = dict(vocab_size=37, max_position_embeddings=13, hidden_size=12, num_hidden_layers=3, ffn_dim=31)
    shape |= dict(num_attention_heads=3)
    return transformers.OPTForCausalLM(transformers.OPTConfig(**NO_TOKENS, **(shape | more)))


def bloom(**more: Any) -> Any:
    shape = dict(vocab_size=37, hidden_size=30, n_layer=3, n_head=5, seq_length=13)
    return transformers.BloomForCausalLM(transformers.BloomConfig(**NO_TOKENS, **(shape | more)))


def llama(**more: Any) -> Any:
    shape = dict(vocab_size=37, max_position_embeddings=13, hidden_size=24, num_hidden_layers=3, intermediate_size=31)
    shape |= dict(num_attention_heads=6)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**NO_TOKENS, **ROPE, **(shape | more)))


def cohere(**more: Any) -> Any:
    shape = dict(vocab_size=37, max_position_embeddings=13, hidden_size=20, num_hidden_layers=3, intermediate_size=31)
    shape |= dict(num_attention_heads=6, num_key_value_heads=1, head_dim=8, logit_scale=20**-0.5, layer_norm_eps=1e-6)
    return transformers.CohereForCausalLM(transformers.CohereConfig(**NO_TOKENS, **ROPE, **(shape | more)))


def t5(**more: Any) -> Any:
    shape = dict(vocab_size=37, d_model=20, d_kv=6, d_ff=31, num_layers=3, num_decoder_layers=2, num_heads=5)
    shape |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=11, n_positions=13)
    shape |= dict(eos_token_id=None, pad_token_id=0, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**(shape | more)))


MODELS: dict[str, Any] = {
    "gpt2": gpt2,
    "gpt2, 4d, erf": lambda: gpt2(n_inner=None, activation_function="gelu", n_head=4, layer_norm_epsilon=1e-3),
    "gpt2, untied, unscaled": lambda: gpt2(tie_word_embeddings=False, scale_attn_weights=False),
    "gpt-neo, alternating": neo,
    "gpt-neo, odd layers": lambda: neo(([["global", "local"], 1], [["global"], 1]), num_layers=3, intermediate_size=31),
    "gpt-neo, dense": lambda: neo(([["global"], 2],), num_layers=2),
    "opt": opt,
    "opt-350m": lambda: opt(do_layer_norm_before=False, word_embed_proj_dim=7),
    "opt, no final norm": lambda: opt(_remove_final_layer_norm=True),
    "galactica": lambda: opt(enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu"),
    "bloom": bloom,
    "bloom, 7 heads": lambda: bloom(hidden_size=21, n_head=7),
    "bloom, 8 heads": lambda: bloom(hidden_size=16, n_head=8),
    "llama": llama,
    "llama, groups, tied": lambda: llama(num_key_value_heads=2, tie_word_embeddings=True, head_dim=6),
    "llama, biases": lambda: llama(num_key_value_heads=3, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "palm": cohere,
    "palm, groups": lambda: cohere(num_key_value_heads=3, attention_bias=False, head_dim=4),
    "t5": t5,
    "t5, gated": lambda: t5(feed_forward_proj="gated-gelu", num_layers=2),
    "t5, unscaled": lambda: t5(tie_word_embeddings=False, feed_forward_proj="gated-silu"),
}


def drawn(name: str, seed: int = 0) -> Any:
    """A model of MODELS in float64 and evaluation mode, every weight drawn anew from N(0, 0.3)."""
    model = MODELS[name]().double().eval()
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model
