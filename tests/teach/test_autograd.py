"""The graph that is drawn is autograd's, with its numbers; what is drawn can be read; and wrong gradients are found."""

import gc
import math
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from torch import Tensor

from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.teach import autograd, autograd_svg
from gptlab.teach.autograd import WORDS, Graph, check

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # that DejaVu Sans has not
SVG = "{http://www.w3.org/2000/svg}"
BINARY: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": lambda a, b: a / (2 + b * b),
    "maximum": torch.maximum,
}
UNARY: dict[str, Callable[..., Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": lambda a: torch.exp(-a * a),
    "minus": lambda a: 1 - a,
    "cube": lambda a: torch.tanh(a) ** 3,
    "clone": lambda a: a.clone().mul_(2),
}


def leaf(value: Any) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def lesson(recorded: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """x = 1.1, y = 1, w = 2.2, b = 0: logistic regression, one example."""
    x, y, w, b = torch.tensor(1.1), torch.tensor(1.0), leaf(2.2), leaf(0.0)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        z = w * x + b
        a = torch.sigmoid(z)
        return F.binary_cross_entropy(a, y), {"z": z, "a": a}

    if recorded:
        with autograd.record():
            value, names = loss()
    else:
        value, names = loss()
    return value, {"x": x, "y": y, "w": w, "b": b, **names}


def net(rows: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """10-5-1, ReLU, sigmoid, binary cross-entropy."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(rows, 10, generator=generator), torch.ones(rows, 1)
    w1 = (torch.randn(10, 5, generator=generator) / 3).requires_grad_()
    w2 = torch.randn(5, 1, generator=generator).requires_grad_()
    b1, b2 = torch.zeros(5, requires_grad=True), torch.zeros(1, requires_grad=True)
    with autograd.record():
        h = torch.relu(x @ w1 + b1)
        loss = F.binary_cross_entropy(torch.sigmoid(h @ w2 + b2), y)
    return loss, {"x": x, "y": y, "W1": w1, "b1": b1, "h": h, "W2": w2, "b2": b2}


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Tensor, dict[str, Tensor]]:
    """A number computed in random steps from random numbers, each step from any of the values before it."""
    size = draw(st.integers(1, 4))
    values = [
        torch.tensor(draw(st.floats(-2, 2)), dtype=torch.float64, requires_grad=i == 0 or draw(st.booleans()))
        for i in range(size)
    ]
    with autograd.record():
        for _ in range(draw(st.integers(1, 9))):
            pick = st.integers(0, len(values) - 1).map(values.__getitem__)
            if draw(st.booleans()):
                values.append(UNARY[draw(st.sampled_from(sorted(UNARY)))](draw(pick)))
            else:
                values.append(BINARY[draw(st.sampled_from(sorted(BINARY)))](draw(pick), draw(pick)))
        values.append(values[-1] * values[0])
    below = reached(values[-1])
    names = {f"v{i}": v for i, v in enumerate(values) if (v.grad_fn if v.grad_fn is not None else v) in below}
    return values[-1], {name: names[name] for name in sorted(names) if draw(st.booleans())}


def reached(value: Tensor) -> set[Any]:
    """Autograd's nodes below a value, and its leaves: the graph walked again, in a way of its own."""
    found: set[Any] = set()
    stack = [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found |= {node, *([node.variable] if hasattr(node, "variable") else [])}
            stack += [following for following, _ in node.next_functions]
    return found


def operations(value: Tensor) -> int:
    return sum(not isinstance(one, Tensor) and not hasattr(one, "variable") for one in reached(value))


def by_name(graph: Graph) -> dict[str, autograd.Node]:
    return {node.name: node for node in graph.nodes if node.name}


# The graph.


def test_the_lesson() -> None:
    """Derived by hand: dL/dz = a - y, dL/dw = (a - y) x."""
    loss, names = lesson()
    graph = autograd.graph(loss, loss=loss, **names)
    found = by_name(graph)
    a = 1 / (1 + math.exp(-2.42))
    for name, value, gradient in [
        ("w", 2.2, (a - 1) * 1.1),
        ("b", 0.0, a - 1),
        ("z", 2.42, a - 1),
        ("a", a, -1 / a),
        ("loss", -math.log(a), 1.0),
    ]:
        assert found[name].value is not None and found[name].value == pytest.approx(value, rel=1e-5)
        assert found[name].gradient is not None and found[name].gradient == pytest.approx(gradient, rel=1e-5)
    assert float(found["w"].gradient) == pytest.approx(-0.0898, abs=5e-5)  # type: ignore[arg-type]
    assert [(n.kind, n.operation, n.name) for n in graph.nodes] == [
        ("parameter", "", "w"),
        ("input", "", "x"),
        ("operation", "multiply", ""),
        ("parameter", "", "b"),
        ("operation", "add", "z"),
        ("operation", "sigmoid", "a"),
        ("input", "", "y"),
        ("operation", "binary_cross_entropy", "loss"),
    ]
    assert [(e.source, e.target, e.slot) for e in graph.edges] == [
        (0, 2, 0), (1, 2, 1), (2, 4, 0), (3, 4, 1), (4, 5, 0), (5, 7, 0), (6, 7, 1),
    ]  # fmt: skip
    local = {(e.source, e.target): e.local for e in graph.edges}
    assert local[0, 2] == pytest.approx(1.1) and local[2, 4] == local[3, 4] == 1
    assert local[4, 5] == pytest.approx(a * (1 - a), rel=1e-5) and local[5, 7] == pytest.approx(-1 / a, rel=1e-5)
    assert local[1, 2] is None and local[6, 7] is None, "no gradient flows to what needs none"


def test_autograd_alone_knows_the_rest() -> None:
    """Without a recording: the same graph and gradients; of values only that of what was not named is missing."""
    graphs = [autograd.graph(loss, **names) for loss, names in (lesson(True), lesson(False))]
    assert graphs[0].edges == graphs[1].edges
    for one, other in zip(graphs[0].nodes, graphs[1].nodes, strict=True):
        assert (one.kind, one.name, one.operation, one.gradient) == (
            other.kind,
            other.name,
            other.operation,
            other.gradient,
        )
        assert one.value == other.value or (one.operation == "multiply" and other.value is None)


@given(expressions())
def test_numbers_are_autograds(made: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Every value is the tensor's, every gradient torch.autograd.grad's."""
    value, names = made
    graph = autograd.graph(value, **names)
    found = {name: node for node in graph.nodes for name in node.name.split(", ") if name}
    assert set(found) == set(names)
    followed = {name: tensor for name, tensor in names.items() if tensor.requires_grad}
    wanted = torch.autograd.grad(value, list(followed.values()), retain_graph=True) if followed else ()
    for name, gradient in zip(followed, wanted, strict=True):
        assert torch.equal(found[name].gradient, gradient), name  # type: ignore[arg-type]
    for name, tensor in names.items():
        assert torch.equal(found[name].value, tensor.detach()), name  # type: ignore[arg-type]
        assert (found[name].gradient is None) == (not tensor.requires_grad)
    assert all(node.value is not None for node in graph.nodes)
    assert torch.equal(graph.nodes[-1].value, value.detach())  # type: ignore[arg-type]


@given(expressions())
def test_the_chain_rule(made: tuple[Tensor, dict[str, Tensor]]) -> None:
    """The gradient of a node is the sum, over all ways from it to the result, of the products of local derivatives."""
    graph = autograd.graph(made[0])
    leaving: dict[int, list[autograd.Edge]] = {}
    for edge in graph.edges:
        leaving.setdefault(edge.source, []).append(edge)

    def ways(number: int) -> list[float]:
        """The product along each way."""
        if number == len(graph.nodes) - 1:
            return [1.0]
        return [e.local * rest for e in leaving[number] if e.local is not None for rest in ways(e.target)]

    for number, node in enumerate(graph.nodes):
        if node.gradient is not None and len(graph.edges) < 16:  # ways are many in larger ones
            assert math.fsum(ways(number)) == pytest.approx(float(node.gradient), rel=1e-9, abs=1e-12)
        if node.gradient is not None and number < len(graph.nodes) - 1:
            step = sum(
                e.local * float(graph.nodes[e.target].gradient)  # type: ignore[arg-type]
                for e in leaving[number]
                if e.local is not None
            )
            assert step == pytest.approx(float(node.gradient), rel=1e-9, abs=1e-12)


@given(expressions())
def test_every_operation_is_there(made: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Autograd's nodes, operands before results, each drawn once in the SVG and once in Mermaid."""
    value, names = made
    graph = autograd.graph(value, **names)
    assert sum(node.kind == "operation" for node in graph.nodes) == operations(value)
    assert all(edge.source < edge.target for edge in graph.edges)
    mermaid = graph.mermaid()
    assert len(re.findall(r'^ +n\d+[\[(]+".*"[\])]+:::\w+$', mermaid, re.M)) == len(graph.nodes)
    assert len(re.findall(r"^ +n\d+ -(?:->|\.->)", mermaid, re.M)) == len(graph.edges)
    for shape in ("wide", "narrow"):
        root = ElementTree.fromstring(graph.svg(shape))
        boxes = [r for r in root.iter(f"{SVG}rect") if r.get("stroke")]
        assert len(boxes) == len(graph.nodes)
        assert len(list(root.iter(f"{SVG}polygon"))) == len(graph.edges)  # a head for each


def test_a_tensor_used_twice() -> None:
    """Two edges from one node, whose gradients add up."""
    w = leaf(3.0)
    with autograd.record():
        loss = w * w
    graph = autograd.graph(loss, w=w)
    assert [(e.source, e.target, e.slot, e.local) for e in graph.edges] == [(0, 1, 0, 3.0), (0, 1, 1, 3.0)]
    assert graph.nodes[0].gradient == 6 and len(graph.nodes) == 2


def test_what_autograd_does_not_follow() -> None:
    """1 - y is drawn if y is named, aside; else it is a constant. Numbers are constants, in their places."""
    y, a = torch.tensor(0.25), leaf(0.5)
    with autograd.record():
        loss = (1 - y) * torch.log(1 - a)
    graph = autograd.graph(loss, a=a, y=y)
    assert sorted((n.kind, n.operation) for n in graph.nodes if n.gradient is None) == [
        ("aside", "subtract"), ("constant", ""), ("constant", ""), ("input", ""),
    ]  # fmt: skip
    aside = next(i for i, n in enumerate(graph.nodes) if n.kind == "aside")
    assert graph.nodes[aside].value == 0.75
    assert [graph.nodes[i].kind for i in graph.operands(aside)] == ["constant", "input"], "1 - y, not y - 1"
    assert [n.value for n in autograd.graph(loss, a=a).nodes if n.kind == "constant"] == [0.75, 1]


def test_the_net() -> None:
    """Gradients of matrices have their shapes; where both ends are single numbers, edges have derivatives."""
    loss, names = net()
    graph = autograd.graph(loss, **names)
    found = by_name(graph)
    followed = {name: tensor for name, tensor in names.items() if tensor.requires_grad}
    for name, gradient in zip(
        followed, torch.autograd.grad(loss, list(followed.values()), retain_graph=True), strict=True
    ):
        assert torch.equal(found[name].gradient, gradient)  # type: ignore[arg-type]
        assert found[name].shape == tuple(names[name].shape)
    assert [n.operation for n in graph.nodes if n.kind == "operation"] == [
        "matmul", "add", "relu", "matmul", "add", "sigmoid", "binary_cross_entropy",
    ]  # fmt: skip
    assert sum(edge.local is not None for edge in graph.edges) == 4
    assert all(n.value is not None for n in graph.nodes)


def test_nothing_is_changed() -> None:
    """No .grad, nothing freed: backward() gives afterwards what it gives without."""
    loss, names = lesson()
    autograd.graph(loss, **names).svg()
    assert names["w"].grad is None
    autograd.graph(loss, **names)
    loss.backward()
    other, fresh = lesson(recorded=False)
    other.backward()
    assert torch.equal(names["w"].grad, fresh["w"].grad)  # type: ignore[arg-type]


def test_values_are_those_of_the_moment() -> None:
    """Of tensors that were changed in place, before and after; a step of an optimizer changes no graph."""
    w = leaf([1.0, -2.0])
    with autograd.record():
        h = w * 2
        h.neg_()
        h[0] += 1
        loss = h.sum()
    with torch.no_grad():
        w.mul_(100)
    graph = autograd.graph(loss)
    values = {n.operation: n.value.tolist() for n in graph.nodes if n.value is not None and n.kind == "operation"}
    assert values["multiply"] == [2, -4] and values["negate"] == [-2, 4] and values["change_in_place"] == [-1, 4]
    assert graph.nodes[0].kind == "parameter" and graph.nodes[0].value.tolist() == [1, -2]  # type: ignore[union-attr]


def test_it_is_freed() -> None:
    """What was recorded goes with the graph; there is no cycle for the collector."""
    gc.disable()
    try:
        w = leaf(2.0)
        with autograd.record():
            h = torch.exp(w)
            loss = h * w
        autograd.graph(loss, w=w, h=h).svg()
        watched = weakref.ref(autograd.kept(h.grad_fn))
        del h, loss
        assert watched() is None
    finally:
        gc.enable()


class Double(torch.autograd.Function):
    """What is no operation of PyTorch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 2


LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -1.0]])
WHATEVER: dict[str, Callable[[Tensor], Tensor]] = {
    "binary_cross_entropy": lambda w: F.binary_cross_entropy(w.sigmoid(), torch.ones(2, 3)),
    "with_logits": lambda w: F.binary_cross_entropy_with_logits(w, torch.ones(2, 3)),
    "log_softmax": lambda w: F.log_softmax(w, -1)[0, 1],
    "cross_entropy": lambda w: F.cross_entropy(w, torch.tensor([0, 2])),
    "mse": lambda w: F.mse_loss(w, torch.zeros(2, 3)),
    "function": lambda w: Double.apply(w).sum(),
    "views": lambda w: (w.T.reshape(-1)[1:].view(5, 1).expand(5, 2) @ torch.ones(2, 1)).mean(),
    "in_place": lambda w: (w * 2).add_(1).clamp_(0, 2).mul_(w).sum(),
    "in_place_view": lambda w: torch.zeros(2, 3).index_put((torch.tensor([0]),), w[0]).sum(),
    "several_outputs": lambda w: sum(a.max() * b.sum() for a, b in zip(w.unbind(0), w.split(1), strict=True)),  # type: ignore[misc,return-value]
    "join": lambda w: torch.cat([w, w, torch.ones(1, 3)]).logsumexp(0).norm(),
    "where": lambda w: torch.where(w > 0, w, torch.zeros(())).sum() / w.detach().abs().max(),
    "layer_norm": lambda w: F.layer_norm(w, (3,), torch.ones(3)).pow(3).sum(),
    "attention": lambda w: F.scaled_dot_product_attention(w[None], w[None], w[None]).sum(),
    "lstm": lambda w: torch.nn.LSTMCell(3, 2)(w)[0].sum(),
    "conv": lambda w: F.conv1d(w[None], torch.ones(1, 2, 2)).sum(),
    "complex": lambda w: torch.fft.rfft(w).abs().sum(),
    "dropout": lambda w: F.dropout(w, 0.5).sum(),
    "no_operation": lambda w: w.sum(),
}


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", WHATEVER)
def test_it_takes_anything(name: str, recorded: bool) -> None:
    """Whatever PyTorch offers: no crash, and every number is right."""
    torch.manual_seed(0)
    w = LOGITS.clone().requires_grad_()
    if recorded:
        with autograd.record():
            loss = WHATEVER[name](w)
    else:
        loss = WHATEVER[name](w)
    graph = autograd.graph(loss, w=w)
    (gradient,) = torch.autograd.grad(loss, [w], retain_graph=True)
    assert torch.equal(by_name(graph)["w"].gradient, gradient)  # type: ignore[arg-type]
    assert len([n for n in graph.nodes if n.kind == "operation"]) >= operations(loss)
    assert not recorded or name == "in_place_view" or all(n.value is not None for n in graph.nodes)
    for shape in ("wide", "narrow"):
        readable(graph.svg(shape))
    assert graph.mermaid() and str(graph)


@pytest.mark.parametrize("name", [pytest.param("gpt2-mini", marks=pytest.mark.slow), "llama-mini", "t5-mini"])
def test_a_model(name: str) -> None:
    """The loss of a model of ours, with every parameter by its name. It is large, and said to be."""
    model = build(preset(name, n_layers=1))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with autograd.record():
        logits = model(ids, source=None if model.encoder is None else ids)
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    parameters = dict(model.named_parameters())
    with pytest.raises(ValueError, match=r"\d+ nodes, more than most=10"):
        autograd.graph(loss, most=10, **parameters)
    graph = autograd.graph(loss, most=1000, logits=logits, **parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    found = {name: node for node in graph.nodes for name in node.name.split(", ")}
    for name, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(found[name].gradient, gradient)  # type: ignore[arg-type]
    assert graph.mermaid().count(":::") == len(graph.nodes)
    if len(graph.nodes) < 100:  # a drawing of hundreds takes seconds
        readable(graph.svg("narrow"))


def test_errors() -> None:
    loss, names = lesson()
    stranger = torch.tensor(7.0)

    def spoilt() -> None:
        """What a derivative needs was overwritten: backward() cannot compute it either."""
        a = torch.sigmoid(names["w"])
        autograd.graph(a.mul_(2))

    for wrong, message in [
        (lambda: autograd.graph(torch.ones(2, requires_grad=True)), r"single number.* not of a tensor of shape \(2,\)"),
        (lambda: autograd.graph(3.0), "single number.*not of 3.0"),  # type: ignore[arg-type]
        (lambda: autograd.graph(stranger), "requires_grad"),
        (lambda: autograd.graph(loss, x=1.1), "x is 1.1: only a tensor"),  # type: ignore[arg-type]
        (lambda: autograd.graph(loss, q=stranger), "q, which needs no gradient, is not in the graph.*record"),
        (lambda: autograd.graph(loss, q=leaf(1.0)), "q is not in the graph"),
        (spoilt, "cannot differentiate.*modified by an inplace operation"),
        (lambda: autograd.graph(loss, most=5, **names), "8 nodes, more than most=5"),
        (lambda: autograd.graph(loss, words={"mulitply": "vezes"}), "no key 'mulitply'"),
        (lambda: autograd.graph(loss).svg("tall"), "'tall' is not one of wide, narrow"),
        (lambda: autograd.graph(loss).svg(lang="de"), "de"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
    loss.backward()
    with pytest.raises(ValueError, match="freed this graph"):
        autograd.graph(loss)


# The drawings.


RENDERER = RendererAgg(10, 10, 72)  # 72 dots an inch: a point is a pixel


def measured(text: str, size: float, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    return RENDERER.get_text_width_height_descent(text, font, ismath=False)[0]


def texts(root: ElementTree.Element) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each text of an SVG, and where it stands: x0, y0, x1, y1; from its letters' height above the line to below it."""
    size = float(root.get("font-size", "0"))
    found = []
    for text in root.iter(f"{SVG}text"):
        spans = list(text)
        wide = sum(measured(s.text or "", size, s.get("font-weight") == "700") for s in spans)
        x, y = float(text.get("x", "0")), float(text.get("y", "0"))
        x -= {"middle": wide / 2, "end": wide}.get(text.get("text-anchor", ""), 0)
        found.append(("".join(text.itertext()), (x, y - 0.76 * size, x + wide, y + 0.24 * size)))
    return found


def over(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5


def points(path: str) -> list[tuple[float, float]]:
    """Along a path of cubic curves."""
    numbers = [tuple(map(float, pair.split(","))) for pair in re.findall(r"-?[\d.]+,-?[\d.]+", path)]
    found = []
    for i in range(0, len(numbers) - 1, 3):
        p = np.array(numbers[i : i + 4])
        for t in np.linspace(0, 1, 21):
            weights = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
            found.append(tuple(weights @ p))
    return found


def readable(svg: str) -> ElementTree.Element:
    """Well-formed; no text leaves the picture or its box or covers another; no box covers another; and no line runs
    through a text, but for the one label that is its own."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    page = (0.0, 0.0, width, height)
    written = texts(root)
    boxes = []
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("stroke"):
            x, y, w, h = (float(rect.get(k, "0")) for k in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h))
    for text, (x0, y0, x1, y1) in written:
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height, f"{text!r} leaves {page}"
        for box in boxes:
            inside = box[0] <= x0 and box[1] <= y0 and x1 <= box[2] and y1 <= box[3]
            assert inside or not over(box, (x0, y0, x1, y1)), f"{text!r} leaves its box"
    for (one, here), (other, there) in combinations(written, 2):
        assert not over(here, there), f"{one!r} covers {other!r}"
    for here, there in combinations(boxes, 2):
        assert not over(here, there)
    for path in root.iter(f"{SVG}path"):
        way = points(path.get("d", ""))
        crossed = [
            text
            for text, (x0, y0, x1, y1) in written
            if any(x0 < x < x1 and y0 < y < y1 for x, y in way) and text not in ("",)
        ]
        assert len(crossed) <= 1 and all(text.startswith("×") for text in crossed), crossed
        for x, y in way[1:-1]:
            assert not any(b[0] + 1 < x < b[2] - 1 and b[1] + 1 < y < b[3] - 1 for b in boxes), "a line through a box"
    return root


@settings(max_examples=60)
@given(expressions(), st.sampled_from(["wide", "narrow"]), st.sampled_from(["en", "pl"]), st.integers(2, 6))
def test_it_can_be_read(made: tuple[Tensor, dict[str, Tensor]], shape: str, lang: str, digits: int) -> None:
    readable(autograd.graph(made[0], **made[1]).svg(shape, lang, digits))


@pytest.mark.parametrize("example", [lesson, net, lambda: net(4)])
def test_narrow_is_for_a_phone(example: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> None:
    """The lesson's graphs fit 390 pixels as they are, in letters of 12; wide ones fit a page."""
    loss, names = example()
    graph = autograd.graph(loss, loss=loss, **names)
    narrow, wide = readable(graph.svg("narrow")), readable(graph.svg("wide"))
    assert float(narrow.get("width", "inf")) <= 390 and float(wide.get("width", "inf")) <= 806
    assert float(narrow.get("font-size", "0")) >= 12
    assert graph.svg() == graph._repr_svg_() == graph.svg("wide")


def test_wide_goes_from_left_to_right() -> None:
    loss, names = lesson()
    graph = autograd.graph(loss, **names)
    for shape, axis in (("wide", "x"), ("narrow", "y")):
        rects = [r for r in ElementTree.fromstring(graph.svg(shape)).iter(f"{SVG}rect") if r.get("stroke")]
        result = next(r for r in rects if r.get("stroke") == autograd_svg.INK)
        assert all(float(r.get(axis, "0")) < float(result.get(axis, "0")) for r in rects if r is not result)


def test_long_words_and_odd_names() -> None:
    """Whatever a translator or a reader writes is set, and escaped."""
    loss, names = lesson()
    names['<b> & "q" #1'] = names.pop("w")
    names["très_long_nom_de_variable"] = names.pop("z")
    names["重み"] = names.pop("b")
    words = {"multiply": "pomnożyć przez siebie nawzajem", "binary_cross_entropy": "<entropia> & krzyżowa"}
    graph = autograd.graph(loss, words=words, **names)
    for shape in ("wide", "narrow"):
        root = readable(graph.svg(shape, "pl"))
        written = [text for text, _ in texts(root)]
        assert '<b> & "q" #1' in " ".join(written) and "0,918" in written
    mermaid = graph.mermaid("pl")
    assert "0,918" in mermaid and "<entropia>" not in mermaid and "#60;b#62; #38; #34;q#34; #35;1" in mermaid


def test_words() -> None:
    """Every text that is shown can be another: `keys` says which there are."""
    loss, names = lesson()
    plain = autograd.graph(loss, **names)
    assert set(plain.keys) <= set(WORDS)
    other = autograd.graph(loss, words={key: f"Q{i}" for i, key in enumerate(plain.keys)}, **names)
    shown = " ".join(text for text, _ in texts(ElementTree.fromstring(other.svg())))
    title = ElementTree.fromstring(other.svg()).find(f"{SVG}title")
    assert title is not None and title.text and title.text.startswith("Q")
    for key in plain.keys:
        if key not in ("title", "result"):
            assert f"Q{plain.keys.index(key)}" in shown and WORDS[key] not in shown
    assert "frobnicate" not in WORDS and autograd.spoken("frobnicate") == "frobnicate"
    assert autograd.spoken("linalg_inv_ex") == autograd.spoken("LinalgInvEx") == "linalg_inv_ex"


def test_what_is_told() -> None:
    """A screen reader has a title and every node."""
    loss, names = lesson()
    graph = autograd.graph(loss, loss=loss, **names)
    root = ElementTree.fromstring(graph.svg())
    title, told = (root.find(f"{SVG}{tag}") for tag in ("title", "desc"))
    assert title is not None and told is not None and title.text == "Computational graph of loss"
    assert root.get("role") == "img" and "id=" not in graph.svg(), "several may stand on one page"
    assert "z: add(multiply, b), 2.42, grad −0.0817" in (told.text or "")
    assert next(root.iter(f"{SVG}rect")).get("fill") == "#ffffff"
    assert "−0.0898" in str(graph) and repr(graph) == "Graph(8 nodes, 7 edges)"


def test_it_is_the_same_each_time() -> None:
    """In this process and in another one."""
    code = (
        "import sys; from tests.teach import test_autograd as t; loss, names = t.net();"
        "g = t.autograd.graph(loss, **names); text = g.svg() + g.svg('narrow') + g.mermaid();"
        "sys.stdout.buffer.write(text.encode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parents[2])
    loss, names = net()
    graph = autograd.graph(loss, **names)
    assert done.stdout.decode() == graph.svg() + graph.svg("narrow") + graph.mermaid()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=30), st.booleans())
def test_no_text_is_wider_than_was_thought(text: str, bold: bool) -> None:
    assert autograd_svg.width_of(text, bold) >= measured(text, autograd_svg.SIZE, bold) - 1.5


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0.1, 5)), min_size=1, max_size=8))
def test_isotonic(points: list[tuple[float, float]]) -> None:
    """Rising, and no worse than any other rising numbers nearby."""
    wanted, weights = (np.array(column) for column in zip(*points, strict=True))
    found = autograd_svg.isotonic(wanted, list(weights))
    assert (np.diff(found) >= 0).all()
    best = (weights * (found - wanted) ** 2).sum()
    generator = np.random.default_rng(0)
    for _ in range(20):
        other = np.sort(found + generator.normal(0, 1, len(found)))
        assert (weights * (other - wanted) ** 2).sum() >= best - 1e-6


def test_numbers() -> None:
    number = autograd_svg.Written("en", 3).number
    wanted = {
    -0.08981: "−0.0898", 2.2: "2.2", 1.0: "1", -0.0: "0", 12345.6: "12346", 1.234e7: "1.23e7", -1e-9: "−1e−9",
        0.0001234: "0.000123", math.inf: "∞", -math.inf: "−∞", 999.99: "1000",
    }  # fmt: skip
    assert {value: number(value) for value in wanted} == wanted and number(math.nan) == "NaN"
    assert number(torch.tensor(3)) == "3" and number(torch.tensor(True)) == "True"
    assert autograd_svg.Written("fr", 4).number(-0.089813) == "−0,08981"


# Gradients in three ways.


def bce(x: Any, y: Any, w: Any, b: Any) -> Tensor:
    return F.binary_cross_entropy(torch.sigmoid(w * x + b), y)


RIGHT: dict[str, Callable[..., Any]] = {
    "w": lambda x, y, w, b: x * (torch.sigmoid(w * x + b) - y),
    "b": lambda x, y, w, b: 1 / (1 + math.exp(-(w * x + b))) - y,
}


def test_three_ways_agree() -> None:
    found = check(bce, gradients=RIGHT, x=1.1, y=1, w=2.2, b=0)
    assert found.ok and [row.input for row in found.rows] == ["w", "b"]
    assert [round(row.autograd, 4) for row in found.rows] == [-0.0898, -0.0817]
    for row in found.rows:
        assert row.analytic_error is not None and row.analytic_error < 1e-12 and row.numeric_error < 1e-8
    assert found.value == pytest.approx(-math.log(1 / (1 + math.exp(-2.42))))
    lines = str(found).splitlines()
    assert lines[0].split("  ")[0] == "input" and lines[0].endswith("autograd  error of analytic  error of numeric")
    assert lines[1].startswith("w ") and "-0.08982628" in lines[1] and lines[-1] == "They agree."
    assert len({len(line) for line in lines[:-1]}) == 1, "aligned"
    html = ElementTree.fromstring(f"<div>{found._repr_html_()}</div>")
    assert len(list(html.iter("tr"))) == 3 and len(list(html.iter("td"))) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y, w, b: torch.sigmoid(w * x + b) - y,  # the chain rule's last factor forgotten
        lambda x, y, w, b: x * (y - torch.sigmoid(w * x + b)),  # the sign
        lambda x, y, w, b: x * (torch.sigmoid(w * x + b) - y) * (1 + 1e-5),  # almost
        -0.0898,  # rounded
        math.nan,
    ],
)
def test_a_wrong_formula_is_found(wrong: Any) -> None:
    found = check(bce, gradients={**RIGHT, "w": wrong}, x=1.1, y=1, w=2.2, b=0)
    assert not found.ok and "NOT" in str(found) and "NOT" in found._repr_html_()
    assert found.rows[0].analytic_error != found.rows[1].analytic_error


