"""Models by name: a family (which parts, with its source) times a size (a line each). No torch here.

A new model is an entry of FAMILIES, a new size a line of SIZES.
"""

from typing import Any

from gptlab.config import RECIPES, ModelConfig, TrainConfig, recipe
from gptlab.registry import unknown

NO_BIAS: dict[str, Any] = dict(bias_qkv=False, bias_attn_out=False, bias_ffn=False)

FAMILIES: dict[str, dict[str, Any]] = {
    # Our own: what made the fables cheapest to learn. Parts: arXiv 1910.07467, 2104.09864, 2109.08668.
    "gptlab": dict(
        norm="rmsnorm",
        norm_affine="weight",
        position="rope",
        activation="relu_squared",
        **NO_BIAS,
    ),
    # The old GPTLab (github wmelo52/GPTLab, nanoGPT.py): biases on q, k and v only, and its own LayerNorm.
    "nanogpt-seed": dict(norm="seed-layernorm", activation="gelu_tanh", bias_attn_out=False, bias_ffn=False),
    # github karpathy/nanoGPT, config/train_shakespeare_char.py and model.py: GPT-2 without biases, erf GELU.
    "nanogpt": dict(activation="gelu", norm_affine="weight", **NO_BIAS),
    # Radford et al. 2019; github openai/gpt-2, src/model.py.
    "gpt2": dict(activation="gelu_tanh"),
    # Brown et al. 2020, arXiv 2005.14165: GPT-2 with odd layers banded. Which ones, and how wide, is not published.
    "gpt3": dict(activation="gelu_tanh", band_width=256),
    # Zeng et al. 2021, arXiv 2104.12369; github mindspore-ai/models, Pangu_alpha. Its last layer asks by position.
    "pangu-alpha": dict(activation="gelu", query_layer=True),
    # Zhang et al. 2022, arXiv 2205.01068; github facebookresearch/metaseq. Positions are counted from row 2.
    "opt": dict(activation="relu", position_offset=2),
    # Chowdhery et al. 2022, arXiv 2204.02311, section 2. Base and pairing of its RoPE are not published.
    "palm": dict(
        norm_affine="weight", norm_eps=1e-6, norm_placement="parallel", position="rope", activation="swiglu", **NO_BIAS
    ),
    # Le Scao et al. 2022, arXiv 2211.05100; github bigscience-workshop/bigscience.
    "bloom": dict(position="alibi", activation="gelu_tanh", embedding_norm=True),
    # Smith et al. 2022, arXiv 2201.11990; Megatron-LM's GPT.
    "mt-nlg": dict(activation="gelu_tanh"),
    # Rae et al. 2021, arXiv 2112.11446, section 2; Hoffmann et al. 2022 (Chinchilla), arXiv 2203.15556.
    "gopher": dict(
        norm="rmsnorm",
        norm_affine="weight",
        norm_eps=1e-6,
        position="transformer-xl-relative",
        activation="gelu_tanh",
    ),
    # Taylor et al. 2022, arXiv 2211.09085, section 4: no biases, and norms without any parameters.
    "galactica": dict(activation="gelu", position_offset=2, norm_affine="none", **NO_BIAS),
    # Thoppilan et al. 2022, arXiv 2201.08239, section 3; what it does not say is as in T5.
    "lamda": dict(
        norm="rmsnorm",
        norm_affine="weight",
        norm_eps=1e-6,
        position="t5-relative",
        activation="geglu_tanh",
        attention_scale="none",
        **NO_BIAS,
    ),
    # Lieber et al. 2021, the Jurassic-1 white paper, section 2: GPT-2's equations.
    "jurassic-1": dict(activation="gelu_tanh"),
    # Touvron et al. 2023, arXiv 2302.13971; github facebookresearch/llama, llama/model.py.
    "llama": dict(
        norm="rmsnorm",
        norm_affine="weight",
        norm_eps=1e-6,
        position="rope",
        activation="swiglu",
        tied_embeddings=False,
        **NO_BIAS,
    ),
    # Zeng et al. 2022, arXiv 2210.02414, section 2; github THUDM/GLM-130B.
    "glm": dict(
        category="prefix",
        norm_placement="post-deepnorm",
        position="rope",
        rope_pairing="rotate-half",
        activation="geglu",
    ),
    # Raffel et al. 2019, arXiv 1910.10683, section 2.1; github google-research/text-to-text-transfer-transformer.
    "t5": dict(
        category="encoder-decoder",
        norm="rmsnorm",
        norm_affine="weight",
        norm_eps=1e-6,
        position="t5-relative",
        activation="relu",
        attention_scale="none",
        **NO_BIAS,
    ),
}


def size(
    family: str, n_layers: int, d_model: int, n_heads: int, context: int, vocab_size: int, **more: Any
) -> dict[str, Any]:
    """A line of SIZES; `more` are further fields of ModelConfig."""
    shape = dict(n_layers=n_layers, d_model=d_model, n_heads=n_heads, context=context, vocab_size=vocab_size)
    return {"family": family, **FAMILIES[family], **shape, **more}


