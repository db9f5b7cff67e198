"""Register one target and one atlas once, and keep the result on disk."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slant._version import __version__
from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, sample_linear
from slant.multiatlas.scans import TemplateScan, load_arrays, save_arrays
from slant.resample import IDENTITY
from slant.syn import coarsened, local_correlation, register_syn
from slant.volume import Volume


@dataclass(frozen=True, eq=False)
class PairRegistration:
    """Registration of a target and an atlas.

    Attributes
    ----------
    field : DisplacementField
        Displacement field in template space, from the target to the atlas.
    similarity : float
        Mean local correlation in the target's brain after SyN, 0 to 1.
    runtime_s : float
        Processor time of the registration.
    """

    field: DisplacementField
    similarity: float
    runtime_s: float


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A scan in template space at the resolution of the registration.

    Attributes
    ----------
    sha256 : str
        SHA-256 of its file.
    image : Volume
        Smoothed and downsampled image, 0 outside the brain.
    """

    sha256: str
    image: Volume


def coarse_scan(scan: TemplateScan, resolution_mm: float) -> CoarseScan:
    """The scan smoothed and downsampled to a voxel size."""
    return CoarseScan(scan.sha256, coarsened(scan.image, resolution_mm))


def affine_similarity(target: CoarseScan, atlas: CoarseScan, settings: SynSettings) -> float:
    """Mean local correlation in the target's brain before SyN, 0 to 1."""
    return _similarity(target.image, atlas.image.data, settings)


def registered(
    target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path, *, both: bool = False
) -> PairRegistration:
    """Read the registration from the folder or, if it is not there, register the pair and write it.

    Parameters
    ----------
    target, atlas : CoarseScan
    settings : SynSettings
    folder : Path
        Folder of registrations.
    both : bool, optional
        Whether to keep the other direction, too, for an atlas that is also a target.

    Raises
    ------
    OutputError
        If the registration cannot be written.
    """
    stored = load_arrays(_path(target, atlas, settings, folder), ("displacement_mm", "similarity", "runtime_s"))
    if stored is None:
        start = time.process_time()
        forward, inverse = register_syn(target.image, atlas.image, settings)
        runtime_s = np.array(time.process_time() - start)
        if both:
            reverse = _arrays(atlas.image, target.image, inverse, settings) | {"runtime_s": runtime_s}
            save_arrays(_path(atlas, target, settings, folder), reverse)
        stored = _arrays(target.image, atlas.image, forward, settings) | {"runtime_s": runtime_s}
        save_arrays(_path(target, atlas, settings, folder), stored)
    field = DisplacementField(stored["displacement_mm"].astype(np.float32), target.image.grid)
    return PairRegistration(field, float(stored["similarity"]), float(stored["runtime_s"]))


def _path(target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path) -> Path:
    return folder / settings_hash(settings) / target.sha256[:20] / f"{atlas.sha256[:20]}.npz"


def _arrays(fixed: Volume, moving: Volume, field: DisplacementField, settings: SynSettings) -> dict[str, NDArray[Any]]:
    """Arrays to keep: the displacement field in half precision (exact to 0.01 mm), and its similarity in the brain."""
    stored = field.displacement_mm.astype(np.float16)
    rounded = DisplacementField(stored.astype(np.float32), field.grid)
    coordinates = CompositeTransform(IDENTITY, rounded, IDENTITY).voxels(fixed.grid, moving.grid)
    similarity = _similarity(fixed, sample_linear(moving.data, coordinates), settings)
    return {"displacement_mm": stored, "similarity": np.array(similarity)}


def _similarity(target: Volume, other: NDArray[np.float32], settings: SynSettings) -> float:
    inside = target.data > 0
    return float(np.sqrt(local_correlation(target.data, other, settings.radius))[inside].mean())


@cache
def settings_hash(settings: SynSettings) -> str:
    """Hash of twelve characters of the settings and the version of the package."""
    text = json.dumps({**asdict(settings), "version": __version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
