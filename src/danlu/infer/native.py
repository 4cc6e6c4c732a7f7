"""step_cpu.cpp as a library: compiled for this very processor when it is first asked for, and kept for later runs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("step_cpu.cpp", "products_cpu.h"))
COMPILERS = ("c++", "g++", "clang++")
COMMON = ["-std=c++17", "-O3", "-shared", "-fPIC"]
# What a compiler may not know is left out, the costliest last; without OpenMP one thread does it all.
FLAGS: tuple[list[str], ...] = (["-march=native", "-fopenmp"], ["-march=native"], ["-mcpu=native"], [])


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step; None, told once, where nothing here compiles it. $CXX names another compiler."""
    try:
        found = _library()
        found.danlu_step.restype = None
        return found
    except (OSError, ValueError) as error:
        warnings.warn(
            f"text is generated two to six times slower than this CPU can: step_cpu.cpp was not compiled ({error}); "
            "install a C++ compiler (g++ or clang), or name one in $CXX",
            stacklevel=2,
        )
        return None


def _library() -> ctypes.CDLL:
    compiler = _compiler()
    key = repr((SOURCE.read_bytes(), HEADER.read_bytes(), compiler, FLAGS, _processor())).encode()
    name = f"step_cpu-{hashlib.sha256(key).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "danlu"
    kept = folder / name
    if kept.is_file():
        with suppress(OSError):  # a file that was cut short is made anew
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="danlu-") as made:
        built = Path(made) / name
        _compile(compiler, built)
        loaded = ctypes.CDLL(str(built))
        _keep(built, kept)
        return loaded


def _compiler() -> list[str]:
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return [path]
    raise OSError("there is no C++ compiler")


def _compile(compiler: list[str], built: Path) -> None:
    told = ""
    for flags in FLAGS:
        command = [*compiler, *COMMON, *flags, str(SOURCE), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
        if done.returncode == 0:
            return
        told = told or done.stderr.strip()
    raise OSError(f"{compiler[0]}: {told.splitlines()[0] if told else 'it failed and said nothing'}")


def _keep(built: Path, kept: Path) -> None:
    """Whole or not at all; where there is no place to keep it, the next run compiles again."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copyfile(built, beside)
        beside.replace(kept)
    except OSError:
        return


def _processor() -> str:
    """What `native` depends on: a home directory may be shared between machines."""
    described = Path("/proc/cpuinfo")
    if not described.is_file():
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    lines = described.read_text("utf-8", errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
