"""The computational graph of an expression, drawn with its values and gradients; and gradients checked in three ways.

    with autograd.record():                      # keeps what autograd itself forgets
        z = w * x + b
        a = torch.sigmoid(z)
        loss = F.binary_cross_entropy(a, y)
    autograd.graph(loss, x=x, w=w, b=b, y=y, z=z, a=a).svg("wide")

The graph is the one by which PyTorch differentiates. Each result knows the operation that made it (`grad_fn`), each
operation those whose results it was given (`next_functions`), and the way ends at `AccumulateGrad`, which adds to the
`.grad` of a leaf. That is all autograd needs, so it keeps no more: of values only those that a derivative asks for, and
of operands that need no gradient often nothing. `record` listens while an expression is computed, and hangs what each
operation was given and what it gave to the operation's node in autograd's graph, where it lives as long as the node
does. Without it `graph` draws the same operations, edges and gradients, but values only of tensors that were named and
of those that autograd saved.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from gptlab.messages import language
from gptlab.teach.autograd_svg import INK, LOOKS, ROOM, Written, drawn

__all__ = ["WORDS", "Check", "Edge", "Graph", "Node", "Row", "check", "graph", "record"]

# What autograd and the dispatcher call an operation -> how people call it, a key of WORDS.
OPERATIONS = {
    "Mul": "multiply",
    "Div": "divide",
    "Add": "add",
    "Sub": "subtract",
    "Rsub": "subtract",  # of a number: 1 - a
    "Neg": "negate",
    "Pow": "power",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "square_root",
    "Abs": "absolute_value",
    "Sin": "sine",
    "Cos": "cosine",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Softplus": "softplus",
    "LogSigmoidForward": "log_sigmoid",
    "LogSigmoid": "log_sigmoid",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy",
    "NllLoss": "negative_log_likelihood",
    "NllLossForward": "negative_log_likelihood",
    "MseLoss": "mean_squared_error",
    "Mean": "mean",
    "Sum": "sum",
    "Prod": "product",
    "Max": "maximum",
    "Amax": "maximum",
    "Maximum": "maximum",
    "Min": "minimum",
    "Amin": "minimum",
    "Minimum": "minimum",
    "Clamp": "clamp",
    "Where": "choose",
    "MaskedFill": "mask",
    "Mm": "matmul",
    "Bmm": "matmul",
    "Mv": "matmul",
    "Dot": "dot_product",
    "Addmm": "matmul_and_add",
    "T": "transpose",
    "Transpose": "transpose",
    "Permute": "transpose",
    "View": "reshape",
    "UnsafeView": "reshape",
    "ReshapeAlias": "reshape",
    "Squeeze": "reshape",
    "Unsqueeze": "reshape",
    "AsStrided": "reshape",
    "Expand": "expand",
    "Slice": "select",
    "Select": "select",
    "Index": "select",
    "Gather": "select",
    "Split": "split",
    "SplitWithSizes": "split",
    "Unbind": "split",
    "Cat": "join",
    "Stack": "join",
    "Clone": "copy",
    "ToCopy": "convert",
    "CopySlices": "change_in_place",
    "Embedding": "embedding",
    "NativeLayerNorm": "layer_norm",
    "NativeDropout": "dropout",
}
# Every text that a graph may show, by the key under which `graph(words=…)` replaces it. Keys that are not here
# are those of operations not in OPERATIONS: autograd's name in lower case, `linalg_inv` for LinalgInvBackward0.
WORDS = {key: key.replace("_", " ") for key in OPERATIONS.values()} | {
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "binary_cross_entropy": "binary cross-entropy",
    "negative_log_likelihood": "negative log-likelihood",
    "change_in_place": "change in place",
    "attention": "attention",
    "matmul_and_add": "matmul, add",
    "parameter": "parameter",  # a leaf that needs a gradient
    "input": "input",  # a leaf that needs none, and was named
    "constant": "constant",  # one that was not
    "grad": "grad",
    "result": "the result",  # where it was given no name
    "title": "Computational graph of {name}",
    "value": "value",
    "legend_value": "computed forward",
    "legend_gradient": "derivative of {name} with respect to this node, computed backward",
    "legend_local": "local derivative: what the gradient is multiplied by on its way back",
    "legend_dashed": "needs no gradient",
}
# Which operands autograd saves for an operation's derivative, in the order of its operands.
SAVED = {
    "Mul": ("self", "other"),
    "Div": ("self", "other"),
    "Pow": ("self", "exponent"),
    "BinaryCrossEntropy": ("self", "target"),
    "BinaryCrossEntropyWithLogits": ("self", "target"),
    "MseLoss": ("self", "target"),
    "NllLoss": ("self", "target"),
    "Mm": ("self", "mat2"),
    "Bmm": ("self", "mat2"),
    "Mv": ("self", "vec"),
    "Dot": ("self", "tensor"),
    "Addmm": ("", "mat1", "mat2"),
}
KEPT = "gptlab.teach.autograd"  # our entry in a node's metadata
MOST = 100  # nodes of a drawing that anybody can read

Key = tuple[Any, int]  # an output in autograd's graph: its node, and which of the node's outputs


# What happens while an expression is computed.


@dataclass(eq=False)
class Given:
    """An operand that needs no gradient. tensor: itself, to be known again (none for a number), and how often it had
    been changed in place; made: what made it."""

    value: Tensor
    tensor: Tensor | None = None
    made: "Made | None" = None
    version: int = 0

    def __post_init__(self) -> None:
        if self.tensor is not None and not self.tensor.is_inference():
            self.version = self.tensor._version

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for two uses of one tensor."""
        return id(self if self.tensor is None else self.tensor), self.version


