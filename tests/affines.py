"""A small template grid, maps to it from native space, and the voxels around a point with exact weights."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import floor, prod

import numpy as np

from slant.grid import Grid, axis_aligned_grid, transform_points

TEMPLATE = axis_aligned_grid((7, 8, 9), 1.0, (-3, -4, -5))


def affine(
    angles_deg: tuple[float, float, float], scale: float, translation_mm: tuple[float, float, float]
) -> np.ndarray:
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one, other = [a for a in range(3) if a != axis]
        rotation = np.eye(4)
        rotation[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = rotation @ matrix
    matrix[:3] *= scale
    matrix[:3, 3] = translation_mm
    return matrix


MAPS = [
    np.eye(4),
    affine((0, 0, 0), 1, (0.5, -0.5, 1.5)),
    affine((10, -20, 30), 0.7, (0.3, 0.2, -0.4)),
    affine((-5, 40, 15), 1.3, (1, -2, 0.1)),
]


def centered(grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """A grid of another shape with the same axes, whose first voxel is left of the centre."""
    matrix = grid.ras_from_voxel.copy()
    matrix[:3, 3] -= grid.center_ras_mm
    return Grid(shape, matrix)


def voxels_around(
    grid: Grid, ras_from_voxel: np.ndarray, voxel: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...] | None, Fraction]]:
    """The eight voxels of a grid around a voxel of another grid, None outside, and their trilinear weights."""
    (point,) = transform_points(grid.voxel_from_ras @ ras_from_voxel, [voxel])
    exact = [Fraction(round(x * 10**9), 10**9) for x in point.tolist()]
    for corner in product((0, 1), repeat=3):
        index = tuple(floor(x) + side for x, side in zip(exact, corner, strict=True))
        weight = prod(1 - abs(x - i) for x, i in zip(exact, index, strict=True))
        yield (index if all(0 <= i < n for i, n in zip(index, grid.shape, strict=True)) else None), weight
