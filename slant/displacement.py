"""Displacement fields that compose with affines, so that every image is resampled only once.

A displacement field is defined in template space: ``moving point = fixed point + displacement``, all in RAS mm of the
template. Together with the affines of two scans it maps every voxel of one scan's grid to the corresponding voxel
coordinates of the other scan in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import GeometryError
from slant.grid import Grid, Matrix, transform_points

Coordinates = NDArray[np.float32]

_CHUNK = 500_000  # coordinates computed at once, about 60 MB of working memory


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Displacements on a grid.

    Parameters
    ----------
    displacement_mm : (3, X, Y, Z) float32 array
        Vectors in RAS mm from a point of the fixed image to the corresponding point of the moving image.
    grid : Grid
        Grid of the field, in the space of the fixed image. Outside the grid the nearest displacement is used.

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
                f"a displacement field on a grid of {self.grid.shape} needs an array of shape {(3, *self.grid.shape)}, "
                f"found {self.displacement_mm.shape}"
            )

    def at(self, coordinates_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (N, 3) points in RAS mm from the fixed to the moving image, with trilinear interpolation of the field."""
        voxels = transform_points(self.grid.voxel_from_ras, coordinates_mm).T
        displacement = [ndimage.map_coordinates(d, voxels, order=1, mode="nearest") for d in self.displacement_mm]
        return np.asarray(coordinates_mm + np.stack(displacement, axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class CompositeTransform:
    """Transform from the grid of a target to the voxels of a source: affine, displacement field, affine.

    Attributes
    ----------
    template_from_target : (4, 4) float64 array
        RAS mm in the target's space to RAS mm in template space.
    warp : DisplacementField or None
        Displacement field in template space, from the target's image to the source's; None for affines only.
    source_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the source's space.
    """

    template_from_target: Matrix
    warp: DisplacementField | None
    source_from_template: Matrix

    def voxels(self, target: Grid, source: Grid, mask: NDArray[np.bool_] | None = None) -> Coordinates:
        """Map voxels of the target's grid to voxel coordinates of the source's grid.

        Parameters
        ----------
        mask : (X, Y, Z) bool array, optional
            Voxels of the target to map (default: all).

        Returns
        -------
        (3, N) float32 array
            One column for each true voxel of ``mask``, in C order; (3, X, Y, Z) without a mask.
        """
        template_from_voxel = self.template_from_target @ target.ras_from_voxel
        source_voxel_from_template = source.voxel_from_ras @ self.source_from_template
        flat = np.arange(np.prod(target.shape)) if mask is None else np.flatnonzero(mask)
        mapped = np.empty((3, flat.size), dtype=np.float32)
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            index = np.stack(np.unravel_index(flat[part], target.shape), axis=1)
            coordinates = transform_points(template_from_voxel, index)
            if self.warp is not None:
                coordinates = self.warp.at(coordinates)
            mapped[:, part] = transform_points(source_voxel_from_template, coordinates).T
        return mapped.reshape(3, *target.shape) if mask is None else mapped


def apply_affine(b_from_a: Matrix, coordinates: Coordinates) -> Coordinates:
    """Map (3, ...) float32 coordinates from space ``a`` to space ``b`` by a (4, 4) affine."""
    matrix = b_from_a.astype(np.float32)
    mapped: Coordinates = np.tensordot(matrix[:3, :3], coordinates, axes=1)
    mapped += matrix[:3, 3].reshape(3, *[1] * (coordinates.ndim - 1))
    return mapped


def sample_nearest(data: NDArray[Any], voxels: Coordinates) -> NDArray[Any]:
    """Nearest voxel of (X, Y, Z) data at each of (3, ...) voxel coordinates, in the dtype of the data, 0 outside."""
    index = np.rint(voxels).astype(np.int32)
    inside = np.ones(index.shape[1:], dtype=np.bool_)
    for axis, size in enumerate(data.shape):
        inside &= (index[axis] >= 0) & (index[axis] < size)
        np.clip(index[axis], 0, size - 1, out=index[axis])
    return np.where(inside, data[tuple(index)], np.zeros((), dtype=data.dtype))


def sample_linear(data: NDArray[np.floating], voxels: Coordinates) -> NDArray[np.float32]:
    """Sample float32 values at (3, ...) voxel coordinates with trilinear interpolation, 0 outside."""
    sampled = ndimage.map_coordinates(data, voxels, order=1, mode="grid-constant", output=np.float32)
    return np.asarray(sampled, dtype=np.float32)
