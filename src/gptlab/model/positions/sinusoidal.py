"""Fixed absolute positions: sines and cosines of many wavelengths. Vaswani et al. 2017, section 3.5."""

import torch
from torch import Tensor

from gptlab.model.positions.base import Position


def waves(pos: Tensor, width: int, *, dtype: torch.dtype, interleaved: bool) -> Tensor:
    """sin and cos of pos / 10000^(2i / width), (…, width); interleaved or the sines first, as halves."""
    # In double precision where there is one (not on Apple's GPUs): a wave of 10000 positions needs it.
    exact = torch.float32 if pos.device.type == "mps" else torch.float64
    pair = torch.arange(0, width, 2, dtype=exact, device=pos.device)
    angle = pos[..., None] * 10000.0 ** (-pair / width)
    both = (angle.sin(), angle.cos())
    return (torch.stack(both, -1).flatten(-2) if interleaved else torch.cat(both, -1))[..., :width].to(dtype)


class Sinusoidal(Position):
    """x + P, P[position, 2i] = sin(position / 10000^(2i/C)), P[position, 2i+1] = cos of the same."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.width = d_model

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        return x + waves(pos, self.width, dtype=x.dtype, interleaved=True)
