"""Multi-head self-attention: each token collects what it needs from the tokens that it may see.

B batch, T new tokens, S all tokens, C model width, H heads, K key and value heads, D head width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from gptlab.model.cache import Cache
from gptlab.model.kernels import Kernel
from gptlab.model.masks import Mask
from gptlab.model.positions.base import Position


@dataclass(frozen=True)
class Scene:
    """What all layers of one forward pass share."""

    q_pos: Tensor  # (B or 1, T)
    k_pos: Tensor  # (B or 1, S)
    mask: Mask
    position: Position
    cache: Cache | None


class Attention(nn.Module):
    """out(softmax(q k^T / sqrt(D)) v) over H heads, (B, T, C) -> (B, T, C). Vaswani et al. 2017, section 3.2.

    Heads share keys and values in groups where K < H (Ainslie et al. 2023, arXiv 2305.13245).
    """

    def __init__(
        self,
        *,
        layer: int,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        bias_qkv: bool,
        bias_out: bool,
        dropout: float,
        kernel: Kernel,
    ) -> None:
        super().__init__()
        self.layer, self.n_heads, self.n_kv_heads, self.head_dim = layer, n_heads, n_kv_heads, head_dim
        # One matrix product instead of three; rows are all of q, then k, then v.
        self.sections = (n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim)
        self.qkv = nn.Linear(d_model, sum(self.sections), bias_qkv)
        self.out = nn.Linear(n_heads * head_dim, d_model, bias_out)
        self.dropout = nn.Dropout(dropout)
        self.kernel = kernel
        self.scale = head_dim**-0.5

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        B, T, _ = x.shape  # batch, new tokens
        H, K, D = self.n_heads, self.n_kv_heads, self.head_dim
        q, k, v = self.qkv(x).view(B, T, H + 2 * K, D).transpose(1, 2).split((H, K, K), dim=1)
        q, k = scene.position.rotate(q, k, scene.q_pos, scene.k_pos[:, -T:])
        if scene.cache is not None:
            k, v = scene.cache.extend(self.layer, k, v)
        bias = scene.position.bias(q, k, scene.q_pos, scene.k_pos)
        dropout = self.dropout.p if self.training else 0.0
        out, _ = self.kernel(q, k, v, mask=scene.mask, bias=bias, scale=self.scale, dropout=dropout)
        return self.dropout(self.out(out.transpose(1, 2).reshape(B, T, H * D)))
