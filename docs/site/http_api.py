"""The HTTP API's reference as Markdown, from the server's own OpenAPI document. Knows no mkdocs and no route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prefixrack.errors import Fault, fault_classes
from prefixrack_server.app import routed_app
from prefixrack_server.problems import status_of

Schema = Mapping[str, Any]

SAID_OF_EVERY_ONE: Final = "Successful Response"  # FastAPI's words where a route has none of its own
BOUNDS: Final = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minLength": "{} characters or more",
    "maxLength": "up to {} characters",
    "maxItems": "up to {} of them",
}
PROBLEM_FROM: Final = 400


def document() -> Schema:
    """What a server with keys answers at /openapi.json."""
    return routed_app(needs_key=True).openapi()


def operations(api: Schema) -> str:
    """A section for each tag, an entry for each operation."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    return "\n\n".join(f"## {tag[0].upper()}{tag[1:]}\n\n" + "\n\n".join(entries) for tag, entries in by_tag.items())


def models(api: Schema) -> str:
    """The bodies and answers by name, each with its fields."""
    return "\n\n".join(_model(name, schema) for name, schema in sorted(api["components"]["schemas"].items()))


def codes() -> str:
    """Every `code` of a problem document, with the status that it comes with."""
    found: dict[str, type[Fault]] = {}
    for kind in fault_classes():
        found.setdefault(kind.code, kind)
    rows = sorted((status_of(kind), code, _sentence(kind.__dict__.get("__doc__"))) for code, kind in found.items())
    return _table(("status", "code", "meaning"), ((str(status), f"`{code}`", text) for status, code, text in rows))


def _operation(method: str, path: str, operation: Schema) -> str:
    parts = [f"### {operation['summary']}", f"`{method.upper()} {path}`", _paragraphs(operation.get("description"))]
    parts.append(_table(("parameter", "in", "type", "meaning"), map(_parameter, operation.get("parameters", ()))))
    parts.append(_body(operation.get("requestBody")))
    parts.append(_answers(operation["responses"]))
    return "\n\n".join(part for part in parts if part)


def _parameter(parameter: Schema) -> tuple[str, ...]:
    schema = parameter["schema"]
    name = f"`{parameter['name']}`" + (" *" if parameter["required"] else "")
    return name, parameter["in"], _type(schema), _meaning(schema, parameter.get("description"))


def _body(body: Schema | None) -> str:
    if body is None:
        return ""
    kinds = [f"`{kind}`: {_content(content['schema'])}" for kind, content in body["content"].items()]
    examples = [content["example"] for content in body["content"].values() if isinstance(content.get("example"), dict)]
    shown = [f"```json\n{json.dumps(example)}\n```" for example in examples]
    return "\n\n".join(["**Body:** " + "; ".join(kinds), *shown])


def _content(schema: Schema) -> str:
    """A model by its link; an object that has no name by its fields."""
    fields = schema.get("properties")
    if fields is None:
        return _type(schema)
    required = schema.get("required", ())
    return "with " + ", ".join(f"`{name}`" + ("" if name in required else " (optional)") for name in fields)


def _answers(responses: Schema) -> str:
    """One line: what comes when it works, then the statuses of problems."""
    worked = [_answer(status, said) for status, said in responses.items() if int(status) < PROBLEM_FROM]
    refused = sorted(status for status in responses if int(status) >= PROBLEM_FROM)
    return f"**Answer:** {'; '.join(worked)}." + (f" **Problems:** {', '.join(refused)}." if refused else "")


def _answer(status: str, response: Schema) -> str:
    said = "" if response["description"] == SAID_OF_EVERY_ONE else f" ({response['description']})"
    kinds = [_content(content["schema"]) for content in response.get("content", {}).values() if content.get("schema")]
    return f"{status}{said} " + " or ".join(kinds) if kinds else f"{status}{said}"


def _model(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{field}`" + (" *" if field in required else ""), _type(inner), _meaning(inner, inner.get("description")))
        for field, inner in schema.get("properties", {}).items()
    ]
    parts = (f"### {name}", _paragraphs(schema.get("description")), _table(("field", "type", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _type(schema: Schema) -> str:
    """In words; models by a link to their entry."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(_type(one) for one in several)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    values = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(values, dict):
        return f"object of {_type(values)}"
    return str(schema.get("format") or schema.get("type") or "any JSON")


def _meaning(schema: Schema, description: str | None) -> str:
    said = [" ".join((description or "").split()), *_bounds(schema)]
    if schema.get("default") is not None and not isinstance(schema["default"], dict):
        said.append(f"default `{json.dumps(schema['default'])}`")
    return "; ".join(part for part in said if part)


def _bounds(schema: Schema) -> Iterator[str]:
    for inner in schema.get("anyOf", (schema,)):
        for name, words in BOUNDS.items():
            if name in inner:
                yield words.format(f"{inner[name]:,.10g}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Empty where there is no row."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text or ""))


def _sentence(text: str | None) -> str:
    return _paragraphs(text).partition("\n\n")[0]
