"""What a run is made of, as three frozen records: the model, its training, and how text is sampled from it.

Each field is a type, a default and a line of meaning with units. A record is checked when it is made, compares
by value, and goes to TOML and JSON and back. No torch here: `gptlab --help` reads this file.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gptlab.registry import (
    ACTIVATIONS,
    NORMS,
    OBJECTIVES,
    OPTIMIZERS,
    POSITIONS,
    RESIDUALS,
    SCHEDULES,
    TOKENIZERS,
    unknown,
)


class Config:
    """What the records share: reading, writing, changing, and errors that name field and value."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, coerced(f.name, getattr(self, f.name), hints[f.name]))
        self.check()

    def check(self) -> None:
        """Raise ValueError for values that cannot work."""

    def require(self, ok: bool, name: str, what: str) -> None:
        if not ok:
            raise ValueError(f"{name} must be {what}, not {getattr(self, name)!r}")

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self).from_dict({**dataclasses.asdict(self), **changes})  # type: ignore[call-overload]

    def to_dict(self) -> dict[str, Any]:
        """All fields, for TOML or JSON. TOML has no word for None: it is left out, or where the default is another
        value, "none"."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if values[f.name] is None:
                values[f.name] = "none"
                if f.default is None:
                    del values[f.name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        known = [f.name for f in fields]
        for name in values:
            if name not in known:
                raise unknown(f"{cls.__name__} field", name, known)
        needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        if missing := [name for name in needed if name not in values]:
            raise ValueError(f"a {cls.__name__} needs {', '.join(missing)} too")
        return cls(**values)

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """From a .toml or .json file, or a dictionary; a table named for the record inside it is enough.

        Raises ValueError for a file that is neither, or a field that does not exist.
        """
        values = dict(source) if isinstance(source, Mapping) else read_table(Path(source))
        table = cls.__name__.removesuffix("Config").lower()
        return cls.from_dict(values[table] if isinstance(values.get(table), dict) else values)


def coerced(name: str, value: Any, hint: Any) -> Any:
    """The value as its field's type: an int for a float field, a list for a tuple, "none"; else ValueError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value == "none" and type(None) in options:
        return None
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is tuple and isinstance(value, list | tuple):
            return tuple(coerced(f"{name}[{i}]", v, typing.get_args(option)[0]) for i, v in enumerate(value))
        if kind is dict and isinstance(value, dict):
            return {k: coerced(f"{name}[{k!r}]", v, typing.get_args(option)[1]) for k, v in value.items()}
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    expected = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} must be {expected}, not {value!r}")


