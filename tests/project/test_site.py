"""The documentation site builds without warnings, and its pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow

LOADING = {
    "audio": "src", "embed": "src", "iframe": "src", "img": "src", "input": "src", "link": "href", "object": "data",
    "script": "src", "source": "src", "track": "src", "video": "src",
}  # fmt: skip
"""Elements for which a browser loads what their attribute names, without being asked to."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'slant[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return out


class Loaded(HTMLParser):
    """Collects the addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every element."""
        self.addresses += [value or "" for name, value in attrs if name == LOADING.get(tag)]


def external(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"\s*(https?:)?//", address)]


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text("utf-8"))
        assert external(loaded.addresses) == [], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert external(re.findall(r"""(?:url\(|@import )["']?([^"')]+)""", text)) == [], sheet


def test_the_first_page_has_the_picture_and_every_page_can_be_searched(site: Path) -> None:
    assert 'src="overlay.png"' in (site / "index.html").read_text("utf-8")
    assert (site / "overlay.png").stat().st_size < 400_000
    index = (site / "search" / "search_index.json").read_text("utf-8")
    for location in ("reference/regions.html", "reference/api/segmentation.html", "how-to/read-results.html"):
        assert location in index
    assert "slant.pipeline.segment" in index