@dataclass(eq=False)
class Made:
    """An operation that autograd does not follow, since nothing that it was given needs a gradient."""

    operation: str
    operands: "list[Given]"


@dataclass(eq=False)
class Kept:
    """What is kept of an operation beside its node. operands: in order; of one that needs a gradient its value, and
    which of the edges that autograd has it is; outputs: values, by number."""

    operands: list[Given | tuple[int, Tensor]] | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)


def kept(node: Any) -> Kept:
    """Ours of a node; it begins empty."""
    return node.metadata.setdefault(KEPT, Kept())


def copied(tensor: Tensor) -> Tensor:
    """A tensor as it is now, whatever is done in place to it afterwards; it holds nothing of autograd's graph."""
    return tensor.detach().clone()


@dataclass(eq=False)
class Followed:
    """An operand that needs a gradient, as it was: what made it (None for a leaf), and which of that one's outputs."""

    value: Tensor
    tensor: Tensor
    node: Any
    output: int


class Listener(TorchDispatchMode):
    """Sees each operation below autograd: there a tensor is still what its user holds, `grad_fn` and all.

    What an operation gives has its `grad_fn` only when the operation has returned, so each waits for the next ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[list[Tensor], list[Given | Followed], bool]] = []
        self.made: dict[int, tuple[Tensor, Made]] = {}  # by id of what was made; the tensor itself keeps it from reuse

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.settle()
        operands = list(self.operands(func, args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        outputs = [one for one in (out if isinstance(out, tuple | list) else [out]) if isinstance(one, Tensor)]
        name = func.overloadpacket.__name__
        for one in outputs:
            self.made.pop(id(one), None)  # changed in place: it is no longer what it was made as
        given = [operand for operand in operands if isinstance(operand, Given)]
        if len(given) < len(operands):
            self.waiting = [*self.waiting[-7:], (outputs, operands, name == "rsub")]
        elif not any(one is operand.tensor for one in outputs for operand in given):
            made = Made(spoken(name), given[::-1] if name == "rsub" else given)
            self.made |= {id(one): (one, made) for one in outputs}
        return out

    def operands(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Given | Followed]:
        """A number is one where the operation would take a tensor or a scalar in its place: a dimension is none."""
        for argument, given in zip(func._schema.arguments, args, strict=False):
            if isinstance(given, int | float) and not isinstance(given, bool):
                if re.search("Tensor|number|Scalar", str(argument.type)):
                    yield Given(torch.tensor(given))
            else:
                yield from self.tensors(given)
        yield from self.tensors(list(kwargs.values()))

    def tensors(self, given: Any) -> Iterator[Given | Followed]:
        for one in given if isinstance(given, tuple | list) else [given]:
            if not isinstance(one, Tensor):
                continue
            value = copied(one)
            if one.requires_grad:
                if one.grad_fn is not None:  # what a Function of the user's gives is first seen here
                    kept(one.grad_fn).outputs.setdefault(one.output_nr, value)
                yield Followed(value, one, one.grad_fn, one.output_nr)
            else:
                yield Given(value, one, self.made[id(one)][1] if id(one) in self.made else None)

    def settle(self) -> None:
        """Those that have returned by now are known to autograd."""
        waiting, self.waiting = self.waiting, []
        for outputs, operands, backward in waiting:
            known = [one for one in outputs if one.grad_fn is not None]
            for one in known:
                kept(one.grad_fn).outputs.setdefault(one.output_nr, copied(one))
            if not known:
                self.waiting.append((outputs, operands, backward))
            elif kept(known[0].grad_fn).operands is None:
                found = matched(known[0].grad_fn, operands)
                kept(known[0].grad_fn).operands = found[::-1] if found and backward else found


def matched(node: Any, operands: Sequence[Given | Followed]) -> list[Given | tuple[int, Tensor]] | None:
    """Operands as a node's, or None if they are not: those of an operation inside another one, or of a change in place
    of a part of a tensor."""
    if isinstance(node, BackwardCFunction):  # a torch.autograd.Function: what it does inside is its own affair
        return None
    edges = [(i, *edge) for i, edge in enumerate(node.next_functions) if edge[0] is not None]
    found: list[Given | tuple[int, Tensor]] = []
    for one in operands:
        if isinstance(one, Given):
            found.append(one)
            continue
        if not edges:
            return None
        i, to, output = edges.pop(0)
        if (to.variable is not one.tensor) if hasattr(to, "variable") else (to is not one.node or output != one.output):
            return None
        found.append((i, one.value))
    return None if edges else found


@contextmanager
def record() -> Iterator[None]:
    """While it is open, all values of an expression are kept for `graph`, and operands that need no gradient, too.

    It costs a copy of every tensor on the way, freed with the graph: for small expressions, not for training.
    """
    listener = Listener()
    try:
        with listener:
            yield
    finally:
        listener.settle()


# The graph.


@dataclass(frozen=True, eq=False)
class Node:
    """kind: "operation", "parameter" (a leaf that needs a gradient), "input" (a leaf that needs none, named by the
    user), "constant" (one that is not), or "aside" (an operation that autograd does not follow).

    operation: its key of WORDS; name: the user's, else ""; value, gradient: d result / d node, of the value's shape;
    None where unknown, or where there is none.
    """

    kind: str
    operation: str
    name: str
    value: Tensor | None
    gradient: Tensor | None

    @property
    def shape(self) -> tuple[int, ...] | None:
        found = self.value if self.value is not None else self.gradient
        return None if found is None else tuple(found.shape)


@dataclass(frozen=True)
class Edge:
    """From the node with number `source` to operand number `slot` of `target`.

    local: d target / d source by this edge alone, where both are single numbers and a gradient flows.
    """

    source: int
    target: int
    slot: int
    local: float | None = None


def graph(value: Tensor, /, *, words: Mapping[str, str] | None = None, most: int = MOST, **names: Tensor) -> "Graph":
    """The computational graph of a number, from autograd; nothing is changed by it: no `.grad`, nothing freed.

    names: tensors that occur in it, by the name to show; words: other words for keys of WORDS; most: nodes at most.
    ValueError for what is no single number or needs no gradient, for a name of something that is not in the graph,
    for a graph that was already freed by `backward()`, and for one too large.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"a graph is drawn of a single number in a tensor, not of {what}: take its sum or mean")
    if not value.requires_grad:
        raise ValueError("autograd keeps no graph of this value: it comes from nothing that has requires_grad=True")
    for name, named in names.items():
        if not isinstance(named, Tensor):
            raise ValueError(f"{name} is {named!r}: only a tensor can be found in a graph")
    built = Builder(value, names, most)
    unknown = sorted(set(words or ()) - set(WORDS) - {node.operation for node in built.nodes})
    if unknown:
        raise ValueError(f"words has no key {unknown[0]!r}; there are {', '.join(WORDS)}")
    return Graph(tuple(built.nodes), tuple(built.edges), {**WORDS, **(words or {})})


