"""The registration of one target with one atlas, made once and kept on disk."""

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

import slant
from slant.config import SynSettings
from slant.multiatlas.scans import TemplateScan, load_arrays, save_arrays
from slant.resample import IDENTITY
from slant.syn import coarsened, local_correlation, register_syn
from slant.volume import Volume
from slant.warp import Chain, Warp, interpolate_at


@dataclass(frozen=True, eq=False)
class Pair:
    """A registered target and atlas.

    Attributes
    ----------
    warp : Warp
        In template space, from the target to the atlas.
    similarity : float
        Mean local correlation in the target's brain after the warp, 0 to 1.
    seconds : float
        Of processor time that the registration took.
    """

    warp: Warp
    similarity: float
    seconds: float


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A scan in template space at the resolution of the registration.

    Attributes
    ----------
    sha256 : str
        Of its file.
    image : Volume
        Smoothed and sampled, 0 outside the brain.
    """

    sha256: str
    image: Volume


def coarse_scan(scan: TemplateScan, resolution_mm: float) -> CoarseScan:
    """The scan smoothed and sampled at a resolution."""
    return CoarseScan(scan.sha256, coarsened(scan.image, resolution_mm))


def affine_similarity(target: CoarseScan, atlas: CoarseScan, settings: SynSettings) -> float:
    """Mean local correlation in the target's brain before any warp."""
    return _similarity(target.image, atlas.image.data, settings)


def registered(
    target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path, *, both: bool = False
) -> Pair:
    """The pair from the folder if it was registered with these settings, else registered and put there.

    Parameters
    ----------
    target, atlas : CoarseScan
    settings : SynSettings
    folder : Path
    both : bool, optional
        Also keep the other direction, for an atlas that will be a target too.

    Raises
    ------
    OutputError
        If it cannot be put there.
    """
    stored = load_arrays(_path(target, atlas, settings, folder))
    if stored is None:
        start = time.process_time()
        there, back = register_syn(target.image, atlas.image, settings)
        seconds = np.array(time.process_time() - start)
        if both:
            mirrored = _arrays(atlas.image, target.image, back, settings) | {"seconds": seconds}
            save_arrays(_path(atlas, target, settings, folder), mirrored)
        stored = _arrays(target.image, atlas.image, there, settings) | {"seconds": seconds}
        save_arrays(_path(target, atlas, settings, folder), stored)
    warp = Warp(stored["displacement_mm"].astype(np.float32), target.image.grid)
    return Pair(warp, float(stored["similarity"]), float(stored["seconds"]))


def _path(target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path) -> Path:
    return folder / settings_hash(settings) / target.sha256[:20] / f"{atlas.sha256[:20]}.npz"


def _arrays(fixed: Volume, moving: Volume, warp: Warp, settings: SynSettings) -> dict[str, NDArray[Any]]:
    """What is kept of a warp: half precision, good to 0.01 mm, and the similarity it reaches in the fixed brain."""
    kept = warp.displacement_mm.astype(np.float16)
    places = Chain(IDENTITY, Warp(kept.astype(np.float32), warp.grid), IDENTITY).voxels(fixed.grid, moving.grid)
    found = _similarity(fixed, interpolate_at(moving.data, places), settings)
    return {"displacement_mm": kept, "similarity": np.array(found)}


def _similarity(target: Volume, other: NDArray[np.float32], settings: SynSettings) -> float:
    inside = target.data > 0
    return float(np.sqrt(local_correlation(target.data, other, settings.radius))[inside].mean())


@cache
def settings_hash(settings: SynSettings) -> str:
    """Twelve letters that change with the settings and with the version of the package."""
    text = json.dumps({**asdict(settings), "version": slant.__version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
