"""The compiled kernels: they are PyTorch's functions, and whoever has no compiler misses nothing but speed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptlab import native, runtime
from gptlab.doctor import CHECKS
from gptlab.model import kernels
from gptlab.model import native as operations
from gptlab.model.masks import Mask
from gptlab.model.norms import FORMULAS
from gptlab.model.transformer import build
from gptlab.presets import SIZES, preset
from gptlab.registry import ACTIVATIONS
from gptlab.training.loss import plain, summed
from tests.model.test_cost import inputs

MINIATURES = ["gptlab-cpu", "gptlab-fables", *(name for name in SIZES if name.endswith("-mini"))]
EVERY = set(CHECKS)
needed = pytest.mark.skipif(native.library() is None, reason="no compiler")


def gradients(name: str, *, kernel: kernels.Kernel, precision: str = "fp32") -> list[Tensor]:
    """The loss of a miniature, and its gradient by every parameter."""
    config = preset(name)
    model = build(config, init="scaled", kernel=kernel).train()
    with torch.no_grad():  # so that branches that begin at nothing do something
        for i, p in enumerate(model.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)), alpha=0.05)
    given = inputs(config, 3, 20)
    targets = torch.arange(60).view(3, 20) % config.vocab_size
    with runtime.autocast(torch.device("cpu"), precision):
        loss = summed(model(**given), targets) / 60
    return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)]


@needed
@pytest.mark.parametrize("name", MINIATURES)
def test_a_training_step_is_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of every family with the compiled kernels and without: equal to 1e-4 of the largest."""
    fast = gradients(name, kernel=kernels.compiled)
    monkeypatch.setattr(operations, "WRONG", EVERY)
    slow = gradients(name, kernel=kernels.sdpa)
    for a, b in zip(fast, slow, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-8


@needed
@pytest.mark.parametrize("name", MINIATURES)
def test_bf16_is_near_fp32(name: str) -> None:
    """In bf16 the loss is right to 1%, and the gradients point where those of fp32 do (cosine above 0.99)."""
    exact = gradients(name, kernel=kernels.compiled)
    rounded = gradients(name, kernel=kernels.compiled, precision="bf16")
    assert rounded[0].dtype == torch.float32 and all(g.dtype == torch.float32 for g in rounded[1:])
    assert abs(rounded[0] / exact[0] - 1) < 0.01
    one, other = (torch.cat([g.flatten() for g in found[1:]]) for found in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99


@needed
def test_which_tensors_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 and bfloat16 on the CPU alone, and nothing that the doctor found wrong."""
    assert operations.usable("norm", torch.ones(2), torch.ones(2, dtype=torch.bfloat16))
    assert not operations.usable("norm", torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not operations.usable("norm", torch.ones(2, device="meta"))
    monkeypatch.setattr(operations, "WRONG", {"norm"})
    assert not operations.usable("norm", torch.ones(2)) and operations.usable("loss", torch.ones(2))


@needed
def test_threads_change_no_bit() -> None:
    """One thread and two give the same attention, activations, losses, and gradients of them; and norms, outputs."""

    def all_of_them() -> list[Tensor]:
        g = torch.Generator().manual_seed(1)
        q, k, v = (torch.randn(3, 4, 41, 24, generator=g, requires_grad=True) for _ in range(3))
        x = torch.randn(50, 92, generator=g, requires_grad=True)
        outs = [
            operations.Attention.apply(q, k, v, 0.2),
            operations.activation("swiglu", x),
            operations.norm("layernorm", x, None, None, 1e-5),
            operations.cross_entropy(x, torch.arange(50), -100),
        ]
        return outs + list(torch.autograd.grad(sum(o.square().sum() for o in outs), (q, k, v, x)))

    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(all_of_them())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needed
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_no_number_stays_so(bad: float) -> None:
    """A NaN or an infinity in the input is seen in the output, as PyTorch shows it: so a divergence is found."""
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    x[3, 7] = bad
    for kind in operations.NORMS:
        assert torch.equal(
            operations.norm(kind, x, None, None, 1e-5).isnan(), FORMULAS[kind](x, None, None, 1e-5).isnan()
        )
    for name in operations.ACTIVATIONS:
        assert torch.equal(operations.activation(name, x).isfinite(), ACTIVATIONS[name].__wrapped__(x).isfinite())
    assert not operations.cross_entropy(x, torch.arange(8), -100).isfinite()
    q = x.view(1, 1, 8, 40)
    out = operations.Attention.apply(q, q, q, 1.0)
    assert not out[0, 0, 3:].isfinite().all(-1).any()


@needed
@pytest.mark.parametrize("layout", ["packed", "turned", "narrow"])
def test_strides(layout: str) -> None:
    """Attention reads its inputs where they lie: cut out of one projection, transposed, or every second number."""
    g = torch.Generator().manual_seed(2)
    B, H, T, D = 2, 3, 9, 8
    whole = torch.randn(B, T, 3 * H, 2 * D if layout == "narrow" else D, generator=g)
    whole = whole[..., ::2] if layout == "narrow" else whole
    q, k, v = (
        x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in whole.transpose(1, 2).chunk(3, 1)
    )
    expected = kernels.reference(q, k, v, mask=Mask(True), bias=None, scale=0.3, dropout=0.0)[0]
    loose = [x.detach().mT.contiguous().mT if layout == "turned" else x for x in whole.transpose(1, 2).chunk(3, 1)]
    loose = [x.detach().requires_grad_() for x in loose]
    found = operations.Attention.apply(*loose, 0.3)
    weight = torch.randn(expected.shape, generator=g)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), loose),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_loss_of_halves_is_computed_in_single_precision() -> None:
    """Logits in bfloat16 lose no more than their own rounding."""
    logits = (torch.randn(2, 9, 300, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    targets = torch.arange(18).view(2, 9)
    exact = plain(logits.double().flatten(0, 1), targets.flatten(), -100)
    assert summed(logits, targets).item() == pytest.approx(exact.item(), rel=1e-5)


RUN = """
import torch
from gptlab import native
from gptlab.model.transformer import build
from gptlab.presets import preset
print(native.library() is not None, native.trouble())
print(build(preset("gptlab-cpu"))(torch.arange(20)[None]).double().sum().item())
"""


def run(**environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    assert not result.stderr
    return result.stdout.splitlines()


def test_without_a_compiler(tmp_path: Path) -> None:
    """No compiler, one that fails, or none wanted: the same model is computed, and the reason can be told."""
    usual = float(run()[1])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    broken.chmod(0o755)
    cache = {"GPTLAB_CACHE": str(tmp_path / "cache")}
    for environment, said in (
        ({"PATH": str(tmp_path / "nowhere"), "CXX": ""}, "no compiler was found"),
        ({"CXX": str(broken)}, "no such thing"),
        ({"GPTLAB_NATIVE": "0"}, ""),
    ):
        first, total = run(**cache, **environment)
        assert first.startswith("False") and said in first
        assert float(total) == pytest.approx(usual, rel=1e-4)
    assert not list((tmp_path / "cache").rglob("*.so"))


@needed
def test_compiled_once(tmp_path: Path) -> None:
    """The library stands in the cache under the name of what it was made from, and is not made again."""
    cache = {"GPTLAB_CACHE": str(tmp_path)}
    assert run(**cache)[0].startswith("True")
    (made,) = tmp_path.rglob("*.so")
    when = made.stat().st_mtime_ns
    assert run(**cache)[0].startswith("True") and made.stat().st_mtime_ns == when
    made.write_bytes(b"no library")
    assert run(**cache)[0].startswith("False")
