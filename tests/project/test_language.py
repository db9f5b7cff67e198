"""Public names, messages and documents use the terms of the field: words of an earlier private dialect stay out."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "slant").rglob("*.py"))
TEMPLATES = sorted((ROOT / "slant" / "report" / "templates").iterdir())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "slant" / "weights").rglob("*.md")])

OLD_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        home person persons people spread middle usual turn shading fluid rim trunk tail reach unfold lesson judge
        pull widen widened anatomy feed abandon member members harmonize harmonized truth suspect suspects tiv look
        mend wall places mark marks told moved tilt stretch strange unsure aged rough thick ghost boxes trusted trim
        probseg
        """,
    )
)
"""Words that no public name is made of. Each has a term of the field instead, see docs/reference/glossary.md."""

OLD_PHRASES = (
    r"people held out|person held out|persons? of",
    r"\b(?:at|come|comes|carry|carried|the way) home\b|\bway back\b",
    r"\bfor want of\b|\bmend(?:s|ed)?\b|\bhalf-written\b",
    r", wanted\b|\bwanted such as\b",
    r"\b[Hh]armoni[sz]",
    r"\bshare of the votes\b|\busual range",
    r"\bbent prior\b|\bTIV\b",
    r"\bwhole or not at all\b|\bmade anew\b",
    r"(?<![Cc]oefficient of )\bjoint variation\b",
)
"""Phrases that neither documents nor texts of the program use."""


def public_names(path: Path) -> set[str]:
    """Modules, classes, functions, parameters, fields and constants without a leading underscore."""
    names = {path.stem} if not path.stem.startswith("_") else set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            names.add(node.name)
            if isinstance(node, ast.FunctionDef):
                arguments = node.args
                names |= {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
            else:
                names |= {
                    n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                }
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def words_of(name: str) -> set[str]:
    """Lower-case words of a name in snake case, camel case or with hyphens."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}


def old_names(names: set[str]) -> list[str]:
    return sorted(name for name in names if words_of(name) & OLD_WORDS)


def keys_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | set[str]().union(*map(keys_of, value.values()))
    return set[str]().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(ROOT / "slant").as_posix())
def test_public_names_are_terms_of_the_field(path: Path) -> None:
    assert old_names(public_names(path)) == []


def test_commands_and_options_are_terms_of_the_field() -> None:
    from slant.cli.app import app
    from slant.cli.bids import app as bids

    commands = [name for name in app if not name.startswith("-")]
    programs = [bids, app["quality"]["fit"], *(app[name] for name in commands if name != "quality")]
    options = {name for program in programs for a in program.assemble_argument_collection() for name in a.names}
    assert {"segment", "cohort", "legacy"} <= set(commands)
    assert "--interpolation" in options
    assert old_names({*commands, *options}) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "slant" / "weights").rglob("*.json")), ids=lambda path: str(path.parent.name)
)
def test_keys_of_the_embedded_models_are_terms_of_the_field(path: Path) -> None:
    keys = keys_of(json.loads(path.read_text("utf-8")))
    assert old_names({key for key in keys if re.fullmatch(r"[a-z_ ]+", key)}) == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *TEMPLATES, *PACKAGE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_texts_use_the_terms_of_the_field(path: Path) -> None:
    text = path.read_text("utf-8")
    assert [found[0] for pattern in OLD_PHRASES for found in re.finditer(pattern, text)] == []
