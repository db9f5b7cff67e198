"""Warps compose with affines; what they carry is looked up once."""

from __future__ import annotations

import numpy as np
import pytest

from slant.errors import GeometryError
from slant.grid import Grid, axis_aligned_grid, transform_points
from slant.resample import pick_labels
from slant.volume import LabelMap
from slant.warp import Chain, Warp, cropped, interpolate_at, pick_at

IDENTITY = np.eye(4)


def shifted(by: tuple[float, float, float]) -> Warp:
    grid = axis_aligned_grid((5, 6, 7), 3.0, (-4, -5, -6))
    return Warp(np.broadcast_to(np.float32(by)[:, None, None, None], (3, 5, 6, 7)).copy(), grid)


def test_chain_of_affines_picks_as_one_affine_does(oblique_grid: Grid) -> None:
    labels = LabelMap(np.random.default_rng(0).integers(0, 133, oblique_grid.shape).astype(np.uint8), oblique_grid)
    target = axis_aligned_grid((9, 8, 7), 1.3, (-1, -8, 6))
    first, second = IDENTITY.copy(), IDENTITY.copy()
    first[:3, 3], second[:3, :3] = (2.3, 0.4, -1.1), np.diag([1.1, 0.9, 1.05])
    places = Chain(first, None, second).voxels(target, oblique_grid)
    expected = pick_labels(labels, target, second @ first).data
    assert (pick_at(labels.data, places) == expected).mean() > 0.99
    assert expected.any()


def test_warp_moves_places_by_its_displacement_in_mm(oblique_grid: Grid) -> None:
    places = Chain(IDENTITY, shifted((3.0, -2.0, 1.0)), IDENTITY).voxels(oblique_grid, oblique_grid)
    middle = transform_points(oblique_grid.ras_from_voxel, [[3, 4, 4]]) + np.array([3.0, -2.0, 1.0])
    assert places[:, 3, 4, 4] == pytest.approx(transform_points(oblique_grid.voxel_from_ras, middle)[0], abs=1e-4)


def test_displacement_holds_outside_its_grid() -> None:
    assert shifted((1, 2, 3)).at(np.array([[1000.0, 0, 0]])).tolist() == [[1001.0, 2.0, 3.0]]


def test_outside_is_background_and_zero() -> None:
    data = np.full((2, 3, 4), 7)
    places = np.float32([[-0.6, 0.4, 1.6], [0, 0, 0], [0, 0, 0]]).reshape(3, 3, 1, 1)
    assert pick_at(data.astype(np.uint8), places).ravel().tolist() == [0, 7, 0]
    assert interpolate_at(data.astype(np.float32), places).ravel() == pytest.approx([2.8, 7, 2.8], abs=1e-5)


def test_cropped_grid_keeps_places(oblique_grid: Grid) -> None:
    part = cropped(oblique_grid, (slice(1, 4), slice(2, 8), slice(3, 5)))
    assert part.shape == (3, 6, 2)
    expected = transform_points(oblique_grid.ras_from_voxel, [[2, 4, 4]])
    assert transform_points(part.ras_from_voxel, [[1, 2, 1]]) == pytest.approx(expected)


def test_array_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(3, 5, 6, 7\)"):
        Warp(np.zeros((3, 5, 6, 8), np.float32), axis_aligned_grid((5, 6, 7), 1.0, (0, 0, 0)))
