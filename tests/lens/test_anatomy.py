"""A pass through a model, step by step: in order, complete, and adding up, in every architecture."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.lens import anatomy
from gptlab.lens.trace import Trace
from gptlab.model import kernels, taps
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
SOURCE = torch.tensor([[6, 5, 3, 5, 8]])
MODELS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in SIZES if name.endswith("-mini")}
MODELS |= {  # what no miniature has
    "gptlab-cpu": ("gptlab-cpu", {}),
    "post, narrow table": ("opt-mini", {"norm_placement": "post", "d_embedding": 48, "final_norm": False}),
    "sines, normed, scaled": ("gpt2-mini", {"position": "sinusoidal", "embedding_norm": True, "embedding_scale": 3.0}),
    "qk-norm, no positions": ("llama-mini", {"qk_norm": True, "position": "none", "bias_lm_head": True}),
    "deep cross-attention": ("t5-mini", {"norm_placement": "post-deepnorm", "residual_alpha": 1.7}),
    "parallel cross-attention, narrow table": ("t5-mini", {"norm_placement": "parallel", "d_embedding": 48}),
}


PREFIX = 3


def passed(name: str, *, grad: bool = False) -> tuple[Transformer, dict[str, torch.Tensor], Trace]:
    """A model drawn at random, the tensors of a pass, and its trace."""
    size, changes = MODELS[name]
    model = build(preset(size, **changes))
    prefix = PREFIX if model.config.category == "prefix" else 0
    inputs: dict[str, Any] = {"prefix": torch.tensor([prefix])} if prefix else {}
    inputs |= {"source": SOURCE} if model.encoder is not None else {}
    with torch.set_grad_enabled(grad), taps.record(model, kernel=kernels.reference) as found:
        model(IDS, **inputs)
    arrays = {key: x[0].detach().numpy() for key, x in found.items()}
    source = SOURCE[0].numpy() if model.encoder is not None else None
    return model, found, Trace(IDS[0].numpy(), list("abcdefg"), arrays, source, list("uvwxy"), prefix)


def arrays_of(model: Transformer, trace: Trace) -> dict[str, Any]:
    return {step.name: step.array for step in anatomy.walk(model, trace)}


def relative(got: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(got) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max())


def made_of(x: torch.Tensor) -> set[Any]:
    """All places in autograd's graph, (node, which of its outputs), that a tensor was computed from, its own too."""
    found, pending = set[Any](), [(x.grad_fn, x.output_nr)]
    while pending:
        place = pending.pop()
        if place[0] is not None and place not in found:
            found.add(place)
            pending += place[0].next_functions
    return found


@pytest.mark.parametrize("name", MODELS)
def test_each_step_is_computed_from_earlier_ones(name: str) -> None:
    """By autograd's graph, which knows no names: no step is in the history of one before it, all are in that of the
    logits, and the encoder's come first."""
    model, found, trace = passed(name, grad=True)
    steps = anatomy.walk(model, trace)
    tapped = [step.name for step in steps if step.name in found]
    places = [(found[key].grad_fn, found[key].output_nr) for key in tapped]
    assert len(places) > 40 and tapped[-1] == "logits" and made_of(found["logits"]) >= set(places)
    for at, key in enumerate(tapped):
        later = made_of(found[key]) & (set(places[at:]) - {places[at]})
        assert not later, (key, [tapped[places.index(place)] for place in later])
    stacks = [step.stack for step in steps]
    assert stacks == sorted(stacks, reverse=True)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_out(name: str) -> None:
    """A tap that is no step is, to the last bit, a step already; what is added to the taps are ids, positions and
    probabilities."""
    model, _, trace = passed(name)
    arrays = arrays_of(model, trace)
    for key in trace:
        if key not in arrays:
            assert any(key != other and np.array_equal(trace[key], x) for other, x in arrays.items()), key
    added = {"ids", "probabilities"} | ({"encoder.ids"} if model.encoder is not None else set())
    added |= {"position"} if model.config.position in ("learned", "sinusoidal") else set()
    assert arrays.keys() - set(trace) == added


