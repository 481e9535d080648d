"""The fast way to read and to write: native/decode.cpp, which has its own copy of a model's weights, as it reads them.

What it computes is what the modules compute, in float32; `supported` says of which models. N texts side by side, T
tokens, V vocabulary, C model width, W lanes of a vector.
"""

import mmap
import weakref
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab import native
from gptlab.config import SampleConfig
from gptlab.model import kernels, mlps, norms, residuals, taps
from gptlab.model.attention import Attention
from gptlab.model.block import Block
from gptlab.model.native import WRONG
from gptlab.model.positions import alibi, base, learned, none, rope, sinusoidal, t5
from gptlab.model.transformer import Transformer

LARGEST = 10**9  # bytes of weights that may be held twice
PANEL = 4  # vectors, whose columns of a matrix lie together

NORMS: dict[type[nn.Module], int] = {nn.Identity: 0, norms.LayerNorm: 1, norms.RMSNorm: 2, norms.SeedLayerNorm: 3}
ACTIVATIONS = (
    mlps.relu,
    mlps.relu_squared,
    mlps.gelu,
    mlps.gelu_tanh,
    mlps.swiglu,
    mlps.geglu,
    mlps.geglu_tanh,
)
LAYOUTS = (residuals.PreNorm, residuals.PostNorm, residuals.DeepNorm, residuals.Parallel)
POSITIONS = (learned.Learned, sinusoidal.Sinusoidal, none.NoPosition, rope.RoPE, alibi.ALiBi, t5.T5Relative)
KERNELS = (kernels.compiled, kernels.sdpa, kernels.reference)
KNOWN = {Transformer, Block, Attention, mlps.MLP, *NORMS, *LAYOUTS, *POSITIONS, nn.Linear, nn.ModuleList, nn.Dropout}


# The structures of decode.cpp, field by field


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Norm(Structure):
    _fields_ = [*fields(c_int64, "kind"), *fields(c_void_p, "weight bias")]


class Matrix(Structure):
    _fields_ = [*fields(c_void_p, "panels bias"), *fields(c_int64, "inner columns")]


class Layer(Structure):
    _fields_ = [*fields(Norm, "first second q k"), *fields(Matrix, "qkv out up down"), *fields(c_int64, "band")]


class Model(Structure):
    _fields_ = [
        *fields(c_int64, "layers context width embedding vocabulary heads groups head parameters"),
        *fields(c_int64, "activation parallel kept turned interleaved"),
        *fields(c_double, "eps alpha embedding_scale scale"),
        *fields(c_void_p, "table positions cosines sines biases"),
        *fields(Norm, "before last very_last"),
        *fields(Matrix, "into out_of projection"),
        *fields(POINTER(Layer), "layer"),
    ]


class Choice(Structure):
    _fields_ = [*fields(c_double, "temperature"), *fields(c_void_p, "bias uniforms chosen logprobs")]


@cache
def library() -> Any:
    """The compiled decoder, its functions typed; None where there is none."""
    found = native.library()
    if not hasattr(found, "gptlab_decoder"):
        return None
    for name, result, *arguments in (
        ("lanes", c_int64),
        ("digest", c_uint64, c_void_p, c_void_p, c_int64),
        ("decoder", c_void_p, POINTER(Model), c_int64),
        ("decoder_free", None, c_void_p),
        ("decoder_read", c_int64, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int64),
    ):
        function = getattr(found, f"gptlab_{name}")
        function.restype, function.argtypes = result, arguments
    return found


def supported(model: nn.Module) -> bool:
    """Whether the decoder computes what this model does: a causal one in evaluation mode, of parts that it has, in
    float32 on the CPU, to which nobody listens."""
    if not isinstance(model, Transformer) or model.training or model.config.category != "causal" or taps.LISTENERS:
        return False
    parameters, modules = list(model.parameters()), list(model.modules())
    return (
        "decoder" not in WRONG
        and library() is not None
        and all(type(module) in KNOWN for module in modules)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        and all(module.kernel in KERNELS for module in modules if isinstance(module, Attention))
        and all(p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() for p in parameters)
        and 4 * sum(p.numel() for p in parameters) <= LARGEST
    )


