"""Read a scan, check it and reorient it to RAS+ axes; the geometry of its file is kept for writing results."""

# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, InputError
from slant.grid import Grid
from slant.io.checks import check_contrast, replace_nonfinite, volume_index
from slant.io.file_kind import describe_file
from slant.io.geometry import Geometry, geometry_of
from slant.io.image_file import ImageFile, open_image, reading
from slant.preprocess.intensity_range import IntensityRange, robust_intensities
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

    from slant.io.dicom.choose import DicomSource

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")

_LABEL_LIMIT = 2.0**31
_UNCHANGED = IntensityRange()


@dataclass(frozen=True, eq=False)
class Scan:
    """One T1-weighted scan and the geometry of its file.

    Attributes
    ----------
    volume : Volume
        (X, Y, Z) float32 robust intensities on the axes closest to RAS+, finite, not resampled.
    path : Path
        File of the scan, or folder of a DICOM series.
    name : str
        File name without extension and without a trailing ``_T1w``; prefix of the output files.
    sha256 : str
        SHA-256 of the file, in hexadecimal.
    warnings : tuple of str
        Messages about what was repaired or is doubtful.
    header : Nifti1Header or Nifti2Header
        Shape, usable forms, their codes and the units of the scan in its file, and no other fields of its header.
    source : DicomSource, optional
        DICOM series that the scan was converted from.
    intensities : IntensityRange
        The map from the intensities of the file to the robust ones of ``volume``.
    """

    volume: Volume
    path: Path
    name: str
    sha256: str
    warnings: tuple[str, ...]
    header: Nifti1Header
    source: DicomSource | None = None
    intensities: IntensityRange = _UNCHANGED


def scan_name(path: Path) -> str:
    """Prefix of the output files of a scan: the file name without extension and without a trailing ``_T1w``.

    Raises
    ------
    InputError
        If the extension is not one of `SUFFIXES`; the message says what kind of file it is, if there is one.

    Examples
    --------
    >>> scan_name(Path("data/sub-01 (retest).v2_T1w.nii.gz"))
    'sub-01 (retest).v2'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            stem = path.name[: -len(suffix)]
            return stem.removesuffix("_T1w") or stem
    extension = f"found the extension {path.suffix!r}, expected one of {', '.join(sorted(SUFFIXES))}"
    raise InputError(f"{path}: {describe_file(path) or extension}")


def read_scan(path: str | Path, *, volume: int | None = None) -> Scan:
    """Read a T1-weighted scan; reject files that cannot be segmented.

    The grid is that of the sform or, if it is not set or damaged, of the qform, in mm. Intensities are made robust, see
    `slant.preprocess.intensity_range.robust_intensities`.

    Parameters
    ----------
    path : str or Path
        NIfTI (``.nii``, ``.nii.gz``) or FreeSurfer (``.mgz``, ``.mgh``) file, any orientation.
    volume : int, optional
        Index of the volume of a 4D file, counted from 0.

    Raises
    ------
    InputError
        If the file is missing or damaged, or the image is not 3D, has many NaN, or is constant, a label map or a CT.
    GeometryError
        If the header has no usable orientation, or the voxels are too large or too small.
    """
    path = Path(path)
    with reading(path):
        name = scan_name(path)
        file, index, geometry = _open(path, volume)
        data, repairs = replace_nonfinite(file.voxels(index))
        check_contrast(data)
        scan, intensities = robust_intensities(Volume(*_to_ras(data, geometry.grid)))
        warnings = file.warnings + geometry.warnings + repairs + intensities.warnings
        return Scan(scan, path, name, file.sha256, warnings, geometry.header, intensities=intensities)


def read_volume(path: Path) -> Volume:
    """Read the (X, Y, Z) float32 intensities of an image as they are, on the axes closest to RAS+.

    Raises
    ------
    InputError, GeometryError
        As `read_scan`, but whatever the values are.
    """
    with reading(path):
        file, index, geometry = _open(path, None)
        return Volume(*_to_ras(file.voxels(index), geometry.grid))


def read_labels(path: str | Path, like: Scan) -> LabelMap:
    """Read the (X, Y, Z) int32 label map of a scan, an image on its grid, on the axes of the scan's volume.

    Raises
    ------
    InputError
        If the file cannot be read, or has values that are not integers or do not fit into 32 bits.
    GeometryError
        If it is not on the scan's grid.
    """
    labels, _ = read_label_map(path)
    if not labels.grid.same_as(like.volume.grid):
        raise GeometryError(
            f"{path}: found labels on a grid of shape {labels.grid.shape}, expected the grid of {like.path}, shape "
            f"{like.volume.grid.shape}, with the same affine; resample them with nearest-neighbour interpolation"
        )
    return labels


def read_label_map(path: str | Path) -> tuple[LabelMap, str]:
    """Read a NIfTI or MGZ label map of any orientation on its own grid.

    Returns
    -------
    labels : LabelMap
        (X, Y, Z) int32 on the axes closest to RAS+, not resampled.
    sha256 : str
        SHA-256 of the file, in hexadecimal.

    Raises
    ------
    InputError
        If the file cannot be read, is not 3D, or has values that are not integers or do not fit into 32 bits.
    GeometryError
        If the header has no usable orientation, or the voxels are too large or too small.
    """
    path = Path(path)
    with reading(path):
        scan_name(path)
        file, index, geometry = _open(path, None)
        data, grid = _to_ras(file.voxels(index), geometry.grid)
        if not np.isfinite(data).all() or not np.array_equal(data, np.rint(data)):
            raise InputError("found values that are not integers, expected a label map that was not interpolated")
        if np.abs(data).max(initial=0.0) >= _LABEL_LIMIT:
            raise InputError(
                f"found the value {float(data.flat[np.abs(data).argmax()]):.0f}, expected label IDs below 2^31; "
                "check that the file is a label map and copy or convert it again"
            )
        return LabelMap(data.astype(np.int32), grid), file.sha256


def _open(path: Path, volume: int | None) -> tuple[ImageFile, tuple[int, ...], Geometry]:
    """An image file, the index of the volume of it, see `volume_index`, and its geometry."""
    file = open_image(path)
    index = volume_index(file.shape, volume)
    return file, index, geometry_of(file.header)


def _to_ras(data: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    ras_from_native_axes = io_orientation(grid.ras_from_voxel)
    reoriented = np.ascontiguousarray(apply_orientation(data, ras_from_native_axes))
    x, y, z = reoriented.shape
    return reoriented, Grid((x, y, z), grid.ras_from_voxel @ inv_ornt_aff(ras_from_native_axes, grid.shape))
