"""The table behind `gptlab models`: each preset's parts and sizes, its parameters counted to the last one, and what was
published. Where a paper and the survey of the old GPTLab (github wmelo52/GPTLab, README) differ, a note says so; notes
and headings are in the catalogues beside this file, a note under the name of its model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from gptlab.config import ModelConfig
from gptlab.messages import catalogue, filled
from gptlab.model.count import count
from gptlab.presets import ALIASES, SIZES, preset

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Published:
    """What somebody printed about a model."""

    label: str  # the number as it is printed
    parameters: int  # the same as a number
    source: str  # arXiv number, or another place: a repository of github, a white paper
    counts: str = "total"  # or non-embedding
    surveyed: bool = True  # whether the survey has a row for this size


GPT2 = "openai/gpt-2"
SEED = "wmelo52/GPTLab"
PUBLISHED = {
    "gptlab-cpu": Published("207,936", 207_936, SEED, surveyed=False),
    "gptlab-gpu": Published("10,683,264", 10_683_264, SEED),
    "gpt2-124m": Published("124M", 124_000_000, GPT2, surveyed=False),
    "gpt2-355m": Published("355M", 355_000_000, GPT2, surveyed=False),
    "gpt2-774m": Published("774M", 774_000_000, GPT2, surveyed=False),
    "gpt2-1558m": Published("1558M", 1_558_000_000, GPT2, surveyed=False),
    "gpt3-175b": Published("175.0B", 175_000_000_000, "2005.14165"),
    "pangu-alpha-207b": Published("207B", 207_000_000_000, "2104.12369"),
    "opt-125m": Published("125M", 125_000_000, "2205.01068", surveyed=False),
    "opt-350m": Published("350M", 350_000_000, "2205.01068", surveyed=False),
    "opt-175b": Published("175B", 175_000_000_000, "2205.01068"),
    "palm-540b": Published("540.35B", 540_350_000_000, "2204.02311"),
    "bloom-560m": Published("559,214,592", 559_214_592, "2211.05100", surveyed=False),
    "bloom-176b": Published("176,247,271,424", 176_247_271_424, "2211.05100"),
    "mt-nlg-530b": Published("530B", 530_000_000_000, "2201.11990"),
    "gopher-280b": Published("280B", 280_000_000_000, "2112.11446"),
    "chinchilla-70b": Published("70B", 70_000_000_000, "2203.15556"),
    "galactica-120b": Published("120.0B", 120_000_000_000, "2211.09085"),
    "lamda-137b": Published("137B", 137_000_000_000, "2201.08239", "non-embedding"),
    "jurassic-1-jumbo-178b": Published("178B", 178_000_000_000, "Lieber et al. 2021"),
    "llama-7b": Published("6.7B", 6_700_000_000, "2302.13971", surveyed=False),
    "llama-65b": Published("65.2B", 65_200_000_000, "2302.13971"),
    "glm-130b": Published("130B", 130_000_000_000, "2210.02414"),
    "t5-small": Published("60M", 60_000_000, "1910.10683", surveyed=False),
    "t5-11b": Published("11B", 11_000_000_000, "1910.10683"),
}

GROUPS = ("own", "causal", "prefix", "encoder-decoder", "miniatures")
OWN = ("gptlab", "nanogpt-seed", "nanogpt")  # families
# Each in short and in full.
PLACEMENTS = {
    "pre": ("Pre", "Pre"),
    "post": ("Post", "Post"),
    "post-deepnorm": ("Deep", "DeepNorm"),
    "parallel": ("Par.", "Parallel"),
}
NORMS = {"layernorm": "LN", "seed-layernorm": "LN", "rmsnorm": "RMS"}
POSITIONS = {
    "learned": ("learned", "learned"),
    "sinusoidal": ("sines", "sinusoidal"),
    "rope": ("RoPE", "RoPE"),
    "alibi": ("ALiBi", "ALiBi"),
    "t5-relative": ("T5 rel.", "relative (T5)"),
    "transformer-xl-relative": ("XL rel.", "relative (XL)"),
    "none": ("none", "none"),
}
ACTIVATIONS = {
    "relu": ("ReLU", "ReLU"),
    "relu_squared": ("ReLU²", "ReLU²"),
    "gelu": ("GELU", "GELU"),
    "gelu_tanh": ("GELU", "GELU (tanh)"),
    "swiglu": ("SwiGLU", "SwiGLU"),
    "geglu": ("GEGLU", "GEGLU"),
    "geglu_tanh": ("GEGLU", "GEGLU (tanh)"),
}


@dataclass(frozen=True)
class Row:
    """A model of the table."""

    name: str
    group: str
    config: ModelConfig
    parameters: int
    non_embedding: int
    published: Published | None

    @property
    def bias(self) -> str:
        """Which projections have biases: yes (all), no, or which."""
        c = self.config
        which = {"qkv": c.bias_qkv, "out": c.bias_attn_out, "mlp": c.bias_ffn}
        return "yes" if all(which.values()) else "+".join(name for name, has in which.items() if has) or "no"

    @property
    def norm(self) -> tuple[str, str]:
        short, full = PLACEMENTS[self.config.norm_placement]
        return f"{short} {NORMS[self.config.norm]}", f"{full} {NORMS[self.config.norm]}"

    @property
    def layers(self) -> str:
        c = self.config
        return f"{c.n_encoder_layers}+{c.n_layers}" if c.n_encoder_layers else str(c.n_layers)

    def note(self, lang: str) -> str | None:
        """Where the paper, the survey and the count differ."""
        return catalogue(lang, HERE).get(self.name)

    def to_dict(self, lang: str) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "name": self.name,
            "group": self.group,
            "parameters": self.parameters,
            "non_embedding": self.non_embedding,
            "published": asdict(self.published) if self.published else None,
            "note": self.note(lang),
            "config": self.config.to_dict(),
        }


def rows(names: Iterable[str] = ()) -> list[Row]:
    """The models of these names, or all; ValueError for a name that is not known."""
    chosen = []
    for name in names or SIZES:
        name = ALIASES.get(name, name)
        config = preset(name)
        group = "own" if config.family in OWN else "miniatures" if name.endswith("-mini") else config.category
        counted = count(config)
        chosen.append(Row(name, group, config, counted.total, counted.non_embedding, PUBLISHED.get(name)))
    return sorted(chosen, key=lambda row: GROUPS.index(row.group))


NARROW = ("", "norm", "PE", "act.", "bias", "L", "H", "d", "MCL", "counted", "printed")
SIZE_HEADS = ("L", "H", "KV", "head_dim", "d_model", "d_ff", "vocabulary", "MCL")
WIDE = ("", "category", "norm", "PE", "activation", "bias", *SIZE_HEADS, "parameters", "published", "source")
TEXTS = 5  # so many first columns are text in the narrow table, one more in the wide one
NAME = 16  # width of the narrow table's names; a longer one has a line of its own
LINE = 79


def in_short(row: Row, lang: str) -> tuple[str, ...]:
    c, p = row.config, row.published
    sizes = (c.n_layers, c.n_heads, c.d_model, c.context)
    parts = (row.name, row.norm[0], POSITIONS[c.position][0], ACTIVATIONS[c.activation][0], row.bias)
    return (*parts, *map(str, sizes), short(row.parameters, lang), short(p.parameters, lang) if p else "")


def in_full(row: Row, lang: str) -> tuple[str, ...]:
    c, p = row.config, row.published
    parts = (row.name, c.category, row.norm[1], POSITIONS[c.position][1], ACTIVATIONS[c.activation][1], row.bias)
    sizes = (c.n_heads, c.n_kv_heads, c.head_dim, c.d_model, c.d_ff, c.vocab_size, c.context)
    said = (p.label if p.counts == "total" else f"{p.label} {p.counts}", p.source) if p else ("", "")
    return (*parts, row.layers, *map(str, sizes), filled("{n:,}", lang, n=row.parameters), *said)


def short(number: int, lang: str) -> str:
    """816,256; 10.70M; 540.36B"""
    if number < 1_000_000:
        return filled("{n:,}", lang, n=number)
    unit, name = (1e9, "B") if number >= 1_000_000_000 else (1e6, "M")
    return filled("{n:.2f}", lang, n=number / unit) + name


def printed(chosen: Sequence[Row], lang: str, *, wide: bool, notes: bool) -> str:
    """The table by groups, 79 columns or (wide) some 200; after it the notes, or how to see them."""
    words = catalogue(lang, HERE)
    heads, cells = (WIDE, in_full) if wide else (NARROW, in_short)
    texts, name_width = (TEXTS + 1, 0) if wide else (TEXTS, NAME)
    body = {row.name: cells(row, lang) for row in chosen}
    columns = list(zip(heads, *body.values(), strict=True))
    widths = [max(map(len, column)) for column in columns]
    widths[0] = min(widths[0], name_width) if name_width else widths[0]
    texts_at = {*range(texts), *(i for i, head in enumerate(heads) if head == "source")}
    gap = "  " if wide else " "

    def line(values: Sequence[str]) -> str:
        overflow = len(values[0]) > widths[0]
        padded = [
            value.ljust(width) if i in texts_at else value.rjust(width)
            for i, (value, width) in enumerate(zip(("", *values[1:]) if overflow else values, widths, strict=True))
        ]
        return (f"{values[0]}\n" if overflow else "") + gap.join(padded).rstrip()

    lines = [line(heads)]
    for group in GROUPS:
        members = [row for row in chosen if row.group == group]
        lines += ["", fill(words[group], LINE), *(line(body[row.name]) for row in members)] if members else []
    lines += ["", fill(words["legend_wide" if wide else "legend"], LINE)]
    if notes:
        found = [(row.name, row.note(lang)) for row in chosen]
        lines += ["", *(fill(f"{name}: {note}", LINE, subsequent_indent="  ") for name, note in found if note)]
    else:
        lines += [fill(words["more"], LINE)]
    return "\n".join(lines).rstrip()
