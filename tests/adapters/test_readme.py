"""The format's README: its code runs, and it names every field and every code that the library knows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from prefixrack.errors import BundleFault, fault_classes
from prefixrack_adapters.architectures import ENCODER_FIELDS, ENCODER_MODULES
from prefixrack_adapters.embedded import EMBEDDED_PACKAGE
from prefixrack_adapters.manifest import GATHERS_OF, Gather, Manifest

ROOT = Path(__file__).parents[2]
README = (ROOT / "adapters" / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "adapters" / "examples" / "intent" / "adapter.json"


@pytest.mark.skipif(find_spec(EMBEDDED_PACKAGE) is None, reason="the embedded backbone is not installed")
@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the example adapter is not there")
def test_the_code_blocks_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile("\n".join(blocks), "adapters/README.md", "exec"), {})
    *answers, shapes = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in answers] == ["weather", "transfer"]
    assert shapes.startswith("(151,) (3, ")


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all fields, those inside lists with `[]`; where there are several kinds, those of all."""
    names = []
    for name, field in model.model_fields.items():
        names.append(f"{prefix}{name}")
        mark = "[]" if get_origin(field.annotation) is list else ""
        for part in parts_of(field.annotation):
            names.extend(field_names(part, f"{prefix}{name}{mark}."))
    return list(dict.fromkeys(names))


def parts_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from parts_of(inner)


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


@pytest.mark.parametrize("name", [*ENCODER_FIELDS, *ENCODER_MODULES])
def test_the_fingerprint_names_what_it_reads(name: str) -> None:
    assert f"`{name}`" in README


def test_every_file_of_the_map_exists() -> None:
    section = README[README.index("## Find your way") : README.index("# Bundle format")]
    files = re.findall(r"`([a-z_/]+(?:\.py|/))`", section)
    assert files
    assert all((ROOT / "adapters" / "prefixrack_adapters" / name).exists() for name in files)


def test_the_tables_are_those_of_the_code() -> None:
    subprocess.run([sys.executable, str(ROOT / "adapters" / "make_readme.py"), "--check"], check=True)


@pytest.mark.parametrize("gather", get_args(Gather))
def test_every_gather_is_specified_with_its_tasks(gather: str) -> None:
    (tasks,) = re.findall(rf"^\| [^|]+ \| `{gather}` \| ([^|]+) \|$", README, flags=re.MULTILINE)
    assert set(tasks.split(", ")) == {task for task, allowed in GATHERS_OF.items() if gather in allowed}
