"""Fixtures shared by the tests: where real data lies, and grids that catch axis mix-ups."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slant.grid import Grid


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real scans; the test is skipped where they are absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SLANT_DATA", default))
    if not (folder / "miccai2012-train").is_dir():
        pytest.skip(f"real data is not at {folder}; set SLANT_DATA to its folder to run this test")
    return folder


@pytest.fixture
def oblique_grid() -> Grid:
    """A left-handed, anisotropic, oblique grid of 7 x 8 x 9 voxels."""
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag([-1.0, 1.5, 2.0])
    matrix[:3, 3] = (11, -7, 5)
    return Grid((7, 8, 9), matrix)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """File of a small head, as a user would give it."""
    from toy import write_toy_scan

    return write_toy_scan(tmp_path / "toy_T1w.nii.gz")


@pytest.fixture
def no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the work begins although it should have been refused."""
    from toy import forbid_pipeline

    forbid_pipeline(monkeypatch)
