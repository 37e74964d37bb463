"""The system's C compiler: makes a library of one source file, once per machine. Knows nothing of what it computes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

CACHE_VARIABLE = "PREFIXRACK_CACHE"
FLAGS = ("-O3", "-march=native", "-fPIC", "-fopenmp", "-std=gnu11")
# What is defined nowhere must show when the library is made, not when it is loaded.
LINKED = ("-shared", "-Wl,-z,defs")
# What code calls that other compilers make for their own OpenMP.
OTHER_OPENMP = "__kmpc_"
TIMEOUT_S = 120
K = TypeVar("K")


class NoCompiler(Exception):
    """This machine makes no libraries; the text says what is missing."""


def load_library(source: Path) -> ctypes.CDLL:
    """The library of a C file, from the cache or compiled into it. Raises NoCompiler.

    It is linked with torch's own OpenMP: with another one there would be two teams of threads for the same cores.
    """
    openmp = _openmp_of_torch()
    target = _cache_folder() / f"{source.stem}-{_key(source, openmp)}.so"
    if not target.is_file():
        compiler = _compiler()
        if compiler is None:
            raise NoCompiler("no C compiler: install gcc, or set CC")
        _compile(compiler, source, openmp, target)
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NoCompiler(f"{target} cannot be loaded: {error}") from error


def compiled(make: Callable[[], K], log: logging.Logger, without: str) -> K | None:
    """What `make` gives, or None where nothing can be compiled: then the log has `without`, and why."""
    try:
        return make()
    except NoCompiler as error:
        log.warning("%s: %s", without, error)
        return None


def _compiler() -> str | None:
    """What `CC` names; else gcc, whose OpenMP is torch's; else whatever is the system's."""
    asked = os.environ.get("CC")
    return shutil.which(asked) if asked else shutil.which("gcc") or shutil.which("cc")


def _openmp_of_torch() -> Path:
    folder = Path(torch.__file__).parent
    found = sorted([*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")])
    if platform.system() != "Linux" or not found:
        raise NoCompiler(f"torch in {folder} brings no OpenMP of GNU's to link with")
    return found[0]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "prefixrack")


def _key(source: Path, openmp: Path) -> str:
    """Another source, processor or torch has another library; so have other headers beside the source."""
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = (*texts, str(openmp).encode(), _processor().encode(), " ".join(FLAGS).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` looks at."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return platform.machine() + "".join(sorted(set(shown)))


def _compile(compiler: str, source: Path, openmp: Path, target: Path) -> None:
    """Under another name first: several processes may do this at once, and one may be killed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            parts, library = Path(folder) / "parts.o", Path(folder) / "library.so"
            _run([compiler, *FLAGS, "-c", str(source), "-o", str(parts)])
            _run([compiler, *LINKED, str(parts), str(openmp), "-lm", "-o", str(library)])
            library.replace(target)
    except OSError as error:
        raise NoCompiler(f"nothing can be written to {target.parent}: {error}; set {CACHE_VARIABLE}") from error


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoCompiler(f"{command[0]} took more than {TIMEOUT_S} s") from error
    if done.returncode:
        raise NoCompiler(f"{command[0]} failed: {_reason(done.stderr)}")


def _reason(told: str) -> str:
    """The line that matters: those before it say where it is."""
    lines = told.strip().splitlines() or ["it says nothing"]
    reason = next((line for line in lines if "error:" in line or "undefined reference" in line), lines[0])
    return f"{reason} (torch's OpenMP is GNU's: use gcc)" if OTHER_OPENMP in reason else reason
