"""The machine: which device, how many threads, and what an environment is made of."""

import ctypes
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from gptlab.messages import say


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with this machine: an entry of the catalogues, and its values."""

    entry: str
    values: dict[str, Any]

    def told(self, lang: str = "en") -> str:
        return say(self.entry, lang, **self.values)


def device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" is a GPU that this PyTorch can use, else the CPU.

    ValueError for a named one that is not there or cannot be used; "auto" names such a GPU in a warning.
    """
    if name == "auto":
        for candidate in candidates():
            if (found := trouble(candidate)) is None:
                return candidate
            warnings.warn(found.told(), stacklevel=2)
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is none that PyTorch knows: choose auto, cpu, cuda, cuda:1 or mps") from None
    if found := trouble(chosen):
        raise ValueError(f"{found.told()} Or choose device auto or cpu")
    return chosen


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Within it, matrix products are computed in bfloat16 if the precision is "bf16"; everything else as before."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def candidates() -> list[torch.device]:
    """The devices that PyTorch sees, the one to prefer first; the CPU is the last."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        gpus.append(torch.device("mps"))
    return [*gpus, torch.device("cpu")]


def trouble(device: torch.device) -> Finding | None:
    """What keeps this PyTorch from computing on a device; None after it has computed something there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch has pages to say about an old GPU; the finding is one line
            if device.type == "cuda":
                capability, built_for = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
                if not runs_on(capability, built_for):
                    values = {
                        "gpu": torch.cuda.get_device_name(device),
                        "capability": "sm_{}{}".format(*capability),
                        "architectures": ", ".join(built_for),
                        "torch": torch.__version__,
                    }
                    return Finding("gpu_architecture", values)
            torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        return Finding("device_fails", {"device": str(device), "error": first_line(error)})
    return None


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether something that was built for these architectures runs on a GPU of this compute capability.

    sm_XY is machine code: it runs on X.Y and on later minor numbers of the same X. compute_XY is PTX, which the driver
    translates for X.Y and all that came later. An "a" (sm_90a) binds either to X.Y, an "f" to X. Other names, such as
    AMD's, are not judged here.
    """
    named = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in architectures]
    if not any(named):
        return True
    for kind, major, minor, only in (found.groups() for found in named if found):
        built = (int(major), int(minor))
        if only == "a":
            fits = capability == built
        elif only == "f" or kind == "sm":
            fits = capability >= built and capability[0] == built[0]
        else:
            fits = capability >= built
        if fits:
            return True
    return False


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def memory(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if os.name == "nt":
        kilobytes = ctypes.c_ulonglong()
        asked: Any = getattr(ctypes, "windll")  # noqa: B009 (elsewhere there is no such attribute)
        found = asked.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return 1024 * kilobytes.value if found else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def synchronize(device: torch.device) -> None:
    """Wait for what the device still computes; before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def environment() -> dict[str, Any]:
    """What a result may depend on beside the configuration: versions, machine, threads, command."""
    return {
        "gptlab": version("gptlab"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }
