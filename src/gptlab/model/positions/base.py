"""The protocol of a position encoding: moments at which it may act, each of which defaults to nothing.

B batch, T queries, S keys, C model width, H heads, D head width.
"""

from typing import Any

from torch import Tensor, nn


class Position(nn.Module):
    """One object for a whole stack of blocks; what differs from layer to layer is in `of_layer`."""

    def __init__(self) -> None:  # with no options of its own, as `registry.options` reads them
        super().__init__()

    def of_layer(self) -> nn.Module | None:
        """Parameters that each layer's attention keeps for itself, and that `bias` is given back."""
        return None

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """On the token embeddings x (B, T, C) at positions pos (B or 1, T), before the first block."""
        return x

    def once(self, q_pos: Tensor, k_pos: Tensor, dtype: Any) -> Any:
        """What all layers of one forward pass share; q_pos (B or 1, T), k_pos (B or 1, S)."""
        return None

    def rotate(self, q: Tensor, k: Tensor, shared: Any) -> tuple[Tensor, Tensor]:
        """On queries (B, H, T, D) and keys (B, K, T, D) of new tokens, in every layer."""
        return q, k

    def bias(self, q: Tensor, k: Tensor, shared: Any, own: nn.Module | None) -> Tensor | None:
        """Added to the scaled scores, (B or 1, H, T, S), in every layer; k (B, K, S, D) of all tokens."""
        return None
