"""Keys and values of tokens already seen, so that a new token costs one step and not the whole window.

B batch, K key and value heads, S room in tokens, D head width.
"""

import torch
from torch import Tensor

from gptlab.config import ModelConfig


class Cache:
    """Room for `size` tokens in every layer, filled from the left; one position table for all layers.

    For an encoder-decoder it also keeps what the decoder's layers made of the source, once that was read.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        *,
        size: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = size or config.context
        shape = (config.n_layers, batch, config.n_kv_heads, size, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.k_pos = torch.zeros(batch, size, dtype=torch.long, device=device)
        self.valid = torch.zeros(batch, size, dtype=torch.bool, device=device)
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Forget all tokens, and the source."""
        self.length = 0
        self.padded = False  # whether any held token is padding
        self.prefix: Tensor | None = None  # (B,), of the tokens held
        self.cross: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> k and v of the source
        self.source_valid: Tensor | None = None

    def begin(self, positions: Tensor, valid: Tensor | None) -> None:
        """Make room for T tokens in all layers; ValueError if there is none. positions (B or 1, T)."""
        new = positions.shape[1]
        if self.length + new > self.size:
            raise ValueError(f"{self.length} cached tokens and {new} new ones exceed the room for {self.size}")
        self.start, self.length = self.length, self.length + new
        self.k_pos[:, self.start : self.length] = positions
        self.valid[:, self.start : self.length] = True if valid is None else valid
        self.padded = self.padded or valid is not None

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' k and v, (B, K, T, D), and return those of all tokens, (B, K, length, D)."""
        self.k[layer, :, :, self.start : self.length] = k
        self.v[layer, :, :, self.start : self.length] = v
        return self.k[layer, :, :, : self.length], self.v[layer, :, :, : self.length]
