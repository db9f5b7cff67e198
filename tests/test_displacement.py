"""Displacement fields compose with affines, and images are sampled only once."""

from __future__ import annotations

import numpy as np
import pytest

from slant.displacement import CompositeTransform, DisplacementField, sample_linear, sample_nearest
from slant.errors import GeometryError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import pick_labels
from slant.volume import LabelMap

IDENTITY = np.eye(4)


def constant_field(shift_mm: tuple[float, float, float]) -> DisplacementField:
    grid = axis_aligned_grid((5, 6, 7), 3.0, (-4, -5, -6))
    return DisplacementField(np.broadcast_to(np.float32(shift_mm)[:, None, None, None], (3, 5, 6, 7)).copy(), grid)


def test_composed_affines_sample_like_their_product(oblique_grid: Grid) -> None:
    labels = LabelMap(np.random.default_rng(0).integers(0, 133, oblique_grid.shape).astype(np.uint8), oblique_grid)
    target = axis_aligned_grid((9, 8, 7), 1.3, (-1, -8, 6))
    first, second = IDENTITY.copy(), IDENTITY.copy()
    first[:3, 3], second[:3, :3] = (2.3, 0.4, -1.1), np.diag([1.1, 0.9, 1.05])
    coordinates = CompositeTransform(first, None, second).voxels(target, oblique_grid)
    expected = pick_labels(labels, target, second @ first).data
    assert (sample_nearest(labels.data, coordinates) == expected).mean() > 0.99
    assert expected.any()


def test_a_displacement_field_moves_coordinates_by_its_vectors_in_mm(oblique_grid: Grid) -> None:
    coordinates = CompositeTransform(IDENTITY, constant_field((3.0, -2.0, 1.0)), IDENTITY).voxels(
        oblique_grid, oblique_grid
    )
    expected_mm = transform_points(oblique_grid.ras_from_voxel, [[3, 4, 4]]) + np.array([3.0, -2.0, 1.0])
    assert coordinates[:, 3, 4, 4] == pytest.approx(
        transform_points(oblique_grid.voxel_from_ras, expected_mm)[0], abs=1e-4
    )


def test_the_nearest_displacement_is_used_outside_the_grid() -> None:
    assert constant_field((1, 2, 3)).at(np.array([[1000.0, 0, 0]])).tolist() == [[1001.0, 2.0, 3.0]]


def test_samples_outside_the_grid_are_zero() -> None:
    data = np.full((2, 3, 4), 7)
    coordinates = np.float32([[-0.6, 0.4, 1.6], [0, 0, 0], [0, 0, 0]]).reshape(3, 3, 1, 1)
    assert sample_nearest(data.astype(np.uint8), coordinates).ravel().tolist() == [0, 7, 0]
    assert sample_linear(data.astype(np.float32), coordinates).ravel() == pytest.approx([2.8, 7, 2.8], abs=1e-5)


def test_a_cropped_grid_keeps_world_coordinates(oblique_grid: Grid) -> None:
    part = oblique_grid.cropped((slice(1, 4), slice(2, 8), slice(3, 5)))
    assert part.shape == (3, 6, 2)
    expected = transform_points(oblique_grid.ras_from_voxel, [[2, 4, 4]])
    assert transform_points(part.ras_from_voxel, [[1, 2, 1]]) == pytest.approx(expected)


def test_an_array_that_does_not_fit_the_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(3, 5, 6, 7\)"):
        DisplacementField(np.zeros((3, 5, 6, 8), np.float32), axis_aligned_grid((5, 6, 7), 1.0, (0, 0, 0)))
