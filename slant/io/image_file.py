"""Opens an image file, and checks that it is complete."""

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
from slant.io.checks import NO_ORIENTATION, check_number_type

if TYPE_CHECKING:
    from nibabel.freesurfer.mghformat import MGHImage
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

_GZIP_MAGIC, _MGH_MAGIC = b"\x1f\x8b", b"\x00\x00\x00\x01"
_MGH_HEADER_BYTES, _MGH_GOOD_RAS = 284, slice(28, 30)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file whose voxels are not decoded yet, and the SHA-256 of the file in hexadecimal."""

    image: Nifti1Image | MGHImage
    sha256: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis of the file."""
        return tuple(max(int(n), 0) for n in self.image.shape)

    def voxels(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 voxels on the axes of the file, of one volume of a 4D image."""
        if len(self.image.shape) == 3:
            return np.asarray(self.image.dataobj, dtype=np.float32)
        return np.asarray(self.image.dataobj[(Ellipsis, *index)], dtype=np.float32)


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
        If the header has no orientation.
    """
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
    found = ImageFile(image, hashlib.sha256(raw).hexdigest())
    check_number_type(image.get_data_dtype())
    expected_bytes = int(image.dataobj.offset) + math.prod(found.shape) * image.get_data_dtype().itemsize
    if len(content) < expected_bytes:
        raise InputError(
            f"the file is truncated: found {len(content)} bytes, expected {expected_bytes} for shape {found.shape}; "
            "copy or download it again"
        )
    return found


def plain_header(shape: tuple[int, ...], ras_from_voxel: NDArray[np.float64], code: int) -> Nifti1Header:
    """A header with this shape and affine in mm, in both forms with the same code."""
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(ras_from_voxel, code)
    header.set_sform(ras_from_voxel, code)
    return header


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