class Builder:
    """Walks autograd's graph backward from its result; nodes are numbered so that operands come before results."""

    def __init__(self, value: Tensor, names: Mapping[str, Tensor], most: int) -> None:
        self.value, self.names = value, names
        self.result = key_of(value)
        self.keys = {name: key_of(tensor) for name, tensor in names.items() if tensor.requires_grad}
        self.found: dict[Any, list[tuple[Key | Given, int]]] = {}  # operands of a node, and which edge each is, or -1
        self.leads: dict[Made | None, bool] = {}  # whether what made a Given is drawn
        self.values: dict[Key, Tensor] = {}
        order = self.walk()
        if len(order) > most:
            raise ValueError(
                f"this graph has {len(order)} nodes, more than most={most}: draw a part of it, or ask for more"
            )
        numbers = {identity(key): number for number, key in enumerate(order)}
        self.know_names(numbers)
        self.gradients = self.differentiate([key for key in order if not isinstance(key, Given)])
        self.nodes = [self.node(key) for key in order]
        self.edges = []
        for number, key in enumerate(order):
            local = self.local(key)
            for slot, operand in enumerate(self.operands(key)):
                self.edges.append(Edge(numbers[identity(operand)], number, slot, local.get(slot)))

    # Structure.

    def walk(self) -> list[Key | Given]:
        """All there is, operands first; without recursion, for a chain may be long."""
        order: list[Key | Given] = []
        seen: set[Any] = set()
        stack: list[tuple[Key | Given, bool]] = [(self.result, False)]
        while stack:
            key, done = stack.pop()
            if done:
                order.append(key)
            elif identity(key) not in seen:
                seen.add(identity(key))
                stack.append((key, True))
                stack += [(operand, False) for operand in reversed(self.operands(key))]
        return order

    def operands(self, key: Key | Given) -> list[Key | Given]:
        """In order: keys of those that need a gradient, Givens of others."""
        if isinstance(key, Given):
            return list(key.made.operands) if key.made is not None and self.drawn(key) else []
        return [operand for operand, _ in self.operands_of(key[0])]

    def operands_of(self, node: Any) -> list[tuple[Key | Given, int]]:
        if node not in self.found:
            self.found[node] = self.recorded(node) if kept(node).operands is not None else self.saved(node)
        return self.found[node]

    def recorded(self, node: Any) -> list[tuple[Key | Given, int]]:
        found: list[tuple[Key | Given, int]] = []
        for operand in kept(node).operands or ():
            if isinstance(operand, Given):
                found.append((operand, -1))
            else:
                i, value = operand
                found.append((node.next_functions[i], i))
                self.values.setdefault(node.next_functions[i], value)
        return found

    def saved(self, node: Any) -> list[tuple[Key | Given, int]]:
        """By autograd alone: its edges, and what it saved of operands to which it has none."""
        tensors = [saved(node, name) for name in SAVED.get(stem(node.name()), ())]
        edges = list(node.next_functions)
        found: list[tuple[Key | Given, int]] = []
        for i in range(max(len(edges), len(tensors))):
            edge = edges[i] if i < len(edges) else (None, 0)
            tensor = tensors[i] if i < len(tensors) else None
            if edge[0] is not None:
                found.append((edge, i))
                if tensor is not None:
                    self.values.setdefault(edge, copied(tensor))
            elif tensor is not None:
                found.append((Given(copied(tensor), tensor), -1))
        return found

    def drawn(self, given: Given) -> bool:
        """Whether what made it is drawn: if that leads to an input with a name. Else it is a constant to its reader."""
        waiting = [given.made] if given.made is not None and given.made not in self.leads else []
        while waiting:
            made = waiting[-1]
            new = [one.made for one in made.operands if one.made is not None and one.made not in self.leads]
            waiting += new
            if not new:
                self.leads[made] = any(self.name(one) or self.leads.get(one.made) for one in made.operands)
                waiting.pop()
        return self.leads.get(given.made, False)

    # Names.

    def name(self, key: Key | Given) -> str:
        """All names of a node, if it has any."""
        if isinstance(key, Given):
            return ", ".join(name for name, tensor in self.names.items() if key.tensor is tensor)
        return ", ".join(name for name, other in self.keys.items() if other == key)

    def know_names(self, numbers: Mapping[Any, int]) -> None:
        """What is named has its value from there, if from nowhere else. ValueError for a name that is nowhere."""
        for name, tensor in self.names.items():
            if tensor.requires_grad:
                key = self.keys[name]
                if identity(key) not in numbers:
                    raise ValueError(f"{name} is not in the graph of this value, which was not computed from it")
                self.values.setdefault(key, tensor.detach())
            elif not any(at[0] == id(tensor) for at in numbers):
                raise ValueError(
                    f"{name}, which needs no gradient, is not in the graph of this value: it was not computed from it, "
                    "or autograd did not keep it (compute within `with record():`)"
                )

    # Numbers.

    def differentiate(self, keys: Sequence[Key]) -> dict[Key, Tensor]:
        edges = [GradientEdge(*key) for key in keys]
        try:
            found = torch.autograd.grad(self.value, edges, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "backward through the graph a second time" in str(error):
                raise ValueError(
                    "backward() has freed this graph: draw it before, or call backward(retain_graph=True)"
                ) from None
            raise ValueError(f"autograd cannot differentiate this value: {error}") from error
        return {key: gradient for key, gradient in zip(keys, found, strict=True) if gradient is not None}

    def node(self, key: Key | Given) -> "Node":
        if isinstance(key, Given):
            name, made = self.name(key), key.made
            if made is not None and self.drawn(key):
                return Node("aside", made.operation, name, key.value, None)
            return Node("input" if name else "constant", "", name, key.value, None)
        gradient = self.gradients.get(key)
        if hasattr(key[0], "variable"):  # AccumulateGrad
            value = self.values.get(key, key[0].variable.detach())
            return Node("parameter", "", self.name(key), value, gradient)
        return Node("operation", spoken(stem(key[0].name())), self.name(key), self.value_of(key), gradient)

    def value_of(self, key: Key) -> Tensor | None:
        """As it was recorded, else as the user holds it, else as autograd saved it."""
        node, number = key
        if number in kept(node).outputs:
            return kept(node).outputs[number]
        if key == self.result:
            return self.value.detach()
        return self.values.get(key, saved(node, "result"))

    def local(self, key: Key | Given) -> dict[int, float]:
        """d output / d operand by operand number, where both are single numbers.

        Autograd is asked for the gradient of this one operation: a hook sees what its node gives, operand by operand,
        before anything is added up.
        """
        if isinstance(key, Given) or key not in self.gradients or self.gradients[key].numel() != 1:
            return {}
        node, given = key[0], []
        slots = {slot: i for slot, (_, i) in enumerate(self.operands_of(node)) if i >= 0}
        if not slots:
            return {}
        hook = node.register_hook(lambda gradients, _: given.extend(gradients))
        try:
            edges = [GradientEdge(*node.next_functions[i]) for i in sorted(slots.values())]
            one = torch.ones_like(self.gradients[key])
            torch.autograd.grad([GradientEdge(*key)], edges, [one], retain_graph=True, allow_unused=True)
        finally:
            hook.remove()
        found = {slot: given[i] for slot, i in slots.items()}
        return {slot: float(one) for slot, one in found.items() if one is not None and one.numel() == 1}


def key_of(tensor: Tensor) -> Key:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def identity(key: Key | Given) -> Any:
    return key.identity if isinstance(key, Given) else key


def saved(node: Any, name: str) -> Tensor | None:
    """What autograd saved of an operation, if it did and it is still there, unchanged."""
    try:
        found = getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed, or changed in place
        return None
    if isinstance(found, int | float):
        return torch.tensor(found)
    return found if isinstance(found, Tensor) else None


def stem(name: str) -> str:
    """MulBackward0 -> Mul; torch::autograd::CopySlices -> CopySlices."""
    return re.sub(r"Backward\d*$", "", re.split(r"::|\.", name)[-1])


def spoken(name: str) -> str:
    """The key of WORDS for what autograd calls Mul, or the dispatcher mul; else its name, in lower case."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if camel.startswith("ScaledDotProduct"):  # PyTorch has one for each kind of machine
        return "attention"
    return OPERATIONS.get(camel) or re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", camel).lower()


@dataclass(frozen=True, eq=False)
class Graph:
    """A computational graph. nodes: operands before results, the result last; edges: by target, then operand."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    words: Mapping[str, str]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of WORDS that this graph's drawing uses: what there is to translate."""
        used = {node.operation or node.kind for node in self.nodes} | {"grad", "value", "title", "legend_value"}
        used |= {"legend_gradient"} | ({"result"} if not self.nodes[-1].name else set())
        used |= {"legend_local"} if any(edge.local is not None for edge in self.edges) else set()
        used |= {"legend_dashed"} if any(node.gradient is None for node in self.nodes) else set()
        return tuple(key for key in (*WORDS, *sorted(used - set(WORDS))) if key in used)

    def word(self, key: str, name: str = "") -> str:
        return self.words.get(key, key.replace("_", " ")).replace("{name}", name)

    def called(self, number: int) -> str:
        """A node's name, or what it is."""
        node = self.nodes[number]
        return node.name or self.word(node.operation or node.kind)

    def operands(self, number: int) -> list[int]:
        return [edge.source for edge in self.edges if edge.target == number]

    def svg(self, shape: str = "wide", lang: str = "en", digits: int = 3) -> str:
        """Drawn: an SVG that needs nothing else. shape: "wide", from left to right (from top to bottom where that would
        be wider than a page), or "narrow", from top to bottom, for a screen 390 pixels wide; lang: how numbers are
        written; digits: significant ones."""
        if shape not in ROOM:
            raise ValueError(f"shape {shape!r} is not one of {', '.join(ROOM)}")
        return drawn(self, shape, Written(language(lang), digits))

    def _repr_svg_(self) -> str:
        return self.svg()

    def mermaid(self, lang: str = "en", digits: int = 3) -> str:
        """The same in Mermaid's language, which notebooks and many Markdown pages draw."""
        written = Written(language(lang), digits)
        lines = ["flowchart LR"]
        for number, node in enumerate(self.nodes):
            text = "<br/>".join(quoted(line) for line in self.lines(node, written))
            opened, closed = ("([", "])") if node.kind in ("input", "constant") else ("[", "]")
            style = "result" if node is self.nodes[-1] and node.kind == "operation" else node.kind
            lines.append(f'    n{number}{opened}"{text}"{closed}:::{style}')
        for edge in self.edges:
            follows = self.nodes[edge.source].gradient is not None and self.nodes[edge.target].gradient is not None
            arrow = "-->" if follows else "-.->"
            label = "" if edge.local is None else f'|"×{written.number(edge.local)}"|'
            lines.append(f"    n{edge.source} {arrow}{label} n{edge.target}")
        for kind, look in LOOKS.items():
            dashes = ",stroke-dasharray:4 3" if look.dashed else ""
            lines.append(
                f"    classDef {kind} fill:{look.fill},stroke:{look.stroke},stroke-width:{look.width}px,"
                f"color:{INK}{dashes}"
            )
        return "\n".join(lines) + "\n"

    def lines(self, node: Node, written: "Written") -> list[str]:
        """A node in words: what it is, its value, its gradient; tensors by their shapes."""
        what = self.word(node.operation or node.kind)
        found = [f"{node.name}: {what}" if node.name else what]
        if node.value is not None:
            found.append(written.short(node.value))
        if node.gradient is not None:
            found.append(f"{self.word('grad')} {written.short(node.gradient)}")
        return found

    def __str__(self) -> str:
        """A line for each node, result last: its name, what made it, its value, its gradient."""
        written = Written("en", 3)
        rows = []
        for number, node in enumerate(self.nodes):
            what = self.word(node.operation or node.kind)
            given = ", ".join(self.called(operand) for operand in self.operands(number))
            value, gradient = (None if one is None else written.short(one) for one in (node.value, node.gradient))
            rows.append(
                [
                    node.name,
                    f"{what}({given})" if given else what,
                    "" if value is None else value,
                    "" if gradient is None else f"{self.word('grad')} {gradient}",
                ]
            )
        return aligned(rows, "<<>>")

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.edges)} edges)"


