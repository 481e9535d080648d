"""The protocol of a position encoding: three moments, each of which defaults to nothing.

B batch, T queries, S keys, C model width, H heads, D head width.
"""

from torch import Tensor, nn


class Position(nn.Module):
    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """On the token embeddings x (B, T, C) at positions pos (B or 1, T), before the first block."""
        return x

    def rotate(self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor]:
        """On queries (B, H, T, D) and keys (B, K, T, D) of new tokens, in every layer."""
        return q, k

    def bias(self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor | None:
        """Added to the scores, (B or 1, H, T, S), in every layer."""
        return None
