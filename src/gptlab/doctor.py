"""What is to be known about this machine, and what a training on it had better avoid: `gptlab doctor`.

A fast way to compute something is used where a self-test finds that it computes the same as the formula, gradients
too; otherwise the next way takes its place, by name. A new fast way is a line in its registry; a new operation that has
one is a registry, its cases, and a line in CHECKS.
"""

import os
import platform
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab import native as library
from gptlab import runtime
from gptlab.files import cache_dir
from gptlab.messages import filled, say
from gptlab.model import native
from gptlab.model.kernels import Kernel
from gptlab.model.masks import Mask
from gptlab.registry import (
    ACTIVATION_KERNELS,
    BLOCK_KERNELS,
    KERNELS,
    LOSS_KERNELS,
    NORM_KERNELS,
    ROTATION_KERNELS,
    Registry,
)
from gptlab.runtime import Finding, first_line
from gptlab.text.objectives import IGNORED

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GB = 10**9
LITTLE_MEMORY, LITTLE_DISK = GB // 2, GB
# The name people know, and what it is called in /proc/cpuinfo and by PyTorch, without underscores.
INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "AVX512-BF16": {"avx512bf16"},
    "AMX-BF16": {"amxbf16"},
    "NEON": {"neon", "asimd"},
    "BF16": {"bf16"},  # Arm's
}


# The self-test


