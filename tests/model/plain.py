"""The model's function once more, from the formulas: one token and one head at a time, in NumPy and float64."""

import cmath
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from gptlab.config import ModelConfig
from gptlab.model.kernels import Kernel, sdpa
from gptlab.model.transformer import Transformer
from gptlab.presets import SIZES, preset

Vector = np.ndarray
Branch = Callable[[list[Vector]], list[Vector]]
Sees = Callable[[int, int], bool]  # whether query t sees key s

# Norms, without gain and bias


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


NORMS: dict[str, Callable[[Vector, float], Vector]] = {
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
    "seed-layernorm": seed_layernorm,
}

# Activations


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


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

# Positions


def rope(x: Vector, position: int, config: ModelConfig) -> Vector:
    """Each pair of dimensions as a complex number, times e^(i position base^(-2 pair / turned))."""
    turned, x = int(config.head_dim * config.rope_fraction), x.copy()
    for pair in range(turned // 2):
        a, b = (2 * pair, 2 * pair + 1) if config.rope_pairing == "interleaved" else (pair, pair + turned // 2)
        z = complex(x[a], x[b]) * cmath.exp(1j * position / config.rope_base ** (2 * pair / turned))
        x[a], x[b] = z.real, z.imag
    return x


def sinusoid(position: int, dimension: int, width: int) -> float:
    """Dimension 2i is sin(position / 10000^(2i / width)), dimension 2i + 1 its cosine (Vaswani et al. 2017)."""
    angle = position / 10000 ** (2 * (dimension // 2) / width)
    return math.cos(angle) if dimension % 2 else math.sin(angle)


def alibi_slopes(heads: int) -> list[float]:
    """The geometric sequence whose first term and ratio are 2^(-8 / heads), for a power of two; for another number,
    that of the power below it, and then the 1st, 3rd, 5th, … of its double (Press et al. 2021)."""
    below = 2 ** int(math.log2(heads))
    if below == heads:
        return [(2 ** (-8 / heads)) ** n for n in range(1, heads + 1)]
    return alibi_slopes(below) + alibi_slopes(2 * below)[::2][: heads - below]


def t5_bucket(ahead: int, *, buckets: int, farthest: int, both_ways: bool) -> int:
    """The bucket of a key so many tokens ahead of its query (behind: negative), in whole numbers, where borders are
    exact: the wide bucket m of n begins at near (farthest / near)^(m / n) tokens (Raffel et al. 2019)."""
    if both_ways:
        half = buckets // 2
        side = half if ahead > 0 else 0
        return side + t5_bucket(-abs(ahead), buckets=half, farthest=farthest, both_ways=False)
    away, near = max(-ahead, 0), buckets // 2
    if away < near:
        return away
    n = buckets - near
    return near + max(m for m in range(n) if away**n >= farthest**m * near ** (n - m))


def transformer_xl_wave(distance: int, width: int) -> Vector:
    """R[distance]: all sines, then all cosines (Dai et al. 2019, the authors' code)."""
    rates = [10000 ** (-2 * k / width) for k in range(math.ceil(width / 2))]
    return np.array([math.sin(distance * r) for r in rates] + [math.cos(distance * r) for r in rates])[:width]


# The model


@dataclass
class Plain:
    """A configuration and its weights by name, as the parts of the model call them."""

    config: ModelConfig
    w: Mapping[str, np.ndarray]

    def logits(self, ids: Sequence[int], source: Sequence[int] = (), prefix: int = 0) -> np.ndarray:
        """(T, V): `source` is what the encoder reads, `prefix` how many first tokens everyone sees."""
        config, memory = self.config, None
        if source:
            memory = self.stack("encoder.", self.embedded(source), config.n_encoder_layers, None, 0)
        xs = self.stack("", self.embedded(ids), config.n_layers, memory, prefix)
        if config.d_embedding != config.d_model:
            xs = [self.w["embedding_out.weight"] @ x for x in xs]
        head = self.w["embedding"] if config.tied_embeddings else self.w["head"]
        return np.array([config.logit_scale * (head @ x) + self.w.get("head_bias", 0.0) for x in xs])

    def embedded(self, ids: Iterable[int]) -> list[Vector]:
        xs = [self.config.embedding_scale * self.w["embedding"][token] for token in ids]
        return xs if self.config.d_embedding == self.config.d_model else [self.w["embedding_in.weight"] @ x for x in xs]

    def stack(self, root: str, xs: list[Vector], layers: int, memory: list[Vector] | None, prefix: int) -> list[Vector]:
        """Position, embedding norm, blocks and final norm, of the encoder (root "encoder.") or the decoder ("")."""
        config, C = self.config, self.config.d_model
        if config.position == "learned":
            xs = [x + self.w[f"{root}position.weight"][t + config.position_offset] for t, x in enumerate(xs)]
        if config.position == "sinusoidal":
            xs = [x + np.array([sinusoid(t, i, C) for i in range(C)]) for t, x in enumerate(xs)]
        if config.embedding_norm:
            xs = self.norm_all(f"{root}embedding_norm", xs)

        blocks: list[list[Branch]] = []
        for layer in range(layers):
            name = f"{root}blocks.{layer}"
            blocks.append([partial(self.self_attention, root, layer, prefix), partial(self.mlp, f"{name}.mlp")])
            if memory is not None:
                blocks[-1].insert(1, partial(self.cross_attention, f"{name}.cross", memory))
        return self.joined(root, xs, blocks)

    def joined(self, root: str, xs: list[Vector], blocks: list[list[Branch]]) -> list[Vector]:
        """The residual layout, and the final norm."""
        config = self.config
        last = f"{root}norm" if config.final_norm else ""
        if config.norm_placement == "post-deepnorm":
            # DeepNet's norm(alpha x + f(x)) throughout; GLM-130B's first norm thereby acts on the embeddings.
            branches = [branch for block in blocks for branch in block]
            norms = [self.norm_name(root, i, j) for i, block in enumerate(blocks) for j in range(len(block))] + [last]
            xs = self.norm_all(norms[0], xs)
            for branch, norm in zip(branches, norms[1:], strict=True):
                xs = self.norm_all(norm, [config.residual_alpha * x + f for x, f in zip(xs, branch(xs), strict=True)])
            return xs
        for i, block in enumerate(blocks):
            if config.norm_placement == "parallel":
                normed = self.norm_all(self.norm_name(root, i, 0), xs)
                xs = [sum(parts, x) for x, *parts in zip(xs, *(branch(normed) for branch in block), strict=True)]
                continue
            for j, branch in enumerate(block):
                norm = self.norm_name(root, i, j)
                if config.norm_placement == "pre":
                    xs = [x + f for x, f in zip(xs, branch(self.norm_all(norm, xs)), strict=True)]
                else:
                    assert config.norm_placement == "post"
                    xs = self.norm_all(norm, [x + f for x, f in zip(xs, branch(xs), strict=True)])
        return self.norm_all(last, xs)

    def self_attention(self, root: str, layer: int, prefix: int, xs: list[Vector]) -> list[Vector]:
        """Everyone sees everyone in an encoder; else what is not later, in a band in odd layers, and the prefix."""
        config, name = self.config, f"{root}blocks.{layer}.attention"
        band = config.band_width if config.band_width and layer % 2 else config.context

        def sees(t: int, s: int) -> bool:
            return root == "encoder." or 0 <= t - s < band or s < prefix

        asking = xs
        if config.query_layer and layer == config.n_layers - 1:  # PanGu-alpha's
            asking = [self.w["query"][t] for t in range(len(xs))]
        return self.attention(name, asking, xs, sees, partial(self.score, root, name))

    def cross_attention(self, name: str, memory: list[Vector], xs: list[Vector]) -> list[Vector]:
        return self.attention(name, xs, memory, lambda t, s: True, lambda t, s, h, q, k: q @ k)

    def attention(
        self,
        name: str,
        asking: list[Vector],
        asked: list[Vector],
        sees: Sees,
        score: Callable[[int, int, int, Vector, Vector], float],
    ) -> list[Vector]:
        H, K, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        scale = 1.0 if self.config.attention_scale == "none" else 1 / math.sqrt(D)
        out = []
        for t, x in enumerate(asking):
            heads = []
            for h in range(H):
                q = self.normed(f"{name}.q_norm", self.rows(f"{name}.qkv", x, h))
                g = h // (H // K)  # neighbouring query heads share one key and value head
                odds, values = [], []
                for s, y in enumerate(asked):
                    if sees(t, s):
                        k = self.normed(f"{name}.k_norm", self.rows(f"{name}.qkv", y, H + g))
                        odds.append(math.exp(scale * score(t, s, h, q, k) + self.bias(name, t, s, h)))
                        values.append(self.rows(f"{name}.qkv", y, H + K + g))
                heads.append(sum(odd / sum(odds) * value for odd, value in zip(odds, values, strict=True)))
            out.append(self.linear(f"{name}.out", np.concatenate(heads)))
        return out

    def score(self, root: str, name: str, t: int, s: int, h: int, q: Vector, k: Vector) -> float:
        """Before it is scaled."""
        config = self.config
        if config.position == "rope":
            q, k = rope(q, t, config), rope(k, s, config)
        if config.position == "transformer-xl-relative":
            mine = slice(h * config.head_dim, (h + 1) * config.head_dim)
            u, v = (self.w[f"{name}.relative.{which}_bias"][mine] for which in ("content", "position"))
            r = self.w[f"{name}.relative.weight"][mine] @ transformer_xl_wave(t - s, config.d_model)
            return float((q + u) @ k + (q + v) @ r)
        return float(q @ k)

    def bias(self, name: str, t: int, s: int, h: int) -> float:
        """What is added to the scaled score, in self-attention."""
        config, encoder = self.config, name.startswith("encoder.")
        if name.endswith(".cross"):
            return 0.0
        if config.position == "alibi":
            return -alibi_slopes(config.n_heads)[h] * abs(t - s)
        if config.position == "t5-relative":
            table = self.w["encoder.position.buckets" if encoder else "position.buckets"]
            farthest = config.relative_max_distance
            return float(table[t5_bucket(s - t, buckets=len(table), farthest=farthest, both_ways=encoder), h])
        return 0.0

    def mlp(self, name: str, xs: list[Vector]) -> list[Vector]:
        return [self.linear(f"{name}.down", self.activated(self.linear(f"{name}.up", x))) for x in xs]

    def activated(self, x: Vector) -> Vector:
        name = self.config.activation
        if name in GATES:
            gate, value = x[: self.config.d_ff], x[self.config.d_ff :]
            return np.array([GATES[name](g) * v for g, v in zip(gate, value, strict=True)])
        return np.array([ACTIVATIONS[name](v) for v in x])

    def linear(self, name: str, x: Vector) -> Vector:
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0.0)

    def rows(self, name: str, x: Vector, head: int) -> Vector:
        """Of the joint matrix of q, k and v, the rows of one head, q's first."""
        D = self.config.head_dim
        mine = slice(head * D, (head + 1) * D)
        bias = self.w[f"{name}.bias"][mine] if f"{name}.bias" in self.w else 0.0
        return self.w[f"{name}.weight"][mine] @ x + bias

    def norm_name(self, root: str, layer: int, branch: int) -> str:
        return f"{root}blocks.{layer}.residual.norms.{branch}"

    def norm_all(self, name: str, xs: list[Vector]) -> list[Vector]:
        """`name` "": no norm."""
        return [self.norm(name, x) for x in xs] if name else xs

    def norm(self, name: str, x: Vector) -> Vector:
        normed = NORMS[self.config.norm](x, self.config.norm_eps)
        return normed * self.w.get(f"{name}.weight", 1.0) + self.w.get(f"{name}.bias", 0.0)

    def normed(self, name: str, x: Vector) -> Vector:
        return self.norm(name, x) if self.config.qk_norm else x


def plain_logits(
    config: ModelConfig, w: Mapping[str, np.ndarray], ids: list[int], *, source: Sequence[int] = (), prefix: int = 0
) -> np.ndarray:
    return Plain(config, w).logits(ids, source, prefix)


# Models to try


def shrunk(name: str, **changes: Any) -> ModelConfig:
    """A preset as small as can be, with all that makes it itself; 3 heads, and odd widths where rope allows."""
    full = preset(name)
    head_dim = 4 if full.position == "rope" else 5
    attention = 3 * head_dim
    wide = full.n_heads * full.head_dim
    sizes = dict(
        family="",
        vocab_size=13,
        context=9,
        n_layers=3,
        n_encoder_layers=min(2, full.n_encoder_layers),
        d_model=attention + 2 * ((wide < full.d_model) - (wide > full.d_model)),
        n_heads=3,
        n_kv_heads=3 if full.n_kv_heads == full.n_heads else 1,
        head_dim=head_dim,
        d_ff=11,
        d_embedding=0 if full.d_embedding == full.d_model else 6,
        norm_eps=0.01,
        band_width=3 if full.band_width else 0,
    )
    if full.position == "t5-relative":
        sizes |= dict(relative_buckets=8, relative_max_distance=11)
    if full.norm_placement == "post-deepnorm":
        sizes |= dict(residual_alpha=6**0.5)
    if full.logit_scale != 1:
        sizes |= dict(logit_scale=sizes["d_model"] ** -0.5)  # type: ignore[operator]
    return preset(name, **{**sizes, **changes})


def distinct(names: Iterable[str]) -> dict[str, ModelConfig]:
    """The presets, shrunk; of those that then are the same function, the first."""
    found: dict[str, ModelConfig] = {}
    for name in names:
        small = shrunk(name)
        if small not in found.values():
            found[name] = small
    return found


PRESETS = distinct(sorted(SIZES, key=lambda name: not name.endswith("-mini")))
SHAPE = dict(vocab_size=13, context=9, n_layers=3, d_model=7, n_heads=6, n_kv_heads=2, head_dim=5, d_ff=11)
CONFIGS = {
    **PRESETS,
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
    # What no preset joins.
    "sinusoidal": ModelConfig(**SHAPE, position="sinusoidal", embedding_scale=1.7),
    "no-position": ModelConfig(**SHAPE, position="none", qk_norm=True, norm="rmsnorm"),
    "alibi-grouped": ModelConfig(**SHAPE, position="alibi", embedding_norm=True),
    "t5-grouped": ModelConfig(**SHAPE, position="t5-relative", relative_buckets=7, relative_max_distance=6),
    "transformer-xl-grouped": ModelConfig(
        **SHAPE, position="transformer-xl-relative", attention_scale="none", qk_norm=True
    ),
    "alibi-prefix": ModelConfig(**SHAPE, category="prefix", position="alibi", band_width=2),
    "t5-prefix": ModelConfig(
        **SHAPE, category="prefix", position="t5-relative", relative_buckets=4, relative_max_distance=5
    ),
    "query-prefix": ModelConfig(
        **{**SHAPE, "head_dim": 4},
        category="prefix",
        position="rope",
        query_layer=True,
        norm_placement="parallel",
        qk_norm=True,
    ),
    "query-deepnorm": ModelConfig(**SHAPE, query_layer=True, norm_placement="post-deepnorm", residual_alpha=1.3),
    "learned-encoder": ModelConfig(
        **SHAPE,
        category="encoder-decoder",
        n_encoder_layers=1,
        position_offset=1,
        norm_placement="post",
        embedding_norm=True,
        d_embedding=5,
        bias_lm_head=True,
        logit_scale=0.6,
    ),
    "alibi-encoder": ModelConfig(
        **SHAPE,
        category="encoder-decoder",
        n_encoder_layers=2,
        position="alibi",
        norm_placement="post-deepnorm",
        residual_alpha=1.3,
        activation="swiglu",
    ),
    "rope-encoder": ModelConfig(
        **{**SHAPE, "head_dim": 4},
        category="encoder-decoder",
        n_encoder_layers=4,
        position="rope",
        norm_placement="parallel",
        qk_norm=True,
        band_width=3,
        tied_embeddings=False,
    ),
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


def beside(config: ModelConfig, batch: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """What a model of this category reads beside ids: a source shorter than the context, or the prefixes' lengths."""
    if config.category == "encoder-decoder":
        return {"source": random_ids(config, batch, config.context - 2, seed=seed + 1000)}
    if config.category == "prefix":
        return {"prefix": torch.tensor([(4 + 3 * row) % 7 for row in range(batch)])}
    return {}


def error(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest difference, as a part of the largest number; infinite for a NaN."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
