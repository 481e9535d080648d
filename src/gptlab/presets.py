"""Models by name: a family (which parts, with its source) times a size (a line each). No torch here.

A new model is an entry of FAMILIES, a new size a line of SIZES.
"""

from typing import Any

from gptlab.config import ModelConfig
from gptlab.registry import unknown

FAMILIES: dict[str, dict[str, Any]] = {
    # The old GPTLab (github wmelo52/GPTLab, nanoGPT.py): biases on q, k and v only, and its own LayerNorm.
    "nanogpt-seed": dict(norm="seed-layernorm", activation="gelu_tanh", bias_attn_out=False, bias_ffn=False),
    # github karpathy/nanoGPT, config/train_shakespeare_char.py and model.py: GPT-2 without biases, erf GELU.
    "nanogpt": dict(activation="gelu", norm_affine="weight", bias_qkv=False, bias_attn_out=False, bias_ffn=False),
    # Radford et al. 2019; github openai/gpt-2, src/model.py.
    "gpt2": dict(activation="gelu_tanh"),
}

#          name             family          layers  width  heads  context  vocabulary
SIZES: dict[str, tuple[str, int, int, int, int, int]] = {
    "gptlab-cpu": ("nanogpt-seed", 4, 64, 4, 32, 115),
    "gptlab-gpu": ("nanogpt-seed", 6, 384, 6, 64, 115),
    "nanogpt-cpu": ("nanogpt", 4, 128, 4, 64, 65),
    "gpt2-124m": ("gpt2", 12, 768, 12, 1024, 50257),
    "gpt2-355m": ("gpt2", 24, 1024, 16, 1024, 50257),
    "gpt2-774m": ("gpt2", 36, 1280, 20, 1024, 50257),
    "gpt2-1558m": ("gpt2", 48, 1600, 25, 1024, 50257),
}

ALIASES = {"nanogpt-seed-cpu": "gptlab-cpu", "nanogpt-seed-gpu": "gptlab-gpu"}


def preset(name: str, **changes: Any) -> ModelConfig:
    """The model of that name, any field changed by keyword; ValueError lists the known names.

    `preset("gptlab-cpu", vocab_size=65, context=64)`
    """
    size = SIZES.get(ALIASES.get(name, name))
    if size is None:
        raise unknown("preset", name, [*SIZES, *ALIASES])
    family, n_layers, d_model, n_heads, context, vocab_size = size
    shape = dict(n_layers=n_layers, d_model=d_model, n_heads=n_heads, context=context, vocab_size=vocab_size)
    return ModelConfig.from_dict({"family": family, **FAMILIES[family], **shape, **changes})
