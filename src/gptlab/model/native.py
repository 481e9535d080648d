"""The compiled kernels as differentiable functions: what `kernels`, `norms`, `mlps` and `loss` say in PyTorch, in one
pass over memory each.

A caller asks `usable(operation, tensors)` first, and computes in PyTorch where the answer is no: without the library
(see gptlab.native), on another device, for other numbers than float32 and bfloat16, or after the doctor found that an
operation is wrong on this machine. Under autocast norms give bfloat16, which the products behind them want.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptlab import native
from gptlab.model.masks import Mask

TYPES = {torch.float32: 0, torch.bfloat16: 1}
NORMS = ("layernorm", "rmsnorm", "seed-layernorm")
# name -> place in the library, gated or not
ACTIVATIONS = {
    "relu_squared": (0, False),
    "gelu": (1, False),
    "gelu_tanh": (2, False),
    "swiglu": (3, True),
    "geglu": (1, True),
    "geglu_tanh": (2, True),
}
WRONG: set[str] = set()  # operations that this machine does not compute rightly; the doctor adds to it

NUMBER, WHOLE, ROOM = ctypes.c_float, ctypes.c_int64, ctypes.c_void_p
ARGUMENTS: dict[str, list[Any]] = {
    "attention_forward": [ctypes.c_int, *[WHOLE] * 5, NUMBER, *[ROOM] * 6],
    "attention_backward": [ctypes.c_int, *[WHOLE] * 5, NUMBER, *[ROOM] * 10],
    "rotate": [ctypes.c_int, *[WHOLE] * 5, ctypes.c_int, NUMBER, *[ROOM] * 3, WHOLE, *[ROOM] * 2],
    "norm_forward": [*[ctypes.c_int] * 3, *[WHOLE] * 2, *[ROOM] * 3, NUMBER, *[ROOM] * 2],
    "norm_backward": [*[ctypes.c_int] * 3, *[WHOLE] * 2, *[ROOM] * 2, NUMBER, *[ROOM] * 5],
    "activation": [*[ctypes.c_int] * 3, *[WHOLE] * 2, *[ROOM] * 3],
    "block_forward": [ROOM],
    "block_backward": [ROOM],
    "entropy_forward": [ctypes.c_int, *[WHOLE] * 2, *[ROOM] * 2, WHOLE, *[ROOM] * 2],
    "entropy_backward": [ctypes.c_int, *[WHOLE] * 2, *[ROOM] * 2, WHOLE, ROOM, NUMBER, ROOM],
}
FUNCTIONS: dict[str, Callable[..., None]] = {}


def call(name: str, *values: Any) -> None:
    """A function of the library; tensors are given as their addresses."""
    function = FUNCTIONS.get(name)
    if function is None:
        function = FUNCTIONS[name] = getattr(native.library(), f"gptlab_{name}")
        function.argtypes, function.restype = ARGUMENTS[name], None
    function(*[v.data_ptr() if isinstance(v, Tensor) else v for v in values])


def usable(operation: str, *tensors: Tensor) -> bool:
    """Whether the library computes an operation ("attention", "rotation", "norm", "activation", "loss",
    "block") on these tensors."""
    return (
        all(x.device.type == "cpu" and x.dtype in TYPES for x in tensors)
        and native.library() is not None
        and operation not in WRONG
    )


class Attention(torch.autograd.Function):
    """softmax(causal(q k^T scale)) v; q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D), its heads side by side."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        (B, H, T, D), K = q.shape, k.shape[1]
        out = q.new_empty(B, T, H, D).transpose(1, 2)
        lse = torch.empty(B, H, T)
        ctx.sizes = (TYPES[q.dtype], B, H, K, T, D, scale)
        call("attention_forward", *ctx.sizes, q, k, v, out, lse, strides(q, k, v, out))
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        heads = q.shape[1], k.shape[1], k.shape[1]
        # One room for all three, as the projection that they came from gave them: its gradient then needs no copy.
        whole = q.new_empty(q.shape[0], q.shape[2], sum(heads), q.shape[3]).transpose(1, 2)
        dq, dk, dv = whole.split(heads, dim=1)
        call(
            "attention_backward", *ctx.sizes, q, k, v, out, dout, lse, dq, dk, dv,
            strides(q, k, v, out, dout, dq, dk, dv),
        )  # fmt: skip
        return dq, dk, dv, None


