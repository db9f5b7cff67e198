"""A grid maps voxels to world space and back, and refuses invalid shapes and affines."""

from __future__ import annotations

import numpy as np
import pytest

from slant.errors import GeometryError
from slant.grid import Grid, axis_aligned_grid, exceeds, transform_points


def test_a_small_axis_aligned_grid():
    grid = axis_aligned_grid((7, 8, 9), 2.0, (-10, 20, 30))
    assert grid.voxel_size_mm == (2.0, 2.0, 2.0)
    assert grid.voxel_volume_mm3 == pytest.approx(8.0)
    assert transform_points(grid.ras_from_voxel, [[0, 0, 0], [1, 2, 3]]).tolist() == [[-10, 20, 30], [-8, 24, 36]]
    assert grid.center_ras_mm.tolist() == [-4, 27, 38]


def test_voxel_sizes_of_an_oblique_left_handed_grid(oblique_grid):
    assert oblique_grid.voxel_size_mm == pytest.approx((1.0, 1.5, 2.0))
    assert oblique_grid.voxel_volume_mm3 == pytest.approx(3.0)
    assert np.linalg.det(oblique_grid.ras_from_voxel[:3, :3]) < 0


def test_mapping_to_world_space_and_back_gives_the_same_voxel(oblique_grid):
    voxels = np.argwhere(np.ones(oblique_grid.shape))
    world = transform_points(oblique_grid.ras_from_voxel, voxels)
    assert world.mean(axis=0) == pytest.approx(oblique_grid.center_ras_mm)
    np.testing.assert_allclose(transform_points(oblique_grid.voxel_from_ras, world), voxels, atol=1e-12)


def test_the_matrix_is_a_read_only_copy():
    matrix = np.eye(4)
    grid = Grid((7, 8, 9), matrix)
    matrix[0, 3] = 5
    assert grid.ras_from_voxel[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.ras_from_voxel[0, 3] = 5


def test_same_as_compares_shape_and_corners(oblique_grid):
    def changed(shift_mm: float, voxel_mm: float = 0.0) -> Grid:
        matrix = oblique_grid.ras_from_voxel.copy()
        matrix[0, 3] += shift_mm
        matrix[2, 2] += voxel_mm
        return Grid(oblique_grid.shape, matrix)

    assert oblique_grid.same_as(changed(0.0009))
    assert not oblique_grid.same_as(changed(0.0011))
    assert oblique_grid.same_as(changed(0.0011), atol_mm=0.002)
    assert not oblique_grid.same_as(changed(0, voxel_mm=0.0002)), "eight voxels away the corners are 0.0016 mm apart"
    assert not oblique_grid.same_as(Grid((7, 9, 8), oblique_grid.ras_from_voxel))


@pytest.mark.parametrize("size_mm", [0.5, 0.8, 1.0, 2.0, 3.0])
def test_other_voxel_sizes_fill_the_same_box(oblique_grid, size_mm):
    other = oblique_grid.with_voxels_mm(size_mm)
    assert other.voxel_size_mm == pytest.approx((size_mm,) * 3)
    low_faces = [transform_points(g.ras_from_voxel, [[-0.5, -0.5, -0.5]])[0] for g in (oblique_grid, other)]
    assert low_faces[0] == pytest.approx(low_faces[1])
    excess_mm = np.array(other.shape) * size_mm - np.array(oblique_grid.shape) * oblique_grid.voxel_size_mm
    assert (excess_mm > -1e-4).all()
    assert (excess_mm < size_mm).all()


def test_the_same_voxel_size_gives_the_same_grid():
    grid = axis_aligned_grid((7, 8, 9), 0.8, (1, 2, 3))
    assert grid.with_voxels_mm(0.8).same_as(grid)


def test_matrices_compose_in_the_order_of_their_names(oblique_grid):
    b_from_a, c_from_b = oblique_grid.ras_from_voxel, axis_aligned_grid((1, 1, 1), 3.0, (1, 2, 3)).ras_from_voxel
    points = np.array([[1.0, 2, 3], [-4, 5, 0.5]])
    np.testing.assert_allclose(
        transform_points(c_from_b @ b_from_a, points), transform_points(c_from_b, transform_points(b_from_a, points))
    )


def test_integral_floats_and_numpy_integers_are_accepted_as_shape():
    assert Grid(tuple(np.array([7, 8, 9])), np.eye(4)).shape == (7, 8, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(7, 8), (7, 8, 9, 1), (7, 0, 9), (7, -8, 9), (7, 8.5, 9), (7, float("nan"), 9)])
def test_invalid_shapes_are_refused(shape):
    with pytest.raises(GeometryError, match="three positive integers"):
        Grid(shape, np.eye(4))


def _broken(row: int, column: int, value: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.ones((4, 4, 1)), _broken(0, 0, np.nan), _broken(1, 3, np.inf), _broken(3, 0, 1), _broken(3, 3, 2)],
)
def test_matrices_that_are_not_affine_are_refused(matrix):
    with pytest.raises(GeometryError, match="finite 4 x 4 affine"):
        Grid((7, 8, 9), matrix)


def test_a_singular_matrix_is_refused():
    with pytest.raises(GeometryError, match="not invertible"):
        Grid((7, 8, 9), _broken(1, 1, 0))


@pytest.mark.parametrize(("length", "limit", "expected"), [(5, 5, False), (5.0000001, 5, False), (5.01, 5, True)])
def test_rounding_does_not_exceed_a_limit(length, limit, expected):
    assert exceeds(length, limit) == expected
    assert not exceeds(limit, length)
