"""Each position encoding alone, against its formula, at any positions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptlab.config import DEFAULTS, ModelConfig
from gptlab.model.positions.alibi import ALiBi, slopes
from gptlab.model.positions.rope import RoPE
from gptlab.model.positions.sinusoidal import Sinusoidal
from gptlab.model.positions.t5 import T5Relative, bucket
from gptlab.model.positions.transformer_xl import TransformerXL
from gptlab.registry import POSITIONS
from tests.model.plain import alibi_slopes, error, rope, t5_bucket, transformer_xl_wave
from tests.model.test_kernels import random

# Two rows of queries, as in the middle of cached texts of different lengths, and of more keys.
Q_POS, K_POS = torch.tensor([[5, 6], [2, 3]]), torch.tensor([[0, 1, 2, 5, 6], [0, 0, 1, 2, 3]])
B, T, S = 2, 2, 5


def test_alibi_slopes() -> None:
    """For every number of heads, the published rule; for 8, the paper's 1/2 to 1/256; no two heads have the same."""
    assert slopes(8) == [2.0**-n for n in range(1, 9)]
    for heads in range(1, 130):
        found = slopes(heads)
        assert found == pytest.approx(alibi_slopes(heads), rel=1e-12)
        assert len({round(math.log2(s), 9) for s in found}) == heads and all(0 < s < 1 for s in found)


def test_alibi() -> None:
    """The bias is -slope times the distance, whichever way; BLOOM's slope times the key's position is the same after
    a softmax over keys behind."""
    position = ALiBi(n_heads=5)
    bias = position.bias(torch.empty(0), torch.empty(0), position.once(Q_POS, K_POS, torch.float64), None)
    assert bias.shape == (B, 5, T, S)
    for b in range(B):
        for h in range(5):
            for t in range(T):
                for s in range(S):
                    distance = abs(int(Q_POS[b, t] - K_POS[b, s]))
                    assert bias[b, h, t, s] == pytest.approx(-alibi_slopes(5)[h] * distance, rel=1e-12)
    scores = random(B, 5, 1, S, seed=0)
    bloom = scores + torch.tensor(slopes(5), dtype=torch.float64)[:, None, None] * K_POS[:, None, None, :]
    assert error((scores + bias[:, :, 1:]).softmax(-1), bloom.softmax(-1)) < 1e-12


@pytest.mark.parametrize("both_ways", [False, True], ids=["decoder", "encoder"])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (64, 256), (8, 11), (5, 9)])
def test_t5_buckets(buckets: int, farthest: int, both_ways: bool) -> None:
    """Every distance to three times the farthest is in the bucket that whole numbers give."""
    distance = torch.arange(-3 * farthest, 3 * farthest + 1)
    found = bucket(distance, buckets=buckets, max_distance=farthest, both_ways=both_ways).tolist()
    expected = [t5_bucket(d, buckets=buckets, farthest=farthest, both_ways=both_ways) for d in distance.tolist()]
    assert found == expected


def test_t5_borders() -> None:
    """T5's own tables: where the wide buckets of its decoder and its encoder begin, counted in tokens behind."""
    behind = -torch.arange(400)
    for both_ways, last_exact, begin in (
        (False, 15, [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]),
        (True, 7, [8, 12, 16, 23, 32, 46, 64, 91]),
    ):
        found = bucket(behind, buckets=32, max_distance=128, both_ways=both_ways).tolist()
        assert found[: last_exact + 1] == list(range(last_exact + 1))
        assert [d for d in range(last_exact + 1, 400) if found[d] != found[d - 1]] == begin


@pytest.mark.parametrize("both_ways", [False, True], ids=["decoder", "encoder"])
def test_t5(both_ways: bool) -> None:
    """The bias is the table's entry of (bucket of key - query, head)."""
    position = T5Relative(n_heads=3, relative_buckets=8, relative_max_distance=11, both_ways=both_ways)
    with torch.no_grad():
        position.buckets.copy_(random(8, 3, seed=1))
    bias = position.bias(torch.empty(0), torch.empty(0), position.once(Q_POS, K_POS, torch.float64), None)
    for b in range(B):
        for t in range(T):
            for s in range(S):
                ahead = int(K_POS[b, s] - Q_POS[b, t])
                row = t5_bucket(ahead, buckets=8, farthest=11, both_ways=both_ways)
                assert torch.equal(bias[b, :, t, s], position.buckets[row])