def room(count: int) -> Tensor:
    """So many floats, in large pages where the system has them: a third faster to read."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count)
    memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32)


def norms_before(blocks: Sequence[Any]) -> list[nn.Module]:
    """The norms before each block's two branches, and what stands before the model's own: all layouts as one.

    norm(x + f(x)) leaves the norm to the branch that comes next.
    """
    last = nn.Identity()
    if isinstance(blocks[0].residual, residuals.Parallel):
        return [norm for block in blocks for norm in (block.residual.norms[0], last)] + [last]
    own = [norm for block in blocks for norm in block.residual.norms]
    return [last, *own] if isinstance(blocks[0].residual, residuals.PostNorm) else [*own, last]


class Packed:
    """A model's weights as the decoder reads them, and where they lie."""

    def __init__(self, model: Transformer) -> None:
        config, position = model.config, model.position
        blocks: list[Any] = list(model.blocks)
        self.lanes = library().gptlab_lanes()
        self.held: list[Any] = []  # what the pointers below point to
        self.digest = digest(model)
        self.free = room(sum(self.size(p) for p in (*model.parameters(), model.embedding) if p.dim() == 2))
        residual, before = type(blocks[0].residual), norms_before(blocks)
        layers = (Layer * len(blocks))(*(self.layer(b, *before[2 * i : 2 * i + 2]) for i, b in enumerate(blocks)))
        self.held.append(layers)
        head = model.embedding if model.head is None else model.head
        angles: tuple[Tensor | None, Tensor | None] = (None, None)
        if isinstance(position, rope.RoPE):
            angles = position.once(self.range(config.context), self.range(config.context), torch.float32)
        self.model = Model(
            layers=len(blocks),
            context=config.context,
            width=config.d_model,
            embedding=config.d_embedding,
            vocabulary=config.vocab_size,
            heads=config.n_heads,
            groups=config.n_kv_heads,
            head=config.head_dim,
            parameters=sum(p.numel() for p in model.parameters()),
            activation=ACTIVATIONS.index(blocks[0].mlp.activation),
            parallel=residual is residuals.Parallel,
            kept=residual in (residuals.PostNorm, residuals.DeepNorm),
            turned=position.turned if isinstance(position, rope.RoPE) else 0,
            interleaved=position.interleaved if isinstance(position, rope.RoPE) else 0,
            eps=config.norm_eps,
            alpha=blocks[0].residual.alpha if residual is residuals.DeepNorm else 1.0,
            embedding_scale=model.embedding_scale,
            scale=blocks[0].attention.scale,
            table=self.keep(model.embedding),
            positions=self.added(position, config.context, config.d_model),
            cosines=self.keep(angles[0]),
            sines=self.keep(angles[1]),
            biases=self.biases(position, config.context),
            before=self.norm(model.embedding_norm),
            last=self.norm(before[-1]),
            very_last=self.norm(model.norm),
            into=self.linear(model.embedding_in),
            out_of=self.linear(model.embedding_out),
            projection=self.matrix(head * model.logit_scale, model.head_bias),
            layer=layers,
        )

    def layer(self, block: Block, first: nn.Module, second: nn.Module) -> Layer:
        attention, mlp = block.attention, block.mlp
        return Layer(
            first=self.norm(first),
            second=self.norm(second),
            q=self.norm(attention.q_norm),
            k=self.norm(attention.k_norm),
            qkv=self.linear(attention.qkv),
            out=self.linear(attention.out),
            up=self.matrix(mlp.up.weight, mlp.up.bias, gated=mlp.activation in mlps.GATED),
            down=self.linear(mlp.down),
            band=attention.band,
        )

    def keep(self, x: Tensor | None) -> int | None:
        """Where the numbers of x lie from now on."""
        if x is None:
            return None
        self.held.append(x.detach().contiguous())
        return self.held[-1].data_ptr()

    def size(self, matrix: Tensor) -> int:
        """Floats that a matrix takes when its columns are whole vectors, in each half where it is gated."""
        return (matrix.shape[0] + 2 * self.lanes) * matrix.shape[1]

    def vector(self, x: Tensor | None) -> int | None:
        """x, with zeros to whole vectors."""
        return self.keep(None if x is None else F.pad(x, (0, -x.shape[-1] % self.lanes)))

    def norm(self, norm: nn.Module) -> Norm:
        parameters = (self.vector(getattr(norm, name, None)) for name in ("weight", "bias"))
        return Norm(NORMS[type(norm)], *parameters)

    def linear(self, linear: nn.Module) -> Matrix:
        return self.matrix(linear.weight, linear.bias) if isinstance(linear, nn.Linear) else Matrix()

    def matrix(self, weight: Tensor, bias: Tensor | None, *, gated: bool = False) -> Matrix:
        """weight (columns, inner) in panels, (inner, PANEL W) each, the last one narrower."""
        weight = self.columns(weight.detach(), gated)
        columns, inner = weight.shape
        width = PANEL * self.lanes
        packed, self.free = self.free[: weight.numel()], self.free[weight.numel() :]
        whole = columns // width * width
        first, last = packed[: whole * inner], packed[whole * inner :]
        first.view(-1, inner, width).copy_(weight[:whole].view(-1, width, inner).mT)
        last.view(inner, columns - whole).copy_(weight[whole:].T)
        self.held.append(packed)
        if bias is not None:
            bias = self.columns(bias.detach()[:, None], gated)[:, 0]
        return Matrix(packed.data_ptr(), self.vector(bias), inner, columns)

    def columns(self, rows: Tensor, gated: bool) -> Tensor:
        """Whole vectors of them; where gated, one of gates and one of values in turn."""
        if not gated and len(rows) % self.lanes == 0:
            return rows
        halves = [F.pad(half, (0, 0, 0, -len(half) % self.lanes)) for half in rows.chunk(2 if gated else 1)]
        return torch.stack([half.unflatten(0, (-1, self.lanes)) for half in halves], 1).flatten(0, 2)

    @staticmethod
    def range(n: int) -> Tensor:
        return torch.arange(n)[None]

    def added(self, position: base.Position, context: int, width: int) -> int | None:
        """What an encoding adds to the tokens, (context, padded C)."""
        if type(position).embed is base.Position.embed:
            return None
        return self.vector(position.embed(torch.zeros(1, context, width), self.range(context))[0])

    def biases(self, position: base.Position, context: int) -> int | None:
        """What an encoding adds to the scores, (H, context + W): of the distances context - 1 to 0, then nothing."""
        if type(position).bias is base.Position.bias:
            return None
        shared = position.once(torch.tensor([[context - 1]]), self.range(context), torch.float32)
        nothing = torch.zeros(1, shared.shape[1], 1, 1)
        added = position.bias(nothing, nothing, shared, None)
        assert added is not None
        return self.keep(F.pad(added[0, :, 0], (0, self.lanes)))


