"""What is built and declared is what another machine needs: nothing missing, nothing more."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import slant
import slant.io.dicom
import slant.train
from slant.cohort.bids import Selection, list_bids_jobs
from slant.engine.dask import DaskPool
from slant.evaluation.run import evaluate
from slant.evaluation.settings import EvaluateSettings
from slant.extras import EXTRAS, MissingExtraError, require_extra

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WEIGHTS = ROOT / "slant" / "weights"
WEIGHTS_LIMIT_BYTES = 40_000_000
STUBS_ONLY = {"_typeshed"}


def files_below(folder: str) -> set[str]:
    paths = (ROOT / folder).rglob("*")
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


def distribution_name(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in plain | origins}


@pytest.fixture(scope="module")
def third_party() -> set[str]:
    """Top-level names that `slant/` imports from elsewhere."""
    found = set().union(*(imported_packages(path) for path in (ROOT / "slant").rglob("*.py")))
    return found - sys.stdlib_module_names - STUBS_ONLY - {"slant"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a freshly built wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def test_every_import_is_declared(third_party: set[str]) -> None:
    extras = [requirement for extra in EXTRAS for requirement in PROJECT["optional-dependencies"][extra]]
    declared = {distribution_name(requirement) for requirement in PROJECT["dependencies"] + extras}
    distributions = packages_distributions()
    undeclared = {
        name for name in third_party if not declared & {distribution_name(d) for d in distributions.get(name, [name])}
    }
    assert undeclared == set()


def test_every_dependency_is_imported(third_party: set[str]) -> None:
    distributions = packages_distributions()
    used = {distribution_name(d) for name in third_party for d in distributions.get(name, [name])}
    assert {distribution_name(requirement) for requirement in PROJECT["dependencies"]} - used == set()


def test_extras_are_those_that_the_code_asks_for() -> None:
    declared = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(re.findall(r"[a-z]+", declared["all"][0].partition("[")[2]))
    distributions = packages_distributions()
    for extra, (_, modules) in EXTRAS.items():
        found = {distribution_name(d) for module in modules for d in distributions[module]}
        assert found == {distribution_name(requirement) for requirement in declared[extra]}, extra


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    require_extra(extra)
    monkeypatch.setattr("slant.extras.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"{EXTRAS[extra][1][0]}.*pip install 'slant\[{extra}\]'"):
        require_extra(extra)


@pytest.mark.parametrize(
    ("extra", "use"),
    [
        ("bids", lambda folder: list_bids_jobs(folder, folder / "out", Selection())),
        ("cluster", lambda _: DaskPool("tcp://127.0.0.1:9")),
        ("dicom", lambda _: importlib.reload(slant.io.dicom)),
        ("train", lambda _: importlib.reload(slant.train)),
        ("train", lambda folder: evaluate((folder,), folder, EvaluateSettings())),
    ],
)
def test_what_needs_an_extra_asks_for_it_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, use: Callable[[Path], object]
) -> None:
    monkeypatch.setattr("slant.extras.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"slant\[{extra}\]"):
        use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_version_stands_once() -> None:
    assert "version" in PROJECT["dynamic"]
    assigned = [
        path for path in (ROOT / "slant").rglob("*.py") if re.search(r"^__version__\s*=", path.read_text("utf-8"), re.M)
    ]
    assert assigned == [ROOT / "slant" / "_version.py"]


def test_weights_name_their_licence_and_stay_small() -> None:
    manifests = {path.parent.name: json.loads(path.read_text("utf-8")) for path in WEIGHTS.glob("*/manifest.json")}
    assert {"slant27", "slant8", "whole"} <= manifests.keys()
    for name, manifest in manifests.items():
        size = sum(path.stat().st_size for path in (WEIGHTS / name).rglob("*") if path.is_file())
        assert size <= WEIGHTS_LIMIT_BYTES, name
        assert "CC BY-NC 3.0" in manifest["licence"], name


def test_weights_licence_gives_the_credits_asked_for() -> None:
    text = " ".join((ROOT / "LICENSE-WEIGHTS.md").read_text("utf-8").split())
    assert "as originating from the OASIS project" in text
    assert '"provided by Neuromorphometrics, Inc. (http://Neuromorphometrics.com/) under academic subscription"' in text
    assert "non-commercial use only" in text


@pytest.mark.slow
def test_wheel_holds_code_atlases_configs_and_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.startswith(f"slant-{slant.__version__}.dist-info/")}
    beside = {f"slant/{name}" for folder in ("atlases", "configs") for name in files_below(folder)}
    assert inside == files_below("slant") | beside


@pytest.mark.slow
def test_wheel_carries_version_and_licences(wheel: Path) -> None:
    info = f"slant-{slant.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode("utf-8")
        for name in ("LICENSE", "LICENSE-WEIGHTS.md", "NOTICE"):
            assert archive.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()
    assert f"\nVersion: {slant.__version__}\n" in metadata
    assert (
        "\nLicense-Expression: Apache-2.0 AND BSD-3-Clause AND CC-BY-NC-3.0 AND BSD-2-Clause AND MIT AND ISC\n"
        in metadata
    )


@pytest.mark.slow
def test_sdist_can_be_built_tested_and_read(dist: Path) -> None:
    prefix = f"slant-{slant.__version__}/"
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        inside = {name.removeprefix(prefix) for name in archive.getnames()}
    folders = ("slant", "atlases", "configs", "tests")
    wanted = set[str]().union(*map(files_below, folders))
    top = {"LICENSE", "LICENSE-WEIGHTS.md", "NOTICE", "README.md", "Makefile", "constraints.txt", "pyproject.toml"}
    assert wanted | top <= inside


OFFLINE_USE = """
import sys

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(no_network)
import slant
from slant.io.models import embedded_models, load_model
from slant.io.resources import load_protocol

