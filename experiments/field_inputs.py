"""What an input of field.py is made from, how it is run, and what is wanted of it.

An input is a function of an untouched scan (`Base`) and a folder. It writes files into the folder and returns the shell
line that runs slant there and what its labels are compared with (`Made`); `Expected` says what is wanted.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Image = NDArray[np.float32]
Matrix = NDArray[np.float64]

FULL_HEAD, SKULL_STRIPPED = "full head", "skull-stripped"


@dataclass(frozen=True, eq=False)
class Base:
    """An untouched NIfTI scan: its header, (X, Y, Z) voxels as stored, and (X, Y, Z) bool brain mask."""

    path: Path
    header: nib.Nifti1Header
    stored: Array
    brain: NDArray[np.bool_]

    @property
    def data(self) -> Image:
        """(X, Y, Z) float32 intensities."""
        return self.stored.astype(np.float32)

    @property
    def affine(self) -> Matrix:
        """(4, 4) RAS mm from voxels."""
        return np.asarray(self.header.get_best_affine())

    @property
    def random(self) -> np.random.Generator:
        """The same generator for every input."""
        return np.random.default_rng(0)


@dataclass(frozen=True, eq=False)
class Made:
    """How an input is run, and what its labels are compared with.

    Attributes
    ----------
    command : str
        Shell line, run in the folder of the input. ``$OPTIONS`` are the options of the segmentation, ``../out`` is the
        output directory.
    scan : str
        File whose grid the labels must have; empty if nothing is compared.
    same_voxels : bool
        Whether its voxels are those of the untouched scan. Otherwise the labels are compared in world coordinates.
    affine : (4, 4) array, optional
        Affine in mm that the labels must have, by default that of ``scan``.
    """

    command: str
    scan: str = ""
    same_voxels: bool = True
    affine: Matrix | None = None


@dataclass(frozen=True)
class Expected:
    """What is wanted of an input; None and empty values are not checked.

    Attributes
    ----------
    status : int
        Exit status.
    words, absent : tuple of str
        Patterns that the messages must and must not contain; their case is ignored.
    dice : float, optional
        Smallest mean Dice to the labels of the untouched scan. The labels must then be on the grid of the input.
    etiv : float, optional
        Largest relative difference of the eTIV.
    grades : tuple of str
        Allowed grades.
    scans : int, optional
        Number of commands that ``--print-jobs`` prints.
    files : tuple of (str, str)
        Patterns of output files, and patterns that their texts must contain.
    """

    status: int = 0
    words: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    dice: float | None = None
    etiv: float | None = None
    grades: tuple[str, ...] = ()
    scans: int | None = None
    files: tuple[tuple[str, str], ...] = ()


def same(dice: float, *words: str, etiv: float = 0.02) -> Expected:
    """Segmented as the untouched scan, with these words in the messages."""
    return Expected(0, words, dice=dice, etiv=etiv, grades=("pass", "review"))


def refused(*words: str) -> Expected:
    """Exit status 2, and messages with these words."""
    return Expected(2, words)


def failed_grade(*words: str) -> Expected:
    """Segmented, but graded ``fail``, and warned about with these words."""
    return Expected(0, words, grades=("fail",))


@dataclass(frozen=True, eq=False)
class FieldInput:
    """An input, the untouched scan that it is made from, and what is wanted: one of ``expected``."""

    kind: str
    name: str
    base: str
    make: Callable[[Base, Path], Made]
    expected: tuple[Expected, ...]


class UnavailableError(Exception):
    """An input that cannot be made on this machine; the message says why."""


def nifti_bytes(header: nib.Nifti1Header, data: Array) -> bytes:
    """Bytes of a NIfTI file with this header as it is, except for number type, shape and offset."""
    header = header.copy()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    start = int(header["sizeof_hdr"]) + 4
    header["vox_offset"] = start
    stored = data.astype(data.dtype.newbyteorder(header.endianness))
    return bytes(header.binaryblock) + bytes(4) + stored.tobytes("F")


def write_scan(path: Path, header: nib.Nifti1Header, data: Array) -> None:
    """Write a NIfTI file, compressed if its name ends in ``.gz``."""
    content = nifti_bytes(header, data)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def plain_header(affine: Matrix, code: int = 1) -> nib.Nifti1Header:
    """A header with this affine in mm in both forms."""
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code)
    header.set_sform(affine, code)
    return header


def segment(scan: str = "scan.nii.gz", options: str = "") -> str:
    """Shell line that segments a scan."""
    return f"slant segment $OPTIONS {options} {scan} ../out"


def written(base: Base, folder: Path, data: Array, options: str = "") -> Made:
    """An input with other voxels."""
    write_scan(folder / "scan.nii.gz", base.header, data)
    return Made(segment(options=options), "scan.nii.gz")


def voxels(change: Callable[[Base], Array], options: str = "") -> Callable[[Base, Path], Made]:
    """Makes inputs with other voxels on the same grid."""
    return lambda base, folder: written(base, folder, change(base), options)
