"""The doctor: what is wrong with a machine is found and named, and training goes round it."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gptlab
from gptlab import doctor, native, runtime
from gptlab.messages import LANGUAGES, filled
from gptlab.model import native as operations
from gptlab.model.kernels import compiled, reference, sdpa
from gptlab.model.masks import Mask
from gptlab.registry import KERNELS, NORM_KERNELS
from gptlab.run import Run
from tests.test_cli import gptlab as command
from tests.training.helpers import TINY, write_text

CPU = torch.device("cpu")


class WrongGradient(torch.autograd.Function):
    """The identity, with a gradient that is a tenth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 1.1


def blind(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, **rest: Any) -> Any:
    """Ignores a table of what is seen."""
    return sdpa(q, k, v, mask=Mask(mask.causal), **rest)


def oblique(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Any:
    """Right but for the gradient of the keys."""
    return sdpa(q, WrongGradient.apply(k), v, **rest)


def odd(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Any:
    """NaN where the number of keys is odd."""
    out, pattern = sdpa(q, k, v, **rest)
    return out * (float("nan") if k.shape[-2] % 2 else 1.0), pattern


def ungrouped(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Any:
    """Shares the keys of the wrong heads: 0, 1, 0, 1 instead of 0, 0, 1, 1."""
    k, v = (x.repeat(1, q.shape[1] // k.shape[1], 1, 1) for x in (k, v))
    return sdpa(q, k, v, **rest)


def forgetful(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, bias: Tensor | None, **rest: Any) -> Any:
    """Loses the last key of many, as a loop over blocks does that ends too early."""
    if k.shape[-2] > 512:
        k, v = k[..., :-1, :], v[..., :-1, :]
    return sdpa(q, k, v, mask=mask, bias=bias, **rest)


def biasless(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, **rest: Any) -> Any:
    """Adds no bias, but pretends that its gradient is 0."""
    out, pattern = sdpa(q, k, v, bias=None, **rest)
    return out if bias is None else out + 0 * bias.sum(), pattern


def broken(*inputs: Tensor, **rest: Any) -> Any:
    raise RuntimeError("no kernel image is available for execution on the device\nand a second line")


def misshapen(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Any:
    """One number less in each head, which would still broadcast if it were one in all."""
    out, pattern = sdpa(q, k, v, **rest)
    return out[..., :1], pattern


FAULTY = {
    blind: "way_output",
    oblique: "way_gradient",
    odd: "way_output",
    ungrouped: "way_output",
    forgetful: "way_output",
    biasless: "way_output",
    broken: "way_raises",
    misshapen: "way_output",
}


FASTEST = sdpa if native.library() is None else compiled


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins, and leaves the others, with nothing tested yet, and nothing found wrong."""
    monkeypatch.setattr(operations, "WRONG", set())
    doctor.healthy.cache_clear()
    yield
    doctor.healthy.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in front of the others, as a new fast one would be."""

    def install(*kernels: Callable[..., Any]) -> None:
        new = {kernel.__name__: f"{__name__}:{kernel.__name__}" for kernel in kernels}
        monkeypatch.setattr(KERNELS, "entries", {**new, **KERNELS.entries})

    return install


@pytest.mark.parametrize("kernel", FAULTY, ids=lambda kernel: kernel.__name__)
def test_a_faulty_kernel_is_found_and_named(kernel: Callable[..., Any], install: Callable[..., None]) -> None:
    """Each kind of mistake is found, told by name in every language, and the next kernel takes its place."""
    install(kernel)
    chosen = doctor.choose("cpu")
    assert chosen.kernel is FASTEST and chosen.device == CPU
    (found,) = chosen.findings
    assert found.entry == FAULTY[kernel]
    for lang in LANGUAGES:
        told = found.told(lang)
        assert f"attention/{kernel.__name__}" in told and "cpu" in told and found.values["case"] in told
        assert "\n" not in told


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("operation", "name"), [(o, name) for o in doctor.CHECKS for name in doctor.ways(o, CPU)])
def test_the_kernels_pass(operation: str, name: str, dtype: torch.dtype) -> None:
    """No finding about our own kernels in any precision, whatever the caller has switched off."""
    if name == "compiled" and dtype == torch.float64 and operation != "attention":
        pytest.skip("compiled for float32 and bfloat16; attention goes to PyTorch by itself")
    assert doctor.fault(operation, name, CPU, dtype) is None
    with torch.inference_mode():
        assert doctor.fault(operation, name, CPU, dtype) is None


@pytest.mark.skipif(native.library() is None, reason="no compiler")
@pytest.mark.parametrize("precision", list(doctor.DTYPES))
def test_a_wrong_operation_is_not_compiled(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled norm that is wrong by a hundredth, which bfloat16 would hide, is named, and left to PyTorch."""
    monkeypatch.setattr(NORM_KERNELS, "entries", {**NORM_KERNELS.entries, "compiled": f"{__name__}:tilted"})
    (found,) = doctor.choose("cpu", precision).findings
    assert found.entry == "way_output" and "norm/compiled" in found.told()
    assert {"norm"} == operations.WRONG and not operations.usable("norm", torch.ones(2))


def tilted(kind: str, x: torch.Tensor, *rest: Any, eps: float) -> torch.Tensor:
    return NORM_KERNELS["reference"](kind, x, *rest, eps=eps) * 1.01


@pytest.mark.parametrize(("flags", "fast"), [(["AVX512-BF16", "AVX2"], True), (["AVX2", "AVX-512"], False)])
def test_the_precision(flags: list[str], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is bf16 where the processor multiplies in it, and the kernels are compiled; what is asked for is done."""
    monkeypatch.setattr(doctor, "instructions", lambda: flags)
    compiled = native.library() is not None
    assert doctor.choose("cpu", "auto").precision == ("bf16" if fast and compiled else "fp32")
    for precision in doctor.DTYPES:
        assert doctor.choose("cpu", precision).precision == precision


def test_rounding_that_the_user_allows_is_no_fault() -> None:
    """Where PyTorch may round float32 within products to bfloat16, as much is allowed; elsewhere half the digits."""
    assert doctor.precise_to(CPU, torch.float32) == torch.finfo(torch.float32).eps
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert doctor.precise_to(CPU, torch.float32) == 2**-7
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_self_test_leaves_no_trace() -> None:
    """It draws no random number of PyTorch's own generator, and runs once in a process for each device."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = doctor.healthy("attention", CPU)
    assert torch.equal(torch.rand(3), expected)
    assert doctor.healthy("attention", CPU) is first


def losses(run: Run) -> list[float]:
    return [record["val_loss"] for record in run.metrics() if "val_loss" in record]


def test_training_falls_back(install: Callable[..., None], tmp_path: Path) -> None:
    """With a faulty kernel in front, train, go on and load warn by name, and the losses are those of the formula."""
    text = write_text(tmp_path / "text.txt")
    settings: dict[str, Any] = {**TINY, "eval_every": 2, "eval_windows": 8, "seed": 3}
    with pytest.MonkeyPatch.context() as only:
        only.setattr(KERNELS, "entries", {"reference": KERNELS.entries["reference"]})
        expected = gptlab.train(text, out=tmp_path / "expected", steps=4, **settings)
    doctor.healthy.cache_clear()

    install(oblique)
    for name in ("compiled", "sdpa"):
        KERNELS.entries.pop(name)  # of the copy that `install` made: what is left is the reference
    named = "attention/oblique.*Used instead: reference on cpu"
    with pytest.warns(UserWarning, match=named):
        run = gptlab.train(text, out=tmp_path / "run", steps=4, **settings)
    assert losses(run) == losses(expected) and len(losses(run)) == 3
    with pytest.warns(UserWarning, match=named):
        gptlab.train(out=run.path, resume=True, steps=5)
    with pytest.warns(UserWarning, match=named):
        lab = gptlab.load(run.path)
    assert lab.model.blocks[0].attention.kernel is reference


def test_a_healthy_machine_gives_no_warning(tmp_path: Path) -> None:
    """Loading a run warns of nothing, and the fused kernel is used."""
    run = gptlab.train(write_text(tmp_path / "text.txt"), out=tmp_path / "run", steps=1, device="cpu", **TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lab = gptlab.load(run.path, device="cpu")
    assert lab.model.blocks[0].attention.kernel is FASTEST


def test_nothing_that_computes_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the last kernel is wrong, that is an error which names what is."""
    monkeypatch.setattr(doctor, "fault", lambda *where: doctor.Finding("device_fails", {"device": "x", "error": "y"}))
    with pytest.raises(ValueError, match="nothing computes rightly here: The device x cannot be used: y"):
        doctor.choose()


# GPUs

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((5, 0), WHEEL, False),  # GTX 750 Ti, 950M: too old
        ((6, 1), WHEEL, False),  # GTX 1050 Ti
        ((7, 5), WHEEL, True),  # T4
        ((8, 6), WHEEL, True),
        ((8, 9), WHEEL, True),  # RTX 4090: machine code for 8.6, a later minor number
        ((9, 0), WHEEL, True),
        ((10, 3), WHEEL, True),
        ((12, 1), WHEEL, True),
        ((11, 0), WHEEL, False),  # no code for this major number
        ((12, 0), ["sm_50", "sm_60", "sm_70", "sm_80", "sm_90"], False),  # too new
        ((12, 0), ["sm_50", "sm_80", "compute_90"], True),  # PTX is translated for what came later
        ((8, 9), ["sm_80", "compute_90"], True),
        ((7, 5), ["sm_80", "compute_80"], False),  # and never for what came before
        ((8, 0), ["sm_86"], False),  # an earlier minor number
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["compute_90a"], False),  # an "a" is for one alone
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),  # an "f" is for a major number
        ((12, 0), ["compute_100f"], False),
        ((9, 0), ["gfx90a", "gfx1100"], True),  # AMD's are not judged
    ],
)
def test_which_gpu_a_build_runs_on(capability: tuple[int, int], architectures: list[str], runs: bool) -> None:
    """NVIDIA's rules of compatibility, on cards and builds that there are."""
    assert runtime.runs_on(capability, architectures) is runs


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A machine that shows PyTorch a card which is too old for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (5, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA GeForce 940MX")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return torch.device("cuda", 0)


def test_an_unfit_gpu_is_passed_over(old_gpu: torch.device) -> None:
    """Asked for nothing, the CPU is used and the card is named; asked for the card, an error says what would help."""
    chosen = doctor.choose()
    assert chosen.device == CPU and chosen.left == [old_gpu]
    assert "NVIDIA GeForce 940MX (sm_50)" in chosen.findings[0].told() and "sm_75" in chosen.findings[0].told("pl")
    with pytest.warns(UserWarning, match="940MX"):
        assert runtime.device("auto") == CPU
    for ask in (runtime.device, doctor.choose):
        with pytest.raises(ValueError, match=r"940MX.*older release of PyTorch may help.*auto or cpu"):
            ask("cuda")


def test_a_device_that_is_not_there() -> None:
    """An unknown name and a missing GPU are errors that name them."""
    with pytest.raises(ValueError, match="'gpu' is none that PyTorch knows"):
        runtime.device("gpu")
    with pytest.raises(ValueError, match=r"cuda:7 cannot be used: .*Or choose device auto or cpu"):
        runtime.device("cuda:7")
    assert runtime.device("cpu") == CPU


# The command


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No finding about this machine's own memory, disk and GPU, whatever they are."""
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 0)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 0)
    monkeypatch.setattr(doctor, "unseen_gpus", list)
    monkeypatch.setattr(runtime, "candidates", lambda: [CPU])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_healthy_machine(lang: str, roomy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Status 0 and a table in the language asked for, numbers too; nothing is written anywhere."""
    monkeypatch.setattr(doctor, "rate", lambda device, dtype: 1234.5 if dtype == torch.float32 else None)
    result = command("doctor", "--lang", lang, cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr
    lines = result.stdout.splitlines()
    assert (
        lines[-2]
        == {
            "en": "All is well.",
            "pt": "Está tudo em ordem.",
            "pl": "Wszystko w porządku.",
            "it": "È tutto a posto.",
            "fr": "Tout va bien.",
        }[lang]
    )
    assert doctor.choose("cpu", "auto").precision in lines[-1] and FASTEST.__name__ in lines[-1]
    assert filled("fp32 {rate:,.0f} GFLOP/s, bf16 –", lang, rate=1234.5) in result.stdout
    assert torch.__version__ in result.stdout
    assert not list(tmp_path.iterdir())


def test_json(roomy: None, tmp_path: Path) -> None:
    """The facts as one object: rates above 0, every kernel's self-test, folders, and the choice."""
    facts = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    precision = doctor.choose("cpu", "auto").precision
    assert facts["choice"] == {"device": "cpu", "precision": precision, "kernel": FASTEST.__name__}
    assert facts["findings"] == [] and facts["gpus"] == []
    assert facts["gflops"]["cpu"]["fp32"] > 0
    assert facts["self_tests"] == {f"{o}/{name}": True for o in doctor.CHECKS for name in doctor.ways(o, CPU)}
    assert facts["folders"]["runs_folder"]["path"] == str(tmp_path.resolve() / "runs")
    assert facts["cores"] == os.cpu_count() and facts["threads"] == torch.get_num_threads()


def test_a_sick_machine(
    roomy: None, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Status 1, with everything that was found named at the end, before what training will use in its place."""
    install(oblique)
    monkeypatch.setattr(doctor, "rate", lambda device, dtype: None)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 10**20)
    monkeypatch.setattr(doctor, "unseen_gpus", lambda: ["NVIDIA GeForce GTX 1050"])
    monkeypatch.setattr(runtime, "candidates", lambda: [torch.device("cuda", 99), CPU])
    (tmp_path / "runs").write_text("a file where the folder would be")
    result = command("doctor", "--lang", "en", cwd=tmp_path, GPTLAB_DATA=str(tmp_path / "nowhere"))
    assert result.returncode == 1 and not result.stderr
    table, found = result.stdout.split("What is wrong:\n")
    assert "attention/oblique" in table and "wrong: see below" in table
    *found, verdict = found.splitlines()
    for name in ("1050", "cuda:99", "attention/oblique", "runs cannot be written to", "left on the disk", "nowhere"):
        assert any(name in line for line in found), name
    assert all(line.startswith("- ") for line in found)
    assert "CPU" in verdict and FASTEST.__name__ in verdict and "(cuda:99) cannot be used" in verdict
    listed = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert {"way_gradient", "device_fails", "not_writable"} <= {found["name"] for found in listed["findings"]}
    assert listed["self_tests"]["attention/oblique"] is False and listed["self_tests"]["attention/sdpa"] is True


def test_nothing_is_asked_of_a_system_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc and without PyTorch's list of instructions, as on a Mac, all is answered, if only by "unknown"."""
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert doctor.instructions() == [] and doctor.processor()
    assert sys.platform == "win32" or doctor.free_memory() is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16", ["AVX2", "AVX-512", "AVX512-BF16", "AMX-BF16"]),
        ("Features\t: fp asimd bf16 i8mm", ["NEON", "BF16"]),
        ("flags\t\t: fpu sse2", []),
    ],
)
def test_instruction_sets(lines: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from what Linux says of x86 and of Arm processors."""
    monkeypatch.setattr(doctor, "capabilities", dict)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path, **how: f"processor\t: 0\n{lines}\n\nprocessor\t: 1\n")
    assert doctor.instructions() == expected
