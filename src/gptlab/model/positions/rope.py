"""Rotary positions: queries and keys are turned by angles that grow with position, so that a score depends on the
distance between two tokens alone. Su et al. 2021, arXiv 2104.09864.

R = fraction of the head's width that is turned, D head width.
"""

import torch
from torch import Tensor

from gptlab.model import native
from gptlab.model.positions.base import Position

Angles = tuple[Tensor, Tensor]  # cosines and sines of all pairs, each (B or 1, 1, T, R/2)


class RoPE(Position):
    """Pair i of the first R dimensions is turned by position * base^(-2i/R).

    rope_pairing: which dimensions are a pair; "interleaved", (0, 1), (2, 3), … (the paper, Meta's LLaMA), or
    "rotate-half", (0, R/2), (1, R/2 + 1), … (GPT-NeoX, Hugging Face's LLaMA).
    """

    def __init__(self, *, head_dim: int, rope_base: float, rope_fraction: float, rope_pairing: str) -> None:
        super().__init__()
        self.turned = int(head_dim * rope_fraction)
        self.base, self.interleaved = rope_base, rope_pairing == "interleaved"

    def once(self, q_pos: Tensor, k_pos: Tensor, dtype: torch.dtype) -> Angles:
        exact = torch.float32 if q_pos.device.type == "mps" else torch.float64  # Apple's GPUs have no double
        pair = torch.arange(0, self.turned, 2, dtype=exact, device=q_pos.device)
        angle = q_pos[:, None, :, None] * self.base ** (-pair / self.turned)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def rotate(self, q: Tensor, k: Tensor, shared: Angles) -> tuple[Tensor, Tensor]:
        turn = native.rotate if native.usable("rotation", q, k) else plain
        return turn(q, *shared, self.interleaved), turn(k, *shared, self.interleaved)


def plain(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x (B, H, T, D) turned, in PyTorch: what the compiled rotation is tested against."""
    turned = 2 * cos.shape[-1]
    x, rest = x[..., :turned], x[..., turned:]
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = x.chunk(2, -1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((out.to(x.dtype), rest), -1) if rest.shape[-1] else out.to(x.dtype)