@pytest.mark.parametrize("name", MODELS)
def test_the_walk_leads_to_the_logits(name: str) -> None:
    """From ids to logits by the layouts' formulas, written out here: each stream from the one before it and from what
    the branches add, to rounding."""
    model, _, trace = passed(name)
    c, a = model.config, arrays_of(model, trace)
    stacks: list[tuple[str, Any]] = [("encoder.", model.encoder)] if model.encoder is not None else []

    def normed(module: Any, x: Any) -> Any:
        return module(torch.as_tensor(x)).numpy()

    with torch.inference_mode():
        for prefix, stack in [*stacks, ("", model)]:
            rows = model.embedding[torch.as_tensor(a[f"{prefix}ids"])]
            x = c.embedding_scale * model.embedding_in(rows).numpy()
            x = x + a.get(f"{prefix}position", 0)
            x = normed(stack.embedding_norm, x)
            for layer, block in enumerate(stack.blocks):
                at = f"{prefix}blocks.{layer}."
                assert relative(x, a[f"{at}resid_pre"]) < 1e-6
                parts = ["attention.out", *(["cross.out"] if block.cross is not None else []), "mlp.down"]
                between = ["resid_mid", "resid_mid_cross"][: len(parts) - 1]
                norms = block.residual.norms
                if c.norm_placement == "parallel":
                    x = x + sum(a[at + part] for part in parts)
                    between = []
                for number, part in enumerate(parts if between else []):
                    if c.norm_placement == "pre":
                        x = x + a[at + part]
                    elif c.norm_placement == "post":
                        x = normed(norms[number], x + a[at + part])
                    else:
                        x = c.residual_alpha * normed(norms[number], x) + a[at + part]
                    if number < len(between):
                        assert relative(x, a[at + between[number]]) < 1e-6
                assert relative(x, a[f"{at}resid_post"]) < 1e-6
            x = normed(stack.norm, x)
        x = model.embedding_out(torch.as_tensor(x)) * c.logit_scale
        logits = F.linear(x, model.embedding if model.head is None else model.head, model.head_bias)
        assert relative(logits, a["logits"]) < 2e-6
        np.testing.assert_allclose(a["probabilities"], torch.as_tensor(a["logits"]).double().softmax(-1), rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_sums_hold(name: str) -> None:
    """Each stream, and each norm of one, is a sum that holds to rounding, made of steps before it; a sum that does not
    hold is noticed."""
    model, _, trace = passed(name)
    arrays, totals = arrays_of(model, trace), anatomy.sums(model)
    order = list(arrays)
    kinds = ("norm", "norms", "embedding_norm", "resid_pre", "resid_mid", "resid_mid_cross", "resid_post")
    assert [t.name for t in totals if t.name in arrays] == [t.name for t in totals]
    assert {t.name for t in totals} == {s.name for s in anatomy.walk(model, trace) if s.kind in kinds}
    for total in totals:
        assert anatomy.misfit(total, model, arrays) < 1e-6
        assert all(order.index(term) < order.index(total.name) for term in total.terms)
    total = next(t for t in totals if t.name == "blocks.1.resid_post")
    term = list(total.terms)[-1]
    wrong = {**arrays, term: arrays[term] + 0.01 * np.abs(arrays[total.name]).max()}
    assert anatomy.misfit(total, model, wrong) == pytest.approx(0.01 * total.terms[term], rel=1e-3) or total.norm


def test_formulas() -> None:
    """A layout's sums in plain text, in the order of computation."""
    told = {name: [t.formula for t in anatomy.sums(passed(name)[0])] for name in MODELS}
    assert told["gpt2-mini"][:6] == [
        "resid_pre = embed + position",
        "norms.0 = norm(resid_pre)",
        "resid_mid = resid_pre + attention.out",
        "norms.1 = norm(resid_mid)",
        "resid_post = resid_mid + mlp.down",
        "resid_pre = blocks.0.resid_post",
    ]
    assert told["palm-mini"][1:3] == ["norms.0 = norm(resid_pre)", "resid_post = resid_pre + attention.out + mlp.down"]
    assert told["glm-mini"][1:3] == ["norms.0 = norm(resid_pre)", "resid_mid = 2.83 norms.0 + attention.out"]
    assert told["post, narrow table"][1:3] == ["norms.0 = norm(resid_pre + attention.out)", "resid_mid = norms.0"]


def test_positions() -> None:
    """What is added to the embeddings: rows of OPT's table from its third on, and the first Transformer's waves."""
    model, _, trace = passed("opt-mini")
    assert np.array_equal(
        arrays_of(model, trace)["position"], dict(model.named_parameters())["position.weight"].detach()[2:9]
    )
    model, _, trace = passed("sines, normed, scaled")
    width = model.config.d_model
    waves = [
        [(np.sin if i % 2 == 0 else np.cos)(p / 10000 ** ((i - i % 2) / width)) for i in range(width)] for p in range(7)
    ]
    np.testing.assert_allclose(arrays_of(model, trace)["position"], waves, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2-mini", "deep cross-attention", "post, narrow table", "palm-mini"])
def test_who_writes(name: str) -> None:
    """Lengths and cosines are torch's, between each branch and the stream that it is added to."""
    model, _, trace = passed(name)
    a = {key: torch.as_tensor(x) for key, x in arrays_of(model, trace).items()}
    written = list(anatomy.writes(anatomy.sums(model), {key: x.numpy() for key, x in a.items()}))
    c = model.config
    cross = int(model.encoder is not None)
    assert len(written) == 2 * c.n_encoder_layers + (2 + cross) * c.n_layers
    for w in written:
        at = f"{'encoder.' if w.stack == 'encoder' else ''}blocks.{w.layer}."
        number = ["attention", *(["cross"] if cross and w.stack == "decoder" else []), "mlp"].index(w.branch)
        added = a[at + anatomy.WRITTEN[w.branch]]
        if c.norm_placement == "post-deepnorm":
            stream = c.residual_alpha * a[f"{at}residual.norms.{number}"]
        elif c.norm_placement == "parallel":
            stream = a[f"{at}resid_pre"]
        else:
            stream = a[at + ["resid_pre", "resid_mid", "resid_mid_cross"][number]]
        np.testing.assert_allclose(w.added, added.norm(dim=-1), rtol=1e-5)
        np.testing.assert_allclose(w.stream, stream.norm(dim=-1), rtol=1e-5)
        np.testing.assert_allclose(w.cosine, torch.cosine_similarity(added, stream, -1), atol=1e-5)


def test_what_is_nothing_has_no_direction() -> None:
    """A branch that adds zeros has length 0 and cosine 0, not NaN."""
    model, _, trace = passed("gpt2-mini")
    arrays = arrays_of(model, trace)
    arrays["blocks.0.mlp.down"] = np.zeros_like(arrays["blocks.0.mlp.down"])
    silent = next(w for w in anatomy.writes(anatomy.sums(model), arrays) if (w.layer, w.branch) == (0, "mlp"))
    assert not silent.added.any() and not silent.cosine.any() and silent.stream.all()


@pytest.mark.parametrize("name", ["palm-mini", "t5-mini", "qk-norm, no positions"])
def test_steps_measure(name: str) -> None:
    """Norms are of each token's numbers, summed one by one; each dimension has a name; and rows are the tokens of the
    stack that they are said to be of."""
    model, _, trace = passed(name)
    lengths = {"encoder": SOURCE.shape[1], "decoder": IDS.shape[1]}
    for step in anatomy.walk(model, trace):
        assert len(step.axes) == step.array.ndim
        assert step.array.shape[step.axes.index("tokens")] == lengths[step.read]
        if step.kind == "ids":
            assert not len(step.norms)
            continue
        heads = step.array if step.array.ndim == 3 else step.array[None]
        wanted = [sum(float(v) ** 2 for head in heads for v in head[t]) ** 0.5 for t in range(heads.shape[1])]
        np.testing.assert_allclose(step.norms, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2-mini", "t5-mini", "llama-mini"])
def test_active_units(name: str) -> None:
    """Units are on where their pre-activation, or gate, is above 0: of ReLU, where what comes out is."""
    model, _, trace = passed(name)
    units = model.config.d_ff
    share = anatomy.active(trace["blocks.0.mlp.up"], units)
    wanted = [sum(bool(v > 0) for v in row[:units]) / units for row in trace["blocks.0.mlp.up"]]
    np.testing.assert_allclose(share, wanted)
    if model.config.activation == "relu":
        np.testing.assert_allclose(share, (trace["blocks.0.mlp.hidden"] > 0).mean(-1))
