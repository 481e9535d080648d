"""The whole model: token ids in, a score for every possible next token out.

B batch, T tokens, C model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model import kernels
from gptlab.model.attention import Attention, Scene
from gptlab.model.block import Block
from gptlab.model.cache import Cache
from gptlab.model.init import initialise
from gptlab.model.masks import Mask, mask
from gptlab.model.mlps import MLP
from gptlab.model.positions.base import Position
from gptlab.registry import ACTIVATIONS, NORMS, POSITIONS, RESIDUALS


class Transformer(nn.Module):
    """A decoder: embedding, blocks, final norm, head.

    The weights are not drawn yet (see `build`). `config` is kept for those who ask; `forward` never does.
    """

    def __init__(self, config: ModelConfig, *, dropout: float = 0.0, kernel: kernels.Kernel = kernels.sdpa) -> None:
        super().__init__()
        self.config, self.context, self.vocab_size = config, config.context, config.vocab_size
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.position: Position = position_of(config)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block_of(config, i, dropout, kernel) for i in range(config.n_layers))
        self.norm = norm_of(config) if config.final_norm else nn.Identity()
        self.head = None if config.tied_embeddings else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.head_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.bias_lm_head else None

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """ids (B, T) -> logits (B, T, V) for the token after each; ids are never shifted here.

        positions (B, T): default 0..T-1 after what the cache holds; valid (B, T): False on padding;
        cache: holds the tokens before these, and takes these in.
        Raises ValueError where T, with what the cache holds, exceeds the context.
        """
        T = ids.shape[1]  # new tokens
        held = 0 if cache is None else cache.length
        if held + T > self.context:
            raise ValueError(f"{held + T} tokens exceed the context of {self.context}")
        plain = positions is None and valid is None and (cache is None or not cache.padded)
        if positions is None:
            positions = torch.arange(held, held + T, device=ids.device)[None]
        k_pos, k_valid = positions, valid
        if cache is not None:
            cache.begin(positions, valid)
            k_pos = cache.k_pos[:, : cache.length]
            k_valid = cache.valid[:, : cache.length] if cache.padded else None
        if plain and (held == 0 or T == 1):  # the two cases that kernels know without a table
            seen = Mask(causal=held == 0)
        else:
            seen = mask(positions, k_pos, k_valid)
        scene = Scene(positions, k_pos, seen, self.position, cache)

        x = self.dropout(self.position.embed(F.embedding(ids, self.embedding), positions))
        for block in self.blocks:
            x = block(x, scene)
        return F.linear(self.norm(x), self.embedding if self.head is None else self.head, self.head_bias)


def norm_of(config: ModelConfig) -> nn.Module:
    return NORMS.build(config.norm, d_model=config.d_model, eps=config.norm_eps, affine=config.norm_affine)


def position_of(config: ModelConfig) -> Position:
    return POSITIONS.build(config.position, context=config.context, d_model=config.d_model)


def block_of(config: ModelConfig, layer: int, dropout: float, kernel: kernels.Kernel) -> Block:
    attention = Attention(
        layer=layer,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        bias_qkv=config.bias_qkv,
        bias_out=config.bias_attn_out,
        dropout=dropout,
        kernel=kernel,
    )
    mlp = MLP(
        d_model=config.d_model,
        d_ff=config.d_ff,
        activation=ACTIVATIONS[config.activation],
        bias=config.bias_ffn,
        dropout=dropout,
    )
    residual = RESIDUALS.build(config.norm_placement, norms=[norm_of(config), norm_of(config)])
    return Block(attention=attention, mlp=mlp, residual=residual)


def build(config: ModelConfig, *, seed: int = 0, init: str = "gpt2", dropout: float = 0.0) -> Transformer:
    """A model with weights drawn from `seed`, in evaluation mode.

    init: a scheme of model/init.py; dropout: the probability while training.
    """
    with torch.device("meta"):  # without the draws that torch's own layers begin with, and that nobody needs
        model = Transformer(config, dropout=dropout)
    model.to_empty(device="cpu")
    initialise(model, n_layers=config.n_layers, seed=seed, scheme=init)
    return model.eval()
