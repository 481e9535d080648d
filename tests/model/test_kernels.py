"""Attention by the formula and by PyTorch's kernel: one function."""

import math

import pytest
import torch

from gptlab.model.kernels import reference, sdpa
from gptlab.model.masks import Mask, everything, mask
from tests.model.plain import error

B, T, S, D = 2, 5, 7, 3


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def table() -> torch.Tensor:
    """Some are seen, and the first query of the first row sees nothing."""
    allowed = random(B, 1, T, S, seed=9) > 0
    allowed[0, 0, 0] = False
    allowed[0, 0, 1:, 0] = True
    allowed[1, 0, :, 1] = True
    return allowed


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("kind", ["all", "causal", "table"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sdpa_is_the_reference(heads: tuple[int, int], biased: bool, kind: str, dtype: torch.dtype) -> None:
    """SDPA = reference = a loop, for every mask, bias, grouping and dtype; a query that sees nothing gives 0."""
    H, K = heads
    keys = T if kind == "causal" else S
    q, k, v = (random(B, n, t, D, seed=i, dtype=dtype) for i, (n, t) in enumerate([(H, T), (K, keys), (K, keys)]))
    bias = random(1, H, T, keys, seed=5, dtype=dtype) if biased else None
    seen = {"all": Mask(False), "causal": Mask(True), "table": Mask(False, table())}[kind]
    ours, pattern = reference(q, k, v, mask=seen, bias=bias, scale=0.4, dropout=0.0)
    fused, nothing = sdpa(q, k, v, mask=seen, bias=bias, scale=0.4, dropout=0.0)
    assert nothing is None and pattern is not None and ours.dtype == fused.dtype == dtype

    expected = torch.zeros(B, H, T, D, dtype=torch.float64)
    patterns = torch.zeros(B, H, T, keys, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h * K // H
            for t in range(T):
                sees = [
                    s for s in range(keys) if kind == "all" or (s <= t if kind == "causal" else table()[b, 0, t, s])
                ]
                odds = {}
                for s in sees:
                    score = 0.4 * float(q[b, h, t].double() @ k[b, g, s].double())
                    odds[s] = math.exp(score + (float(bias[0, h, t, s]) if bias is not None else 0))
                for s, odd in odds.items():
                    patterns[b, h, t, s] = odd / sum(odds.values())
                    expected[b, h, t] += patterns[b, h, t, s] * v[b, g, s].double()
    bound = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    for found in (ours, fused):
        assert error(found.double(), expected) < bound
    assert error(pattern.double(), patterns) < bound
    if kind == "table":
        assert (fused[0, :, 0] == 0).all() and (ours[0, :, 0] == 0).all()


def test_dropout_of_the_pattern() -> None:
    """Dropout takes whole keys from a query and scales the rest: with values of 1, multiples of 1 / (1 - p)."""
    q, k = random(1, 1, 200, D, seed=0) * 0, random(1, 1, 4, D, seed=1)
    v = torch.ones(1, 1, 4, D, dtype=torch.float64)
    for kernel in (reference, sdpa):
        torch.manual_seed(0)
        out, _ = kernel(q, k, v, mask=Mask(False), bias=None, scale=1.0, dropout=0.25)
        kept = out[..., 0] * 4 * 0.75  # how many of four keys were left
        assert error(kept, kept.round()) < 1e-6
        assert 0.6 < out.mean() < 1.4 and kept.min() < 4 and kept.max() == 4


@pytest.mark.parametrize("band", [0, 1, 2, 4])
@pytest.mark.parametrize("prefix", [None, [2, 0], [5, 1]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_the_mask(band: int, prefix: list[int] | None, padded: bool) -> None:
    """A query sees the keys at its position and before, so many back as the band is wide, and the prefix, wherever it
    stands; but no padding. Rows of positions may differ."""
    q_pos, k_pos = torch.tensor([[1, 2], [0, 5]]), torch.tensor([[0, 1, 2, 4], [5, 4, 0, 1]])
    valid = torch.tensor([[True, True, True, True], [True, False, True, True]]) if padded else None
    first = None if prefix is None else torch.tensor(prefix)
    seen = mask(q_pos, k_pos, valid=valid, prefix=first, band=band)
    assert not seen.causal and seen.allowed is not None and seen.allowed.shape == (2, 1, 2, 4)
    for b in range(2):
        for t in range(2):
            for s in range(4):
                back = int(q_pos[b, t] - k_pos[b, s])
                expected = back in range(band or 99) or (prefix is not None and int(k_pos[b, s]) in range(prefix[b]))
                assert seen.allowed[b, 0, t, s] == (expected and (valid is None or bool(valid[b, s])))


def test_everything() -> None:
    """An encoder's query sees all keys but padding."""
    valid = torch.tensor([[True, True, False], [False, False, False]])
    allowed = everything(valid).allowed
    assert everything(None) == Mask(False) and allowed is not None and torch.equal(allowed[:, 0, 0], valid)
