"""Preprocess a scan to template space once, and keep the result on disk under the hash of its file."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slant._version import __version__
from slant.errors import OutputError
from slant.grid import Grid, Matrix
from slant.io.models import load_inputs
from slant.io.read import read_scan
from slant.io.templates import load_template
from slant.multiatlas.atlases import AtlasScan
from slant.pipeline import prepare
from slant.volume import LabelMap, Volume

_ARRAYS = ("made_by", "image", "brain", "native_shape", "ras_from_voxel", "native_from_template")


@dataclass(frozen=True, eq=False)
class TemplateScan:
    """A preprocessed scan in template space.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the file of the scan.
    image : Volume
        Image on the template grid, 0 outside the brain, about 1 on average inside.
    brain : LabelMap
        Brain mask in native space.
    native_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the scan's space.
    """

    sha256: str
    image: Volume
    brain: LabelMap
    native_from_template: Matrix


def template_scan(atlas_scan: AtlasScan, sha256: str, folder: Path) -> TemplateScan:
    """Read the preprocessed scan from the folder or, if it is not there, preprocess it and write it.

    Parameters
    ----------
    atlas_scan : AtlasScan
    sha256 : str
        SHA-256 of its T1w file.
    folder : Path
        Folder of preprocessed scans.

    Raises
    ------
    SlantError
        If the scan cannot be read or preprocessed.
    """
    path = folder / f"{sha256}.npz"
    stored = load_arrays(path, _ARRAYS)
    if stored is not None and str(stored["made_by"]) == __version__:
        return _from_arrays(sha256, stored)
    prepared = prepare(read_scan(atlas_scan.t1w).volume, load_inputs())
    arrays = {
        "made_by": np.array(__version__),
        "image": prepared.image.data.astype(np.float16),
        "brain": np.packbits(prepared.brain.data != 0),
        "native_shape": np.array(prepared.native_grid.shape),
        "ras_from_voxel": prepared.native_grid.ras_from_voxel,
        "native_from_template": prepared.native_from_template,
    }
    save_arrays(path, arrays)
    return _from_arrays(sha256, arrays)


def _from_arrays(sha256: str, arrays: Mapping[str, Any]) -> TemplateScan:
    x, y, z = (int(n) for n in arrays["native_shape"])
    native_grid = Grid((x, y, z), arrays["ras_from_voxel"])
    brain = np.unpackbits(arrays["brain"], count=x * y * z).reshape(x, y, z)
    image = Volume(arrays["image"].astype(np.float32), load_template().grid)
    return TemplateScan(sha256, image, LabelMap(brain, native_grid), arrays["native_from_template"])


def load_arrays(path: Path, names: Collection[str]) -> dict[str, Any] | None:
    """Read arrays of a file; None if it does not exist, is damaged or lacks one, so that it is written again."""
    try:
        # opened here, since numpy does not close a damaged file that it opened itself
        with path.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a file atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    partial = path.with_name(f".slant-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            np.savez_compressed(file, **arrays)
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; check free space and write permission, or give another "
            "directory with --work-dir; run the same command again to continue"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
