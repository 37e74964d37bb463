"""A hook of mkdocs: the site's pages have the paths of the repository, and those outside of docs/ are pages too.

So links are written once, as GitHub and editors follow them, and mkdocs' own checks see all of them. Knows no content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE: Final = (
    "README.md",
    "CHANGELOG.md",
    "adapters/**/*.md",
    "benchmarks/*.md",
    "client/**/*.md",
    "client/examples/*.py",
    "deploy/**/*.md",
    "server/**/*.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files of docs/ keep their address in the site; `docs/` goes before the path by which links find them."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    placed = []
    for file in files:
        path = Path(file.abs_src_path) if file.abs_src_path is not None else None
        if path is not None and path.is_relative_to(docs) and file.inclusion.is_included():
            file = _placed(config, path.relative_to(root), dest_uri=file.dest_uri)
        placed.append(file)
    outside = sorted(path for pattern in OUTSIDE for path in root.glob(pattern))
    return Files([*placed, *(_placed(config, path.relative_to(root)) for path in outside)])


def _placed(config: MkDocsConfig, path: Path, dest_uri: str | None = None) -> File:
    root = Path(config.config_file_path).parent
    file = File.generated(config, path.as_posix(), abs_src_path=str(root / path))
    if dest_uri is not None:
        file.dest_uri = dest_uri
    return file
