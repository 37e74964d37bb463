"""The documentation as a site: whole, without a link that leads nowhere, and without another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs_pages import pages
from docs_site import ROOT, build_site

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
NOT_LOADED = {"canonical", "prev", "next"}  # what a `link` may be that fetches nothing
SMALL_SITE = """INHERIT: {root}/mkdocs.yml
docs_dir: docs
theme: {{name: mkdocs, font: null, palette: null, features: null, icon: null, highlightjs: false}}
plugins: []
hooks: [{root}/docs/site/repository.py]
extra_css: []
nav: [README.md, docs/guide.md, client/README.md]
"""


class Loads(HTMLParser):
    """The addresses of everything that a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        address = named.get(LOADED.get(tag, ""))
        if address and named.get("rel") not in NOT_LOADED:
            self.addresses.append(address)


def address_of(page: Path) -> str:
    """Where the site has it; docs/ is its top."""
    path = page.relative_to(ROOT)
    path = path.relative_to("docs") if path.parts[0] == "docs" else path
    return (path.parent if path.stem == "README" else path.with_suffix("")).joinpath("index.html").as_posix()


def test_every_text_for_readers_is_a_page(site: Path) -> None:
    assert len(pages()) > 20
    assert [page for page in pages() if not (site / address_of(page)).is_file()] == []


def test_nothing_comes_from_another_host(site: Path) -> None:
    looked_at = 0
    for page in site.rglob("*.html"):
        reader = Loads()
        reader.feed(page.read_text(encoding="utf-8"))
        looked_at += len(reader.addresses)
        assert [one for one in reader.addresses if re.match(r"(?:https?:)?//", one)] == [], page
    assert looked_at
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_what_a_page_loads_is_there(site: Path) -> None:
    for page in site.rglob("index.html"):
        reader = Loads()
        reader.feed(page.read_text(encoding="utf-8"))
        local = [one.partition("?")[0] for one in reader.addresses if not one.startswith(("data:", "javascript:"))]
        assert [one for one in local if not (page.parent / one).exists()] == [], page


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("../client/README.md", None),
        ("../client/README.md#sdk", None),
        ("../client/README.md#nothing", "does not contain an anchor '#nothing'"),
        ("../client/NOTHING.md", "is not found among documentation files"),
    ],
)
def test_links_go_where_they_go_in_the_repository(tmp_path: Path, link: str, complaint: str | None) -> None:
    for name, text in {
        "README.md": "[guide](docs/guide.md)",
        "docs/guide.md": f"# Guide\n\n[there]({link})",
        "client/README.md": "# Client\n\n## SDK\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "mkdocs.yml").write_text(SMALL_SITE.format(root=ROOT))
    done = build_site(tmp_path / "mkdocs.yml", tmp_path / "out")
    assert (done.returncode == 0) == (complaint is None), done.stderr
    assert complaint is None or complaint in done.stderr
