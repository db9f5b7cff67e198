"""What the documents tell a reader to type or open is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text("utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_make_verbs_exist(document: Path) -> None:
    verbs = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", document.read_text("utf-8"), re.M))
    assert verbs - set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)) == set()


def test_commands_and_options_exist(document: Path) -> None:
    from slant.cli.app import app

    for command, rest in re.findall(r"(?:^|`|\$ )slant ([a-z]+)\b([^`\n]*)", document.read_text("utf-8"), re.M):
        assert command in set(app), f"slant {command}"
        known = {name for argument in app[command].assemble_argument_collection() for name in argument.names}
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)) - known - {"--config", "--help"} == set(), command
