"""Writes the tables in README.md beside it that follow from the code: fingerprints by family, input formats.

python adapters/make_readme.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixrack_adapters.architectures import ARCHITECTURES, Architecture
from prefixrack_adapters.formats import FORMATS, Candidates, Format, WordsWithTail

README = Path(__file__).parent / "README.md"
# Enough of a config for the names of what families work out of it.
PROBE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def fields_of(architecture: Architecture) -> str:
    always_null = [name for name in architecture.output_fields if name in architecture.ignored_fields]
    read = {name: value for name, value in architecture.output_fields.items() if name not in always_null}
    bare = quoted(name for name, value in read.items() if value is None)
    others = ", ".join(f"`{name}` ({json.dumps(value)})" for name, value in read.items() if value is not None)
    computed = sorted(set(architecture.fingerprint_fields(PROBE)) - set(architecture.output_fields))
    parts = [bare, others, f"null: {quoted(always_null)}" if always_null else ""]
    return "; ".join(part for part in [*parts, f"computed: {quoted(computed)}" if computed else ""] if part)


def architecture_table() -> str:
    lines = [
        "| family | prefix of task models | base tensors start with | and do not end with | fields |",
        "|---|---|---|---|---|",
    ]
    for name, one in ARCHITECTURES.items():
        cells = (f"`{name}`", f"`{one.model_prefix}`", quoted(one.base_modules), quoted(one.buffers), fields_of(one))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown_fields(form: Format) -> str:
    names = [(" or ".join(f"`{name}`" for name in field.names), field.is_optional) for field in form.fields]
    return ", ".join(name + (" (optional)" if is_optional else "") for name, is_optional in names)


def worded(form: Format) -> str:
    """What the format makes of its example, as plain input."""
    plain = form.plain(dict(form.example))
    if isinstance(plain, Candidates):
        plain = plain.inputs[0]
    if isinstance(plain, WordsWithTail):
        plain = {"tokens": [*plain.words, *plain.tail]}
    return f"`{json.dumps(plain, ensure_ascii=False)}`"


def format_table() -> str:
    lines = [
        "| `input_format` | task | fields | its example in words (of several rows the first) |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {one.task} | {shown_fields(one)} | {worded(one)} |" for name, one in FORMATS.items()]
    return "\n".join(lines)


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, after = text.split(start)[0], text.split(end)[1]
        text = f"{before}{start}\n{table}\n{end}{after}"
    return text


def main() -> None:
    text = README.read_text(encoding="utf-8")
    wanted = with_tables(text, {"architectures": architecture_table(), "formats": format_table()})
    if "--check" in sys.argv:
        sys.exit("adapters/README.md is out of date: run adapters/make_readme.py" if wanted != text else 0)
    README.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
