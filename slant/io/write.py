"""Write images atomically, on exactly the grid of the scan that they belong to."""

# mypy: allow-untyped-calls

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, OutputError
from slant.files import write_file
from slant.io.geometry import plain_header
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from slant.io.read import Scan

_GZIP_LEVEL = 6  # of zlib-ng: half the time of level 4 of zlib, and smaller
_TEMPLATE_CODE = 5  # NIFTI_XFORM_TEMPLATE_OTHER; 4 is MNI152 and 3 is Talairach, and neither is MNI305
_MAX_ID = np.iinfo(np.uint16).max


def write_image(path: Path, data: Volume | LabelMap, like: Scan | None) -> None:
    """Write intensities or labels as NIfTI; the same input gives the same bytes.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz`` or ``.nii``. An existing file is replaced when the new one is complete.
    data : Volume or LabelMap
        Intensities are stored as float32, labels as uint8 or, with ids over 255, as uint16; never scaled.
    like : Scan or None
        The scan whose volume has the grid of ``data``: the file gets its axis order, shape, affine, form codes and
        units. None for template space, written on the axes of ``data``.

    Raises
    ------
    GeometryError
        If ``data`` is not on the scan's grid.
    OutputError
        If an id does not fit, the extension is another one, or the file cannot be written.
    """
    if not path.name.endswith((".nii.gz", ".nii")):
        raise OutputError(f"cannot write {path}: expected a name that ends in .nii.gz or .nii")
    content = _nifti_bytes(_stored(data, path), data, like)
    if path.name.endswith(".gz"):
        content = _gzip(content)
    write_file(path, content)


def write_files(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    """Write files by their names, each of them atomically; existing files are replaced.

    Raises
    ------
    OutputError
        If the folder cannot be created, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror or error}; choose another") from error
    for name, content in contents.items():
        write_file(folder / name, content)
    return [folder / name for name in contents]


def small_nifti(labels: LabelMap) -> bytes:
    """A map of integers from 0 to 65535 as the bytes of a small ``.nii.gz`` on its own axes; OutputError for others."""
    content = _nifti_bytes(_stored(labels, Path("a map in memory")), labels, None)
    return _gzip(content)


def _gzip(content: bytes) -> bytes:
    """Compressed content, without name and time: the same bytes for the same content and version of zlib-ng."""
    from zlib_ng import gzip_ng

    compressed: bytes = gzip_ng.compress(content, _GZIP_LEVEL, mtime=0)
    return compressed


def _stored(data: Volume | LabelMap, path: Path) -> NDArray[Any]:
    if isinstance(data, Volume):
        return data.data
    low, high = int(data.data.min()), int(data.data.max())
    if low < 0 or high > _MAX_ID:
        raise OutputError(f"cannot write {path}: found ids from {low} to {high}, expected 0 to {_MAX_ID}")
    return data.data.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _nifti_bytes(array: NDArray[Any], data: Volume | LabelMap, like: Scan | None) -> bytes:
    import nibabel as nib
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    if like is None:
        header = plain_header(data.grid.shape, data.grid.ras_from_voxel, _TEMPLATE_CODE)
    else:
        if not data.grid.same_as(like.volume.grid):
            raise GeometryError(
                f"an image on a grid of shape {data.grid.shape} does not belong to {like.path}, whose grid is "
                f"{like.volume.grid.shape}; resample it to the scan's grid first"
            )
        header = like.header.copy()
        native_axes = io_orientation(header.get_best_affine())
        array = apply_orientation(array, ornt_transform(io_orientation(np.eye(4)), native_axes))
    array = np.asfortranarray(array)  # the order of the file: nibabel would make it slice by slice
    header.set_data_dtype(array.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content: bytes = kind(array, None, header).to_bytes()
    return content
