"""The machine: which device, how many threads, and what an environment is made of."""

import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch


def device(name: str = "auto") -> torch.device:
    """The device to compute on: a GPU where there is one. ValueError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} is not to be had on this machine: {reason}") from None
    return chosen


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
