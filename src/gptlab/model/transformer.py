"""The whole model: token ids in, a score for every possible next token out.

B batch, T tokens, S source tokens, C model width, E embedding width, V vocabulary.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model import kernels
from gptlab.model.attention import Attention, Scene
from gptlab.model.block import Block, QueryBlock
from gptlab.model.cache import Cache
from gptlab.model.init import initialise
from gptlab.model.masks import Mask, everything, mask, same
from gptlab.model.mlps import MLP
from gptlab.model.positions.base import Position
from gptlab.model.taps import tap
from gptlab.registry import ACTIVATIONS, NORMS, POSITIONS, RESIDUALS


class Stack(nn.Module):
    """Blocks, with a position encoding before them and a norm behind: an encoder is one, and a decoder is one."""

    def __init__(self, config: ModelConfig, *, encoder: bool, dropout: float, kernel: kernels.Kernel) -> None:
        super().__init__()
        self.context = config.context
        # Only T5's buckets differ: an encoder's are for both directions.
        self.position = position_of(config, both_ways=encoder)
        self.embedding_norm = norm_of(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        n_layers = config.n_encoder_layers if encoder else config.n_layers
        make = partial(block_of, config, position=self.position, encoder=encoder, dropout=dropout, kernel=kernel)
        self.blocks = nn.ModuleList(make(layer) for layer in range(n_layers))
        self.norm = norm_of(config) if config.final_norm else nn.Identity()

    def run(self, x: Tensor, positions: Tensor, scene: Scene) -> Tensor:
        """Embedded tokens (B, T, C) -> what the blocks make of them, (B, T, C)."""
        tap(self, "embed", x)
        x = self.dropout(self.embedding_norm(self.position.embed(x, positions)))
        for block in self.blocks:
            x = block(x, scene)
        return self.norm(x)


class Encoder(Stack):
    """Reads the source, each token seeing all of it."""

    def __init__(self, config: ModelConfig, **parts: object) -> None:
        super().__init__(config, encoder=True, **parts)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, valid: Tensor | None, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """x (B, S, C) embedded tokens, valid (B, S): False on padding, which may only stand behind the text; segments
        and positions (B, S) as the decoder's."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        seen = everything(valid) if segments is None else Mask(False, same(segments, segments))
        shared = self.position.once(positions, positions, x.dtype)
        return self.run(x, positions, Scene(self.position, shared, lambda band: seen))


