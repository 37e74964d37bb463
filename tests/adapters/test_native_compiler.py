"""Compiling C on the user's machine: once, in a cache, and with a reason where it cannot be done."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from prefixrack_adapters.native import compiler
from prefixrack_adapters.native.compiler import CACHE_VARIABLE, FLAGS, NoCompiler, load_library

SOURCES = Path(compiler.__file__).parent

COMPILER = shutil.which("gcc") or shutil.which("cc")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache"


def write_source(folder: Path, text: str) -> Path:
    path = folder / "answer.c"
    path.write_text(text, encoding="utf-8")
    return path


@needs_compiler
def test_a_source_is_compiled_once_and_again_when_it_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path, "int answer(void) { return 42; }\n")
    library = load_library(source)
    library.answer.restype = ctypes.c_int
    assert library.answer() == 42
    monkeypatch.setenv("CC", "no-such-compiler")
    assert load_library(source).answer() == 42  # from the cache
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(NoCompiler, match="no C compiler"):
        load_library(write_source(tmp_path, "int answer(void) { return 43; }\n"))
    monkeypatch.delenv("CC")
    assert load_library(source).answer() == 43
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_what_does_not_compile_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(NoCompiler, match=r"cc failed: .*answer\.c.*error: "):
        load_library(write_source(tmp_path, "int answer(void) { return"))
    assert list(cache.iterdir()) == []


@needs_compiler
def test_code_for_another_openmp_is_refused_when_it_is_linked(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(NoCompiler, match=r"failed: .*__kmpc_fork.*use gcc"):
        load_library(write_source(tmp_path, "void __kmpc_fork(void); void answer(void) { __kmpc_fork(); }\n"))
    assert list(cache.iterdir()) == []


@needs_compiler
def test_gcc_is_taken_before_the_systems_other_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"gcc": f'exec {COMPILER} "$@"', "cc": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert load_library(write_source(tmp_path, "int answer(void) { return 42; }\n")).answer() == 42


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(NoCompiler, match=f"nothing can be written to {cache}.*{CACHE_VARIABLE}"):
        load_library(write_source(tmp_path, "int answer(void) { return 42; }\n"))


@needs_compiler
def test_a_broken_library_in_the_cache_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path, "int answer(void) { return 42; }\n")
    load_library(source)
    (library,) = cache.iterdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / library.name).write_bytes(b"not a library")
    monkeypatch.setenv(CACHE_VARIABLE, str(other))
    with pytest.raises(NoCompiler, match=f"{library.name} cannot be loaded"):
        load_library(source)


def is_known(processor: str) -> bool:
    """To the compiler here, which may be for another kind of machine."""
    if COMPILER is None:
        return False
    command = [COMPILER, f"-march={processor}", "-E", "-x", "c", "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("processor", ["x86-64-v2", "haswell", "skylake-avx512", "cooperlake", "sapphirerapids"])
@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.c")), ids=lambda path: path.stem)
def test_the_kernels_compile_for_other_processors_too(processor: str, source: Path) -> None:
    """With vectors of any width, with and without pairs and tiles; only this machine's own are run."""
    if not is_known(processor):
        pytest.skip(f"no compiler for {processor} on this machine")
    flags = [flag for flag in FLAGS if flag not in ("-O3", "-march=native")]
    command = [str(COMPILER), *flags, f"-march={processor}", "-Werror", "-Wno-psabi", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
