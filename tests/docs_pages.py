"""The texts for readers, and the blocks of code in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from docs_site import ROOT

PLACES = ("README.md", "CHANGELOG.md", "docs", "client", "adapters", "server", "deploy", "benchmarks")


@dataclass(frozen=True)
class Block:
    """`language` is the first word behind the fence, empty where there is none; `line` that of the fence."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every Markdown file that is for readers."""
    found: list[Path] = []
    for name in PLACES:
        place = ROOT / name
        found += [place] if place.is_file() else sorted(place.rglob("*.md"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def blocks_of(page: Path) -> list[Block]:
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, token.map[0] + 1, token.info.partition(" ")[0], token.content)
        for token in tokens
        if token.type in ("fence", "code_block") and token.map is not None
    ]
