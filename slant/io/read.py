"""Read a scan, check it and reorient it to RAS+ axes; the geometry of its file is kept for writing results."""

# mypy: allow-untyped-calls

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, InputError, SlantError
from slant.grid import Grid
from slant.io.checks import (
    NO_ORIENTATION,
    check_contrast,
    check_number_type,
    form_warnings,
    native_grid,
    replace_nonfinite,
    usable_grid,
    volume_index,
)
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from nibabel.freesurfer.mghformat import MGHImage
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

    from slant.io.dicom.source import DicomSource

SUFFIXES = (".nii.gz", ".nii", ".mgz")

_GZIP_MAGIC, _MGH_MAGIC = b"\x1f\x8b", b"\x00\x00\x00\x01"
_MGH_HEADER_BYTES, _MGH_GOOD_RAS = 284, slice(28, 30)
_LABEL_LIMIT = 2.0**31
_NIFTI_GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True, eq=False)
class Scan:
    """One T1-weighted scan and the geometry of its file.

    Attributes
    ----------
    volume : Volume
        (X, Y, Z) float32 on the axes closest to RAS+, finite, not resampled.
    path : Path
        File of the scan, or folder of a DICOM series.
    name : str
        File name without extension and without a trailing ``_T1w``; prefix of the output files.
    sha256 : str
        SHA-256 of the file, in hexadecimal.
    warnings : tuple of str
        Messages about what was repaired or is doubtful.
    header : Nifti1Header or Nifti2Header
        Shape, sform, qform, their codes and the units of the scan in its file, and no other fields of its header.
    source : DicomSource, optional
        DICOM series that the scan was converted from.
    """

    volume: Volume
    path: Path
    name: str
    sha256: str
    warnings: tuple[str, ...]
    header: Nifti1Header
    source: DicomSource | None = None


def scan_name(path: Path) -> str:
    """Prefix of the output files of a scan: the file name without extension and without a trailing ``_T1w``.

    Raises
    ------
    InputError
        If the extension is not one of `SUFFIXES`.

    Examples
    --------
    >>> scan_name(Path("data/sub-01 (retest).v2_T1w.nii.gz"))
    'sub-01 (retest).v2'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            stem = path.name[: -len(suffix)]
            return stem.removesuffix("_T1w") or stem
    raise InputError(f"{path}: found the extension {path.suffix!r}, expected one of {', '.join(sorted(SUFFIXES))}")


def read_scan(path: str | Path, *, volume: int | None = None) -> Scan:
    """Read a T1-weighted scan; reject files that cannot be segmented.

    Parameters
    ----------
    path : str or Path
        NIfTI (``.nii``, ``.nii.gz``) or FreeSurfer (``.mgz``) file, any orientation.
    volume : int, optional
        Index of the volume of a 4D file, counted from 0.

    Returns
    -------
    Scan
        Its grid is that of the sform or, if the code of the sform is 0, of the qform.

    Raises
    ------
    InputError
        If the file is missing or damaged, or the image is not 3D, has many NaN, or is constant, a label map or a CT.
    GeometryError
        If the header has no orientation or a singular affine, or the voxels are too large.
    """
    path = Path(path)
    with _reading(path):
        name, (image, sha256) = scan_name(path), _load(path)
        index = volume_index(_shape(image), volume)
        header = _native_header(image)
        grid = native_grid(header)
        data, repairs = replace_nonfinite(_voxels(image, index))
        check_contrast(data)
        scan = Volume(*_to_ras(data, grid))
        return Scan(scan, path, name, sha256, form_warnings(header) + repairs, header)


def read_labels(path: str | Path, like: Scan) -> LabelMap:
    """Read the label map of a scan, on the same axes as the scan's volume.

    Parameters
    ----------
    path : str or Path
        Image of integers on the scan's grid.
    like : Scan
        The scan that the labels belong to.

    Returns
    -------
    LabelMap
        (X, Y, Z) int32.

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
    """Read a label map on its own grid.

    Parameters
    ----------
    path : str or Path
        NIfTI or MGZ image of integers, any orientation.

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
        If the header has no orientation or a singular affine, or the voxels are too large.
    """
    path = Path(path)
    with _reading(path):
        scan_name(path)
        image, sha256 = _load(path)
        index = volume_index(_shape(image), None)
        data, grid = _to_ras(_voxels(image, index), native_grid(_native_header(image)))
        if not np.isfinite(data).all() or not np.array_equal(data, np.rint(data)):
            raise InputError("found values that are not integers, expected a label map that was not interpolated")
        if np.abs(data).max(initial=0.0) >= _LABEL_LIMIT:
            raise InputError(
                f"found the value {float(data.flat[np.abs(data).argmax()]):.0f}, expected label IDs below 2^31; "
                "check that the file is a label map and copy or convert it again"
            )
        return LabelMap(data.astype(np.int32), grid), sha256


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Add the path to the messages of errors that do not begin with it, and silence numpy's warnings.

    The readers check for NaN, infinity and numbers out of range themselves, and raise an error that says what to do.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except SlantError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error


