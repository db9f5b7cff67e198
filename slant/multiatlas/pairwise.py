"""Register one target and one atlas once, and keep the result on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, sample_linear
from slant.io.prepared import PreparedScan, digest, kept
from slant.resample import IDENTITY
from slant.syn import coarsened, local_correlation, parameters, register_syn
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


def coarse_scan(scan: PreparedScan, resolution_mm: float) -> CoarseScan:
    """The scan smoothed and downsampled to a voxel size."""
    return CoarseScan(scan.sha256, coarsened(scan.image, resolution_mm))


def affine_similarity(target: CoarseScan, atlas: CoarseScan) -> float:
    """Mean local correlation in the target's brain before SyN, 0 to 1."""
    return _similarity(target.image, atlas.image.data)


def registered(
    target: CoarseScan, atlas: CoarseScan, settings: SynSettings, folder: Path, *, both: bool = False
) -> PairRegistration:
    """Read the registration from the folder or, if it is not there, register the pair and write it.

    Parameters
    ----------
    folder : Path
        Folder of registrations.
    both : bool, optional
        Whether to keep the other direction, too, for an atlas that is also a target.

    Raises
    ------
    OutputError
        If the registration cannot be written.
    """
    of_settings = digest(parameters(settings))

    def stored(fixed: CoarseScan, moving: CoarseScan, compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, Any]:
        path = folder / of_settings[:12] / fixed.sha256[:20] / f"{moving.sha256[:20]}.npz"
        return kept(path, digest(fixed.sha256, moving.sha256, of_settings), compute)

    def compute() -> dict[str, NDArray[Any]]:
        start = time.process_time()
        forward, inverse = register_syn(target.image, atlas.image, settings)
        runtime_s = {"runtime_s": np.array(time.process_time() - start)}
        if both:
            stored(atlas, target, lambda: _arrays(atlas.image, target.image, inverse) | runtime_s)
        return _arrays(target.image, atlas.image, forward) | runtime_s

    arrays = stored(target, atlas, compute)
    field = DisplacementField(arrays["displacement_mm"].astype(np.float32), target.image.grid)
    return PairRegistration(field, float(arrays["similarity"]), float(arrays["runtime_s"]))


def _arrays(fixed: Volume, moving: Volume, field: DisplacementField) -> dict[str, NDArray[Any]]:
    """Arrays to keep: the displacement field in half precision (exact to 0.01 mm), and its similarity in the brain."""
    stored = field.displacement_mm.astype(np.float16)
    rounded = DisplacementField(stored.astype(np.float32), field.grid)
    coordinates = CompositeTransform(IDENTITY, rounded, IDENTITY).voxels(fixed.grid, moving.grid)
    similarity = _similarity(fixed, sample_linear(moving.data, coordinates))
    return {"displacement_mm": stored, "similarity": np.array(similarity)}


def _similarity(target: Volume, other: NDArray[np.float32]) -> float:
    inside = target.data > 0
    return float(np.sqrt(local_correlation(target.data, other))[inside].mean())
