"""The format's README: its code runs, and it names every field and every code that the library knows."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from prefixrack.errors import BundleFault, fault_classes
from prefixrack_adapters.embedded import EMBEDDED_PACKAGE
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BASE_MODULES, OUTPUT_FIELDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "adapters" / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "adapters" / "examples" / "intent" / "adapter.json"


@pytest.mark.skipif(find_spec(EMBEDDED_PACKAGE) is None, reason="the embedded backbone is not installed")
@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the example adapter is not there")
def test_the_code_block_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(block, "adapters/README.md", "exec"), {})
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == ["weather", "transfer"]


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all fields, those inside lists with `[]`."""
    names = []
    for name, field in model.model_fields.items():
        names.append(f"{prefix}{name}")
        part, mark = nested(field.annotation)
        if part is not None:
            names.extend(field_names(part, f"{prefix}{name}{mark}."))
    return names


def nested(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    inner = [one for one in get_args(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return (inner[0], "[]") if inner else (None, "")


@pytest.mark.parametrize("name", field_names(Manifest))
def test_every_field_of_the_manifest_is_specified(name: str) -> None:
    assert f"`{name}`" in README


def test_nothing_else_is_specified_as_a_field() -> None:
    section = README[README.index("## 2. Manifest") : README.index("## 3. Tensors")]
    rows = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
    assert set(rows) <= set(field_names(Manifest))


@pytest.mark.parametrize("code", sorted({one.code for one in fault_classes() if issubclass(one, BundleFault)}))
def test_every_code_of_a_bad_bundle_is_listed(code: str) -> None:
    assert f"`{code}`" in README


@pytest.mark.parametrize("name", [*OUTPUT_FIELDS, *BASE_MODULES])
def test_the_fingerprint_names_what_it_reads(name: str) -> None:
    assert f"`{name}`" in README


def test_every_file_of_the_map_exists() -> None:
    section = README[README.index("## Find your way") : README.index("# Bundle format")]
    files = re.findall(r"`([a-z_/]+(?:\.py|/))`", section)
    assert files
    assert all((ROOT / "adapters" / "prefixrack_adapters" / name).exists() for name in files)
