"""Kernels in C++: compiled once on the user's machine, for its own processor, and kept in the cache.

Plain C functions on pointers, without PyTorch's headers, so that the compiler is done in seconds. Where there is no
compiler there is no library, and everything is computed by PyTorch as before.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from gptlab import files

HERE = Path(__file__).parent
SOURCES, HEADERS = ("kernels.cpp", "block.cpp", "decode.cpp"), ("common.h", "parts.h")
# No -ffast-math: the order of a sum is what the source says, and a diverged training is found by its NaN.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
]
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 300.0  # seconds for the compiler


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where GPTLAB_NATIVE=0 forbids them, or they could not be made (see `trouble`)."""
    return found()[0]


@cache
def found() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none: "" where nobody wants one."""
    if os.environ.get("GPTLAB_NATIVE") == "0":
        return None, ""
    compiler = compiler_here()
    if not compiler:
        return None, f"no compiler was found ({', '.join(COMPILERS)})"
    path = place(compiler)
    try:
        if not path.is_file():
            build(compiler, path)
        import torch  # noqa: F401 (its OpenMP, loaded first, is the one that the library uses, with the same threads)

        return ctypes.CDLL(str(path)), ""
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} failed: {(error.stderr or '').strip()[-500:]}"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler}: {error}"


def trouble() -> str:
    """Why there is no library, in a few words; "" if there is one, or none is wanted."""
    return found()[1]


def pending() -> bool:
    """Whether `library` would have to compile first."""
    compiler = compiler_here()
    return os.environ.get("GPTLAB_NATIVE") != "0" and bool(compiler) and not place(compiler).is_file()


def compiler_here() -> str:
    """CXX, or the first of COMPILERS that is installed; "" if none is."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), "")


def place(compiler: str) -> Path:
    """Where the library is kept, or will be."""
    return files.cache_dir() / "native" / f"{fingerprint(compiler)}.so"


def build(compiler: str, path: Path) -> None:
    """Compile the sources side by side into a library, whole or not at all; raises what subprocess.run raises."""

    def run(*arguments: str) -> None:
        command = [compiler, *FLAGS, *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)

    with files.write_whole(path) as temporary, TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        objects = [f"{folder}/{source}.o" for source in SOURCES]
        list(pool.map(lambda source, to: run("-c", str(HERE / source), "-o", to), SOURCES, objects))
        run("-shared", *objects, "-o", str(temporary))


def fingerprint(compiler: str) -> str:
    """What a compiled library depends on, as a name: sources, flags, compiler and processor."""
    digest = hashlib.sha256(" ".join([*FLAGS, shutil.which(compiler) or compiler, *machine()]).encode())
    for name in (*SOURCES, *HEADERS):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def machine() -> tuple[str, ...]:
    """System and processor, with its instruction sets: a cache may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    about = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return platform.system(), platform.machine(), platform.processor(), *about