def test_a_wrong_backward_is_found() -> None:
    """Autograd is only as right as the derivatives that it is told."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * 3

    assert not check(lambda x: Wrong.apply(x).sum(), x=[1.0, 2.0]).ok
    assert check(lambda x: Double.apply(x).sum(), x=[1.0, 2.0]).ok


@given(st.data())
def test_differences_are_as_good_as_promised(data: st.DataObject) -> None:
    """On smooth functions of moderate numbers the numeric derivative has eight digits, measured by the function."""
    kinds = sorted(set(BINARY) - {"maximum"})
    steps = data.draw(st.lists(st.tuples(st.sampled_from(sorted(UNARY)), st.sampled_from(kinds)), max_size=4))
    numbers = st.floats(-2, 2)

    def f(a: Tensor, b: Tensor) -> Tensor:
        value = a * b
        for unary, binary in steps:
            value = torch.tanh(BINARY[binary](UNARY[unary](value), a))
        return value + b

    found = check(f, a=data.draw(numbers), b=data.draw(numbers))
    assert found.ok, str(found)
    for row in found.rows:
        assert abs(row.numeric - row.autograd) <= 1e-8 * max(1, abs(found.value), abs(row.autograd)), str(found)


def test_where_the_slope_is_nothing() -> None:
    """x³ at 0, whose difference is h²: that is no mistake. But a slope of 0 that is told wrong is one."""
    assert check(lambda x: 1e6 * x**3, x=0.0).ok
    assert check(lambda x: x**2, x=1e-148).ok  # 2e-148, but both ends are the same
    assert not check(lambda x: x**2, gradients={"x": 1e-9}, x=0.0).ok
    assert not check(lambda x: 1e6 * x**3, gradients={"x": 1e-3}, x=0.0).ok
    assert not check(lambda x: x**3 + 1e-3 * (x - x.detach()), x=0.0).ok


def test_arrays_and_tensors() -> None:
    """A row for each number; NumPy's and PyTorch's alike; class numbers stay what they are."""
    w = np.array([[0.5, -0.25, 1.0], [0.0, 2.0, -1.0]])
    found = check(
        lambda w, x, y: F.cross_entropy(x @ w, y),
        gradients={"w": lambda w, x, y: x.T @ (torch.softmax(x @ w, -1) - F.one_hot(y, 3)) / len(y)},
        w=w,
        x=torch.tensor([[1.0, 2.0], [-1.0, 0.5]]),
        y=torch.tensor([2, 0]),
    )
    assert found.ok and [row.input for row in found.rows][:4] == ["w[0, 0]", "w[0, 1]", "w[0, 2]", "w[1, 0]"]
    assert len(found.rows) == 6
    both = check(lambda w, x, y: F.cross_entropy(x @ w, y), w=w, x=np.ones((2, 2), np.float32), y=np.array([2, 0]))
    assert both.ok and len(both.rows) == 10 and both.rows[0].analytic is None and "analytic" not in str(both)
    asked = check(lambda a, b: a * b, a=leaf(2.0), b=torch.tensor(3.0))
    assert [row.input for row in asked.rows] == ["a"], "tensors that ask for a gradient, if there are any"
    assert [row.input for row in check(lambda a, b: a * b, of=["b"], a=2, b=3).rows] == ["b"]


def test_the_net_is_checked() -> None:
    """56 parameters: the worst of each is shown."""
    loss, names = net(4)

    def f(x: Tensor, y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        return F.binary_cross_entropy(torch.sigmoid(torch.relu(x @ W1 + b1) @ W2 + b2), y)

    found = check(f, **{name: tensor for name, tensor in names.items() if name != "h"})
    assert found.ok and len(found.rows) == 61
    assert len(found.table()) == 5 and "61 numbers" in str(found)
    gradients = torch.autograd.grad(loss, [names["W1"]])
    assert found.rows[7].autograd == pytest.approx(float(gradients[0][1, 2]), rel=1e-4, abs=1e-7)


def test_what_a_function_does_to_its_inputs() -> None:
    """It may change them in place: it gets copies, and so do formulas."""
    x = np.array([1.0, 2.0])

    def f(x: Tensor) -> Tensor:
        x *= 2
        return (x**2).sum()

    found = check(f, gradients={"x": lambda x: x.mul_(8)}, x=x)
    assert found.ok and x.tolist() == [1, 2]


def test_errors_of_check() -> None:
    noise = torch.Generator().manual_seed(0)
    for wrong, message in [
        (lambda: check(lambda x: x * 2, x=[1.0, 2.0]), r"shape \(2,\), not a single number"),
        (lambda: check(lambda x: 3.0, x=1.0), "returned 3.0, no tensor"),  # type: ignore[arg-type,return-value]
        (lambda: check(lambda x, w: x * 1, x=1.0, w=2.0), "w does not influence the result"),
        (lambda: check(lambda x, w: x + w.detach(), x=1.0, w=2.0), "w does not influence the result"),
        (lambda: check(lambda x: torch.tensor(1.0).double(), x=1.0), "x does not influence"),
        (lambda: check(bce, x=1.1, y=1, w=2.2, c=0), "f takes x, y, w, b; b was not given"),
        (lambda: check(bce, x=1.1, y=1, w=2.2, b=0, c=0), "f takes x, y, w, b, and no c"),
        (lambda: check(bce, gradients={"v": 1.0}, x=1.1, y=1, w=2.2, b=0), "no input 'v'; there are x, y, w, b"),
        (lambda: check(bce, gradients={"w": lambda q: q}, x=1.1, y=1, w=2.2, b=0), "formula for w takes q; q was not"),
        (lambda: check(lambda x: x.sum(), gradients={"x": lambda x: x[:1]}, x=[1.0, 2.0]), r"gives shape \(1,\)"),
        (lambda: check(lambda x, i: x[i], of=["i"], x=[1.0], i=torch.tensor(0)), "i is of torch.int64"),
        (lambda: check(lambda x: torch.rand((), generator=noise) * x, x=1.0), "the same twice"),
        (lambda: check(lambda x: torch.log(x), x=-1.0), "must be finite"),
        (lambda: check(lambda x: x.float(), x=1.0), "computed in torch.float32"),
        (lambda: check(lambda x: x, x="one"), "x is 'one': pass a number"),
        (lambda: check(lambda: torch.ones(())), "at least one number"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
