"""The base install stays light: neither the package nor the command's help loads what the extras bring."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "torch transformers tokenizers safetensors fastapi starlette sqlalchemy prefixrack_adapters prefixrack_server"
CHECK = f"""
import sys
heavy = sorted(set({HEAVY!r}.split()) & set(sys.modules))
assert not heavy, heavy
"""
HELP = """
from prefixrack.cli.app import build_app
try:
    build_app()(["--help"])
except SystemExit as stop:
    assert stop.code == 0
"""
LIGHT = """
import sys, prefixrack.types, prefixrack.errors
assert "httpx2" not in sys.modules and "typer" not in sys.modules
"""


@pytest.mark.parametrize(
    "code",
    ["import prefixrack; prefixrack.Client; prefixrack.AsyncClient; prefixrack.__version__", HELP, LIGHT],
    ids=["package", "help", "types"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code + CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_exists() -> None:
    import prefixrack

    assert all(getattr(prefixrack, name) is not None for name in prefixrack.__all__)
    with pytest.raises(AttributeError):
        _ = prefixrack.nothing
