"""What the documents tell a reader to type or open is there."""

from __future__ import annotations

import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / ".github").rglob("*.md")])

FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def without_code(path: Path) -> str:
    return FENCE.sub("", path.read_text("utf-8"))


@cache
def anchors(path: Path) -> set[str]:
    """What GitHub and the site make of the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code(path), re.M)
    texts = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in texts}


def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", without_code(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path = document.parent / target if target else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(f"{target}#{anchor}" if anchor else target)
    assert broken == []


def test_make_verbs_exist(document: Path) -> None:
    verbs = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", document.read_text("utf-8"), re.M))
    assert verbs - set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)) == set()


def test_commands_and_options_exist(document: Path) -> None:
    from slant.cli.app import app
    from slant.cli.bids import app as bids

    text = document.read_text("utf-8").replace("\\\n", " ")
    for words in re.findall(r"(?:^|`|\$ )slant ([a-z][^`\n]*)", text, re.M):
        command, rest = app, words.split("#")[0].split()
        while rest and rest[0] in set(command):
            command, rest = command[rest[0]], rest[1:]
        assert command is not app, f"slant {words}"
        assert unknown_options(command, rest) == set(), f"slant {words}"
    for words in re.findall(r"(?:^|`|\$ )slant-bids ([^`\n]*)", text, re.M):
        assert unknown_options(bids, words.split("#")[0].split()) == set(), f"slant-bids {words}"


def unknown_options(command: Any, words: list[str]) -> set[str]:
    arguments = command.assemble_argument_collection() if command.default_command else ()  # or only subcommands
    known = {name for argument in arguments for name in argument.names}
    given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    return given - known - {"--options", "--help", "--version"}


@pytest.mark.parametrize(("page", "maker"), [("command-line.md", "command_line"), ("regions.md", "regions")])
def test_generated_pages_are_up_to_date(page: str, maker: str) -> None:
    made = runpy.run_path(str(DOCS / "generate.py"))[maker]()
    assert (DOCS / "reference" / page).read_text("utf-8") == made, "run: python docs/generate.py"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
