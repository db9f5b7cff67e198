"""Hooks of MkDocs: notebooks become pages, and links to files outside docs/ work in the site.

Pages are written so that their links work in the repository. In the site, a link to a file outside docs/ (a licence, a
configuration file) leads to a copy of that file under ``repository/``, and a link to README.md to the first page.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
COPIES = "repository/"

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"(^ *```.*?^ *```)", re.M | re.S)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and copies of the files outside docs/ that pages link to."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = markdown_of(json.loads(notebook.content_string), posixpath.basename(notebook.src_uri))
        files.append(File.generated(config, str(Path(notebook.src_uri).with_suffix(".md")), content=page))

    pages = {_in_repository(file.src_uri): file.content_string for file in files.documentation_pages()}
    waiting, copies = list(pages.items()), set()
    while waiting:
        path, text = waiting.pop()
        for target in set(_targets(path, text)) - copies:
            if target.is_file() and _in_site(target).startswith(COPIES):
                copies.add(target)
                if target.suffix == ".md":
                    waiting.append((target, target.read_text("utf-8")))
    for target in sorted(copies):
        files.append(File.generated(config, _in_site(target), content=target.read_bytes()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Change every link to a file of the repository so that it leads to its place in the site."""
    path, folder = _in_repository(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target = _resolved(path, match["path"])
        if target.is_dir():  # has no page
            return match["text"]
        if not target.is_file() or not target.is_relative_to(ROOT):  # MkDocs warns
            return match[0]
        anchor = "" if target == ROOT / "README.md" else match["anchor"] or ""
        address = posixpath.relpath(_in_site(target), folder or ".")
        return f"{match['image']}[{match['text']}]({address}{anchor})"

    return _outside_code(markdown, lambda text: _LINK.sub(link, text))


def markdown_of(notebook: dict[str, Any], name: str) -> str:
    """Markdown of a notebook: its text, its code, and the tables, texts and pictures that it shows.

    Parameters
    ----------
    notebook : dict
        Content of the .ipynb file, format 4.
    name : str
        Name of the file, for a link to it below the title.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts += [f"```python\n{source}\n```", *map(_output, cell["outputs"])]
    parts.insert(1, f'<a href="{name}" download>Download this notebook</a>')
    return "\n\n".join(filter(None, parts)) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="Output of the code above" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>|\n", "", "".join(data["text/html"]), flags=re.S)
        return table.replace('border="1" class="dataframe"', "")  # the site's own style
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text else ""


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _targets(path: Path, markdown: str) -> list[Path]:
    found: list[Path] = []
    _outside_code(markdown, lambda text: found.extend(_resolved(path, m["path"]) for m in _LINK.finditer(text)) or text)
    return [target for target in found if target.is_relative_to(ROOT)]


def _resolved(path: Path, link: str) -> Path:
    return (path.parent / link).resolve()


def _in_repository(src_uri: str) -> Path:
    """The file that a page of the site is made from."""
    if src_uri.startswith(COPIES):
        return ROOT / src_uri.removeprefix(COPIES)
    return ROOT / "docs" / src_uri


def _in_site(path: Path) -> str:
    """Address of a file of the repository in the site, relative to the first page."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(ROOT / "docs"):
        inside = path.relative_to(ROOT / "docs")
        return str(inside.with_suffix(".md") if inside.suffix == ".ipynb" else inside)
    return COPIES + str(path.relative_to(ROOT))