def strides(*tensors: Tensor) -> Any:
    """Those of batch, heads and tokens, of each."""
    return (WHOLE * (3 * len(tensors)))(*[x.stride(i) for x in tensors for i in range(3)])


def attends(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, dropout: float) -> bool:
    """Whether `Attention` is for this."""
    plain = mask.causal and bias is None and not dropout
    return plain and q.dtype == k.dtype == v.dtype and usable("attention", q, k, v)


class Rotation(torch.autograd.Function):
    """Pairs of the first numbers of each head turned, x (B, H, T, D) -> (B, H, T, D); cos, sin (B or 1, 1, T, R/2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.neighbours = neighbours
        return rotated(x, cos, sin, neighbours, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotated(dy, cos, sin, ctx.neighbours, -1.0), None, None, None  # turned back


def rotated(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool, sign: float) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    B, H, T, D = x.shape
    out = x.new_empty(B, T, H, D).transpose(1, 2)
    half = cos.shape[-1]
    each = 0 if len(cos) == 1 else T * half
    sizes = TYPES[x.dtype], B, H, T, D, 2 * half, neighbours, sign
    call("rotate", *sizes, x, cos.float().contiguous(), sin.float().contiguous(), each, out, strides(x, out))
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
    out: Tensor = Rotation.apply(x, cos, sin, neighbours)
    return out


class Norm(torch.autograd.Function):
    """(x - centre) inverse weight + bias, (…, C) -> (…, C), in the dtype that is asked for."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, eps: float, dtype: torch.dtype
    ) -> Tensor:
        x = x.contiguous()
        rows, C = x.numel() // x.shape[-1], x.shape[-1]
        y, kept = torch.empty_like(x, dtype=dtype), torch.empty(rows, 2)
        ctx.kind, ctx.eps, ctx.rows, ctx.biased = NORMS.index(kind), eps, rows, bias is not None
        types = TYPES[x.dtype], TYPES[dtype], ctx.kind
        call("norm_forward", *types, rows, C, x, weight, bias, eps, y, kept)
        ctx.save_for_backward(x, weight, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        dy, dx = dy.contiguous(), torch.empty_like(x)
        C = x.shape[-1]
        dweight = torch.empty(C) if weight is not None else None
        dbias = torch.empty(C) if ctx.biased else None
        types = TYPES[x.dtype], TYPES[dy.dtype], ctx.kind
        call("norm_backward", *types, ctx.rows, C, x, weight, ctx.eps, kept, dy, dx, dweight, dbias)
        return dx, dweight, dbias, None, None, None


def norm(kind: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """One of NORMS; the statistics and the gain are computed in float32."""
    weight, bias = (None if p is None else p.float() for p in (weight, bias))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    out: Tensor = Norm.apply(x, weight, bias, kind, eps, dtype)
    return out


class Activation(torch.autograd.Function):
    """One of ACTIVATIONS: (…, F), or (…, 2 F) where it is gated, -> (…, F)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        x = x.contiguous()
        which, gated = ACTIVATIONS[name]
        width = x.shape[-1] // (2 if gated else 1)
        ctx.sizes = (TYPES[x.dtype], which, gated, x.numel() // x.shape[-1], width)
        y = x.new_empty(*x.shape[:-1], width)
        call("activation", *ctx.sizes, x, None, y)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        call("activation", *ctx.sizes, x, dy.contiguous(), dx)
        return dx, None


def activation(name: str, x: Tensor) -> Tensor:
    out: Tensor = Activation.apply(x, name)
    return out


class CrossEntropy(torch.autograd.Function):
    """The sum of -ln softmax(logits)[target], in float32; logits (N, V), targets (N,)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
        logits = logits.contiguous()
        rows, V = logits.shape
        lse, nats = torch.empty(rows), torch.empty(rows)
        ctx.sizes, ctx.ignored = (TYPES[logits.dtype], rows, V), ignored
        call("entropy_forward", *ctx.sizes, logits, targets, ignored, lse, nats)
        ctx.save_for_backward(logits, targets, lse)
        return nats.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, size: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, lse = ctx.saved_tensors
        dlogits = torch.empty_like(logits)
        call("entropy_backward", *ctx.sizes, logits, targets, ctx.ignored, lse, size.item(), dlogits)
        return dlogits, None, None


def cross_entropy(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    out: Tensor = CrossEntropy.apply(logits, targets.contiguous(), ignored)
    return out


# A whole block. The order of its parameters, as in native/block.cpp.

PARAMETERS = (
    *("norm1", "norm1_bias", "qkv", "qkv_bias", "out", "out_bias"),
    *("norm2", "norm2_bias", "up", "up_bias", "down", "down_bias"),
)
LANE = 16  # widths are multiples of the widest vector
KEPT = ("statistics", "qkv", "lse", "z", "middle", "hidden")


class Sizes(ctypes.Structure):
    """struct gptlab_block"""

    _fields_ = (
        *((name, WHOLE) for name in ("B", "T", "C", "H", "K", "D", "F", "kind", "activation", "gated", "half")),
        *((name, WHOLE) for name in ("turned", "neighbours", "each")),
        *((name, NUMBER) for name in ("eps", "scale")),
        *((name, ROOM) for name in ("cos", "sin")),
        ("parameters", ROOM * len(PARAMETERS)),
        *((name, ROOM) for name in ("x", *KEPT, "y", "dy", "dx", "gradients")),
    )


@dataclass(frozen=True)
class Shape:
    """What a block is, beside its numbers."""

    heads: int
    kv_heads: int
    head_dim: int
    norm: str
    eps: float
    scale: float
    activation: str


class Block(torch.autograd.Function):
    """x + attention(norm(x)), then x + mlp(norm(x)): (B, T, C) -> (B, T, C).

    cos, sin: of rotary positions, as for `Rotation`, or None; parameters: PARAMETERS, None for what is not there. Under
    autocast its products are of bfloat16, where the processor has an instruction for that.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: Shape,
        cos: Tensor | None,
        sin: Tensor | None,
        neighbours: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        x = x.contiguous()
        (B, T, C), s = x.shape, shape
        which, gated = ACTIVATIONS[s.activation]
        F, rows = parameters[10].shape[1], B * T  # type: ignore[union-attr]
        kept = (
            torch.empty(rows, 4),
            torch.empty(rows, (s.heads + 2 * s.kv_heads) * s.head_dim),
            torch.empty(B, s.heads, T),
            torch.empty(rows, s.heads * s.head_dim),
            torch.empty(rows, C),
            torch.empty(rows, F * (2 if gated else 1)),
        )
        half = torch.is_autocast_enabled("cpu")
        turned = 0 if cos is None else 2 * cos.shape[-1]
        each = 0 if cos is None or len(cos) == 1 else T * turned // 2
        sizes = Sizes(
            *(B, T, C, s.heads, s.kv_heads, s.head_dim, F, NORMS.index(s.norm), which, gated, half),
            *(turned, neighbours, each, s.eps, s.scale, address(cos), address(sin)),
            (ROOM * len(PARAMETERS))(*map(address, parameters)),
            *map(address, (x, *kept)),
        )
        y = torch.empty_like(x)
        sizes.y = y.data_ptr()
        call("block_forward", ctypes.byref(sizes))
        ctx.sizes = sizes
        ctx.save_for_backward(x, cos, sin, *kept, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, _, _, *rest = ctx.saved_tensors
        parameters = rest[len(KEPT) :]
        sizes, dy, dx = ctx.sizes, dy.contiguous(), torch.empty_like(x)
        C, S, wide = sizes.C, (sizes.H + 2 * sizes.K) * sizes.D, sizes.F * (2 if sizes.gated else 1)
        counts = (C, C, S * C, S, C * sizes.H * sizes.D, C, C, C, wide * C, wide, C * sizes.F, C)
        gradients = torch.empty(sum(counts))
        sizes.dy, sizes.dx, sizes.gradients = dy.data_ptr(), dx.data_ptr(), gradients.data_ptr()
        call("block_backward", ctypes.byref(sizes))
        found = zip(parameters, gradients.split(counts), strict=True)
        return dx, None, None, None, None, *(None if p is None else g.view(p.shape) for p, g in found)


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def block(
    x: Tensor, shape: Shape, cos: Tensor | None, sin: Tensor | None, neighbours: bool, *parameters: Tensor | None
) -> Tensor:
    """Every width a multiple of LANE, everything in float32 and contiguous."""
    out: Tensor = Block.apply(x, shape, cos, sin, neighbours, *parameters)
    return out
