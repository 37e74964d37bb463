"""Compiling C on the user's machine: once, in a cache, and with a reason where it cannot be done."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from prefixrack_adapters.native.compiler import CACHE_VARIABLE, NoCompiler, load_library

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
