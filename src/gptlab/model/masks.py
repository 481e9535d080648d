"""Which query may see which key, computed from positions, and from segments where several texts share a row.

B batch, T queries, S keys. Working from positions and not from row numbers makes cached decoding and padding the same
case as training.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Either a rule that a kernel knows by itself, or the table `allowed`, (B or 1, 1, T or 1, S), True = seen."""

    causal: bool  # query t sees the keys 0..t, and T = S
    allowed: Tensor | None = None  # None with causal=False: every query sees every key


def mask(
    q_pos: Tensor,
    k_pos: Tensor,
    *,
    valid: Tensor | None = None,
    prefix: Tensor | None = None,
    band: int = 0,
    segments: Tensor | None = None,
) -> Mask:
    """A query sees the keys at its own position and before, except padding.

    q_pos (B or 1, T), k_pos (B or 1, S): positions; valid (B, S): False on padding; prefix (B,), or (B, S) where texts
    in a row differ in it: so many first positions are seen by all, also from before; band: only so many positions back
    are seen, the own one included; segments (B, T): the text that each token belongs to, others are not seen (T = S).
    """
    q, k = q_pos[:, None, :, None], k_pos[:, None, None, :]
    allowed = k <= q
    if band:
        allowed = allowed & (q - k < band)
    if prefix is not None:
        allowed = allowed | (k < prefix.reshape(len(prefix), 1, 1, -1))
    if valid is not None:
        allowed = allowed & valid[:, None, None, :]
    if segments is not None:
        allowed = allowed & same(segments, segments)
    return Mask(False, allowed)


def everything(valid: Tensor | None) -> Mask:
    """A query sees every key, but padding: an encoder's rule, and a decoder's when it looks at what was encoded."""
    return Mask(False, None if valid is None else valid[:, None, None, :])


def same(queries: Tensor, keys: Tensor) -> Tensor:
    """Where a query and a key belong to the same text: segments (B, T) and (B, S) -> (B, 1, T, S)."""
    return queries[:, None, :, None] == keys[:, None, None, :]
