"""Taps: they tell what flows, and change nothing."""

import pytest
import torch
import torch.nn.functional as F

from gptlab.model import kernels, taps
from gptlab.model.attention import Attention
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset

MINIATURES = [name for name in SIZES if name.endswith("-mini")]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def source(model: Transformer) -> torch.Tensor | None:
    return None if model.encoder is None else IDS.flip(1)


@pytest.mark.parametrize("name", MINIATURES)
def test_listening_changes_nothing(name: str) -> None:
    """Logits are equal to the last bit before, while and after somebody listens, and the model is as it was."""
    model = build(preset(name))
    before = model(IDS, source=source(model))
    with taps.record(model) as found:
        meanwhile = model(IDS, source=source(model))
    with taps.record(model, "*.pattern", kernel=kernels.reference):
        pass
    after = model(IDS, source=source(model))
    assert torch.equal(before, meanwhile) and torch.equal(before, after) and found["logits"] is meanwhile
    assert not taps.LISTENERS and not any(module._forward_hooks for module in model.modules())
    assert {m.kernel for m in model.modules() if isinstance(m, Attention)} == {kernels.sdpa}


def test_they_tell_what_the_formulas_say() -> None:
    """In GPT-2: each tap is what is computed here from the weights and the tap before it."""
    config = preset("gpt2-mini", n_layers=2)
    model = build(config).double()
    w = dict(model.named_parameters())
    with torch.no_grad(), taps.record(model, kernel=kernels.reference) as found:
        model(IDS)
    T, H = IDS.shape[1], config.n_heads
    embed = w["embedding"][IDS]
    stream = embed + w["position.weight"][:T]
    assert torch.equal(found["embed"], embed)
    for layer in range(2):
        name = f"blocks.{layer}."

        def norm(x: torch.Tensor, i: int, name: str = name) -> torch.Tensor:
            gain, bias = w[f"{name}residual.norms.{i}.weight"], w[f"{name}residual.norms.{i}.bias"]
            return F.layer_norm(x, (config.d_model,), gain, bias)

        def linear(x: torch.Tensor, part: str, name: str = name) -> torch.Tensor:
            return x @ w[f"{name}{part}.weight"].T + w[f"{name}{part}.bias"]

        torch.testing.assert_close(found[f"{name}resid_pre"], stream)
        q, k, v = (
            part.view(2, T, H, -1).transpose(1, 2) for part in linear(norm(stream, 0), "attention.qkv").chunk(3, -1)
        )
        scores = q @ k.mT / config.head_dim**0.5
        pattern = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        for part, x in (("q", q), ("k", k), ("v", v), ("pattern", pattern), ("z", pattern @ v)):
            torch.testing.assert_close(found[f"{name}attention.{part}"], x)
        stream = stream + linear((pattern @ v).transpose(1, 2).flatten(2), "attention.out")
        torch.testing.assert_close(found[f"{name}resid_mid"], stream)
        hidden = F.gelu(linear(norm(stream, 1), "mlp.up"), approximate="tanh")
        torch.testing.assert_close(found[f"{name}mlp.hidden"], hidden)
        stream = stream + linear(hidden, "mlp.down")
        torch.testing.assert_close(found[f"{name}resid_post"], stream)


def test_only_what_is_asked_for() -> None:
    """Patterns choose names; another model that runs meanwhile is not heard; two may listen at once."""
    model, other = build(preset("gpt2-mini")), build(preset("palm-mini"))
    with taps.record(model, "blocks.?.resid_pre", "logits") as first, taps.record(model, "*.q") as second:
        other(IDS)
        assert not first
        model(IDS)
    assert list(first) == [*(f"blocks.{i}.resid_pre" for i in range(4)), "logits"]
    assert list(second) == [f"blocks.{i}.attention.q" for i in range(4)]


def test_a_failure_leaves_nothing_behind() -> None:
    """Where the pass fails, nobody listens any more, and kernels are the model's own."""
    model = build(preset("gpt2-mini"))
    with pytest.raises(ValueError, match="exceed"), taps.record(model, kernel=kernels.reference):
        model(torch.zeros(1, 65, dtype=torch.long))
    assert not taps.LISTENERS and model.blocks[0].attention.kernel is kernels.sdpa  # type: ignore[union-attr]
