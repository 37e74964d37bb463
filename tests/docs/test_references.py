"""The generated references: everything that is public stands in them."""

from __future__ import annotations

import html
import inspect
import re
from pathlib import Path

import pytest

import http_api
import prefixrack
import prefixrack_adapters
from prefixrack.errors import fault_classes


def text_of(site: Path, page: str) -> str:
    return html.unescape((site / page / "index.html").read_text(encoding="utf-8"))


def anchors(site: Path, page: str) -> set[str]:
    return set(re.findall(r'id="([^"]+)"', text_of(site, page)))


def test_every_operation_and_every_model_has_its_entry(site: Path) -> None:
    text, api = text_of(site, "http-api"), http_api.document()
    methods = [(method.upper(), path) for path, known in api["paths"].items() for method in known]
    assert len(methods) > 25
    assert [f"{method} {path}" for method, path in methods if f"<code>{method} {path}</code>" not in text] == []
    assert {name.lower() for name in api["components"]["schemas"]} <= anchors(site, "http-api")


def test_every_code_is_listed_with_its_status(site: Path) -> None:
    text = text_of(site, "http-api")
    assert re.search(r"<td>404</td>\s*<td><code>adapter_not_found</code></td>", text)
    assert [kind.code for kind in fault_classes() if f"<code>{kind.code}</code>" not in text] == []


def test_an_entry_says_what_is_needed_and_what_is_allowed() -> None:
    api = http_api.document()
    text = http_api.operations(api)
    assert "| `limit` | query | integer | ≥ 1; ≤ 1,000; default `100` |" in text
    assert "`multipart/form-data`: with `manifest`, `tensors`, `card` (optional)" in text
    assert "| `inputs` * | any JSON |" in http_api.models(api)
    assert "| `outputs` * | list of [FailedOutput](#failedoutput) or " in http_api.models(api)


def public(package: object, names: list[str]) -> list[str]:
    """Where each name is defined, and for a class its public methods."""
    found = []
    for name in names:
        value = getattr(package, name)
        if name.startswith("__"):
            continue
        home = f"{value.__module__}.{value.__qualname__}"
        methods = [
            method for method in vars(value) if not method.startswith("_") and inspect.isfunction(vars(value)[method])
        ]
        found += [home, *(f"{home}.{method}" for method in methods)]
    return found


@pytest.mark.parametrize(("page", "package"), [("sdk", prefixrack), ("library", prefixrack_adapters)])
def test_every_public_name_has_its_entry(site: Path, page: str, package: object) -> None:
    names = public(package, package.__all__)  # type: ignore[attr-defined]
    assert len(names) > 10
    assert sorted(set(names) - anchors(site, page)) == []


def test_wire_types_are_in_the_sdk_reference(site: Path) -> None:
    assert {"prefixrack.types.PredictResponse", "prefixrack.types.FailedOutput"} <= anchors(site, "sdk")
