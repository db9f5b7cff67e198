"""Modules import each other in one direction only, those of a type checker and those inside functions included."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "slant"
MAX_LINES = 300
MAX_LINES_OF_A_FUNCTION = 60


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


def test_functions_are_short() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in modules().values()]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= MAX_LINES_OF_A_FUNCTION] == []


def has_state(node: ast.ClassDef) -> bool:
    """Whether a class is neither a frozen dataclass, nor a protocol, an error or a network."""
    frozen = any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    bases = " ".join(ast.unparse(base) for base in node.bases)
    return not frozen and not any(
        kind in bases for kind in ("Protocol", "Error", "Exception", "Interrupt", "nn.", "Net")
    )


def test_objects_with_state_are_those_of_the_architecture() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
    listed = text.partition("Objects with state:")[2].partition("\n- ")[0]
    trees = [ast.parse(path.read_text("utf-8")) for path in modules().values()]
    found = {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and has_state(node)
    }
    assert sorted(name for name in found if f"`{name}`" not in listed) == []
    assert listed.count("`") == 2 * len(found)