def _load(path: Path) -> tuple[Nifti1Image | MGHImage, str]:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer.mghformat import MGHError
    from nibabel.spatialimages import HeaderDataError

    if not path.exists():
        raise InputError("no such file; check the spelling of the path")
    if not path.is_file():
        raise InputError("found a folder, expected an image file; use `slant segment` or dcm2niix for DICOM")
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
        image = _image_class(content).from_bytes(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"the compressed file is damaged or incomplete ({error}); copy or download it again"
        ) from error
    except (HeaderDataError, ImageFileError, MGHError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"the header is damaged ({error}); copy, download or convert the file again") from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    _check_complete(image, len(content))
    return image, hashlib.sha256(raw).hexdigest()


def _image_class(content: bytes) -> type[Any]:
    import nibabel as nib

    if content[344:348] == b"ni1\x00":
        raise InputError("found the header half of a .hdr/.img pair, expected one file; convert it to .nii.gz")
    if content.startswith(_MGH_MAGIC) and len(content) > _MGH_HEADER_BYTES:
        if not any(content[_MGH_GOOD_RAS]):  # nibabel would assume an orientation
            raise GeometryError(f"the header's goodRASFlag is 0, {NO_ORIENTATION}")
        return nib.MGHImage
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(content):
            return kind
    raise InputError(
        f"found {len(content)} bytes that are neither NIfTI nor MGZ, whatever the extension says; "
        "convert the scan, for example with dcm2niix"
    )


def _check_complete(image: Nifti1Image | MGHImage, found_bytes: int) -> None:
    check_number_type(image.get_data_dtype())
    shape = _shape(image)
    stored: Any = image.dataobj
    expected_bytes = int(stored.offset) + math.prod(shape) * image.get_data_dtype().itemsize
    if found_bytes < expected_bytes:
        raise InputError(
            f"the file is truncated: found {found_bytes} bytes, expected {expected_bytes} for shape {shape}; "
            "copy or download it again"
        )


def _shape(image: Nifti1Image | MGHImage) -> tuple[int, ...]:
    return tuple(max(int(n), 0) for n in image.shape)


def _voxels(image: Nifti1Image | MGHImage, index: tuple[int, ...]) -> NDArray[np.float32]:
    if len(image.shape) == 3:
        return np.asarray(image.dataobj, dtype=np.float32)
    return np.asarray(image.dataobj[(Ellipsis, *index)], dtype=np.float32)


def _native_header(image: Nifti1Image | MGHImage) -> Nifti1Header:
    from nibabel.freesurfer.mghformat import MGHImage
    from nibabel.nifti1 import Nifti1Header

    if isinstance(image, MGHImage):
        usable_grid(image.shape, image.affine)
        header = Nifti1Header()
        header.set_data_shape(image.shape[:3])
        header.set_xyzt_units("mm")
        header.set_qform(image.affine, 1)
        header.set_sform(image.affine, 1)
        return header
    header = type(image.header)()
    header.set_data_shape(image.shape[:3])
    header["pixdim"][:4] = image.header["pixdim"][:4]
    for field in _NIFTI_GEOMETRY:
        header[field] = image.header[field]
    return header


def _to_ras(data: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    ras_from_native_axes = io_orientation(grid.ras_from_voxel)
    reoriented = np.ascontiguousarray(apply_orientation(data, ras_from_native_axes))
    x, y, z = reoriented.shape
    return reoriented, Grid((x, y, z), grid.ras_from_voxel @ inv_ornt_aff(ras_from_native_axes, grid.shape))
