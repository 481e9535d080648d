"""What a model costs: operations, and bytes of memory to train and to run it. Computed from its shape alone.

B batch, T tokens, S source tokens (as many), C model width, H heads, K key and value heads, D head width, F d_ff.
"""

from dataclasses import dataclass

from gptlab.config import ModelConfig
from gptlab.model.count import parameters
from gptlab.model.mlps import GATED
from gptlab.model.outline import Outline
from gptlab.registry import ACTIVATIONS, unknown

BYTES = {"fp32": 4, "bf16": 2}  # of a number, by precision
TRAINING = 3  # times the operations of a forward pass: the backward pass has two products for each


def flops(config: ModelConfig, *, batch: int, length: int) -> int:
    """Operations of a forward pass: 2 for each multiplication and addition in every matrix product.

    A matrix of n x m costs 2 n m per token; attention 4 T H D per token and layer (scores, and values weighted by
    them), over all T^2 pairs, masked or not. What is no matrix product (norms, activations, softmax) is not counted.
    """
    c, B, T = config, batch, length
    C, F, width, kv = c.d_model, c.d_ff, c.n_heads * c.head_dim, 2 * c.n_kv_heads * c.head_dim
    tokens = B * T
    attention = tokens * (C * (width + kv) + width * C) + 2 * tokens * T * width  # qkv, out; scores, values
    if c.position == "transformer-xl-relative":
        attention += c.context * C * width + tokens * c.context * width  # keys of all distances; queries with them
    mlp = tokens * C * F * (3 if ACTIVATIONS[c.activation] in GATED else 2)
    products = (c.n_layers + c.n_encoder_layers) * (attention + mlp)
    if c.n_encoder_layers:  # cross-attention has the same products
        products += c.n_layers * attention
    if c.query_layer:
        products -= (B - 1) * T * C * width  # its queries depend on positions alone: one row for the whole batch
    if c.d_embedding != C:
        products += tokens * C * c.d_embedding * (3 if c.n_encoder_layers else 2)
    return 2 * (products + tokens * c.d_embedding * c.vocab_size)


def cache_bytes(config: ModelConfig, precision: str = "fp32") -> int:
    """Bytes that a cache keeps for each token: keys and values of all layers. For each source token it is the same."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * size_of(precision)


@dataclass(frozen=True)
class Memory:
    """Bytes that a training needs at least, whatever the batch."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def training_memory(config: ModelConfig, *, optimizer: str = "muon", precision: str = "fp32") -> Memory:
    """AdamW keeps two numbers for each parameter, Muon one for each that it moves: those of matrices inside blocks.

    They are kept in fp32. In bf16, so is a copy of the weights, for steps are too small for bf16's 8 bits.
    """
    numbers = muon = 0
    for name, parameter, layers in parameters(config):
        numbers += layers * parameter.numel()
        if parameter.ndim == 2 and "blocks." in name:
            muon += layers * parameter.numel()
    kept = 2 * numbers - (muon if optimizer == "muon" else 0) + (numbers if precision != "fp32" else 0)
    size = size_of(precision)
    return Memory(numbers * size, numbers * size, kept * BYTES["fp32"])


def activation_bytes(found: Outline, precision: str = "fp32") -> int:
    """An estimate of the bytes of all that autograd keeps for the backward pass."""
    return found.kept * size_of(precision)


def size_of(precision: str) -> int:
    if precision not in BYTES:
        raise unknown("precision", precision, BYTES)
    return BYTES[precision]
