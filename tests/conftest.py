"""Fixtures shared by the tests: the folder of real data, a grid that reveals swapped axes, and a small scan."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from slant.grid import Grid
from slant.io.results import Result, write_results


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real scans; the test is skipped where they are absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SLANT_DATA", default))
    if not (folder / "miccai2012-train").is_dir():
        pytest.skip(f"found no real data in {folder}; set SLANT_DATA to its folder to run this test")
    return folder


@pytest.fixture
def oblique_grid() -> Grid:
    """A left-handed, anisotropic, oblique grid of 7 x 8 x 9 voxels."""
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag([-1.0, 1.5, 2.0])
    matrix[:3, 3] = (11, -7, 5)
    return Grid((7, 8, 9), matrix)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Image file of a small head."""
    from toy import write_toy_scan

    return write_toy_scan(tmp_path / "toy_T1w.nii.gz")


@pytest.fixture
def no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the segmentation starts although the input should have been rejected."""
    from toy import forbid_pipeline

    forbid_pipeline(monkeypatch)


@pytest.fixture(scope="session")
def result() -> Result:
    """The result of the toy scan, in memory."""
    from toy import voted_result

    return voted_result()


@pytest.fixture(scope="session")
def results(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of `result`; not to be changed."""
    folder = tmp_path_factory.mktemp("results")
    write_results(result, folder, {"overlay": b"a picture"})
    return folder


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    """A copy of `results`."""
    return Path(shutil.copytree(results, tmp_path / "copy"))