def quoted(text: str) -> str:
    """Text between Mermaid's double quotes, where # begins a character's number."""
    return re.sub(r"[^\w\s.,:;()×−=+\-]", lambda found: f"#{ord(found[0])};", text)


def aligned(rows: Sequence[Sequence[str]], sides: str) -> str:
    """Rows as lines of a table, columns two spaces apart; sides: "<" or ">" for each column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )


# Gradients in three ways.


class Row(NamedTuple):
    """One number of one input. analytic: None where no formula was given; errors: relative, against autograd."""

    input: str
    analytic: float | None
    numeric: float
    autograd: float
    analytic_error: float | None
    numeric_error: float


@dataclass(frozen=True)
class Check:
    """rows: one for each number of each input; ok: whether all agree as well as they can; value: of the function."""

    rows: tuple[Row, ...]
    ok: bool
    value: float

    HEAD: ClassVar = ("input", "analytic", "numeric", "autograd", "error of analytic", "error of numeric")
    MOST: ClassVar = 24  # rows of a table that is printed

    def table(self) -> list[list[str]]:
        """Head and rows as text. Of many numbers, the one of each input where the errors are largest."""
        rows = list(self.rows)
        if len(rows) > self.MOST:
            worst: dict[str, Row] = {}
            for row in rows:
                name = row.input.partition("[")[0]
                if name not in worst or worst_error(row) > worst_error(worst[name]):
                    worst[name] = row
            rows = list(worst.values())
        shown = [[row.input, *map(eight, row[1:4]), *map(rough, row[4:])] for row in rows]
        table = [list(self.HEAD), *shown]
        used = [i for i in range(len(self.HEAD)) if any(row[i] for row in shown)]
        return [[row[i] for i in used] for row in table]

    @property
    def verdict(self) -> str:
        left = len(self.rows) - len(self.table()) + 1
        more = f" (of {len(self.rows)} numbers, the worst of each input)" if left else ""
        return ("They agree." if self.ok else "They do NOT agree.") + more

    def __str__(self) -> str:
        table = self.table()
        return "\n".join([aligned(table, "<" + ">" * (len(table[0]) - 1)), self.verdict])

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)]
        for name, *cells in rows:
            numbers = "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in cells)
            lines.append(f'<th scope="row">{escape(name)}</th>{numbers}')
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table><p>{escape(self.verdict)}</p>"


def eight(number: float | None) -> str:
    """With eight decimals, or as many digits."""
    if number is None:
        return ""
    return f"{number:.8f}" if number == 0 or 1e-3 <= abs(number) < 1e6 else f"{number:.8e}"


def rough(number: float | None) -> str:
    return "" if number is None else f"{number:.1e}"


def worst_error(row: Row) -> float:
    """NaN is worse than any number."""
    return max(math.inf if math.isnan(one) else one for one in row[4:] if one is not None)


def check(
    f: Callable[..., Tensor],
    /,
    *,
    gradients: Mapping[str, Any] | None = None,
    of: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    **inputs: ArrayLike | Tensor,
) -> Check:
    """The gradient of f at a point in three ways: by a formula, by differences, by autograd.

        check(f, gradients={"w": lambda x, y, w, b: x * (torch.sigmoid(w * x + b) - y)}, x=1.1, y=1, w=2.2, b=0)

    f takes tensors by name and returns a single number; inputs are numbers, arrays or tensors. gradients: d f / d input
    by the user's own formula, a function of those inputs that it names (or its value). of: inputs to look at; else
    those with a formula; else tensors with requires_grad, if there are any; else all but arrays of integers.

    All is computed in float64 (eps = 2.2e-16); arrays of integers, as class numbers are, stay as they are. The numeric
    derivative is the central difference (f(x + h) - f(x - h)) / 2h. It is wrong by h² f'''(x) / 6 + O(h⁴), the rest of
    the Taylor series, and by some eps |f(x)| / h, since both values of f are rounded: by O(h²) + O(eps / h) in all.
    That is least for h near the cube root of eps, 6e-6, times the scale on which x changes f; here h is that root times
    max(|x|, 1), for each number x. About ten digits are then right, at the price of 2n values of f for n numbers, where
    backpropagation takes one pass. At a kink of f, as ReLU has at 0, the difference is the mean of the slopes on both
    sides, and no derivative.

    Two numbers a, b agree if |a - b| <= tolerance max(|a|, |b|) + 10 eps |f(x ± h)| / h; where the numeric one does
    not, it may be wrong by as much as it changes with twice the step, three times its h² f'''(x) / 6. The relative
    error is |a - b| / max(|a|, |b|), 0 for two zeros. ValueError for a result that is no single number, not
    differentiable or not the same twice, for an input that does not influence it, and for names that f does not take.
    """
    given = {name: as_tensor(name, value) for name, value in inputs.items()}
    takes(f, "f", inputs, all_of_them=True)
    chosen = list(of) if of is not None else list(gradients or ())
    if not chosen:
        chosen = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.requires_grad]
    chosen = chosen or [name for name, value in given.items() if value.is_floating_point()]
    for name in [*chosen, *(gradients or ())]:
        if name not in given:
            raise ValueError(f"there is no input {name!r}; there are {', '.join(given)}")
        if not given[name].is_floating_point():
            raise ValueError(f"{name} is of {given[name].dtype}: only floating-point numbers have a derivative")
    if not chosen:
        raise ValueError("there is no input to differentiate by: pass at least one number")

    def value(changed: Mapping[str, Tensor]) -> Tensor:
        """f of copies, for it may change what it is given."""
        result = f(**{name: changed[name] if name in changed else given[name].clone() for name in given})
        if not isinstance(result, Tensor):
            raise ValueError(f"f returned {result!r}, no tensor: compute with torch's functions")
        if result.numel() != 1:
            raise ValueError(f"f returned shape {tuple(result.shape)}, not a single number: take its sum or its mean")
        if result.dtype != torch.float64:
            raise ValueError(
                f"f computed in {result.dtype}; its inputs are float64, and what else it uses must be, too"
            )
        return result.reshape(())

    leaves = {name: given[name].clone().requires_grad_() for name in chosen}
    result = value({name: leaf.clone() for name, leaf in leaves.items()})  # not leaves: f may change them in place
    here = float(result.detach())
    with torch.no_grad():
        again = float(value({}))
    if not math.isfinite(here) or here != again:
        raise ValueError(f"f is {here}, and then {again}: it must be finite, and the same twice (seed what is random)")
    found = torch.autograd.grad(result, list(leaves.values()), allow_unused=True) if result.requires_grad else ()
    rows: list[Row] = []
    ok = True
    for i, name in enumerate(chosen):
        automatic = found[i] if found else None
        if automatic is None:
            raise ValueError(
                f"{name} does not influence the result, as far as autograd can see: does f use it, and without "
                "detach(), item() or no_grad()?"
            )
        analytic = formula(name, (gradients or {})[name], given) if name in (gradients or {}) else None
        for index in np.ndindex(tuple(automatic.shape)):
            a = float(automatic[index])
            by_hand = None if analytic is None else float(analytic[index])
            n, noise = difference(value, name, given[name], index)
            rest = 0.0
            if not near(n, a, tolerance, noise):  # where f' is 0, what is left of h² f''' is much
                rest = abs(difference(value, name, given[name], index, 2.0)[0] - n)
            ok &= near(n, a, tolerance, noise + rest) and (by_hand is None or near(by_hand, a, tolerance, noise))
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            rows.append(Row(label, by_hand, n, a, None if by_hand is None else relative(by_hand, a), relative(n, a)))
    return Check(tuple(rows), ok, here)


EPS = float(np.finfo(np.float64).eps)


def as_tensor(name: str, value: Any) -> Tensor:
    """A copy: numbers and floating-point arrays in float64, integer arrays as they are."""
    if isinstance(value, bool | int | float):
        return torch.tensor(float(value), dtype=torch.float64)
    try:
        tensor = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(np.array(value))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}: pass a number, an array or a tensor") from None
    return tensor.double() if tensor.is_floating_point() else tensor


def takes(function: Callable[..., Any], called: str, names: Mapping[str, Any], all_of_them: bool) -> list[str]:
    """Which inputs a function takes. ValueError for one that it lacks, or (all_of_them) one that it does not take."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions do not say
        return list(names)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    have = f"{called} takes {', '.join(p.name for p in named) or 'no inputs by name'}"
    for p in named:
        if p.default is p.empty and p.name not in names:
            raise ValueError(f"{have}; {p.name} was not given")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(names)
    own = {p.name for p in named}
    if all_of_them and (other := [name for name in names if name not in own]):
        raise ValueError(f"{have}, and no {other[0]}")
    return [name for name in names if name in own]


