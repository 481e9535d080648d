"""Counts of parameters: of the parts, and of the whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig
from gptlab.model.count import count
from gptlab.model.transformer import Transformer
from tests.model.plain import CONFIGS, GATES
from tests.test_config import MODELS

SIZES = st.integers(1, 9)


@settings(max_examples=25)
@given(config=MODELS, sizes=st.tuples(SIZES, SIZES, SIZES), head_dim=SIZES, d_ff=SIZES)
def test_the_parts_sum_up(config: ModelConfig, sizes: tuple[int, int, int], head_dim: int, d_ff: int) -> None:
    """Each part is what the shapes say, and together they are the parameters of the model that is built."""
    V, N, L = sizes
    config = config.but(vocab_size=V, context=N, n_layers=L, head_dim=head_dim, d_ff=d_ff)
    C, H, K, D = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim
    counted = count(config)
    assert counted.total == sum(p.numel() for p in Transformer(config).parameters())
    vectors = {"weight+bias": 2, "weight": 1, "none": 0}[config.norm_affine]
    qkv = (H + 2 * K) * D * (C + config.bias_qkv)
    assert counted.embedding == V * C
    assert counted.position == N * C
    assert counted.attention == L * (qkv + H * D * C + C)
    widths = 2 if config.activation in GATES else 1  # of what the MLP's first matrix gives, in d_ff
    assert counted.mlp == L * ((widths + 1) * C * d_ff + (widths * d_ff + C) * config.bias_ffn)
    assert counted.norm == (2 * L + config.final_norm) * vectors * C
    assert counted.head == (0 if config.tied_embeddings else V * C) + V * config.bias_lm_head
    assert counted.non_embedding == counted.attention + counted.mlp + counted.norm


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_part_has_its_place(config: ModelConfig) -> None:
    """Every parameter is of exactly one part, whatever a model is made of, and together they are all."""
    counted = count(config)
    assert counted.total == sum(p.numel() for p in Transformer(config).parameters())
    C, E = config.d_model, config.d_embedding
    assert counted.embedding == config.vocab_size * E + (2 * E * C if E != C else 0)
    stacks = 1 + (config.n_encoder_layers > 0)
    learned = stacks * (config.context + config.position_offset) * C if config.position == "learned" else 0
    assert counted.position == learned + (config.context * C if config.query_layer else 0)


def test_any_size() -> None:
    """A model far larger than any memory is counted: 96 layers of GPT-3's width."""
    config = ModelConfig(vocab_size=50257, context=2048, n_layers=96, d_model=12288, n_heads=96)
    assert 174e9 < count(config).total < 176e9
