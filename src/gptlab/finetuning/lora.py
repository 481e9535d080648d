"""Adapters: instead of a weight W, a product of low rank that is added to it. Hu et al. 2021 (LoRA), arXiv 2106.09685.

    W' = W + (alpha / r) B A,   A (r, inputs), B (outputs, r), B = 0 at first

A, B are parameters, W is frozen. What a model computes is written nowhere anew: each weight that has an adapter is
computed from it when it is read (torch's parametrizations), so that every architecture, and every kernel, has adapters.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gptlab import files
from gptlab.config import FinetuneConfig, read_table
from gptlab.model.attention import Attention
from gptlab.model.mlps import MLP
from gptlab.model.transformer import Transformer
from gptlab.registry import unknown
from gptlab.run import load_tensors, save_tensors
from gptlab.text.batches import generator

PREFIX = "base_model.model."  # of names in peft's files
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's
TOKENS, TASK = "tokens.safetensors", "task.toml"  # ours, beside them: the rows of new tokens, and the fine-tuning
TABLES = ("embedding", "head", "head_bias")  # what has a row for each token


class Adapter(NamedTuple):
    """What is added to one weight: scale B A."""

    A: Tensor  # (r, inputs)
    B: Tensor  # (outputs, r)
    scale: float

    def product(self) -> Tensor:
        return self.scale * (self.B @ self.A)


class LoRA(nn.Module):
    """W -> W + (alpha / r) B A.

    dropout: while training, features of the input that A does not see, the same ones for all tokens of a step: a vector
    is drawn, and no second copy of the activations is made (Lin et al. 2024, arXiv 2404.09610, drop in this way, too).
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float, *key: int | str) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.scale, self.dropout = alpha / rank, dropout
        bound = 1 / math.sqrt(inputs)
        drawn = generator(*key).uniform(-bound, bound, (rank, inputs))
        self.A = nn.Parameter(torch.tensor(drawn, dtype=weight.dtype, device=weight.device))
        self.B = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        A: Tensor = self.A
        if self.training and self.dropout:
            A = A * nn.functional.dropout(torch.ones_like(A[0]), self.dropout)
        return weight + self.scale * (self.B @ A)


class NewRows(nn.Module):
    """A table, some rows of which are learned: those of new tokens. The others are frozen."""

    def __init__(self, table: Tensor, ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids.to(table.device), persistent=False)
        self.rows = nn.Parameter(table.detach()[ids].clone())

    def forward(self, table: Tensor) -> Tensor:
        ids = self.ids
        assert isinstance(ids, Tensor)
        return table.index_copy(0, ids, self.rows)


def matrices(model: Transformer, targets: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """The matrices of all blocks, an encoder's too, that are among the targets: name, module."""
    for name, module in model.named_modules():
        if isinstance(module, Attention | MLP):
            for target in targets:
                if isinstance(found := getattr(module, target, None), nn.Linear):
                    yield f"{name}.{target}", found


def adapt(model: Transformer, config: FinetuneConfig, new: Sequence[int]) -> None:
    """Freeze a model, and give it adapters, and rows that learn for the new tokens."""
    assert config.rank and config.alpha
    for parameter in model.parameters():
        parameter.requires_grad = False
    for name, module in list(matrices(model, config.targets)):
        least = min(module.weight.shape)
        if config.rank > least:
            raise ValueError(f"rank {config.rank} is more than {name} has, {least}: choose a smaller --rank")
        lora = LoRA(module.weight, config.rank, config.alpha, config.adapter_dropout, config.seed, "adapter", name)
        parametrize.register_parametrization(module, "weight", lora)
    for table in TABLES if new else ():
        if getattr(model, table) is not None:
            parametrize.register_parametrization(model, table, NewRows(getattr(model, table), torch.tensor(new)))


def adapters(model: Transformer) -> dict[str, Adapter]:
    """A model's adapters, by the names of the weights that they are added to."""
    return {
        f"{name}.weight": Adapter(lora.A.detach(), lora.B.detach(), lora.scale)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
        for lora in module.parametrizations.weight
        if isinstance(lora, LoRA)
    }


def merged(model: Transformer) -> dict[str, Tensor]:
    """The weights of a model as it computes, by their plain names: what its adapters add is in them."""
    with torch.device("meta"):
        names = [name for name, _ in Transformer(model.config).named_parameters()]
    training = model.training
    model.eval()
    with torch.no_grad():
        found = {name: attrgetter(name)(model).detach().cpu().contiguous() for name in names}
    model.train(training)
    return found


def merge(weights: Mapping[str, Tensor], added: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Weights, and what adapters add to them. ValueError for an adapter of a weight that is not there, or of another
    shape."""
    out = dict(weights)
    for name, adapter in added.items():
        if name not in out:
            raise unknown("weight of an adapter", name, [n for n in out if n.endswith(".weight")][:12])
        product = adapter.product()
        if product.shape != out[name].shape:
            raise ValueError(f"the adapter of {name} is {tuple(product.shape)}, the weight {tuple(out[name].shape)}")
        out[name] = out[name] + product.to(out[name])
    return out


# Files, in the format of Hugging Face's peft


def write(folder: Path, added: Mapping[str, Adapter], base: str, *, transposed: bool = False) -> None:
    """adapter_config.json and adapter_model.safetensors, which peft loads beside a model whose modules have these
    names: ours, or, once translated, those of transformers; transposed: whose matrices are (inputs, outputs)."""
    some = next(iter(added.values()))
    rank = some.A.shape[0]
    names = [name.removesuffix(".weight") for name in added]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": some.scale * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({".".join(name.split(".")[-2:]) for name in names}),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "task_type": None,
    }
    weights = {
        f"{PREFIX}{name}.lora_{part}.weight": getattr(added[f"{name}.weight"], part).cpu().clone()
        for name in names
        for part in ("A", "B")
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(weights, folder / WEIGHTS)
    files.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read(folder: Path) -> dict[str, Adapter]:
    """The adapters in a folder, by the names of their weights. ValueError for files that are missing, or say what is
    more than W + scale B A."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(f"{folder} has no {file}: it holds no adapter in peft's format")
    config = read_table(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG} is of the type {config.get('peft_type')!r}; only LORA can be read")
    for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"):
        if config.get(name):
            raise ValueError(f"{folder / CONFIG} has {name} = {config[name]!r}, which gptlab does not read")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{folder / CONFIG} has bias = {config['bias']!r}: biases that are trained, too, are not read")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise ValueError(f"{folder / CONFIG} has no r and lora_alpha that are numbers: {rank!r}, {alpha!r}")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights = load_tensors(folder / WEIGHTS)
    found: dict[str, Adapter] = {}
    for name, A in weights.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            B = weights.get(f"{module}.lora_B.weight")
            if B is None or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
                raise ValueError(f"{folder / WEIGHTS}: {name} has no lora_B that fits it")
            found[f"{module.removeprefix(PREFIX)}.weight"] = Adapter(A, B, scale)
    if len(weights) != 2 * len(found) or not found:
        rest = [name for name in weights if ".lora_A." not in name and ".lora_B." not in name]
        raise ValueError(f"{folder / WEIGHTS} holds what is no adapter of a matrix: {', '.join(rest[:3]) or 'nothing'}")
    return found
