"""A scan is brought into template space once and kept on disk under the hash of its file."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import slant
from slant.errors import OutputError
from slant.grid import Grid, Matrix
from slant.io.models import load_inputs
from slant.io.read import read_scan
from slant.io.templates import load_template
from slant.multiatlas.library import Member
from slant.pipeline import prepare
from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class TemplateScan:
    """A scan in template space.

    Attributes
    ----------
    sha256 : str
        Of the file.
    image : Volume
        Template grid, 0 outside the brain, about 1 on average inside.
    brain : LabelMap
        Brain mask on the scan's own grid.
    home_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the scan's space.
    """

    sha256: str
    image: Volume
    brain: LabelMap
    home_from_template: Matrix


def template_scan(member: Member, sha256: str, folder: Path) -> TemplateScan:
    """The scan in template space, from the folder if it is there, else prepared and put there.

    Parameters
    ----------
    member : Member
    sha256 : str
        Of its T1w file.
    folder : Path
        Of prepared scans.

    Raises
    ------
    SlantError
        Whatever reading or preparing the scan finds wrong.
    """
    path = folder / f"{sha256}.npz"
    stored = load_arrays(path)
    if stored is not None and str(stored["made_by"]) == slant.__version__:
        return _from_arrays(sha256, stored)
    made = prepare(read_scan(member.t1w).volume, load_inputs())
    arrays = {
        "made_by": np.array(slant.__version__),
        "image": made.image.data.astype(np.float16),
        "brain": np.packbits(made.brain.data != 0),
        "home_shape": np.array(made.home.shape),
        "ras_from_voxel": made.home.ras_from_voxel,
        "home_from_template": made.home_from_template,
    }
    save_arrays(path, arrays)
    return _from_arrays(sha256, arrays)


def _from_arrays(sha256: str, arrays: Mapping[str, Any]) -> TemplateScan:
    x, y, z = (int(n) for n in arrays["home_shape"])
    home = Grid((x, y, z), arrays["ras_from_voxel"])
    brain = np.unpackbits(arrays["brain"], count=x * y * z).reshape(x, y, z)
    image = Volume(arrays["image"].astype(np.float32), load_template().grid)
    return TemplateScan(sha256, image, LabelMap(brain, home), arrays["home_from_template"])


def load_arrays(path: Path) -> dict[str, Any] | None:
    """The arrays of a file; None if it is not there or damaged, so that it is made again."""
    try:
        with path.open("rb") as file, np.load(file) as stored:  # numpy leaves a damaged file open that it opened itself
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a file that appears whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    partial = path.with_name(f".slant-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            np.savez_compressed(file, **arrays)
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or give another folder with --work; "
            "the same command goes on from what is there"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