class Transformer(Stack):
    """A decoder with its embedding and head; and an encoder in front of it, where the architecture has one.

    The weights are not drawn yet (see `build`). `config` is kept for those who ask; `forward` never does.
    """

    def __init__(self, config: ModelConfig, *, dropout: float = 0.0, kernel: kernels.Kernel = kernels.sdpa) -> None:
        super().__init__(config, encoder=False, dropout=dropout, kernel=kernel)
        E, C = config.d_embedding, config.d_model
        self.config, self.vocab_size = config, config.vocab_size
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, E))
        self.embedding_in = nn.Linear(E, C, bias=False) if E != C else nn.Identity()
        self.embedding_out = nn.Linear(C, E, bias=False) if E != C else nn.Identity()
        self.embedding_scale, self.logit_scale = config.embedding_scale, config.logit_scale
        self.query = nn.Parameter(torch.empty(config.context, C)) if config.query_layer else None
        self.encoder = Encoder(config, dropout=dropout, kernel=kernel) if config.n_encoder_layers else None
        self.head = None if config.tied_embeddings else nn.Parameter(torch.empty(config.vocab_size, E))
        self.head_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.bias_lm_head else None

    def forward(
        self,
        ids: Tensor,
        *,
        source: Tensor | None = None,
        source_valid: Tensor | None = None,
        prefix: Tensor | None = None,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
        segments: Tensor | None = None,
        source_segments: Tensor | None = None,
        source_positions: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T) -> logits (B, T, V) for the token after each; ids are never shifted here.

        source (B, S): what the encoder reads, needed unless the cache holds it; source_valid (B, S): False on padding;
        prefix (B,), or (B, T): so many first tokens see each other both ways; positions (B, T): default 0..T-1 after
        what the cache holds; valid (B, T): False on padding; cache: holds the tokens before these, and takes these in;
        segments (B, T), with positions, and of a source source_segments and source_positions (B, S): several texts in
        a row, which do not see each other; asked (B, T): only where it is True are logits computed, (N, V).
        Raises ValueError where T, with what the cache holds, exceeds the context; for a source without an encoder, or
        the other way round; and for a prefix that begins before these tokens and does not end before them.
        """
        T = ids.shape[1]  # new tokens
        held = 0 if cache is None else cache.length
        if held + T > self.context:
            raise ValueError(f"{held + T} tokens exceed the context of {self.context}")
        assert cache is None or segments is None, "a cache holds one text in a row"
        memory, source_valid = self.encoded(source, source_valid, cache, source_segments, source_positions)
        plain = positions is None and valid is None and (cache is None or not cache.padded) and segments is None
        if positions is None:
            positions = torch.arange(held, held + T, device=ids.device)[None]
        prefix = self.prefixed(prefix, positions, cache)
        plain = plain and prefix is None
        k_pos, k_valid = positions, valid
        if cache is not None:
            cache.begin(positions, valid)
            cache.prefix = prefix
            k_pos = cache.k_pos[:, : cache.length]
            k_valid = cache.valid[:, : cache.length] if cache.padded else None

        def make_mask(band: int) -> Mask:
            if plain and not band and (held == 0 or T == 1):  # the two cases that kernels know without a table
                return Mask(causal=held == 0)
            return mask(positions, k_pos, valid=k_valid, prefix=prefix, band=band, segments=segments)

        x = self.embed(ids)
        scene = Scene(self.position, self.position.once(positions, k_pos, x.dtype), make_mask, cache)
        scene.memory, scene.memory_mask = memory, everything(source_valid)
        if segments is not None and source_segments is not None:
            scene.memory_mask = Mask(False, same(segments, source_segments))
        scene.query = None if self.query is None else F.embedding(positions, self.query)
        x = self.run(x, positions, scene)
        logits = self.unembed(x if asked is None else x[asked])
        tap(self, "logits", logits)
        return logits

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C), without positions."""
        x = self.embedding_in(F.embedding(ids, self.embedding))
        return x if self.embedding_scale == 1 else x * self.embedding_scale

    def unembed(self, x: Tensor) -> Tensor:
        """What the head makes of the stream behind the last norm: (B, T, C) -> (B, T, V)."""
        x = self.embedding_out(x) * self.logit_scale
        return F.linear(x, self.embedding if self.head is None else self.head, self.head_bias)

    def encoded(
        self,
        source: Tensor | None,
        valid: Tensor | None,
        cache: Cache | None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the encoder makes of the source, (B, S, C), and which of it is no padding; nothing if it is cached."""
        if self.encoder is None:
            if source is not None:
                raise ValueError("this model has no encoder to read a source")
            return None, None
        if cache is not None and cache.cross:
            return None, cache.source_valid
        if source is None:
            raise ValueError("an encoder-decoder needs a source")
        if source.shape[1] > self.context:
            raise ValueError(f"{source.shape[1]} source tokens exceed the context of {self.context}")
        if cache is not None:
            cache.source_valid = valid
        return self.encoder(self.embed(source), valid, segments, positions), valid

    def prefixed(self, prefix: Tensor | None, positions: Tensor, cache: Cache | None) -> Tensor | None:
        """The prefix that tokens at these positions may look at: with a cache, it is read whole in the first call."""
        if cache is None:
            return prefix
        if prefix is None:
            return cache.prefix
        if cache.length or bool((prefix > positions[:, -1] + 1).any()):  # by positions: padding is no part of it
            longest, T = int(prefix.max()), positions.shape[1]
            raise ValueError(f"a prefix of {longest} tokens must be read at once, not in pieces of {T}")
        return prefix


def norm_of(config: ModelConfig, width: int = 0) -> nn.Module:
    return NORMS.build(config.norm, d_model=width or config.d_model, eps=config.norm_eps, affine=config.norm_affine)


def position_of(config: ModelConfig, *, both_ways: bool = False) -> Position:
    """The encoding that the config names; its options are the config's fields of the same names."""
    values = {**vars(config), "both_ways": both_ways}
    return POSITIONS.build(config.position, **{name: values[name] for name in POSITIONS.options(config.position)})


def block_of(
    config: ModelConfig, layer: int, *, position: Position, encoder: bool, dropout: float, kernel: kernels.Kernel
) -> Block:
    make = partial(
        Attention,
        layer=layer,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        bias_qkv=config.bias_qkv,
        bias_out=config.bias_attn_out,
        scaled=config.attention_scale != "none",
        dropout=dropout,
        kernel=kernel,
        qk_norm=partial(norm_of, config, config.head_dim) if config.qk_norm else nn.Identity,
    )
    band = 0 if encoder or layer % 2 == 0 else config.band_width
    cross = make() if config.n_encoder_layers and not encoder else None
    mlp = MLP(
        d_model=config.d_model,
        d_ff=config.d_ff,
        activation=ACTIVATIONS[config.activation],
        bias=config.bias_ffn,
        dropout=dropout,
    )
    layout = RESIDUALS[config.norm_placement]
    norms = [norm_of(config) for _ in range(layout.norms_for(3 if cross else 2))]
    options = {name: getattr(config, name) for name in RESIDUALS.options(config.norm_placement) if name != "norms"}
    kind = QueryBlock if config.query_layer and layer == config.n_layers - 1 else Block
    return kind(
        attention=make(relative=position.of_layer(), band=band),
        cross=cross,
        mlp=mlp,
        residual=RESIDUALS.build(config.norm_placement, norms=norms, **options),
    )


def build(
    config: ModelConfig,
    *,
    seed: int = 0,
    init: str = "gpt2",
    dropout: float = 0.0,
    kernel: kernels.Kernel = kernels.sdpa,
) -> Transformer:
    """A model with weights drawn from `seed`, in evaluation mode.

    init: a scheme of model/init.py; dropout: the probability while training; kernel: how attention is computed.
    """
    with torch.device("meta"):  # without the draws that torch's own layers begin with, and that nobody needs
        model = Transformer(config, dropout=dropout, kernel=kernel)
    for module in model.modules():  # not by to_empty, which would import sympy for it
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    initialise(model, config, seed=seed, scheme=init)
    return model.eval()
