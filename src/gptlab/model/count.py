"""Exact parameter counts at any size: the model is built on the meta device, which has shapes and no memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from gptlab.config import ModelConfig
from gptlab.model.transformer import Transformer

# part -> names of its parameters
PARTS = {
    "embedding": ("embedding", "embedding_in.*", "embedding_out.*"),
    "position": ("*position.weight", "query"),
    "attention": ("*blocks.*.attention.*", "*blocks.*.cross.*", "*position.buckets"),
    "mlp": ("*blocks.*.mlp.*",),
    "norm": ("norm.*", "embedding_norm.*", "encoder.norm.*", "encoder.embedding_norm.*", "*blocks.*.norms.*"),
    "head": ("head", "head_bias"),
}


@dataclass(frozen=True)
class Count:
    """Numbers of parameters, by part; a tied head counts once, as the embedding."""

    embedding: int
    position: int
    attention: int
    mlp: int
    norm: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.position + self.attention + self.mlp + self.norm + self.head

    @property
    def non_embedding(self) -> int:
        """Without the token, position and head tables."""
        return self.attention + self.mlp + self.norm


def count(config: ModelConfig) -> Count:
    """How many parameters a model of this shape has."""
    parts = dict.fromkeys(PARTS, 0)
    for name, parameter, layers in parameters(config):
        matching = [part for part, patterns in PARTS.items() if any(fnmatchcase(name, p) for p in patterns)]
        assert len(matching) == 1, f"parameter {name} belongs to {matching or 'no part'}"
        parts[matching[0]] += layers * parameter.numel()
    return Count(**parts)


def parameters(config: ModelConfig) -> Iterator[tuple[str, nn.Parameter, int]]:
    """(name, parameter on the meta device, in how many layers) of all; those of layer 0 stand for all layers.

    One block is made for each stack: parameters are the same in all its layers.
    """
    with torch.device("meta"):
        model = Transformer(config.but(n_layers=1, n_encoder_layers=min(1, config.n_encoder_layers)))
    layers = {"blocks": config.n_layers, "encoder.blocks": config.n_encoder_layers}
    for name, parameter in model.named_parameters():
        yield name, parameter, layers.get(name.partition(".0.")[0], 1)
