"""Keeps arrays computed from scans in files, so that each is computed once and shared by all commands."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from slant import pipeline
from slant._version import __version__
from slant.errors import InputError
from slant.files import CHECK_DISK, file_sha256, output_errors, replacing
from slant.grid import Grid, Matrix
from slant.io.models import load_inputs
from slant.io.read import read_scan
from slant.nets.inputs import Inputs
from slant.volume import LabelMap, Volume

FORMAT = 6
"""Format of the kept files: change it with the arrays that they hold, so that older files are made again."""

_ADVICE = f"{CHECK_DISK}, or give another directory with --work-dir; run the same command again to continue"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan in template space, as `slant.pipeline.prepare` makes it for networks with an affine prior.

    Attributes
    ----------
    sha256 : str
        Of the file of the scan.
    image : Volume
        Image on the template grid, 0 outside the brain, about 1 on average inside; rounded to half precision.
    brain : LabelMap
        Brain mask (0 and 1) in native space.
    native_from_template : (4, 4) float64 array
        Affine from RAS mm in template space to RAS mm in native space.
    """

    sha256: str
    image: Volume
    brain: LabelMap
    native_from_template: Matrix


def prepared_scan(path: Path, folder: Path, sha256: str | None = None) -> PreparedScan:
    """Read a prepared scan from the folder or, if it is not there, prepare the scan and write it.

    Parameters
    ----------
    folder : Path
        Folder of prepared scans, each in the file ``SHA256.npz``, which is named by the SHA-256 of the scan's file.
    sha256 : str, optional
        SHA-256 of the scan's file, if it is known.

    Raises
    ------
    InputError, RegistrationError
        If the scan cannot be read or prepared.
    OutputError
        If the file cannot be written.
    """
    inputs, sha256 = load_inputs(), sha256 or input_sha256(path)
    identity = digest("prepared scan", sha256, inputs.template.name, inputs.scaling.as_dict())
    stored = kept(folder / f"{sha256}.npz", identity, lambda: _prepare(path, inputs))
    x, y, z = (int(n) for n in stored["native_shape"])
    brain = np.unpackbits(stored["brain"], count=x * y * z).reshape(x, y, z)
    image = Volume(stored["image"].astype(np.float32), inputs.template.grid)
    native_grid = Grid((x, y, z), stored["ras_from_voxel"])
    return PreparedScan(sha256, image, LabelMap(brain, native_grid), stored["native_from_template"])


def _prepare(path: Path, inputs: Inputs) -> dict[str, Any]:
    prepared = pipeline.prepare(read_scan(path).volume, inputs)
    return {
        "image": prepared.image.data.astype(np.float16),
        "brain": np.packbits(prepared.brain.data != 0),
        "native_shape": np.array(prepared.native_grid.shape),
        "ras_from_voxel": prepared.native_grid.ras_from_voxel,
        "native_from_template": prepared.native_from_template,
    }


def input_sha256(path: Path) -> str:
    """SHA-256 of an input file; InputError if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def digest(*inputs: object) -> str:
    """SHA-256 of plain values that identify what is kept, of the format and of the version of the package."""
    return hashlib.sha256(json.dumps([FORMAT, __version__, *inputs], sort_keys=True).encode()).hexdigest()


def kept(path: Path, identity: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Read the arrays of a file or, if they were computed from something else, compute and write them.

    Parameters
    ----------
    path : Path
        An ``.npz`` file; its folder is made if it does not exist.
    identity : str
        The `digest` of everything that the arrays depend on, stored with them as ``identity``. A file with another
        identity is made again, and so is a damaged one.
    compute : callable
        Returns the arrays by name.

    Raises
    ------
    OutputError
        If the file cannot be written; an existing file is then unchanged.
    """
    stored = load_arrays(path)
    if stored is not None and str(stored.get("identity")) == identity:
        return stored
    arrays = {**compute(), "identity": np.array(identity)}
    with output_errors(path, _ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("xb") as file:
            np.savez_compressed(file, **arrays)
    return arrays


def load_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, Any] | None:
    """Read arrays of an ``.npz`` file, by default all; None if it does not exist, is damaged or lacks one of them."""
    try:
        with zipfile.ZipFile(path) as file:  # which checks every array, unlike numpy, before its header is parsed
            members = file.namelist() if names is None else [f"{name}.npy" for name in names]
            return {member.removesuffix(".npy"): np.load(BytesIO(file.read(member))) for member in members}
    except _DAMAGED:
        return None
