"""Simulated visits move, and their true change of volumes is what a count of voxels finds."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from scipy import ndimage

from slant.displacement import CompositeTransform, DisplacementField, sample_linear
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.volume import LabelMap, Volume

GRID = axis_aligned_grid((60, 64, 56), 1.5, (-45, -48, -42))
FINE = axis_aligned_grid((90, 86, 70), 0.71, (-29.3, -25.1, -22.7))
IDENTITY = np.eye(4)
IDS = [3, 7]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The module, which is not part of the package."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    with patch.object(sys, "path", [str(folder), *sys.path]):
        return importlib.import_module("simulated_visits")


def regions_at(points: np.ndarray) -> np.ndarray:
    """Region at (..., 3) points in RAS mm: one of two ellipsoids."""
    x, y, z = np.moveaxis(points, -1, 0)
    first = (x + 14) ** 2 / 12**2 + y**2 / 16**2 + z**2 / 14**2 < 1
    second = (x - 16) ** 2 / 10**2 + (y - 8) ** 2 / 18**2 + (z + 6) ** 2 / 10**2 < 1
    return np.where(first, 3, np.where(second, 7, 0)).astype(np.uint8)


def centers(grid: Grid) -> np.ndarray:
    return transform_points(grid.ras_from_voxel, np.indices(grid.shape).reshape(3, -1).T)


def labels() -> LabelMap:
    return LabelMap(regions_at(centers(GRID)).reshape(GRID.shape), GRID)


def counted(change: DisplacementField) -> np.ndarray:
    """Logarithm of the ratio of the volumes with and without change, by a count of small voxels."""
    points = centers(FINE)
    counts = [np.bincount(regions_at(at), minlength=8)[IDS] for at in (change.at(points), points)]
    return np.log(counts[0] / counts[1])


def test_true_changes_of_the_whole_brain_are_those_of_a_count(module: ModuleType) -> None:
    change = module.change_field(GRID, np.random.default_rng(2), 4.0)
    assert module.determinant(change).std() == pytest.approx(0.04, rel=0.1)
    true = module.true_log_ratios(labels(), change, IDS)
    assert true == pytest.approx(counted(change), abs=0.003)
    assert np.abs(true).max() > 0.01


def test_regions_shrink_by_about_the_given_percentage(module: ModuleType) -> None:
    change = module.local_change(labels(), {3: 5.0, 7: 2.0})
    true = module.true_log_ratios(labels(), change, IDS)
    assert true == pytest.approx(counted(change), abs=0.003)
    assert true == pytest.approx([-0.04, -0.015], abs=0.015)
    other = module.true_log_ratios(labels(), module.local_change(labels(), {3: 5.0}), IDS)
    assert other[0] < -0.02
    assert abs(other[1]) < 0.01


def test_without_change_the_ratio_is_one(module: ModuleType) -> None:
    zero = DisplacementField(np.zeros((3, *GRID.shape), np.float32), GRID)
    np.testing.assert_allclose(module.determinant(zero), 1, atol=1e-12)
    assert module.true_log_ratios(labels(), zero, IDS) == pytest.approx([0, 0], abs=1e-12)


def test_a_visit_shows_the_scan_in_another_position(module: ModuleType) -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, GRID.shape), 2)
    inside = labels().data > 0
    scan = Volume(np.where(inside, 100 + 200 * texture, 0), GRID)
    quiet = module.Conditions(noise=0.0, bias=0.0, gain=0.0)
    first, second = (module.visit(scan, np.random.default_rng(seed), quiet) for seed in (0, 1))
    for visit in (first, second):
        motion = visit.original_from_visit
        assert motion[:3, :3] @ motion[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)
        at = CompositeTransform(np.linalg.inv(motion), None, IDENTITY).voxels(GRID, GRID)
        core = ndimage.binary_erosion(inside, iterations=3)
        assert np.abs(sample_linear(visit.scan.data, at) - scan.data)[core].mean() < 3
        assert (visit.scan.data == 0).mean() == pytest.approx((scan.data == 0).mean(), abs=0.01)
    assert np.abs(first.scan.data - second.scan.data)[inside].mean() > 10


def test_the_same_seed_gives_the_same_visit(module: ModuleType) -> None:
    scan = Volume(labels().data * 20.0, GRID)
    one, same, other = (
        module.visit(scan, np.random.default_rng(seed), module.Conditions()).scan.data for seed in (5, 5, 6)
    )
    assert one.tobytes() == same.tobytes() != other.tobytes()
