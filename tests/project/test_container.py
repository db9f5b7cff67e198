"""The files of docker/ are linted and valid, and fit the programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import slant
from slant.cli.bids import app
from slant.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    assert path, f"{name} is missing; make .venv/.installed-dev installs it"
    return path


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    result = run(tool("hadolint"), DOCKER / "Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    result = run(tool("shellcheck"), *sorted(DOCKER.rglob("*.sh")), *sorted((ROOT / "benchmarks").glob("*.sh")))
    assert (result.returncode, result.stdout) == (0, "")


def test_the_boutiques_descriptor_is_valid() -> None:
    result = run(tool("bosh"), "validate", DOCKER / "slant.boutiques.json")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_boutiques_descriptor_fits_the_program() -> None:
    descriptor = json.loads((DOCKER / "slant.boutiques.json").read_text())
    assert descriptor["tool-version"] == slant.__version__
    known = {name for argument in app.assemble_argument_collection(parse_docstring=True) for name in argument.names}
    flags = {entry["command-line-flag"] for entry in descriptor["inputs"] if "command-line-flag" in entry}
    assert flags
    assert flags <= known


def test_the_examples_fit_the_program() -> None:
    known = {name for argument in app.assemble_argument_collection(parse_docstring=True) for name in argument.names}
    examples = sorted((DOCKER / "examples").iterdir())
    assert [path.name for path in examples] == ["apptainer.sh", "docker.sh", "kubernetes.yaml", "slurm-array.sh"]
    for path in examples:
        lines = path.read_text().replace("\\\n", " ").splitlines()
        (options,) = (line.partition(" /bids /out ")[2] for line in lines if " /bids /out " in line)
        used = set(re.findall(r"--[a-z][a-z-]*", options))
        assert "--participant-label" in used
        assert used <= known, path.name


def test_the_kubernetes_job_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((DOCKER / "examples" / "kubernetes.yaml").read_text())
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]
    }


def test_the_image_pins_every_direct_requirement() -> None:
    lines = [line for line in (DOCKER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0]: Version(line.partition("==")[2]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][extra] for extra in EXTRAS]
    for text in [*project["dependencies"], *chain(*extras)]:
        requirement = Requirement(text)
        assert pinned[requirement.name.lower()] in requirement.specifier
    assert f"torch=={pinned['torch']}" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "inputs", "expected"),
    [
        ((), True, "slant legacy /INPUTS /OUTPUTS"),
        ((), False, "slant-bids "),
        (("/bids", "/out", "participant"), True, "slant-bids /bids /out participant"),
        (("slant", "segment", "a b.nii", "out"), True, "slant segment a b.nii out"),
    ],
)
def test_the_entry_point_chooses_the_program(
    tmp_path: Path, arguments: tuple[str, ...], inputs: bool, expected: str
) -> None:
    for name in ("slant", "slant-bids"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "INPUTS").mkdir(exist_ok=True)
    folder = str(tmp_path / "INPUTS") if inputs else str(tmp_path / "none")
    script = (DOCKER / "entrypoint.sh").read_text().replace("[ -d /INPUTS ]", f"[ -d '{folder}' ]")
    result = subprocess.run(
        ["/bin/sh", "-c", script, "entrypoint", *arguments],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == expected.strip()
