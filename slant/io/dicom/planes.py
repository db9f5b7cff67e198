"""A `Plane` is where the pixels of one DICOM image lie in the world.

Nouns: a *pixel coordinate* is ``(column, row)``, whole numbers at pixel centres; DICOM's world is LPS+ in mm (x to the
Left, y to the Posterior, z to the Superior), so that RAS is LPS with the first two signs turned.
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

_SAME_DIRECTION = 1e-3  # of cosines; scanners round to 1e-6
_SAME_PLACE_MM = 0.01
_EVEN_SHARE = 0.05  # of the distance of slices
_ON_VOXEL = 0.1  # voxels; rounding in headers stays a hundred times below
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """Place of one image.

    Attributes
    ----------
    position_mm : tuple of 3 float
        LPS mm of the first pixel's centre.
    orientation : tuple of 6 float
        Cosines of the direction in which columns are counted, then of that in which rows are.
    spacing_mm : tuple of 2 float
        Between rows, then between columns.
    """

    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]

    @property
    def lps_from_pixel(self) -> Matrix:
        """(3, 3) float64: takes ``(column, row, 1)`` to LPS mm."""
        across, down = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        columns = (across * self.spacing_mm[1], down * self.spacing_mm[0], np.array(self.position_mm))
        return np.stack(columns, axis=1)

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) float64: direction in which slices are stacked, in LPS."""
        return np.asarray(np.cross(self.orientation[:3], self.orientation[3:]), dtype=np.float64)

    @property
    def depth_mm(self) -> float:
        """Place along `normal`."""
        return float(np.dot(self.normal, self.position_mm))


def planes_of(dataset: Dataset) -> tuple[Plane, ...]:
    """The planes of a file's frames, in their order; none if the file does not say where all of them lie."""
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


def _plane(position: Dataset | None, orientation: Dataset | None, measures: Dataset | None) -> Plane | None:
    if position is None or orientation is None or measures is None:
        return None
    values = (
        _floats(position.get("ImagePositionPatient"), 3),
        _floats(orientation.get("ImageOrientationPatient"), 6),
        _floats(measures.get("PixelSpacing"), 2),
    )
    return Plane(*values) if all(values) and min(values[2]) > 0 else None


def _floats(values: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def slice_distance_mm(planes: Sequence[Plane]) -> float:
    """Usual distance of neighbouring planes along the first one's normal; 0 for a single one."""
    depths = np.sort([np.dot(planes[0].normal, plane.position_mm) for plane in planes])
    gaps = np.diff(depths)
    gaps = gaps[gaps > _SAME_PLACE_MM]
    return float(np.median(gaps)) if gaps.size else 0.0


def check_stack(planes: Sequence[Plane]) -> None:
    """Refuse planes that are not one stack of evenly spaced, parallel slices.

    Raises
    ------
    InputError
        If they are fewer than two, differ in direction or pixel size, share a place, or leave a gap.
    """
    if len(planes) < 2:
        raise InputError(f"found {len(planes)} images with a place in the world, wanted the slices of a 3D scan")
    for what, size in (("orientation", _SAME_DIRECTION), ("spacing_mm", _SAME_DIRECTION)):
        values = np.array([getattr(plane, what) for plane in planes])
        if np.abs(values - values[0]).max() > size:
            raise InputError(f"found images of more than one {what.removesuffix('_mm')}, wanted one stack of slices")
    depths = np.sort([plane.depth_mm for plane in planes])
    gaps, usual = np.diff(depths), slice_distance_mm(planes)
    doubled = int(np.count_nonzero(gaps <= _SAME_PLACE_MM))
    if doubled:
        raise InputError(
            f"found {len(planes)} images at {len(planes) - doubled} places: several volumes, such as echoes or "
            "repetitions; export the T1-weighted one as a series of its own, or convert with dcm2niix and pick one"
        )
    worst = int(np.abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > _EVEN_SHARE * usual + _SAME_PLACE_MM:
        raise InputError(
            f"slices are missing: found {gaps[worst]:.3g} mm between slices {worst + 1} and {worst + 2} of "
            f"{len(planes)}, wanted {usual:.3g} mm as between the others; export the series again"
        )


def voxels_from_pixels(planes: Sequence[Plane], shape: tuple[int, int], grid: Grid) -> NDArray[np.intp]:
    """Which voxel of a grid each pixel is.

    Parameters
    ----------
    planes : sequence of N Plane
    shape : tuple of 2 int
        Rows and columns of every plane.
    grid : Grid
        Made of the same pixels, with axes in any order and direction.

    Returns
    -------
    (N, 3, 3) integer array
        For each plane, takes ``(column, row, 1)`` to a voxel coordinate of the grid.

    Raises
    ------
    GeometryError
        If the pixels are not exactly the voxels.
    """
    rows, columns = shape
    corners = np.array([[c, r, 1] for c in (0, columns - 1) for r in (0, rows - 1)], dtype=np.float64).T
    voxel_from_lps = grid.voxel_from_ras[:3, :3] @ _RAS_FROM_LPS
    exact = voxel_from_lps @ np.stack([plane.lps_from_pixel for plane in planes])
    exact[:, :, 2] += grid.voxel_from_ras[:3, 3]
    whole = np.rint(exact)
    off = float(np.abs((exact - whole) @ corners).max())
    reached = whole @ corners
    inside = (reached >= 0).all() and (reached < np.array(grid.shape)[None, :, None]).all()
    distinct = len({tuple(first) for first in whole[:, :, 2]}) == len(planes)
    steps = np.abs(whole[:, :, :2]).sum(axis=1)
    same_size = len(planes) * rows * columns == int(np.prod(grid.shape))
    if off > _ON_VOXEL or not (inside and distinct and same_size and (steps == 1).all()):
        raise GeometryError(
            f"the {len(planes)} images of {rows} x {columns} pixels are not the voxels of the converted scan, shape "
            f"{grid.shape} (up to {off:.2g} voxels apart), wanted each pixel to be one voxel; "
            "the conversion resampled them, so labels cannot be given back as DICOM"
        )
    return np.asarray(whole, dtype=np.intp)


def on_planes(data: NDArray[Any], voxels: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[Any]:
    """Values of a grid's voxels as images.

    Parameters
    ----------
    data : (X, Y, Z) array
    voxels : (N, 3, 3) integer array
        As `voxels_from_pixels` gives it.
    shape : tuple of 2 int
        Rows and columns.

    Returns
    -------
    (N, rows, columns) array of the type of ``data``
    """
    row, column = np.indices(shape)
    pixels = np.stack([column, row, np.ones_like(row)]).reshape(3, -1)
    return np.stack([data[tuple(one @ pixels)].reshape(shape) for one in voxels])