print(slant.__file__)
print(len(load_protocol()), *(load_model(name).name for name in embedded_models()))
"""


@pytest.mark.slow
def test_wheel_works_offline_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.unpack_archive(wheel, installed, "zip")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", OFFLINE_USE]
    run = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    place, loaded = run.stdout.splitlines()
    assert Path(place) == installed / "slant" / "__init__.py"
    assert loaded.split() == ["133", "slant27", "slant8", "whole"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell of its own, whether or not the tests were started by make."""
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "T1", "OUT", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", "-s", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def ready_venv(tmp_path: Path) -> Path:
    """An environment that counts as set up, whose `slant` prints its arguments, one a line."""
    script(tmp_path / "venv" / "bin" / "pip", "exit 1")
    script(tmp_path / "venv" / "bin" / "slant", 'printf "%s\\n" "$@"')
    (tmp_path / "venv" / ".installed").touch()
    return tmp_path / "venv"


@needs_make
@pytest.mark.parametrize("name", ["scan.nii.gz", "a scan (1).v2 é.nii.gz", 'it\'s "quoted".nii'])
def test_make_segment_passes_odd_paths_on(ready_venv: Path, tmp_path: Path, name: str) -> None:
    scan, out = tmp_path / name, tmp_path / "my results"
    scan.touch()
    run = make("segment", f"VENV={ready_venv}", f"T1={scan}", f"OUT={out}", "ARGS=--force --device cpu")
    assert run.stdout.splitlines() == ["segment", str(scan), str(out), "--force", "--device", "cpu"], run.stderr


@needs_make
@pytest.mark.parametrize("given", [(), ("T1=scan.nii.gz",), ("OUT=results",)])
def test_make_segment_asks_for_what_is_missing(ready_venv: Path, given: tuple[str, ...]) -> None:
    run = make("segment", f"VENV={ready_venv}", *given)
    assert run.returncode == 2
    assert "make segment T1=scan.nii.gz OUT=folder" in run.stderr
    assert run.stdout == ""


@needs_make
def test_make_segment_names_an_absent_scan(ready_venv: Path, tmp_path: Path) -> None:
    run = make("segment", f"VENV={ready_venv}", f"T1={tmp_path / 'no scan.nii'}", f"OUT={tmp_path}")
    assert run.returncode == 2
    assert f"no file T1={tmp_path / 'no scan.nii'}" in run.stderr


@needs_make
def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = script(tmp_path / "python3", f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, 9, 7)\n$2"')
    run = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert run.returncode == 2
    assert "needs Python 3.11 or newer" in run.stderr
    assert "is 3.9" in run.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_make_names_a_python_that_is_not_there(tmp_path: Path) -> None:
    run = make("demo", f"VENV={tmp_path / 'venv'}", "PYTHON=no-such-python")
    assert run.returncode == 2
    assert "finds no 'no-such-python'" in run.stderr
