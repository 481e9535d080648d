"""Transformer-XL's relative positions: a score has a part for what the key is, and one for how far away it stands,
which depends on the query. Dai et al. 2019, arXiv 1901.02860, section 3.3. Gopher's and Chinchilla's.

B batch, T queries, S keys, H heads, D head width, C model width, N distances.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.positions.base import Position
from gptlab.model.positions.sinusoidal import waves

Distances = tuple[Tensor, Tensor]  # the waves of all distances (N, C), and which of them each pair has (B or 1, T, S)


class RelativeKey(nn.Module):
    """One layer's own: the projection W of distances to keys, and the two vectors that all queries share."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_heads * head_dim, d_model))
        # Vectors and no matrices, so that optimizers treat them as the biases that they are.
        self.content_bias = nn.Parameter(torch.empty(n_heads * head_dim))  # the paper's u
        self.position_bias = nn.Parameter(torch.empty(n_heads * head_dim))  # the paper's v


class TransformerXL(Position):
    """score = ((q + u) k + (q + v) W R[q_pos - k_pos]) scale, R[n] = the sines, then the cosines, of n

    In three parts: q k scale is the kernel's own, the rest is the bias. Keys ahead count as distance 0: no causal
    mask lets them be seen.
    """

    def __init__(self, *, context: int, d_model: int, n_heads: int, head_dim: int, attention_scale: str) -> None:
        super().__init__()
        self.scale = 1.0 if attention_scale == "none" else head_dim**-0.5
        self.context, self.shape = context, (d_model, n_heads, head_dim)

    def of_layer(self) -> RelativeKey:
        return RelativeKey(*self.shape)

    def once(self, q_pos: Tensor, k_pos: Tensor, dtype: torch.dtype) -> Distances:
        distance = (q_pos[:, :, None] - k_pos[:, None, :]).clamp(min=0)
        every = torch.arange(self.context, device=q_pos.device)
        return waves(every, self.shape[0], dtype=dtype, interleaved=False), distance

    def bias(self, q: Tensor, k: Tensor, shared: Distances, own: nn.Module | None) -> Tensor:
        assert isinstance(own, RelativeKey)
        R_NC, distance = shared
        H, D = q.shape[1], q.shape[3]
        u, v = own.content_bias.view(H, 1, D), own.position_bias.view(H, 1, D)
        content = (u * k.repeat_interleave(H // k.shape[1], dim=1)).sum(-1)[:, :, None, :]  # (B, H, 1, S)
        r_HND = F.linear(R_NC, own.weight).view(-1, H, D).transpose(0, 1)
        position = ((q + v) @ r_HND.mT).gather(-1, distance[:, None].expand(len(q), H, -1, -1))  # (B, H, T, S)
        return (content + position) * self.scale
