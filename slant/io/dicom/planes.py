"""An `ImagePlane` is the position of the pixels of one DICOM image in space.

Terms: a *pixel coordinate* is ``(column, row)``, integers at pixel centres; DICOM uses LPS+ coordinates in mm (x to the
Left, y to the Posterior, z to the Superior), so that RAS is LPS with the first two signs changed.
Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, InputError
from slant.grid import Grid, Matrix

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_DIFFERENCE = 1e-3  # of cosines and of mm; scanners round to 1e-6
_SAME_POSITION_MM = 0.01
_UNEVEN_FRACTION = 0.05  # of the distance between slices
_VOXEL_TOLERANCE = 0.1  # voxels; rounding errors in headers are a hundred times smaller
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class ImagePlane:
    """Position, orientation and pixel spacing of one image.

    Attributes
    ----------
    position_mm : tuple of 3 float
        LPS coordinates in mm of the centre of the first pixel.
    orientation : tuple of 6 float
        Direction cosines of increasing column index, then of increasing row index.
    spacing_mm : tuple of 2 float
        Distance between rows, then between columns.
    """

    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]

    @property
    def lps_from_pixel(self) -> Matrix:
        """(3, 3) float64: maps ``(column, row, 1)`` to LPS mm."""
        across, down = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        columns = (across * self.spacing_mm[1], down * self.spacing_mm[0], np.array(self.position_mm))
        return np.stack(columns, axis=1)

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) float64: direction in which slices are stacked, in LPS."""
        return np.asarray(np.cross(self.orientation[:3], self.orientation[3:]), dtype=np.float64)

    @property
    def depth_mm(self) -> float:
        """Position along `normal`."""
        return float(np.dot(self.normal, self.position_mm))


def planes_of(dataset: Dataset) -> tuple[ImagePlane, ...]:
    """Planes of the frames of a file, in their order; none if the file lacks the position of a frame."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if groups is None:
        single = _plane(dataset, dataset, dataset) if count == 1 else None
        return (single,) if single else ()
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    found = [_plane(*(_macro(name, frame, shared) for name in names)) for frame in groups]
    planes = tuple(plane for plane in found if plane is not None)
    return planes if len(planes) == count else ()


def _macro(name: str, *groups: Dataset | None) -> Dataset | None:
    for group in groups:
        if group is not None and group.get(name):
            item: Dataset = group[name].value[0]
            return item
    return None


def _plane(position: Dataset | None, orientation: Dataset | None, measures: Dataset | None) -> ImagePlane | None:
    if position is None or orientation is None or measures is None:
        return None
    values = (
        _floats(position.get("ImagePositionPatient"), 3),
        _floats(orientation.get("ImageOrientationPatient"), 6),
        _floats(measures.get("PixelSpacing"), 2),
    )
    return ImagePlane(*values) if all(values) and min(values[2]) > 0 else None


def _floats(values: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def slice_distance_mm(planes: Sequence[ImagePlane]) -> float:
    """Median distance between neighbouring planes along the normal of the first one; 0 for a single plane."""
    depths = np.sort([np.dot(planes[0].normal, plane.position_mm) for plane in planes])
    gaps = np.diff(depths)
    gaps = gaps[gaps > _SAME_POSITION_MM]
    return float(np.median(gaps)) if gaps.size else 0.0


def check_stack(planes: Sequence[ImagePlane]) -> None:
    """Check that planes are one stack of evenly spaced, parallel slices.

    Raises
    ------
    InputError
        If there are fewer than two, they differ in direction or pixel size, two have one position, or one is missing.
    """
    if len(planes) < 2:
        raise InputError(f"found {len(planes)} images with a position in the header, expected the slices of a 3D scan")
    for name in ("orientation", "spacing_mm"):
        values = np.array([getattr(plane, name) for plane in planes])
        if np.abs(values - values[0]).max() > _SAME_DIFFERENCE:
            raise InputError(f"found images of more than one {name.removesuffix('_mm')}, expected one stack of slices")
    depths = np.sort([plane.depth_mm for plane in planes])
    gaps, distance = np.diff(depths), slice_distance_mm(planes)
    doubled = int(np.count_nonzero(gaps <= _SAME_POSITION_MM))
    if doubled:
        raise InputError(
            f"found {len(planes)} images at {len(planes) - doubled} positions: several volumes, such as echoes or "
            "repetitions; export the T1-weighted one as a series of its own, or convert with dcm2niix and select one"
        )
    worst = int(np.abs(gaps - distance).argmax())
    if abs(gaps[worst] - distance) > _UNEVEN_FRACTION * distance + _SAME_POSITION_MM:
        raise InputError(
            f"slices are missing: found {gaps[worst]:.3g} mm between slices {worst + 1} and {worst + 2} of "
            f"{len(planes)}, expected {distance:.3g} mm as between the others; export the series again"
        )


def voxels_from_pixels(planes: Sequence[ImagePlane], shape: tuple[int, int], grid: Grid) -> NDArray[np.intp]:
    """Affines that map the pixels of each plane to the voxels of a grid.

    Parameters
    ----------
    shape : tuple of 2 int
        Rows and columns of every plane.
    grid : Grid
        Grid of the same pixels as voxels, with axes in any order and direction.

    Returns
    -------
    (N, 3, 3) integer array
        For each plane, maps ``(column, row, 1)`` to a voxel coordinate of the grid.

    Raises
    ------
    GeometryError
        If pixels and voxels do not correspond one to one.
    """
    rows, columns = shape
    corners = np.array([[c, r, 1] for c in (0, columns - 1) for r in (0, rows - 1)], dtype=np.float64).T
    voxel_from_lps = grid.voxel_from_ras[:3, :3] @ _RAS_FROM_LPS
    exact = voxel_from_lps @ np.stack([plane.lps_from_pixel for plane in planes])
    exact[:, :, 2] += grid.voxel_from_ras[:3, 3]
    rounded = np.rint(exact)
    off = float(np.abs((exact - rounded) @ corners).max())
    corner_voxels = rounded @ corners
    inside = (corner_voxels >= 0).all() and (corner_voxels < np.array(grid.shape)[None, :, None]).all()
    distinct = len({tuple(first) for first in rounded[:, :, 2]}) == len(planes)
    steps = np.abs(rounded[:, :, :2]).sum(axis=1)
    same_size = len(planes) * rows * columns == int(np.prod(grid.shape))
    if off > _VOXEL_TOLERANCE or not (inside and distinct and same_size and (steps == 1).all()):
        raise GeometryError(
            f"the {len(planes)} images of {rows} x {columns} pixels are not the voxels of the converted scan, shape "
            f"{grid.shape} (up to {off:.2g} voxels apart), expected one voxel for each pixel; "
            "the conversion resampled them, so labels cannot be written as DICOM; leave --dicom-seg out"
        )
    return np.asarray(rounded, dtype=np.intp)


def on_planes(data: NDArray[Any], voxels: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[Any]:
    """Values of (X, Y, Z) data as (N, rows, columns) images of this shape; for ``voxels`` see `voxels_from_pixels`."""
    row, column = np.indices(shape)
    pixels = np.stack([column, row, np.ones_like(row)]).reshape(3, -1)
    return np.stack([data[tuple(one @ pixels)].reshape(shape) for one in voxels])
