"""NIfTI files of noise with any header, written byte by byte."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from toy import noise

SHAPE = (7, 8, 9)


def oblique(sizes: tuple[float, float, float] = (0.9, 1.1, 1.5), angle: float = 0.3) -> np.ndarray:
    """A left-handed affine without shear."""
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) @ np.diag(sizes)
    matrix[:3, 3] = 11, -7, 5
    return matrix


def nifti_header(
    affine: Any, codes: tuple[int, int] = (1, 1), kind: type[nib.Nifti1Header] = nib.Nifti1Header, **fields: Any
) -> nib.Nifti1Header:
    """A header in mm with these sform and qform codes; ``fields`` are set last."""
    header = kind()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header["sform_code"], header["qform_code"] = codes
    for name, value in fields.items():
        header[name] = value
    return header


def nifti_bytes(header: nib.Nifti1Header, data: np.ndarray, start: int | None = None, offset: Any = None) -> bytes:
    """Bytes of an image whose voxels begin at ``start`` and whose header says that they begin at ``offset``."""
    header = header.copy()
    first = int(header.sizeof_hdr) + 4
    start = first if start is None else start
    header["vox_offset"] = start if offset is None else offset
    stored = data.astype(header.get_data_dtype())
    return bytes(header.binaryblock).ljust(start, b"\0") + stored.tobytes("F")


def write_nifti(path: Path, header: nib.Nifti1Header, data: np.ndarray | None = None, **position: Any) -> Path:
    """Write noise, or this data, with a header as it is; see `nifti_bytes`."""
    content = nifti_bytes(header, noise(SHAPE) if data is None else data, **position)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path