def digest(model: nn.Module) -> int:
    """A number that changes with any weight, whoever changes it and how; it takes about as long as one token."""
    parameters = list(model.parameters())
    where = (c_void_p * len(parameters))(*(p.data_ptr() for p in parameters))
    sizes = (c_int64 * len(parameters))(*(p.nbytes for p in parameters))
    return library().gptlab_digest(where, sizes, len(parameters))


PACKED: weakref.WeakKeyDictionary[Transformer, Packed] = weakref.WeakKeyDictionary()


@torch.inference_mode()
def packed(model: Transformer) -> Packed:
    """The model's weights as they are now, packed when they are first asked for, and again where they have changed."""
    found = PACKED.get(model)
    if found is None or found.digest != digest(model):
        found = PACKED[model] = Packed(model)
    return found


class Reader:
    """What generate.Reader is, for a causal model: N texts of the same length, and the logits after their last token.

    given: the prompt (G,), or one for each text (N, G). Its weights are those of the moment when it was made.
    """

    left = None

    def __init__(self, model: Transformer, given: Tensor, n: int, *, window: str) -> None:
        self.n, self.window, self.length = n, window, 0
        self.given = given if given.dim() == 2 else given[None]
        self.packed = packed(model)
        self.context, self.vocab_size = model.context, model.vocab_size
        self.read_next = library().gptlab_decoder_read
        self.decoder = library().gptlab_decoder(byref(self.packed.model), n)
        if not self.decoder:
            raise MemoryError(f"no memory for the keys and values of {n} texts of {model.context} tokens")
        weakref.finalize(self, library().gptlab_decoder_free, self.decoder)
        self.logits = torch.empty(n, self.packed.model.projection.columns)

    def read(self, written: Tensor, choice: Choice | None = None) -> Tensor:
        """written (N, T): all tokens so far, of which those that are held are not read again -> (N, V)."""
        if 0 < self.length < self.context:
            new = written[:, -1:]
        else:
            rows = self.given if not written.shape[1] else torch.cat([self.given.expand(self.n, -1), written], 1)
            most = self.context if not self.length or self.window == "slide" else max(1, self.context // 2)
            new, self.length = rows[:, -most:], 0
        new = new.contiguous()
        if new.numel() == 0 or int(new.min()) < 0 or int(new.max()) >= self.vocab_size:
            raise IndexError(f"there must be tokens to read, and their ids from 0 to {self.vocab_size - 1}")
        self.advance(new.data_ptr(), len(new), new.shape[1], choice)
        return self.logits[:, : self.vocab_size].clone()

    def advance(self, ids: int, given: int, tokens: int, choice: Choice | None) -> None:
        """Read the tokens that lie at `ids`, int64 (given, tokens); given: N, or 1 for those that all texts share."""
        threads, to = torch.get_num_threads(), byref(choice) if choice else None
        if self.read_next(self.decoder, self.length, ids, given, tokens, self.logits.data_ptr(), to, threads):
            raise MemoryError("no memory to read in")
        self.length += tokens


def chooses(config: SampleConfig) -> bool:
    """Whether the decoder can choose: by bias and temperature alone."""
    penalties = config.repetition_penalty != 1 or config.frequency_penalty or config.presence_penalty
    return not penalties and config.top_k is config.top_p is config.min_p is None


def write(
    reader: Reader, uniforms: Tensor, config: SampleConfig, bias: Mapping[int, float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """generate.tokens, chosen as sampling.choose does. uniforms (tokens, N): the draws, from 0 up to 1."""
    ids = torch.empty(len(uniforms), reader.n, dtype=torch.long)
    logprobs = torch.empty(len(uniforms), reader.n)
    biases = None
    if bias:
        biases = torch.zeros(reader.vocab_size)
        biases[list(bias)] = torch.tensor(list(bias.values()))
    choice = Choice(config.temperature, None if biases is None else biases.data_ptr())
    at, drawn, nats, n = ids.data_ptr(), uniforms.data_ptr(), logprobs.data_ptr(), reader.n
    for step in range(len(uniforms)):
        done = step * n
        choice.chosen, choice.uniforms, choice.logprobs = at + 8 * done, drawn + 8 * done, nats + 4 * done
        if 0 < reader.length < reader.context:
            reader.advance(at + 8 * (done - n), n, 1, choice)
        else:
            reader.read(ids[:step].T, choice)
        yield ids[step], logprobs[step]


@torch.inference_mode()
def logits(model: Transformer, ids: Tensor) -> Tensor:
    """ids (N, T), T at most the context -> (N, V) after the last of each. ValueError for a model it does not know."""
    if not supported(model):
        raise ValueError("the fast decoder does not know this model")
    return Reader(model, ids, len(ids), window="halves").read(ids[:, :0])
