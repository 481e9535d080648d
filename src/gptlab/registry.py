"""Named parts: a name in a config -> the class or function that it stands for.

An entry is "module:attribute", imported only when it is asked for, so that listing or checking names costs
nothing. A new part is its class and one line in a table.
"""

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that no table holds: names the likely ones first, then all of them."""
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")


class Registry:
    """A table of parts of one kind ("norm", "position encoding", …)."""

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind, self.entries = kind, entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def check(self, name: str) -> str:
        """The name itself, or a ValueError that lists the known ones."""
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries)
        return name

    def __getitem__(self, name: str) -> Any:
        module, attribute = self.entries[self.check(name)].split(":")
        return getattr(import_module(module), attribute)

    def options(self, name: str) -> list[str]:
        """The names of the options that a part takes."""
        return list(inspect.signature(self[name]).parameters)

    def build(self, name: str, **options: Any) -> Any:
        """Call the part with its options; ValueError for one that it does not take."""
        part = self[name]
        accepted = self.options(name)
        for option in options:
            if option not in accepted:
                raise ValueError(f"{self.kind} {name!r} takes no option {option!r}; it takes: {', '.join(accepted)}")
        return part(**options)


NORMS = Registry(
    "norm",
    {
        "layernorm": "gptlab.model.norms:LayerNorm",
        "rmsnorm": "gptlab.model.norms:RMSNorm",
        "seed-layernorm": "gptlab.model.norms:SeedLayerNorm",
    },
)
POSITIONS = Registry(
    "position encoding",
    {
        "learned": "gptlab.model.positions.learned:Learned",
        "sinusoidal": "gptlab.model.positions.sinusoidal:Sinusoidal",
        "rope": "gptlab.model.positions.rope:RoPE",
        "alibi": "gptlab.model.positions.alibi:ALiBi",
        "t5-relative": "gptlab.model.positions.t5:T5Relative",
        "transformer-xl-relative": "gptlab.model.positions.transformer_xl:TransformerXL",
        "none": "gptlab.model.positions.none:NoPosition",
    },
)
ACTIVATIONS = Registry(
    "activation",
    {
        "relu": "gptlab.model.mlps:relu",
        "gelu": "gptlab.model.mlps:gelu",
        "gelu_tanh": "gptlab.model.mlps:gelu_tanh",
        "relu_squared": "gptlab.model.mlps:relu_squared",
        "swiglu": "gptlab.model.mlps:swiglu",
        "geglu": "gptlab.model.mlps:geglu",
        "geglu_tanh": "gptlab.model.mlps:geglu_tanh",
    },
)
RESIDUALS = Registry(
    "norm placement",
    {
        "pre": "gptlab.model.residuals:PreNorm",
        "post": "gptlab.model.residuals:PostNorm",
        "post-deepnorm": "gptlab.model.residuals:DeepNorm",
        "parallel": "gptlab.model.residuals:Parallel",
    },
)
KERNELS = Registry(  # the fastest first; the last is the formula itself, which the others are tested against
    "attention kernel",
    {
        "compiled": "gptlab.model.kernels:compiled",
        "sdpa": "gptlab.model.kernels:sdpa",
        "reference": "gptlab.model.kernels:reference",
    },
)
ROTATION_KERNELS = Registry(
    "rotation kernel",
    {
        "compiled": "gptlab.model.native:rotate",
        "reference": "gptlab.model.positions.rope:plain",
    },
)
NORM_KERNELS = Registry(
    "norm kernel",
    {
        "compiled": "gptlab.model.native:norm",
        "reference": "gptlab.model.norms:plain",
    },
)
ACTIVATION_KERNELS = Registry(
    "activation kernel",
    {
        "compiled": "gptlab.model.native:activation",
        "reference": "gptlab.model.mlps:plain",
    },
)
LOSS_KERNELS = Registry(
    "loss kernel",
    {
        "compiled": "gptlab.model.native:cross_entropy",
        "reference": "gptlab.training.loss:plain",
    },
)
BLOCK_KERNELS = Registry(
    "block kernel",
    {
        "compiled": "gptlab.model.native:block",
        "reference": "gptlab.model.block:plain",
    },
)
TOKENIZERS = Registry(
    "tokenizer",
    {
        "char": "gptlab.text.chars:CharTokenizer",
        "bpe": "gptlab.text.bpe:BPETokenizer",
        "gpt2": "gptlab.text.gpt2:GPT2Tokenizer",
        "hf": "gptlab.text.hf:HFTokenizer",  # of an imported model; not to be trained
    },
)
OBJECTIVES = Registry(
    "objective",
    {
        "next-token": "gptlab.text.objectives:NextToken",
        "continuation": "gptlab.text.objectives:Continuation",
        "blank-infilling": "gptlab.text.objectives:BlankInfilling",
        "span-corruption": "gptlab.text.objectives:SpanCorruption",
    },
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": "gptlab.training.optim:adamw",
        "muon": "gptlab.training.optim:muon",
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "constant": "gptlab.training.schedule:constant",
        "linear": "gptlab.training.schedule:linear",
        "cosine": "gptlab.training.schedule:cosine",
    },
)
