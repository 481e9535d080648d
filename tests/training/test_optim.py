import pytest
import torch
from torch import Tensor, nn

import gptlab
from gptlab.config import ModelConfig, TrainConfig
from gptlab.model.attention import Attention
from gptlab.model.transformer import Transformer
from gptlab.training.optim import Muon, adamw, muon, orthogonal
from tests.model.plain import CONFIGS, GATES


def toy(seed: int = 0) -> Transformer:
    model = gptlab.build(gptlab.preset("gptlab-cpu", n_layers=2, d_model=24, n_heads=3, vocab_size=11), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    return model


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (1, 5)])
def test_orthogonal_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    """Newton-Schulz brings singular values near 1 and keeps the singular vectors, as the SVD has them."""
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonal(x) @ vh.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert diagonal.min() > 0.3 and diagonal.max() < 1.3
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 1e-8


def slow_muon(p: Tensor, g: Tensor, v: Tensor, rows: tuple[int, ...], lr: float, momentum: float, decay: float) -> None:
    """One matrix at a time, by the published recipe, in the precision of its arguments."""
    v.mul_(momentum).add_(g, alpha=1 - momentum)
    ahead = (1 - momentum) * g + momentum * v
    start = 0
    for n in rows:
        x = ahead[start : start + n]
        flip = x.shape[0] > x.shape[1]
        x = x.T if flip else x
        x = x / (x.norm() + 1e-7)
        for _ in range(4):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if flip else x
        w = p[start : start + n]
        w.mul_(1 - lr * decay).sub_(x, alpha=lr * max(1, w.shape[0] / w.shape[1]) ** 0.5)
        start += n


def test_batched_muon_is_the_slow_one() -> None:
    """Stacking equal shapes changes nothing: five steps equal a loop over single matrices, q, k and v apart."""
    torch.manual_seed(0)
    shapes = {"qkv": (36, 12), "up": (48, 12), "down": (12, 48), "out": (12, 12)}
    sections = {"qkv": (12, 12, 12)}
    named = {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}
    twins = {name: p.detach().clone() for name, p in named.items()}
    velocities = {name: torch.zeros_like(p) for name, p in twins.items()}
    fast = Muon(named, sections=sections, lr=0.1, momentum=0.9, decay=0.2)
    for step in range(5):
        for name, p in named.items():
            p.grad = torch.randn(p.shape, dtype=torch.float64)
            rows = sections.get(name, (p.shape[0],))
            slow_muon(twins[name], p.grad, velocities[name], rows, 0.1 * (step + 1) / 5, 0.9, 0.2)
        fast.step((step + 1) / 5)
    for name, p in named.items():
        assert torch.allclose(p, twins[name], rtol=1e-9, atol=1e-12), name


def test_muon_agrees_with_torch() -> None:
    """torch.optim.Muon, which orthogonalises in bfloat16, takes the same steps to about 1%."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(16, 48)) for _ in range(2))
    fast = Muon({"w": ours}, sections={}, lr=0.1, momentum=0.95, decay=0.0)
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.95, weight_decay=0.0, ns_steps=4)
    for _ in range(4):
        ours.grad = torch.randn(16, 48)
        theirs.grad = ours.grad.clone()
        fast.step(1.0)
        reference.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() / moved < 0.02


def test_adamw_agrees_with_the_formula() -> None:
    """Three steps equal Algorithm 2 of arXiv 1711.05101, decay on matrices alone."""
    config = TrainConfig(optimizer="adamw", lr=0.01, beta1=0.8, beta2=0.9, weight_decay=0.3)
    model = toy().double()
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, config)
    for p, g in zip(model.parameters(), gradients.values(), strict=True):
        p.grad = g.clone()
    for _ in range(3):
        optimizer.step(1.0)
    for name, p in model.named_parameters():
        w, m, v, g = before[name], 0.0, 0.0, gradients[name]
        for t in range(1, 4):
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            w = w - 0.01 * (0.3 * w if w.ndim == 2 else 0)
            w = w - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        assert torch.allclose(p, w, rtol=1e-9, atol=1e-12), name


def test_every_parameter_is_in_exactly_one_group() -> None:
    """Muon has the matrices inside blocks, AdamW all others, none twice; so one step moves every parameter."""
    model = toy()
    optimizer = muon(model, TrainConfig())
    first, second = optimizer.members  # type: ignore[attr-defined]
    assert first.named.keys() | second.named.keys() == dict(model.named_parameters()).keys()
    assert not first.named.keys() & second.named.keys()
    assert all(p.ndim == 2 and name.startswith("blocks.") for name, p in first.named.items())
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(1.0)
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_groups_of_any_architecture(config: ModelConfig) -> None:
    """Of every model, Muon has the matrices inside the blocks of both stacks and AdamW the rest; of those that are
    several matrices in one, Muon knows where each ends."""
    model = Transformer(config)
    matrices, rest = muon(model, TrainConfig()).members  # type: ignore[attr-defined]
    named = dict(model.named_parameters())
    assert {**matrices.named, **rest.named} == named and not matrices.named.keys() & rest.named.keys()
    inside = {f"{root}blocks.{i}." for root in ("", "encoder.") for i in range(9)}
    assert set(matrices.named) == {n for n, p in named.items() if p.ndim == 2 and n.startswith(tuple(inside))}
    H, K, D, ff = config.n_heads, config.n_kv_heads, config.head_dim, config.d_ff
    for name, p in matrices.named.items():
        expected = (len(p),)
        if name.endswith("qkv.weight"):
            expected = (H * D, K * D, K * D)
        elif name.endswith("up.weight"):
            expected = (ff, ff) if config.activation in GATES else (ff,)
        assert matrices.sections[name] == expected and sum(expected) == len(p), name
    assert adamw(model, TrainConfig()).named == named  # type: ignore[attr-defined]


def test_sections_are_those_of_the_attention() -> None:
    """With grouped heads, q, k and v have different numbers of rows, and Muon splits them there."""
    model = gptlab.build(gptlab.preset("gpt2-124m", n_layers=1, d_model=32, n_heads=4, n_kv_heads=2, vocab_size=5))
    (attention,) = [m for m in model.modules() if isinstance(m, Attention)]
    assert attention.sections == (32, 16, 16)
    assert muon(model, TrainConfig()).members[0].sections["blocks.0.attention.qkv.weight"] == (32, 16, 16)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [adamw, muon])
def test_a_loaded_state_goes_on_alike(make: object) -> None:
    """After state and load, the next steps are the same to the last bit."""
    config = TrainConfig(weight_decay=0.1)
    one, two = toy(), toy()
    first, second = make(one, config), make(two, config)  # type: ignore[operator]
    for _ in range(3):
        first.step(1.0)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second.load(state)
    two.load_state_dict(one.state_dict())
    for _ in range(3):
        first.step(0.5)
        second.step(0.5)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