def formula(name: str, gradient: Any, given: Mapping[str, Tensor]) -> Tensor:
    """The user's gradient by one input, in its shape."""
    if callable(gradient):
        taken = takes(gradient, f"the formula for {name}", given, all_of_them=False)
        gradient = gradient(**{one: given[one].clone() for one in taken})
    found = torch.as_tensor(gradient, dtype=torch.float64).detach()
    shape = given[name].shape
    if found.numel() != given[name].numel() or (found.numel() != 1 and found.shape != shape):
        raise ValueError(f"the formula for {name} gives shape {tuple(found.shape)}, but {name} has {tuple(shape)}")
    return found.reshape(shape)


def difference(
    value: Callable[..., Tensor], name: str, at: Tensor, index: tuple[int, ...], wider: float = 1.0
) -> tuple[float, float]:
    """The central difference by one number of one input, and how wrong rounding may make it; wider: as many times the
    usual step."""
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            there = at.clone()
            there[index] += sign * wider * EPS ** (1 / 3) * max(abs(float(at[index])), 1.0)
            ends.append((float(there[index]), float(value({name: there}))))  # x ± h as it was rounded
    (high, above), (low, below) = ends
    return (above - below) / (high - low), 20 * EPS * max(abs(above), abs(below)) / (high - low)


def near(one: float, other: float, tolerance: float, noise: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other)) + noise  # never for NaN


def relative(one: float, other: float) -> float:
    """|a - b| / max(|a|, |b|), 0 for two zeros."""
    return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other))
