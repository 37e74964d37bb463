"""Compiling C on the user's machine: once, in a cache, and with a reason where it cannot be done."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from prefixrack_adapters.native import compiler
from prefixrack_adapters.native.compiler import CACHE_VARIABLE, FLAGS, NoCompiler, load_library

SOURCES = Path(compiler.__file__).parent

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")


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
    with pytest.raises(NoCompiler, match=r"cc failed: .*answer\.c"):
        load_library(write_source(tmp_path, "int answer(void) { return"))
    assert list(cache.iterdir()) == []


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
    command = ["cc", f"-march={processor}", "-E", "-x", "c", "/dev/null"]
    return shutil.which("cc") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("processor", ["x86-64-v2", "haswell", "skylake-avx512", "cooperlake", "sapphirerapids"])
@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.c")), ids=lambda path: path.stem)
def test_the_kernels_compile_for_other_processors_too(processor: str, source: Path) -> None:
    """With vectors of any width, with and without pairs and tiles; only this machine's own are run."""
    if not is_known(processor):
        pytest.skip(f"no compiler for {processor} on this machine")
    flags = [flag for flag in FLAGS if flag not in ("-O3", "-march=native")]
    command = ["cc", *flags, f"-march={processor}", "-Werror", "-Wno-psabi", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
