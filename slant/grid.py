"""A `Grid` is a 3D array of voxels with a position in world space.

Terms used everywhere: a *voxel coordinate* is an array index ``(i, j, k)``, with integers at voxel centres; *world
space* is the scanner's RAS+ space in mm (x to the Right, y to the Anterior, z to the Superior); a matrix ``b_from_a``
maps homogeneous ``a`` coordinates to ``b`` coordinates, so that the names of ``c_from_b @ b_from_a`` match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slant.errors import GeometryError

Shape = tuple[int, int, int]
Matrix = NDArray[np.float64]

_MIN_VOXEL_MM3 = 1e-6  # a smaller voxel means a damaged header
_ROUNDING = 1e-3  # largest relative error of lengths in headers: float32, quaternions, decimal text in DICOM


@dataclass(frozen=True, eq=False)
class Grid:
    """A 3D voxel grid: its shape and the matrix from voxel to world coordinates.

    Parameters
    ----------
    shape : tuple of 3 int
        Number of voxels along each axis, each at least 1.
    ras_from_voxel : (4, 4) float64 array
        Affine from voxel coordinates to RAS+ mm; invertible, last row ``0 0 0 1``.

    Raises
    ------
    GeometryError
        If the shape is not three positive integers or the matrix is not an invertible affine.
    """

    shape: Shape
    ras_from_voxel: Matrix

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(not float(n).is_integer() or n < 1 for n in self.shape):
            raise GeometryError(f"the shape of a grid must be three positive integers, found {self.shape}")
        matrix = np.array(self.ras_from_voxel, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise GeometryError(f"a grid needs a finite 4 x 4 affine with last row 0 0 0 1, found {matrix.tolist()}")
        if abs(np.linalg.det(matrix[:3, :3])) < _MIN_VOXEL_MM3:
            raise GeometryError(
                f"the affine is not invertible: voxel volume {abs(np.linalg.det(matrix[:3, :3])):.3g} mm3; "
                "the scan's header has no usable sform or qform"
            )
        matrix.flags.writeable = False
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "ras_from_voxel", matrix)

    @property
    def voxel_from_ras(self) -> Matrix:
        """(4, 4) float64 affine from RAS+ mm to voxel coordinates."""
        return np.asarray(np.linalg.inv(self.ras_from_voxel), dtype=np.float64)

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along each axis."""
        x, y, z = np.linalg.norm(self.ras_from_voxel[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume in mm3 of one voxel."""
        return float(abs(np.linalg.det(self.ras_from_voxel[:3, :3])))

    @property
    def center_ras_mm(self) -> NDArray[np.float64]:
        """(3,) float64 world coordinates in mm of the centre of the grid."""
        return np.asarray((self.ras_from_voxel @ np.append((np.array(self.shape) - 1) / 2, 1.0))[:3], dtype=np.float64)

    def same_as(self, other: Grid, atol_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and corners that differ by at most ``atol_mm`` along each axis."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
        corners[:, :3] *= np.array(self.shape) - 1
        difference_mm = (self.ras_from_voxel - other.ras_from_voxel) @ corners.T
        return bool(np.abs(difference_mm).max() <= atol_mm)

    def with_voxels_mm(self, size_mm: float) -> Grid:
        """A grid of cubic voxels over the same box, with the same axes; outer faces agree to within one voxel."""
        factor = size_mm / np.array(self.voxel_size_mm)
        shape = np.maximum(1, np.ceil(np.array(self.shape) / factor - 1e-6)).astype(int)
        matrix = self.ras_from_voxel @ np.diag([*factor, 1.0])
        matrix[:3, 3] = (self.ras_from_voxel @ np.append((factor - 1) / 2, 1.0))[:3]
        return Grid(tuple(int(n) for n in shape), matrix)  # type: ignore[arg-type]

    def cropped(self, box: tuple[slice, ...]) -> Grid:
        """The grid of a box of voxels, whose slices have a start and a stop and may go beyond this grid."""
        matrix = self.ras_from_voxel.copy()
        matrix[:3, 3] = transform_points(self.ras_from_voxel, [[span.start for span in box]])[0]
        x, y, z = (int(span.stop - span.start) for span in box)
        return Grid((x, y, z), matrix)


def axis_aligned_grid(shape: Shape, voxel_mm: float, first_voxel_ras_mm: ArrayLike) -> Grid:
    """A RAS+ grid of cubic voxels whose axes are those of world space.

    Parameters
    ----------
    voxel_mm : float
        Edge length of a voxel.
    first_voxel_ras_mm : (3,) array
        World coordinates of the centre of voxel ``(0, 0, 0)``.
    """
    matrix = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    matrix[:3, 3] = np.asarray(first_voxel_ras_mm, dtype=np.float64)
    return Grid(shape, matrix)


def scaled_shape(shape: Sequence[int], factor: int) -> Shape:
    """Three numbers of voxels of a grid, in voxels of a grid that is finer by a factor."""
    x, y, z = (n * factor for n in shape)
    return x, y, z


def transform_points(b_from_a: Matrix, points: ArrayLike) -> NDArray[np.float64]:
    """Map (N, 3) points from space ``a`` to space ``b`` by a (4, 4) affine; returns (N, 3) float64."""
    return np.asarray(np.asarray(points, dtype=np.float64) @ b_from_a[:3, :3].T + b_from_a[:3, 3], dtype=np.float64)


def exceeds(length: float, limit: float) -> bool:
    """Whether a length (or area) of a header is above a limit by more than rounding, 0.1 %.

    For the other direction exchange the arguments: ``exceeds(limit, length)``.

    Examples
    --------
    >>> exceeds(5.0000001, 5), exceeds(5.1, 5)
    (False, True)
    """
    return bool(length > limit * (1 + _ROUNDING))