#                                 family      layers  width  heads  context  vocabulary (as many rows as the table has)
SIZES: dict[str, dict[str, Any]] = {
    "gptlab-fables": size("gptlab", 4, 96, 3, 152, 2048),
    "gptlab-pc": size("gptlab", 6, 256, 8, 64, 115),
    "gptlab-cpu": size("nanogpt-seed", 4, 64, 4, 32, 115),
    "gptlab-gpu": size("nanogpt-seed", 6, 384, 6, 64, 115),
    "nanogpt-cpu": size("nanogpt", 4, 128, 4, 64, 65),
    # The survey's rows at full size, by the papers or their authors' code. The layers of T5 are the decoder's.
    "gpt2-124m": size("gpt2", 12, 768, 12, 1024, 50257),
    "gpt2-355m": size("gpt2", 24, 1024, 16, 1024, 50257),
    "gpt2-774m": size("gpt2", 36, 1280, 20, 1024, 50257),
    "gpt2-1558m": size("gpt2", 48, 1600, 25, 1024, 50257),
    "gpt3-175b": size("gpt3", 96, 12288, 96, 2048, 50257),
    "pangu-alpha-207b": size("pangu-alpha", 64, 16384, 128, 1024, 40000),
    "opt-125m": size("opt", 12, 768, 12, 2048, 50272),
    "opt-350m": size("opt", 24, 1024, 16, 2048, 50272, d_embedding=512, norm_placement="post", final_norm=False),
    "opt-175b": size("opt", 96, 12288, 96, 2048, 50272),
    "palm-540b": size("palm", 118, 18432, 48, 2048, 256000, n_kv_heads=1, head_dim=256, logit_scale=18432**-0.5),
    "bloom-560m": size("bloom", 24, 1024, 16, 2048, 250880),
    "bloom-176b": size("bloom", 70, 14336, 112, 2048, 250880),
    "mt-nlg-530b": size("mt-nlg", 105, 20480, 128, 2048, 51200),
    "gopher-280b": size("gopher", 80, 16384, 128, 2048, 32000),
    "chinchilla-70b": size("gopher", 80, 8192, 64, 2048, 32000),
    "galactica-120b": size("galactica", 96, 10240, 80, 2048, 50000),
    "lamda-137b": size("lamda", 64, 8192, 128, 1024, 32000, head_dim=128, d_ff=65536),
    "jurassic-1-jumbo-178b": size("jurassic-1", 76, 13824, 96, 2048, 262144),
    "llama-7b": size("llama", 32, 4096, 32, 2048, 32000, d_ff=11008),
    "llama-65b": size("llama", 80, 8192, 64, 2048, 32000, d_ff=22016, norm_eps=1e-5),
    "glm-130b": size("glm", 70, 12288, 96, 2048, 150528, d_ff=32768, residual_alpha=140**0.5),
    "t5-small": size("t5", 6, 512, 8, 512, 32128, n_encoder_layers=6, logit_scale=512**-0.5),
    "t5-11b": size(
        "t5", 24, 1024, 128, 512, 32128, n_encoder_layers=24, head_dim=128, d_ff=65536, logit_scale=1024**-0.5
    ),
    # The same shapes small enough for a PC: what makes a family itself is kept, and the parameters are about as many.
    "gpt2-mini": size("gpt2", 4, 128, 4, 64, 115),
    "gpt3-mini": size("gpt3", 4, 128, 4, 64, 115, band_width=16),
    "pangu-alpha-mini": size("pangu-alpha", 4, 128, 4, 64, 115),
    "opt-mini": size("opt", 4, 128, 4, 64, 115),
    "palm-mini": size("palm", 4, 128, 4, 64, 115, n_kv_heads=1, head_dim=24, d_ff=440, logit_scale=128**-0.5),
    "bloom-mini": size("bloom", 4, 128, 4, 64, 115),
    "mt-nlg-mini": size("mt-nlg", 4, 128, 4, 64, 115),
    "gopher-mini": size("gopher", 4, 128, 4, 64, 115, d_ff=448),
    "chinchilla-mini": size("gopher", 5, 112, 4, 64, 115),
    "galactica-mini": size("galactica", 4, 128, 4, 64, 115),
    "lamda-mini": size("lamda", 3, 96, 6, 64, 115, head_dim=32, d_ff=640),
    "jurassic-1-mini": size("jurassic-1", 3, 144, 4, 64, 115),
    "llama-mini": size("llama", 4, 128, 4, 64, 115, d_ff=352),
    "glm-mini": size("glm", 4, 128, 4, 64, 115, d_ff=344, residual_alpha=8**0.5),
    "t5-mini": size("t5", 2, 128, 4, 64, 115, n_encoder_layers=2, d_ff=400, logit_scale=128**-0.5),
}

# How a preset is trained unless the user says otherwise, where it differs from the recipe.
TRAINING: dict[str, dict[str, Any]] = {
    # Pieces of words, so that a story is a hundred and some tokens; windows that begin where stories do; heads that
    # begin by copying, as stories repeat their names.
    "gptlab-fables": dict(tokenizer="bpe", vocab_size=2048, starts="blank-lines", batch=16, lr=0.012, init="copying"),
}

ALIASES = {"nanogpt-seed-cpu": "gptlab-cpu", "nanogpt-seed-gpu": "gptlab-gpu"}


def preset(name: str, **changes: Any) -> ModelConfig:
    """The model of that name, any field changed by keyword; ValueError lists the known names.

    `preset("gptlab-cpu", vocab_size=65, context=64)`
    """
    known = SIZES.get(ALIASES.get(name, name))
    if known is None:
        raise unknown("preset", name, [*SIZES, *ALIASES])
    return ModelConfig.from_dict({**known, **changes})


def settings_for(recipe_name: str, preset_name: str | None) -> TrainConfig:
    """The training settings of a recipe, and of a preset where that has its own and the recipe says nothing."""
    settings = recipe(recipe_name)
    if preset_name is None:
        return settings
    own = {k: v for k, v in TRAINING.get(preset_name, {}).items() if k not in RECIPES[recipe_name]}
    return settings.but(preset=preset_name, **own)
