"""Opens an image file, and checks that it is complete."""

# mypy: allow-untyped-calls

from __future__ import annotations

import hashlib
import io
import logging
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
from slant.io.checks import check_number_type
from slant.io.file_kind import GZIP, START_BYTES, check_file, describe, gunzip, kind_of
from slant.io.geometry import NO_ORIENTATION, plain_header, usable_grid

if TYPE_CHECKING:
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.nifti1 import Nifti1Header

_MGH_MAGIC = b"\x00\x00\x00\x01"
_MGH_HEADER_BYTES, _MGH_GOOD_RAS = 284, slice(28, 30)
_EXTENSION_FLAG_BYTES, _EXTENSION_BYTES = 4, 16  # after a NIfTI header, and the unit of the size of an extension


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file whose voxels are not decoded yet.

    Attributes
    ----------
    voxels_in_file : ArrayProxy
        Voxels on the axes of the file.
    header : Nifti1Header or Nifti2Header
        The header as it is in the file; of another format, shape and affine.
    sha256 : str
        SHA-256 of the file in hexadecimal.
    warnings : tuple of str
        What was repaired.
    """

    voxels_in_file: ArrayProxy
    header: Nifti1Header
    sha256: str
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis of the file."""
        return _counts(self.voxels_in_file.shape)

    def voxels(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 voxels on the axes of the file, of one volume of a 4D image."""
        if len(self.voxels_in_file.shape) == 3:
            return np.asarray(self.voxels_in_file, dtype=np.float32)
        return np.asarray(self.voxels_in_file[(Ellipsis, *index)], dtype=np.float32)


@contextmanager
def reading(path: Path) -> Iterator[None]:
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


def open_image(path: Path) -> ImageFile:
    """Open an image file.

    Raises
    ------
    InputError
        If the file is missing, damaged, truncated or of another type, or its numbers are complex or of colours.
    GeometryError
        If the header of an MGH or MGZ file has no orientation or a damaged affine.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer.mghformat import MGHError
    from nibabel.spatialimages import HeaderDataError

    check_file(path)
    try:
        raw = path.read_bytes()
        content, warnings = gunzip(raw) if raw.startswith(GZIP) else (raw, ())
        kind = _image_class(content, path)
        voxels, header, repairs = _open_mgh(content) if kind is None else _open_nifti(content, kind)
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"the compressed file is damaged or incomplete ({error}); copy or download it again"
        ) from error
    except (HeaderDataError, ImageFileError, MGHError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"the header is damaged ({error}); copy, download or convert the file again") from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    check_number_type(voxels.dtype)
    _check_length(content, voxels.offset, voxels.shape, voxels.dtype)
    return ImageFile(voxels, header, hashlib.sha256(raw).hexdigest(), warnings + repairs)


def _image_class(content: bytes, path: Path) -> type[Nifti1Header] | None:
    """Class of the header of a NIfTI image; None for MGH."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kind = kind_of(content[:START_BYTES], path)
    if kind is not None:
        raise InputError(describe(kind))
    if content.startswith(_MGH_MAGIC) and len(content) > _MGH_HEADER_BYTES:
        return None
    for header_class in (Nifti1Header, Nifti2Header):
        if header_class.may_contain_header(content):
            return header_class
    raise InputError(
        f"found {len(content)} bytes that are neither NIfTI nor MGZ, whatever the extension says; "
        "convert the scan, for example with dcm2niix"
    )


_Opened = tuple["ArrayProxy", "Nifti1Header", tuple[str, ...]]


def _open_mgh(content: bytes) -> _Opened:
    from nibabel.freesurfer.mghformat import MGHImage

    if not any(content[_MGH_GOOD_RAS]):  # nibabel would assume an orientation
        raise GeometryError(f"the header's goodRASFlag is 0, {NO_ORIENTATION}")
    image = MGHImage.from_bytes(content)
    x, y, z = (*_counts(image.shape), 1, 1)[:3]
    usable_grid((x, y, z), image.affine)
    voxels: Any = image.dataobj
    return voxels, plain_header((x, y, z), image.affine, 1), ()


def _open_nifti(content: bytes, header_class: type[Nifti1Header]) -> _Opened:
    """Open a NIfTI image; only what describes the array is checked, and not the forms."""
    from nibabel.arrayproxy import ArrayProxy

    header = header_class(content[: header_class.sizeof_hdr], check=False)
    checked = header.copy()
    checked["vox_offset"] = header_class.single_vox_offset
    checked.check_fix(_silent_logger())
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset, repairs = _data_offset(header, content, math.prod(_counts(shape)) * dtype.itemsize)
    slope, intercept = header.get_slope_inter()
    scaling = (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    return ArrayProxy(io.BytesIO(content), (shape, dtype, offset, *scaling)), header, repairs


def _data_offset(header: Nifti1Header, content: bytes, data_bytes: int) -> tuple[int, tuple[str, ...]]:
    """Offset of the voxels in the file, and a warning if that of the header is impossible.

    Impossible is an offset inside the header, and one beyond the file if header and voxels fill the file exactly.
    """
    found, header_bytes = float(header["vox_offset"]), int(header.sizeof_hdr)
    first = header_bytes + _EXTENSION_FLAG_BYTES
    inside = not found >= first  # also NaN
    if not inside and found + data_bytes <= len(content):
        return int(found), ()
    starts = (_end_of_extensions(header, content), first, header_bytes)
    fitting = [start for start in starts if start + data_bytes == len(content)]
    if inside:
        fitting += [start for start in starts[:1] if start + data_bytes <= len(content)]
    if not fitting:
        return (starts[0] if inside else int(min(found, 2.0**62))), ()  # too short in any case
    return fitting[0], (
        f"vox_offset is {found:g}, which is impossible in this file; the voxels are read from byte {fitting[0]}",
    )


def _end_of_extensions(header: Nifti1Header, content: bytes) -> int:
    """First byte after the header and its extensions, as far as their sizes are valid."""
    flag = int(header.sizeof_hdr)
    end = flag + _EXTENSION_FLAG_BYTES
    order = "big" if header.endianness == ">" else "little"
    while content[flag : flag + 1].strip(b"\0"):
        size = int.from_bytes(content[end : end + 4], order)  # type: ignore[arg-type]
        if size < _EXTENSION_BYTES or size % _EXTENSION_BYTES or end + size > len(content):
            break
        end += size
    return end


def _check_length(content: bytes, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    expected_bytes = int(offset) + math.prod(_counts(shape)) * dtype.itemsize
    if len(content) < expected_bytes:
        raise InputError(
            f"the file is truncated: found {len(content)} bytes, expected {expected_bytes} for shape {_counts(shape)}; "
            "copy or download it again"
        )


def _counts(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(int(n), 0) for n in shape)


def _silent_logger() -> logging.Logger:
    """For the messages of nibabel about values that are not used, or are checked later."""
    logger = logging.Logger("slant.nibabel")
    logger.addHandler(logging.NullHandler())
    return logger
