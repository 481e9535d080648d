"""The model's function once more, from the formulas: one token and one head at a time, in NumPy and float64."""

import cmath
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from gptlab.config import ModelConfig
from gptlab.model.kernels import Kernel, sdpa
from gptlab.model.transformer import Transformer
from gptlab.presets import preset

Vector = np.ndarray


def layernorm(x: Vector, eps: float) -> Vector:
    centred = [value - sum(x) / len(x) for value in x]
    variance = sum(value**2 for value in centred) / len(x)
    return np.array([value / math.sqrt(variance + eps) for value in centred])


def seed_layernorm(x: Vector, eps: float) -> Vector:
    centred = [value - sum(x) / len(x) for value in x]
    std = math.sqrt(sum(value**2 for value in centred) / (len(x) - 1))
    return np.array([value / (std + eps) for value in centred])


def rmsnorm(x: Vector, eps: float) -> Vector:
    return np.array([value / math.sqrt(sum(v**2 for v in x) / len(x) + eps) for value in x])


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rope(x: Vector, position: int, config: ModelConfig) -> Vector:
    """Each pair of dimensions as a complex number, times e^(i position base^(-2 pair / turned))."""
    turned, x = int(config.head_dim * config.rope_fraction), x.copy()
    for pair in range(turned // 2):
        a, b = (2 * pair, 2 * pair + 1) if config.rope_pairing == "interleaved" else (pair, pair + turned // 2)
        z = complex(x[a], x[b]) * cmath.exp(1j * position / config.rope_base ** (2 * pair / turned))
        x[a], x[b] = z.real, z.imag
    return x


NORMS: dict[str, Callable[[Vector, float], Vector]] = {
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
    "seed-layernorm": seed_layernorm,
}
ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
GATES: dict[str, Callable[[float], float]] = {  # of gated activations: the first half of `up` passes through it
    "swiglu": lambda x: x / (1 + math.exp(-x)),
    "geglu": gelu,
    "geglu_tanh": gelu_tanh,
}


def plain_logits(config: ModelConfig, w: Mapping[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """ids -> (T, V): pre-norm blocks, causal attention with shared key and value heads."""
    H, K, D = config.n_heads, config.n_kv_heads, config.head_dim

    def linear(name: str, x: Vector) -> Vector:
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)

    def norm(name: str, x: Vector) -> Vector:
        return NORMS[config.norm](x, config.norm_eps) * w.get(f"{name}.weight", 1.0) + w.get(f"{name}.bias", 0.0)

    def activated(x: Vector) -> Vector:
        if config.activation in GATES:
            gate, value = x[: config.d_ff], x[config.d_ff :]
            return np.array([GATES[config.activation](g) * v for g, v in zip(gate, value, strict=True)])
        return np.array([ACTIVATIONS[config.activation](v) for v in x])

    xs = [w["embedding"][token].copy() for token in ids]
    if config.position == "learned":
        xs = [x + w["position.weight"][t] for t, x in enumerate(xs)]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        normed = [norm(f"{block}.residual.norms.0", x) for x in xs]
        joined = [linear(f"{block}.attention.qkv", x) for x in normed]
        queries = [[x[h * D : (h + 1) * D] for h in range(H)] for x in joined]
        keys = [[x[(H + h) * D : (H + h + 1) * D] for h in range(K)] for x in joined]
        values = [[x[(H + K + h) * D : (H + K + h + 1) * D] for h in range(K)] for x in joined]
        if config.position == "rope":
            queries = [[rope(q, t, config) for q in row] for t, row in enumerate(queries)]
            keys = [[rope(k, t, config) for k in row] for t, row in enumerate(keys)]
        for t in range(len(ids)):
            heads = []
            for h in range(H):
                g = h // (H // K)  # neighbouring query heads share one key and value head
                scores = [queries[t][h] @ keys[s][g] / math.sqrt(D) for s in range(t + 1)]
                odds = [math.exp(score - max(scores)) for score in scores]
                heads.append(sum(odd / sum(odds) * values[s][g] for s, odd in enumerate(odds)))
            xs[t] = xs[t] + linear(f"{block}.attention.out", np.concatenate(heads))
        for t, x in enumerate(xs):
            inner = linear(f"{block}.mlp.up", norm(f"{block}.residual.norms.1", x))
            xs[t] = x + linear(f"{block}.mlp.down", activated(inner))
    if config.final_norm:
        xs = [norm("norm", x) for x in xs]
    head = w["embedding"] if config.tied_embeddings else w["head"]
    return np.array([head @ x + w.get("head_bias", 0.0) for x in xs])


SHAPE = dict(vocab_size=13, context=9, n_layers=3, d_model=7, n_heads=6, n_kv_heads=2, head_dim=5, d_ff=11)
CONFIGS = {
    "gpt2": ModelConfig(vocab_size=13, context=9, n_layers=3, d_model=15, n_heads=3),
    "old-gptlab": ModelConfig(
        **{**SHAPE, "n_kv_heads": 6}, norm="seed-layernorm", bias_attn_out=False, bias_ffn=False, norm_eps=0.3
    ),
    "nanogpt": ModelConfig(
        **{**SHAPE, "n_kv_heads": 6},
        activation="gelu",
        norm_affine="weight",
        bias_qkv=False,
        bias_attn_out=False,
        bias_ffn=False,
    ),
    "grouped": ModelConfig(**SHAPE, norm_eps=0.7),
    "one-kv-head": ModelConfig(**{**SHAPE, "n_kv_heads": 1}, activation="relu", final_norm=False),
    "gptlab": preset("gptlab-fables", **{**SHAPE, "d_model": 8, "head_dim": 4}),
    "rope-half": ModelConfig(
        **{**SHAPE, "head_dim": 6}, position="rope", rope_pairing="rotate-half", rope_fraction=0.67, rope_base=50.0
    ),
    "rope-odd-width": ModelConfig(**SHAPE, position="rope", rope_fraction=0.8, activation="geglu"),
    "untied": ModelConfig(**SHAPE, tied_embeddings=False, bias_lm_head=True, norm_affine="none"),
}


def random_model(config: ModelConfig, *, seed: int = 0, kernel: Kernel = sdpa, size: float = 0.7) -> Transformer:
    """float64, every parameter random: gains and biases, too, so that nothing is hidden by a 0 or a 1."""
    model = Transformer(config, kernel=kernel).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size)
    return model


def random_ids(config: ModelConfig, batch: int, length: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def error(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest difference, as a part of the largest number; infinite for a NaN."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
