"""Scans with thick slices stay in place, with the mean intensity and the most frequent label of each slab."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest

from slant.grid import Grid
from slant.volume import LabelMap, Volume

SHAPE = (4, 3, 9)
MATRIX = np.array([[0.9, 0, 0, -7], [0, 1.1, 0, 3], [0, 0, 1, 20], [0, 0, 0, 1]], dtype=float)
GRID = Grid(SHAPE, MATRIX)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The module, which is not part of the package."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    with patch.object(sys, "path", [str(folder), *sys.path]):
        return importlib.import_module("thick_slices")


def coordinates(grid: Grid, axis: int) -> np.ndarray:
    """RAS coordinate of the center of each voxel, in mm."""
    voxels = np.append(np.indices(grid.shape).reshape(3, -1), np.ones((1, np.prod(grid.shape))), axis=0)
    return (grid.ras_from_voxel @ voxels)[axis].reshape(grid.shape)


def permuted(volume: Volume, axes: tuple[int, int, int]) -> Volume:
    """The same volume with its axes in another order."""
    grid = volume.grid
    matrix = grid.ras_from_voxel[:, [*axes, 3]]
    return Volume(volume.data.transpose(axes), Grid(tuple(grid.shape[axis] for axis in axes), matrix))


def test_slices_are_means_of_slabs(module: ModuleType) -> None:
    data = np.random.default_rng(0).random(SHAPE, dtype=np.float32)

    thick = module.slab_means(Volume(data, GRID), 3.0)

    assert thick.grid.shape == (4, 3, 3)
    np.testing.assert_allclose(thick.data, data.reshape(4, 3, 3, 3).mean(axis=3), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_voxels_stay_where_their_slices_are(module: ModuleType, axis: int) -> None:
    where = coordinates(GRID, axis)

    thick = module.slab_means(Volume(where, GRID), 3.0)

    np.testing.assert_allclose(thick.data, coordinates(thick.grid, axis), atol=1e-5)
    np.testing.assert_allclose(thick.grid.voxel_size_mm, (0.9, 1.1, 3))


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_slices_are_axial_whatever_the_order_of_the_axes(module: ModuleType, axes: tuple[int, int, int]) -> None:
    scan = Volume(np.random.default_rng(1).random(SHAPE, dtype=np.float32), GRID)

    found, expected = module.slab_means(permuted(scan, axes), 3.0), permuted(module.slab_means(scan, 3.0), axes)

    assert found.grid.same_as(expected.grid)
    np.testing.assert_array_equal(found.data, expected.data)


def test_slices_of_an_oblique_scan_are_along_the_axis_nearest_to_inferior_superior(module: ModuleType) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = nib.eulerangles.euler2mat(z=0.2, y=0.3, x=np.pi / 2 - 0.3) @ np.diag([1.0, 0.8, 1.5])
    grid = Grid((5, 20, 6), matrix)
    thick = module.slab_means(Volume(coordinates(grid, 2), grid), 4.0)

    assert thick.grid.shape == (5, 4, 6)
    np.testing.assert_allclose(thick.data, coordinates(thick.grid, 2), atol=1e-4)


def test_last_slab_has_the_slices_that_are_left(module: ModuleType) -> None:
    data = np.broadcast_to(np.arange(9, dtype=np.float32), SHAPE)
    scan, labels = Volume(data, GRID), LabelMap(data.astype(np.uint8) // 8, GRID)

    thick, thick_labels = module.slab_means(scan, 5.0), module.slab_labels(labels, 5.0)

    assert thick.data[0, 0].tolist() == [2, 6.5]
    assert thick_labels.data[0, 0].tolist() == [0, 0]
    assert thick_labels.grid.same_as(thick.grid)


def test_scan_with_thicker_slices_is_unchanged(module: ModuleType) -> None:
    grid = Grid(SHAPE, MATRIX @ np.diag([1, 1, 4.0, 1]))
    scan = Volume(np.random.default_rng(2).random(SHAPE, dtype=np.float32), grid)

    thick = module.slab_means(scan, 3.0)

    assert thick.grid.same_as(grid)
    np.testing.assert_array_equal(thick.data, scan.data)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 4, 9], 4),
        ([9, 4, 4], 4),
        ([3, 3, 5, 7, 7], 3),  # of several, the nearest to the middle; of these, the first
        ([1, 2, 3], 2),
        ([8, 8, 5, 5, 5], 5),
        ([6], 6),
    ],
)
def test_label_of_a_slab_is_its_most_frequent_one(module: ModuleType, ids: list[int], expected: int) -> None:
    assert module.most_frequent(np.array([ids, ids])).tolist() == [expected, expected]


def test_labels_of_slabs_are_on_the_grid_of_the_scan(module: ModuleType) -> None:
    data = np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.uint8)
    thick = module.slab_labels(LabelMap(data, GRID), 3.0)

    assert thick.data.dtype == np.uint8
    assert thick.grid.same_as(module.slab_means(Volume(data, GRID), 3.0).grid)
    counts = np.stack([(data.reshape(4, 3, 3, 3) == i).sum(axis=3) for i in range(4)])
    chosen = np.take_along_axis(counts, thick.data[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(chosen, counts.max(axis=0))


def test_network_of_a_kind_or_of_a_model(module: ModuleType) -> None:
    kind, model = module.spec_of("residual"), module.spec_of("whole")

    assert (kind.kind, kind.settings.outputs) == ("residual", 133)
    assert model.settings.widths == (32, 64, 128, 192)