@dataclass(frozen=True)
class Case:
    """One call: its inputs, in float64 on the CPU, and the options that go with them."""

    name: str
    inputs: tuple[Tensor, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """An operation that can be computed in several ways."""

    ways: Registry  # the fastest first, the reference last
    call: Callable[..., Tensor]  # call(way, *inputs, **options) -> output
    cases: Callable[[], list[Case]]


def attend(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, **seen: Any) -> Tensor:
    return kernel(q, k, v, mask=Mask(**seen), bias=bias, scale=q.shape[-1] ** -0.5, dropout=0.0)[0]


def attention_cases() -> list[Case]:
    """Every kind of mask, bias and grouping, at sizes that are no multiple of what fast kernels work in."""

    def case(
        name: str, heads: tuple[int, int], tokens: tuple[int, int], width: int, *, bias: int = 0, **seen: Any
    ) -> Case:
        (H, K), (T, S) = heads, tokens  # heads, of keys and values; queries, keys
        shapes = [(2, H, T, width), (2, K, S, width), (2, K, S, width)]
        if bias:  # of so many rows
            shapes.append((bias, H, T, S))
        return Case(name, tuple(draw(i, *shape) for i, shape in enumerate(shapes)), {"causal": False, **seen})

    table = draw(9, 2, 1, 7, 13) > 0
    table[0, 0, 0] = False  # a query that sees nothing, as before the first token of a padded row
    return [
        case("causal", (2, 2), (17, 17), 5, causal=True),
        case("causal, grouped heads", (6, 2), (33, 33), 16, causal=True),
        case("causal, many tokens", (1, 1), (131, 131), 32, causal=True),
        case("one query", (4, 4), (1, 19), 8),
        case("one query, many keys", (2, 1), (1, 577), 8),
        case("table", (3, 3), (7, 13), 6, allowed=table),
        case("table, grouped heads", (4, 1), (7, 13), 32, allowed=table),
        case("causal, bias", (2, 2), (11, 11), 8, bias=1, causal=True),
        case("table, bias, grouped heads", (4, 2), (7, 13), 8, bias=2, allowed=table),
    ]


def compute(way: Callable[..., Tensor], *inputs: Tensor, names: tuple[str, ...] = (), **options: Any) -> Tensor:
    return way(*names, *inputs, **options)


def rotation_cases() -> list[Case]:
    """Whole heads and parts of them, both pairings, angles for all texts or for each."""

    def turn(texts: int, turned: int, neighbours: bool) -> Case:
        angle = draw(5, texts, 1, 7, turned // 2)
        options = {"cos": angle.cos(), "sin": angle.sin(), "interleaved": neighbours}
        return Case(f"{turned} of 20, {texts}", (draw(1, 2, 3, 7, 20),), options)

    return [turn(texts, turned, pairs) for texts in (1, 2) for turned in (20, 6) for pairs in (True, False)]


def turn(way: Callable[..., Tensor], x: Tensor, *, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return way(x, cos, sin, interleaved)


def norm_cases() -> list[Case]:
    """Each norm, at widths that are and are not a multiple of what fast kernels work in; weights may be negative."""

    def norm(way: str, width: int) -> Case:
        inputs = draw(1, 3, 7, width) * 2 + 1, draw(2, width), draw(3, width)
        return Case(f"{way}, {width} wide", inputs, {"names": (way,), "eps": 1e-5})

    return [norm(way, width) for way in native.NORMS for width in (64, 37)]


def activation_cases() -> list[Case]:
    return [Case(name, (draw(1, 5, 3, 46) * 3,), {"names": (name,)}) for name in native.ACTIVATIONS]


def loss_cases() -> list[Case]:
    """Few and many tokens in the vocabulary, and targets that do not count."""

    def loss(size: int) -> Case:
        targets = (torch.arange(23) * 7) % size
        targets[5:9] = IGNORED
        return Case(f"{size} tokens", (draw(1, 23, size) * 4,), {"targets": targets, "ignored": IGNORED})

    return [loss(size) for size in (5, 115, 2048)]


def block_cases() -> list[Case]:
    """Each norm, gated and plain activations, grouped heads, with and without biases and rotary positions."""

    def block(heads: int, kv_heads: int, norm: str, activation: str, turned: int, biases: bool) -> Case:
        C, D, F = 32, 16, 48
        shape = native.Shape(heads, kv_heads, D, norm, 1e-5, D**-0.5, activation)
        wide = F * (2 if native.ACTIVATIONS[activation][1] else 1)
        gain = (C, 0)  # no matrix
        sizes = gain, ((heads + 2 * kv_heads) * D, C), (C, heads * D), gain, (wide, C), (C, F)
        inputs = [draw(0, 3, 7, C)]
        for i, (rows, columns) in enumerate(sizes):
            inputs.append(draw(i + 1, rows, columns) * columns**-0.5 if columns else draw(i + 1, rows) * 0.3 + 1)
            inputs += [draw(i + 9, rows) * 0.3] if biases else []
        angle = draw(30, 1, 1, 7, turned // 2) if turned else None
        return Case(f"{norm}, {activation}", tuple(inputs), {"shape": shape, "angle": angle, "biases": biases})

    return [
        block(2, 2, "layernorm", "gelu", 0, True),
        block(4, 2, "rmsnorm", "swiglu", 16, False),
        block(1, 1, "seed-layernorm", "gelu_tanh", 8, True),
        block(2, 1, "rmsnorm", "relu_squared", 0, False),
    ]


def whole(
    way: Callable[..., Tensor],
    x: Tensor,
    *given: Tensor,
    shape: native.Shape,
    angle: Tensor | None,
    biases: bool,
) -> Tensor:
    """In bfloat16, its products alone: everything that goes in is float32."""
    half = x.dtype == torch.bfloat16
    x, *rest = (one.float() if half else one for one in (x, *given))
    parameters = rest if biases else [p for weight in rest for p in (weight, None)]
    turned = (None, None) if angle is None else (angle.cos().to(x), angle.sin().to(x))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = way(x, shape, *turned, True, *parameters)
    return out.bfloat16() if half else out


CHECKS = {
    "attention": Check(KERNELS, attend, attention_cases),
    "rotation": Check(ROTATION_KERNELS, turn, rotation_cases),
    "norm": Check(NORM_KERNELS, compute, norm_cases),
    "activation": Check(ACTIVATION_KERNELS, compute, activation_cases),
    "block": Check(BLOCK_KERNELS, whole, block_cases),
    "loss": Check(LOSS_KERNELS, compute, loss_cases),
}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def computed(check: Check, way: Any, case: Case, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it, brought to the CPU and to float64."""
    inputs = [x.detach().to(dtype).to(device).requires_grad_() for x in case.inputs]
    options = {name: o.to(device) if isinstance(o, Tensor) else o for name, o in case.options.items()}
    out = check.call(way, *inputs, **options)
    gradients = torch.autograd.grad((out * draw(99, *out.shape).to(dtype).to(device)).sum(), inputs)
    return [tensor.detach().cpu().double() for tensor in (out, *gradients)]


def fault(operation: str, name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Finding | None:
    """How a way differs from the reference in float64, which is the last of its ways; None if it does not.

    Allowed is an error of sqrt(eps), half of the digits, relative to the largest value of each tensor: far above what
    rounding and its order do, far below any mistake.
    """
    check = CHECKS[operation]
    way, reference = check.ways[name], check.ways[list(check.ways)[-1]]
    allowed = precise_to(device, dtype) ** 0.5
    about = {"way": f"{operation}/{name}", "device": str(device)}
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        for case in check.cases():
            exact = computed(check, reference, case, torch.device("cpu"), torch.float64)
            try:
                found = computed(check, way, case, device, dtype)
            except Exception as error:  # whatever a kernel raises, it is not to be used
                return Finding("way_raises", {**about, "case": case.name, "error": first_line(error)})
            for i, (a, b) in enumerate(zip(found, exact, strict=True)):
                size = b.abs().max()
                off = ((a - b).abs().max() / size).item() if a.shape == b.shape else float("inf")
                if not off <= allowed:  # NaN is not less either
                    entry = "way_gradient" if i else "way_output"
                    return Finding(entry, {**about, "case": case.name, "off": off})
    return None


def precise_to(device: torch.device, dtype: torch.dtype) -> float:
    """The eps of a dtype, or of what its user lets PyTorch round float32 to within products."""
    backend = getattr(torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn, "matmul", None)
    rounded = {"tf32": 2.0**-10, "bf16": 2.0**-7}.get(getattr(backend, "fp32_precision", "ieee"), 0.0)
    return max(torch.finfo(dtype).eps, rounded)


def ways(operation: str, device: torch.device) -> list[str]:
    """The names of the ways to compute an operation that there are for a device, the fastest first."""
    compiled = device.type == "cpu" and library.library() is not None
    return [name for name in CHECKS[operation].ways if compiled or name != "compiled"]


@cache
def healthy(
    operation: str, device: torch.device, dtypes: tuple[torch.dtype, ...] = (torch.float32,)
) -> tuple[str | None, list[Finding]]:
    """The fastest way to compute an operation that passes its test on a device in each dtype, and what is wrong with
    faster ones.

    Tested once in a process; None if not even the reference is right there.
    """
    findings: list[Finding] = []
    for name in ways(operation, device):
        found = next(filter(None, (fault(operation, name, device, dtype) for dtype in dtypes)), None)
        if found is None:
            return name, findings
        findings.append(found)
    return None, findings


# The choice


@dataclass(frozen=True)
class Choice:
    """What to compute with, and what was passed over for it."""

    device: torch.device
    kernel_name: str
    precision: str  # of matrix products: fp32 or bf16
    findings: list[Finding]
    left: list[torch.device]  # devices that PyTorch sees and that are not fit

    @property
    def kernel(self) -> Kernel:
        return KERNELS[self.kernel_name]


def choose(name: str = "auto", precision: str = "fp32") -> Choice:
    """The first device and attention kernel that pass; ValueError where a named device does not, or none does.

    precision: as in TrainConfig; auto is what `bf16_or_not` says. What is compiled and wrong is not used any more.
    """
    findings: list[Finding] = []
    left: list[torch.device] = []
    for device in runtime.candidates() if name == "auto" else [runtime.device(name)]:
        if found := runtime.trouble(device):
            findings.append(found)
        else:
            asked = bf16_or_not(device) if precision == "auto" else precision
            # In float32 whatever is asked: that test is the sharper one, and evaluation may use it.
            dtypes = tuple(dict.fromkeys((torch.float32, DTYPES[asked])))
            kernel, wrong = healthy("attention", device, dtypes)
            findings += wrong
            for operation in [o for o in CHECKS if o != "attention"] if device.type == "cpu" else ():
                way, wrong = healthy(operation, device, dtypes)
                findings += wrong
                if way != "compiled":
                    native.WRONG.add(operation)
            if kernel:
                return Choice(device, kernel, asked, findings, left)
        left.append(device)
    told = " ".join(found.told() for found in findings)
    raise ValueError(
        f"nothing computes rightly here: {told} Install PyTorch anew, or choose another device than {name}"
    )


def bf16_or_not(device: torch.device) -> str:
    """Which precision is faster on a device, by what it is: a CPU whose instructions multiply bfloat16 (and with the
    compiled kernels: PyTorch's own attention is slow in it), or an NVIDIA GPU from the Ampere generation on."""
    if device.type == "cpu":
        fast = {"AVX512-BF16", "AMX-BF16", "BF16"} & set(instructions())
        return "bf16" if fast and library.library() is not None else "fp32"
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


# The examination


@dataclass(frozen=True)
class Report:
    """What was found out: facts for programs, findings and a choice for everyone."""

    facts: dict[str, Any]
    findings: list[Finding]
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """For JSON: rates in GFLOP/s, sizes in bytes, findings in English."""
        found = [{"name": f.entry, "text": f.told()} for f in self.findings]
        choice = {
            "device": str(self.choice.device),
            "precision": self.choice.precision,
            "kernel": self.choice.kernel_name,
        }
        return {**self.facts, "findings": found, "choice": choice}

    def rows(self, lang: str) -> list[tuple[str, str]]:
        """The facts as lines of a table."""
        facts = self.facts
        sets = ", ".join(facts["instructions"]) or say("not_available", lang)
        rows = [
            *((name, facts[name.lower()]) for name in ("GPTLab", "Python", "PyTorch", "NumPy")),
            (say("system", lang), facts["system"]),
            (say("processor", lang), facts["processor"]),
            (say("cores_threads", lang), f"{facts['cores']} / {facts['threads']}"),
            (say("instructions", lang), f"{sets} (PyTorch: {facts['pytorch_instructions']})"),
        ]
        for gpu in facts["gpus"]:
            rows.append(("GPU", say("gpu", lang, **gpu) if "memory" in gpu else f"{gpu['name']} ({gpu['device']})"))
        if not facts["gpus"]:
            rows.append(("GPU", say("no_gpu", lang)))
        for device, rates in facts["gflops"].items():
            measured = (
                filled("{dtype} {rate:,.0f} GFLOP/s", lang, dtype=dtype, rate=rate) if rate else f"{dtype} –"
                for dtype, rate in rates.items()
            )
            rows.append((say("products", lang, device=device), ", ".join(measured)))
        rows.append((say("compiled_kernels", lang), facts["compiled"] or say("compiled", lang)))
        for way, passed in facts["self_tests"].items():
            rows.append((say("self_test", lang, way=way), say("passed" if passed else "failed", lang)))
        free = facts["free_memory"]
        unknown = say("not_available", lang)
        rows.append((say("memory", lang), unknown if free is None else say("memory_free", lang, free=free / GB)))
        for entry, folder in facts["folders"].items():
            if folder is None:
                shown = say("unset", lang)
            elif folder["free"] is None:
                shown = folder["path"]
            else:
                shown = say("folder", lang, path=folder["path"], free=folder["free"] / GB)
            rows.append(("GPTLAB_DATA" if entry == "data" else say(entry, lang), shown))
        return rows

    def verdict(self, lang: str) -> str:
        """What training will use, and why."""
        device, left = self.choice.device, ", ".join(str(device) for device in self.choice.left)
        entry = "verdict_gpu" if device.type != "cpu" else "verdict_unfit" if left else "verdict_cpu"
        chosen = {"precision": self.choice.precision, "kernel": self.choice.kernel_name}
        return say(entry, lang, device=device, left=left, **chosen)


def examine(runs: Path = Path("runs")) -> Report:
    """Look at everything, which takes about two seconds; ValueError where nothing computes rightly."""
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as said:  # of a driver that PyTorch cannot work with
        warnings.simplefilter("always")
        devices = runtime.candidates()
    findings += [Finding("driver", {"error": first_line(Warning(w.message))}) for w in said]
    findings += [Finding("gpu_unseen", {"gpu": gpu, "torch": torch.__version__}) for gpu in unseen_gpus()]
    choice = choose(precision="auto")
    findings += choice.findings

    environment = runtime.environment()
    tested = [device for device in devices if not runtime.trouble(device)]
    folders = {"runs_folder": place(runs), "cache_folder": place(cache_dir()), "data": None}
    for folder in folders.values():
        if folder and not folder["writable"]:
            findings.append(Finding("not_writable", {"path": folder["path"]}))
        if folder and folder["free"] is not None and folder["free"] < LITTLE_DISK:
            findings.append(Finding("little_disk", {"path": folder["path"], "free": folder["free"] / GB}))
    if given := os.environ.get("GPTLAB_DATA"):
        data = Path(given).expanduser()
        folders["data"] = {"path": str(data), "free": None, "writable": None}
        if not data.is_dir():
            findings.append(Finding("no_data", {"path": data}))
    memory = free_memory()
    if memory is not None and memory < LITTLE_MEMORY:
        findings.append(Finding("little_memory", {"free": memory / GB}))
    facts = {
        "gptlab": environment["gptlab"],
        "python": environment["python"],
        "pytorch": environment["torch"],
        "numpy": environment["numpy"],
        "system": environment["system"],
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": environment["threads"],
        "instructions": instructions(),
        "pytorch_instructions": torch.backends.cpu.get_cpu_capability(),
        "gpus": [described(device) for device in devices if device.type != "cpu"],
        "gflops": {str(d): {name: rate(d, dtype) for name, dtype in DTYPES.items()} for d in tested},
        "self_tests": {
            f"{operation}/{name}": fault(operation, name, choice.device) is None
            for operation in CHECKS
            for name in ways(operation, choice.device)
        },
        "compiled": "" if library.library() else library.trouble() or "GPTLAB_NATIVE=0",
        "free_memory": memory,
        "folders": folders,
    }
    return Report(facts, findings, choice)


def rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """10^9 operations a second in products of square matrices, 2 n^3 each; None where the device has no such product.

    Products are counted in rows that double until one takes an eighth of a second, a quarter with those before it.
    """
    n = 512 if device.type == "cpu" else 4096
    try:
        a = torch.ones(n, n, device=device, dtype=dtype)
        a @ a  # the first one loads what it needs
        runtime.synchronize(device)
        count, seconds = 1, 0.0
        while seconds < 0.125:
            count *= 2
            began = time.perf_counter()
            for _ in range(count):
                a @ a
            runtime.synchronize(device)
            seconds = time.perf_counter() - began
    except RuntimeError:
        return None
    return 2 * n**3 * count / seconds / 1e9


def described(device: torch.device) -> dict[str, Any]:
    """A GPU's name and, where CUDA knows them, its compute capability and memory."""
    about: dict[str, Any] = {"device": str(device), "name": device.type.upper()}
    if device.type == "cuda":
        try:
            properties = torch.cuda.get_device_properties(device)
            about |= {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory": properties.total_memory / GB,
                "free": torch.cuda.mem_get_info(device)[0] / GB,
            }
        except (RuntimeError, AssertionError):
            pass  # what is wrong with it is among the findings
    return about


def unseen_gpus() -> list[str]:
    """NVIDIA GPUs of a machine whose PyTorch is built for the CPU alone."""
    program = shutil.which("nvidia-smi")
    if program is None or torch.version.cuda or torch.version.hip:
        return []
    try:
        listed = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def capabilities() -> dict[str, Any]:
    """What PyTorch knows about the processor; nothing where it is too old to tell."""
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}


def cpuinfo() -> dict[str, str]:
    """/proc/cpuinfo's lines about the first core; nothing where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def processor() -> str:
    return cpuinfo().get("model name") or capabilities().get("cpu_name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Those instruction sets of this processor that speed up matrix products."""
    lines = cpuinfo()
    flags = {*lines.get("flags", "").split(), *lines.get("Features", "").split()}
    flags |= {name for name, there in capabilities().items() if there is True}
    plain = {flag.replace("_", "") for flag in flags}
    return [name for name, called in INSTRUCTIONS.items() if called & plain]


def free_memory() -> int | None:
    """Bytes of memory that are free or can be freed; None where the system does not say."""
    if os.name == "nt":
        return windows_memory()
    path = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text(encoding="utf-8")) if path.is_file() else None
    return int(found[1]) * 1024 if found else None


def windows_memory() -> int | None:
    import ctypes

    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
            (name, ctypes.c_uint64) for name in ("total", "free", "f2", "f3", "f4", "f5", "f6")
        ]

    status = Status(length=ctypes.sizeof(Status))
    asked: Any = getattr(ctypes, "windll")  # noqa: B009 (elsewhere there is no such attribute)
    return status.free if asked.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def place(folder: Path) -> dict[str, Any]:
    """A folder's whole path, and the bytes free on its disk; if it is not there yet, of the folder it would be in."""
    folder = folder.resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    return {"path": str(folder), "free": shutil.disk_usage(there).free, "writable": writable}
