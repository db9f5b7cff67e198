"""A warp is a field of displacements that composes with affines, so that anything is resampled only once.

A warp lives in template space: ``moving place = fixed place + displacement``, both RAS mm there. With the affines of
two scans it takes every voxel of one scan's grid to its place in the other's, in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import GeometryError
from slant.grid import Grid, Matrix, transform_points

Places = NDArray[np.float32]

_AT_A_TIME = 500_000  # places computed together, about 60 MB of work space


@dataclass(frozen=True, eq=False)
class Warp:
    """Displacements on a grid.

    Parameters
    ----------
    displacement_mm : (3, X, Y, Z) float32 array
        RAS mm from a place in the fixed image to the same place in the moving one.
    grid : Grid
        Of the field, in the fixed image's space. Outside of it the nearest displacement holds.

    Raises
    ------
    GeometryError
        If the array does not fit the grid.
    """

    displacement_mm: NDArray[np.floating]
    grid: Grid

    def __post_init__(self) -> None:
        if self.displacement_mm.shape != (3, *self.grid.shape):
            raise GeometryError(
                f"a warp on a grid of {self.grid.shape} needs an array of shape {(3, *self.grid.shape)}, "
                f"found {self.displacement_mm.shape}"
            )

    def at(self, places_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) RAS mm in the fixed image's space to (N, 3) in the moving one's, trilinear between grid points."""
        voxels = transform_points(self.grid.voxel_from_ras, places_mm).T
        moved = [ndimage.map_coordinates(d, voxels, order=1, mode="nearest") for d in self.displacement_mm]
        return np.asarray(places_mm + np.stack(moved, axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Chain:
    """The way from a target's grid to a source's voxels: affine, warp, affine.

    Attributes
    ----------
    template_from_target : (4, 4) float64 array
        RAS mm in the target's space to RAS mm in template space.
    warp : Warp or None
        In template space, from the target's image to the source's; None leaves places where they are.
    source_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the source's space.
    """

    template_from_target: Matrix
    warp: Warp | None
    source_from_template: Matrix

    def voxels(self, target: Grid, source: Grid, where: NDArray[np.bool_] | None = None) -> Places:
        """For voxels of the target's grid their places in voxels of the source's grid.

        Parameters
        ----------
        target, source : Grid
        where : (X, Y, Z) bool array, optional
            Which voxels of the target are looked up; all by default.

        Returns
        -------
        (3, N) float32 array
            In the order of ``where``'s true voxels; without it, (3, X, Y, Z).
        """
        template_from_voxel = self.template_from_target @ target.ras_from_voxel
        source_voxel_from_template = source.voxel_from_ras @ self.source_from_template
        flat = np.arange(np.prod(target.shape)) if where is None else np.flatnonzero(where)
        found = np.empty((3, flat.size), dtype=np.float32)
        for start in range(0, flat.size, _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            index = np.stack(np.unravel_index(flat[part], target.shape), axis=1)
            places = transform_points(template_from_voxel, index)
            if self.warp is not None:
                places = self.warp.at(places)
            found[:, part] = transform_points(source_voxel_from_template, places).T
        return found.reshape(3, *target.shape) if where is None else found


def moved(b_from_a: Matrix, places: Places) -> Places:
    """(3, ...) float32 coordinates ``a`` carried to coordinates ``b`` by a (4, 4) affine."""
    matrix = b_from_a.astype(np.float32)
    found: Places = np.tensordot(matrix[:3, :3], places, axes=1)
    found += matrix[:3, 3].reshape(3, *[1] * (places.ndim - 1))
    return found


def pick_at(data: NDArray[Any], voxels: Places) -> NDArray[Any]:
    """The value of the nearest voxel at each place, in the data's number type, 0 outside.

    Parameters
    ----------
    data : (X, Y, Z) array
    voxels : (3, ...) float32 array
        Voxel coordinates in ``data``.
    """
    index = np.rint(voxels).astype(np.int32)
    inside = np.ones(index.shape[1:], dtype=np.bool_)
    for axis, size in enumerate(data.shape):
        inside &= (index[axis] >= 0) & (index[axis] < size)
        np.clip(index[axis], 0, size - 1, out=index[axis])
    return np.where(inside, data[tuple(index)], np.zeros((), dtype=data.dtype))


def interpolate_at(data: NDArray[np.floating], voxels: Places) -> NDArray[np.float32]:
    """The trilinear value at each place of (3, ...) voxel coordinates, float32, 0 outside."""
    found: NDArray[np.float32] = ndimage.map_coordinates(data, voxels, order=1, mode="grid-constant", output=np.float32)
    return found


def cropped(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    """The grid of a box of voxels of another grid."""
    start = [s.start for s in box]
    matrix = grid.ras_from_voxel.copy()
    matrix[:3, 3] = transform_points(grid.ras_from_voxel, [start])[0]
    x, y, z = (int(s.stop - s.start) for s in box)
    return Grid((x, y, z), matrix)