def read_table(path: Path) -> dict[str, Any]:
    """The table in a TOML or JSON file; ValueError where it is neither."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__} where a table of settings is expected")
    return values


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The function that a model computes: its shape and its parts, in the field's own terms."""

    family: str = ""  # the entry of presets.FAMILIES it was made from, for people and for conversion
    category: str = "causal"  # causal, prefix (a beginning is seen both ways) or encoder-decoder
    vocab_size: int  # V, how many token ids there are
    context: int  # the most tokens that are seen at once
    n_layers: int  # blocks; of the decoder, where there is an encoder, too
    n_encoder_layers: int = 0  # blocks of the encoder
    d_model: int  # C, width of the residual stream
    n_heads: int  # H, query heads of a layer
    n_kv_heads: int = 0  # K, key and value heads; 0: n_heads
    head_dim: int = 0  # D, width of a head; 0: d_model / n_heads
    d_ff: int = 0  # width inside the MLP, of one branch where it is gated; 0: 4 d_model
    d_embedding: int = 0  # E, width of the token table, which is then projected; 0: d_model
    norm: str = "layernorm"  # a name of registry.NORMS
    norm_eps: float = 1e-5  # added to the variance (seed-layernorm: to the standard deviation)
    norm_affine: str = "weight+bias"  # the norms' parameters: weight+bias, weight or none
    norm_placement: str = "pre"  # a name of registry.RESIDUALS
    residual_alpha: float = 1.0  # of post-deepnorm: the weight of what a branch is added to
    embedding_norm: bool = False  # a norm between the embedding and the first block
    final_norm: bool = True  # a norm between the last block and the head
    qk_norm: bool = False  # queries and keys of each head are normed
    position: str = "learned"  # a name of registry.POSITIONS
    position_offset: int = 0  # of learned: the row of the first position (OPT: 2)
    rope_base: float = 10000.0  # of rope: the slowest pair turns once in about 2 pi rope_base tokens
    rope_fraction: float = 1.0  # of rope: the part of each head that is turned
    rope_pairing: str = "interleaved"  # of rope: interleaved or rotate-half
    relative_buckets: int = 32  # of t5-relative: rows of its table
    relative_max_distance: int = 128  # of t5-relative: from here on, all in the last bucket
    attention_scale: str = "1/sqrt(head_dim)"  # what scores are multiplied by: 1/sqrt(head_dim) or none
    band_width: int = 0  # odd layers see so many tokens back, the own one included (GPT-3); 0: all see everything
    query_layer: bool = False  # the last block asks by position (PanGu-alpha)
    activation: str = "gelu_tanh"  # a name of registry.ACTIVATIONS
    bias_qkv: bool = True  # the query, key and value projections have biases
    bias_attn_out: bool = True  # the attention's output projection has a bias
    bias_ffn: bool = True  # the MLP's projections have biases
    bias_lm_head: bool = False  # the head has a bias
    tied_embeddings: bool = True  # the head's matrix is the token table
    bridge: tuple[int, ...] = ()  # ids between what is given and what follows it (see model/layouts.py)
    embedding_scale: float = 1.0  # multiplies what the token table gives
    logit_scale: float = 1.0  # multiplies the logits, before the head's bias

    def check(self) -> None:
        for name in ("vocab_size", "context", "n_layers", "d_model", "n_heads"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("n_encoder_layers", "position_offset", "band_width"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        if not self.head_dim and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}: choose a multiple, "
                f"such as d_model {self.d_model // self.n_heads * self.n_heads or self.n_heads}, "
                "or give head_dim"
            )
        for name, value in self.derived().items():
            object.__setattr__(self, name, getattr(self, name) or value)
            self.require(getattr(self, name) >= 1, name, "at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}")
        self.require(self.norm_eps >= 0, "norm_eps", "0 or more")
        for name in ("embedding_scale", "logit_scale", "residual_alpha"):
            self.require(0 < getattr(self, name) < math.inf, name, "a number above 0")
        if self.norm == "seed-layernorm":
            self.require(self.d_model >= 2, "d_model", "at least 2 for seed-layernorm, which divides by d_model - 1")
            self.require(self.head_dim >= 2 or not self.qk_norm, "head_dim", "at least 2 for seed-layernorm of heads")
        NORMS.check(self.norm)
        RESIDUALS.check(self.norm_placement)
        POSITIONS.check(self.position)
        ACTIVATIONS.check(self.activation)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if (self.category == "encoder-decoder") != (self.n_encoder_layers > 0):
            raise ValueError(
                f"n_encoder_layers is {self.n_encoder_layers} and category {self.category!r}: an encoder-decoder has "
                "encoder layers, and nothing else has"
            )
        if self.query_layer and self.n_encoder_layers:
            raise ValueError(
                "query_layer asks by position alone, and an encoder-decoder also asks its source: choose one"
            )
        if self.category != "causal" and self.position == "transformer-xl-relative":
            raise ValueError(f"transformer-xl-relative has no positions ahead, which category {self.category!r} needs")
        if self.position == "t5-relative":
            self.require(self.relative_buckets >= 4, "relative_buckets", "at least 4")
            least = self.relative_buckets // 2
            self.require(self.relative_max_distance > least, "relative_max_distance", f"more than {least}")
        if self.position == "rope":
            turned = int(self.head_dim * self.rope_fraction)
            if not (0 < self.rope_fraction <= 1) or turned < 2 or turned % 2:
                raise ValueError(
                    f"rope turns pairs of dimensions: head_dim {self.head_dim} * rope_fraction {self.rope_fraction:g} "
                    f"is {turned}, which is not an even number from 2 to head_dim"
                )
        for name, (owner, part) in OWNERS.items():
            if getattr(self, name) != DEFAULTS[name] and getattr(self, owner) != part:
                raise ValueError(f"{name} belongs to {owner} {part!r}; this model has {owner} {getattr(self, owner)!r}")

    def derived(self) -> dict[str, int]:
        """The widths that follow from the others where nobody says otherwise."""
        return {
            "head_dim": self.d_model // self.n_heads,
            "n_kv_heads": self.n_heads,
            "d_ff": 4 * self.d_model,
            "d_embedding": self.d_model,
        }

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed; widths that followed from them follow again."""
        following = {name: 0 for name, value in self.derived().items() if getattr(self, name) == value}
        if self.d_model % self.n_heads:
            following.pop("head_dim", None)  # it was given: none follows
        return super().but(**{**following, **changes})

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """From a file or dictionary of ours, or in a dialect that its users have.

        Dialects: the old GPTLab's JSON (`n_embd`, `max_len`), nanoGPT's (`n_embd`, `block_size`), a Hugging
        Face GPT-2 `config.json`, and `emb_dim`, `context_length`, `qkv_bias`, … A dialect's dropout, batch and
        learning rate are settings of a training, not of the model, and are left out.
        """
        values = dict(source) if isinstance(source, Mapping) else read_table(Path(source))
        for dialect in DIALECTS:
            if dialect.known_by in values:
                return cls.from_dict(dialect.translate(values))
        return super().read(values)


CHOICES = {
    "category": ("causal", "prefix", "encoder-decoder"),
    "norm_affine": ("weight+bias", "weight", "none"),
    "rope_pairing": ("interleaved", "rotate-half"),
    "attention_scale": ("1/sqrt(head_dim)", "none"),
}
# Options that only one part knows: field -> (the field that names the part, the part).
OWNERS = {
    "residual_alpha": ("norm_placement", "post-deepnorm"),
    "position_offset": ("position", "learned"),
    "rope_base": ("position", "rope"),
    "rope_fraction": ("position", "rope"),
    "rope_pairing": ("position", "rope"),
    "relative_buckets": ("position", "t5-relative"),
    "relative_max_distance": ("position", "t5-relative"),
}
DEFAULTS = {f.name: f.default for f in dataclasses.fields(ModelConfig)}


@dataclass(frozen=True)
class Dialect:
    """Another project's names for a model's shape."""

    name: str
    known_by: str  # the key that no other dialect has
    names: dict[str, str]  # theirs -> ours
    fixed: dict[str, Any]  # what their code does and their config does not say
    ignored: tuple[str, ...] = ()  # theirs, and no matter of the function

    def translate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        out = dict(self.fixed)
        for key, value in values.items():
            if key in self.ignored:
                continue
            if key in self.names:
                if value is not None:
                    out[self.names[key]] = value
            elif key == "activation_function":
                out["activation"] = HF_ACTIVATIONS.get(value) or ACTIVATIONS.check(value)
            elif key == "bias":
                out.update(dict.fromkeys(("bias_qkv", "bias_attn_out", "bias_ffn"), value))
                out["norm_affine"] = "weight+bias" if value else "weight"
            elif key in HF_VARIANTS:
                if value != HF_VARIANTS[key]:
                    raise ValueError(f"{key} = {value!r} is a variant of GPT-2 that gptlab does not build")
            elif self.known_by != "n_positions":  # a Hugging Face config has dozens of keys more
                raise unknown(f"field of a {self.name} config", key, [*self.names, *self.ignored])
        return out


HF_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
# What other values of these keys make is another function.
HF_VARIANTS = {"model_type": "gpt2", "scale_attn_weights": True} | dict.fromkeys(
    ("scale_attn_by_inverse_layer_idx", "add_cross_attention"), False
)
GPT2_PARTS: dict[str, Any] = {"family": "gpt2", "norm": "layernorm", "position": "learned"}
SHORT_NAMES = {"n_embd": "d_model", "n_head": "n_heads", "n_layer": "n_layers", "vocab_size": "vocab_size"}
DIALECTS = (
    # Hugging Face writes n_ctx beside n_positions in old files; the table has n_positions rows.
    Dialect(
        "Hugging Face GPT-2",
        "n_positions",
        SHORT_NAMES
        | {"n_positions": "context", "n_inner": "d_ff", "layer_norm_epsilon": "norm_eps"}
        | {"tie_word_embeddings": "tied_embeddings"},
        GPT2_PARTS,
    ),
    Dialect(
        "old GPTLab",
        "max_len",
        SHORT_NAMES | {"max_len": "context"},
        # Its q, k and v have biases whatever its `bias` says; nothing else has.
        {"family": "nanogpt-seed", "norm": "seed-layernorm", "bias_attn_out": False, "bias_ffn": False},
        ("bias", "dropout", "batch_size", "max_iters", "eval_interval", "learning_rate", "eval_iters", "device"),
    ),
    Dialect(
        "nanoGPT",
        "block_size",
        SHORT_NAMES | {"block_size": "context"},
        GPT2_PARTS | {"family": "nanogpt", "activation": "gelu"},
        ("dropout",),
    ),
    Dialect(
        "emb_dim",
        "emb_dim",
        {"vocab_size": "vocab_size", "context_length": "context", "emb_dim": "d_model", "n_heads": "n_heads"}
        | {"n_layers": "n_layers", "qkv_bias": "bias_qkv"},
        GPT2_PARTS | {"tied_embeddings": False},
        ("drop_rate",),
    ),
)


PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One training: the text, the model's name, and everything the result depends on."""

    corpus: str = "shakespeare"  # a known text's name, a file or a folder
    preset: str = "gptlab-cpu"  # a model of `gptlab models`
    tokenizer: str = "char"  # char, bpe (trained on the text) or gpt2
    vocab_size: int | None = None  # of a bpe tokenizer; default 1024
    context: int | None = None  # tokens seen at once; default the preset's
    n_heads: int | None = None  # heads of each layer; default the preset's
    recipe: str = "default"  # where the settings below come from when they are not given
    steps: int | None = None  # optimizer steps; default 2000, in the classic recipe 5000
    minutes: float | None = None  # train about so long instead: measured once, then a fixed number of steps
    batch: int = 32  # windows per optimizer step
    objective: str | None = None  # what is foretold; default next-token, or what the model's category is made for
    starts: str = "anywhere"  # where windows begin: anywhere, or at blank-lines (as between stories)
    accumulate: int = 1  # parts in which a batch is computed, to need less memory
    optimizer: str = "muon"  # muon (matrices by Muon, the rest by AdamW) or adamw
    lr: float = 0.03  # peak learning rate: of Muon's matrices, or of everything under adamw
    lr_adam: float = 0.02  # peak learning rate of what Muon leaves to AdamW
    momentum: float = 0.8  # Muon's
    beta1: float = 0.9  # AdamW's decay rate of the mean gradient
    beta2: float = 0.99  # AdamW's decay rate of the mean squared gradient
    weight_decay: float = 0.1  # decoupled, on matrices (classic: on everything)
    decay_all: bool = False  # decay vectors too, as a plain AdamW does
    schedule: str = "linear"  # learning rate after the warm-up: constant, linear or cosine
    warmup: int = 20  # steps from 0 to the peak
    final_lr: float = 0.0  # where the decay ends, as a fraction of the peak
    clip: float | None = 1.0  # largest norm of all gradients together; none: no clipping
    dropout: float = 0.0  # probability, on embeddings, attention and branch outputs
    precision: str = "auto"  # of matrix products: fp32, bf16 (weights stay fp32), or auto: what is faster here
    init: str = "scaled"  # how weights are drawn: gpt2, scaled (by fan-in, branches start at nothing) or copying
    seed: int = 0  # everything random follows from it
    eval_every: int | None = None  # steps between evaluations; default: 20 evaluations in all
    eval_windows: int | None = None  # windows per evaluation; default: as many as take under 5% of the time
    save_every: int | None = None  # steps between resumable states; default: at every evaluation
    patience: int | None = None  # stop after so many evaluations without a better validation loss
    sample_every: int = 4  # evaluations between samples; 0: none
    snapshots: int | None = None  # moments at which embeddings are kept, for a film; default up to 60, in 32 MB
    prompt: str = ""  # what the samples while training start from

    def check(self) -> None:
        for name in ("batch", "accumulate"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in (
            "steps",
            "context",
            "n_heads",
            "eval_every",
            "save_every",
            "patience",
            "vocab_size",
            "eval_windows",
        ):
            self.require(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1")
        for name in ("lr", "lr_adam", "warmup", "weight_decay", "sample_every", "seed"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        self.require(self.snapshots is None or self.snapshots >= 0, "snapshots", "0 or more")
        for name in ("momentum", "beta1", "beta2", "dropout"):
            self.require(0 <= getattr(self, name) < 1, name, "from 0 up to, but not, 1")
        self.require(0 <= self.final_lr <= 1, "final_lr", "from 0 to 1")
        self.require(self.clip is None or self.clip > 0, "clip", "more than 0")
        self.require(self.minutes is None or self.minutes > 0, "minutes", "more than 0")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} is not divisible by accumulate {self.accumulate}")
        if self.starts not in ("anywhere", "blank-lines"):
            raise unknown("starts", self.starts, ("anywhere", "blank-lines"))
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.objective is not None:
            OBJECTIVES.check(self.objective)
        TOKENIZERS.check(self.tokenizer)
        OPTIMIZERS.check(self.optimizer)
        SCHEDULES.check(self.schedule)


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # The old GPTLab's: constant AdamW with torch's own defaults, and dropout.
    "classic": dict(
        steps=5000,
        optimizer="adamw",
        lr=3e-4,
        beta2=0.999,
        weight_decay=0.01,
        decay_all=True,
        schedule="constant",
        warmup=0,
        final_lr=1.0,
        clip=None,
        precision="fp32",
        init="gpt2",
        dropout=0.2,
    ),
}


def recipe(name: str) -> TrainConfig:
    """The settings of a recipe; ValueError for a name that does not exist."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return TrainConfig(recipe=name, **RECIPES[name])


KINDS = {  # task -> how its answers are given and scored
    "classify": "classify",
    "translate": "translate",
    "instruct": "instruct",
    # Built-in ones, whose answers are known exactly, for they are choices of the fables.
    "mood": "classify",
    "translation": "translate",
    "conditions": "instruct",
}
TARGETS = ("qkv", "out", "up", "down")  # the matrices of a block that adapters can be put beside


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """One fine-tuning: the task, its examples, what is trained, and how."""

    task: str  # classify, translate, instruct, or a built-in one: mood, translation, conditions
    parent: str = ""  # the run whose model is fine-tuned
    parent_sha256: str = ""  # of its weights
    data: str | None = None  # a .csv, .tsv, .jsonl or .json file of examples; built-in tasks need none
    validation: str | None = None  # another one, to validate on; default a tenth of the examples
    data_sha256: tuple[str, ...] = ()  # of these files
    input: str | None = None  # the column that is given; default found by its name
    output: str | None = None  # the column that is answered; default found by its name
    languages: tuple[str, ...] = ()  # of a built-in task, of translation from and to; default the pretraining text's
    examples: int | None = None  # train on so many of the examples alone
    context: int | None = None  # tokens seen at once; default the model's, more only without a table of positions
    answer: str = "head"  # of classify: head (a row of a linear head for each label) or text (the label is written)
    labels: tuple[str, ...] = ()  # of classify, as they were found
    class_weights: str = "none"  # of classify: none, or balanced (each label counts alike, however rare)
    rank: int = 0  # of the adapters (LoRA) that are trained instead of the weights; 0: all weights are trained
    alpha: float | None = None  # adapters are scaled by alpha / rank; default twice the rank
    targets: tuple[str, ...] = TARGETS  # the matrices of each block that get adapters
    adapter_dropout: float = 0.0  # probability that an adapter does not see a feature of its input in a step
    steps: int | None = (
        None  # optimizer steps; default 10 passes over the examples, at least 100, at most 200 (texts: 400)
    )
    batch: int = 32  # examples per optimizer step
    accumulate: int = 1  # parts in which a batch is computed, to need less memory
    optimizer: str | None = None  # muon or adamw; default muon, and adamw for adapters and imported models
    lr: float | None = None  # peak learning rate; default by optimizer and model
    lr_adam: float | None = None  # peak learning rate of what Muon leaves to AdamW; default by lr
    weight_decay: float = 0.0  # decoupled, on matrices
    schedule: str = "linear"  # learning rate after the warm-up: constant, linear or cosine
    warmup: int | None = None  # steps from 0 to the peak; default a twentieth of them
    clip: float | None = 1.0  # largest norm of all gradients together; none: no clipping
    dropout: float = 0.0  # probability, on embeddings, attention and branch outputs
    precision: str = "auto"  # of matrix products: fp32, bf16 (weights stay fp32), or auto: what is faster here
    seed: int = 0  # everything random follows from it
    eval_every: int | None = None  # steps between evaluations; default: 10 evaluations in all
    patience: int | None = 4  # stop after so many evaluations without a better validation loss; none: never
    from_scratch: bool = False  # begin with weights drawn anew: what pretraining was worth

    @property
    def kind(self) -> str:
        """How answers are given and scored: classify, translate or instruct."""
        return KINDS[self.task]

    @property
    def built_in(self) -> bool:
        return self.task != self.kind

    @property
    def head(self) -> bool:
        """Whether a label is chosen by a linear head, and not written."""
        return self.kind == "classify" and self.answer == "head"

    def check(self) -> None:
        if self.task not in KINDS:
            raise unknown("task", self.task, KINDS)
        if self.built_in and (self.data or self.validation or self.input or self.output):
            raise ValueError(f"the task {self.task!r} makes its own examples; --data is for {self.kind!r}")
        if not self.built_in and self.data is None:
            built_in = next(name for name, kind in KINDS.items() if kind == self.task and name != kind)
            raise ValueError(f"the task {self.task!r} needs examples: --data FILE.csv or .jsonl; or take {built_in!r}")
        if self.languages and not self.built_in:
            raise ValueError("languages are of the built-in tasks; what is in a file is in the languages it is in")
        if self.languages and len(self.languages) != (2 if self.kind == "translate" else 1):
            wanted = "two languages, from and to" if self.kind == "translate" else "one language"
            raise ValueError(f"the task {self.task!r} takes {wanted}, not {' '.join(self.languages)}")
        for name, known in (("answer", ("head", "text")), ("class_weights", ("none", "balanced"))):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name, usual in (("class_weights", "none"), ("answer", "head")):
            if getattr(self, name) != usual and self.kind != "classify":
                raise ValueError(f"{name} is of classifications; the task {self.task!r} has no labels")
        for name in ("rank", "seed", "weight_decay"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("steps", "examples", "context", "eval_every", "patience"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1")
        for name in ("batch", "accumulate"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("alpha", "lr", "lr_adam", "clip"):
            self.require(getattr(self, name) is None or getattr(self, name) > 0, name, "more than 0")
        self.require(self.warmup is None or self.warmup >= 0, "warmup", "0 or more")
        for name in ("adapter_dropout", "dropout"):
            self.require(0 <= getattr(self, name) < 1, name, "from 0 up to, but not, 1")
        for target in self.targets:
            if target not in TARGETS:
                raise unknown("target", target, TARGETS)
        self.require(len(set(self.targets)) == len(self.targets) > 0, "targets", "distinct matrices, at least one")
        if not self.rank:
            for name in ("alpha", "targets", "adapter_dropout"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"{name} is of adapters: choose their --rank, too")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} is not divisible by accumulate {self.accumulate}")
        if self.rank and self.optimizer == "muon":
            raise ValueError("adapters are trained by adamw: Muon's steps are for whole matrices")
        if self.rank and self.from_scratch:
            raise ValueError("adapters beside weights that know nothing learn nothing: choose --rank or --from-scratch")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.optimizer is not None:
            OPTIMIZERS.check(self.optimizer)
        SCHEDULES.check(self.schedule)

    def training(self) -> TrainConfig:
        """The same for the training loop, once every default that depends on something is filled in."""
        same = {f.name for f in dataclasses.fields(TrainConfig)} & {f.name for f in dataclasses.fields(type(self))}
        values = {name: getattr(self, name) for name in same}
        return TrainConfig(**values, eval_windows=1, sample_every=0, snapshots=0 if self.rank else None)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config):
    """How the next token is chosen. What is cut or bent is applied in the order of the fields."""

    tokens: int = 200  # the most tokens to write
    logit_bias: dict[str, float] = field(default_factory=dict)  # added to logits, by token id ("#42") or text
    repetition_penalty: float = 1.0  # divides the logits of tokens seen (multiplies negative ones); 1: off
    frequency_penalty: float = 0.0  # subtracted from a token's logit for every time it was written
    presence_penalty: float = 0.0  # subtracted once from the logit of a token that was written
    temperature: float = 1.0  # divides the logits; 0: always the likeliest token (greedy)
    top_k: int | None = None  # keep the k likeliest tokens
    top_p: float | None = None  # keep the likeliest tokens whose probability reaches p together
    min_p: float | None = None  # keep tokens at least min_p times as probable as the likeliest
    stop: tuple[str, ...] = ()  # end where one of these appears; it is left out of the text
    seed: int = 0  # the same seed, prompt and settings give the same text
    window: str = "halves"  # past the context: halves (fast) or slide (the last `context` tokens, recomputed)

    def check(self) -> None:
        self.require(self.tokens >= 0, "tokens", "0 or more")
        self.require(self.temperature >= 0, "temperature", "0 or more")
        for name in ("frequency_penalty", "presence_penalty"):
            self.require(math.isfinite(getattr(self, name)), name, "a finite number")
        for name, value in self.logit_bias.items():
            if not value < math.inf:  # NaN neither; -inf forbids a token
                raise ValueError(f"logit_bias {name!r} must be a number, not {value!r}")
        self.require(self.repetition_penalty > 0, "repetition_penalty", "more than 0")
        self.require(self.top_k is None or self.top_k >= 1, "top_k", "at least 1")
        self.require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "more than 0, at most 1")
        self.require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        self.require(self.seed >= 0, "seed", "0 or more")
        self.require("" not in self.stop, "stop", "strings of at least one character")
        if self.window not in ("halves", "slide"):
            raise unknown("window", self.window, ("halves", "slide"))
