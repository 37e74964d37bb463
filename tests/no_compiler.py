"""A machine without a C compiler: what stands in for `load_library` there."""

from __future__ import annotations

from pathlib import Path

from prefixrack_adapters.native.compiler import NoCompiler


def refuse(source: Path) -> None:
    raise NoCompiler(f"no C compiler for {source.name}")