@pytest.mark.parametrize("scale", ["1/sqrt(head_dim)", "none"])
@pytest.mark.parametrize(("C", "H", "K", "D"), [(10, 4, 4, 3), (7, 6, 2, 5)], ids=str)
def test_transformer_xl(C: int, H: int, K: int, D: int, scale: str) -> None:
    """q k scale + bias = ((q + u) k + (q + v) W R[distance]) scale, for every pair whose key is not ahead."""
    position = TransformerXL(context=9, d_model=C, n_heads=H, head_dim=D, attention_scale=scale)
    own = position.of_layer().double()
    with torch.no_grad():
        for i, p in enumerate(own.parameters()):
            p.copy_(random(*p.shape, seed=i))
    q, k = random(B, H, T, D, seed=7), random(B, K, S, D, seed=8)
    bias = position.bias(q, k, position.once(Q_POS, K_POS, torch.float64), own).detach()
    factor = 1.0 if scale == "none" else D**-0.5
    W, u, v = (own.weight.detach(), own.content_bias.detach(), own.position_bias.detach())
    for b in range(B):
        for h in range(H):
            mine = slice(h * D, (h + 1) * D)
            for t in range(T):
                for s in range(S):
                    distance = int(Q_POS[b, t] - K_POS[b, s])
                    if distance < 0:
                        continue
                    r = W[mine] @ torch.from_numpy(transformer_xl_wave(distance, C))
                    key = k[b, h * K // H, s]
                    expected = ((q[b, h, t] + u[mine]) @ key + (q[b, h, t] + v[mine]) @ r) * factor
                    assert error(q[b, h, t] @ key * factor + bias[b, h, t, s], expected) < 1e-12


@pytest.mark.parametrize("width", [1, 2, 7, 10])
def test_sinusoidal(width: int) -> None:
    """Added are sines in even dimensions and cosines in odd ones, far from 0, too, and in float32 to its rounding."""
    pos = torch.tensor([[0, 1, 7, 65535]])
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        found = Sinusoidal(d_model=width).embed(torch.zeros(1, 4, width, dtype=dtype), pos)[0]
        assert found.dtype == dtype
        expected = [
            [(math.sin, math.cos)[i % 2](p / 10000 ** ((i - i % 2) / width)) for i in range(width)]
            for p in pos[0].tolist()
        ]
        assert error(found.double(), torch.tensor(expected, dtype=torch.float64)) < bound


@settings(max_examples=30)
@given(
    pairing=st.sampled_from(["interleaved", "rotate-half"]),
    fraction=st.sampled_from([0.5, 1.0]),
    by=st.integers(0, 999),
)
def test_rope(pairing: str, fraction: float, by: int) -> None:
    """Each head is turned as complex numbers are; scores depend on distances alone, whatever all positions move by."""
    config = ModelConfig(
        vocab_size=2,
        context=9,
        n_layers=1,
        d_model=8,
        n_heads=1,
        position="rope",
        rope_pairing=pairing,
        rope_fraction=fraction,
        rope_base=100.0,
    )
    options = {name: getattr(config, name) for name in POSITIONS.options("rope")}
    position = RoPE(**options)
    q, k = random(B, 3, T, 8, seed=1), random(B, 3, T, 8, seed=2)

    def scores(pos: Tensor) -> tuple[Tensor, Tensor]:
        turned_q, turned_k = position.rotate(q, k, position.once(pos, pos, torch.float64))
        return turned_q, turned_q @ turned_k.mT

    turned, here = scores(Q_POS)
    for b in range(B):
        for h in range(3):
            for t in range(T):
                assert error(turned[b, h, t], rope(q[b, h, t].numpy(), int(Q_POS[b, t]), config)) < 1e-12
    assert error(scores(Q_POS + by)[1], here) < 1e-9


@pytest.mark.parametrize("name", list(POSITIONS))
def test_options_are_names(name: str) -> None:
    """What a position takes are fields of the configuration, by name, and `both_ways`: so it can be built from one."""
    assert set(POSITIONS.options(name)) <= {*DEFAULTS, "both_ways"}
