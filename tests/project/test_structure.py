"""Modules import each other in one direction only, those of a type checker and those inside functions included."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "slant"
MAX_LINES = 300


@cache
def modules() -> dict[str, Path]:
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imported_modules(name: str) -> set[str]:
    """Modules of slant that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in modules() else str(node.module) for member in members}
    return found & modules().keys() - {name}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported_modules(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"circle of imports: {' <- '.join(error.args[1])}") from None


def test_no_module_imports_the_face_of_the_package() -> None:
    assert [name for name in modules() if "slant" in imported_modules(name)] == []


def test_files_are_short() -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
