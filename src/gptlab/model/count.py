"""Exact parameter counts at any size: the model is built on the meta device, which has shapes and no memory."""

from dataclasses import dataclass

import torch

from gptlab.config import ModelConfig
from gptlab.model.transformer import Transformer


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
    with torch.device("meta"):
        model = Transformer(config)
    parts = dict.fromkeys(("embedding", "position", "attention", "mlp", "norm", "head"), 0)
    for name, parameter in model.named_parameters():
        (part,) = [part for part in parts if part in name.replace("residual.norms", "norm").split("_")[0]]
        parts[part] += parameter.numel()
    return Count(**parts)
