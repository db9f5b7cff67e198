"""The one door to ANTs: images, affines, and settings under which it repeats itself.

ITK splits its sums among threads, so its results depend on their number; here it always runs on one. Registration moves
the places that it samples a little at random, from the clock unless the environment gives a seed. World coordinates of
ITK are LPS+ mm, ours are RAS+ mm: x and y change sign.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from slant.grid import Matrix
    from slant.volume import LabelMap, Volume

_REPEATABLE = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "1"}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_ants() -> Any:
    """The `ants` module with a fixed seed, held to one thread if ITK has not been used in this process before."""
    os.environ.update(_REPEATABLE)
    import ants

    return ants


def to_ants(volume: Volume | LabelMap) -> Any:
    """An ANTs image of a volume or mask whose grid is axis-aligned, as float32."""
    lps = _LPS_FROM_RAS @ volume.grid.ras_from_voxel
    size = volume.grid.voxel_size_mm
    return load_ants().from_numpy(
        np.ascontiguousarray(volume.data, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=list(size),
        direction=lps[:3, :3] / np.array(size),
    )


def matrix_of_transform(transform: Any) -> Matrix:
    """(4, 4) float64 RAS mm matrix of an ITK affine: from fixed to moving points."""
    parameters = np.asarray(transform.parameters, dtype=np.float64)
    center = np.asarray(transform.fixed_parameters, dtype=np.float64)
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:] + center - lps[:3, :3] @ center
    return np.asarray(_LPS_FROM_RAS @ lps @ _LPS_FROM_RAS, dtype=np.float64)


def write_affine(path: Path, moving_from_fixed: Matrix) -> None:
    """Write a RAS mm matrix from fixed to moving points as the ITK affine that resamples moving onto fixed."""
    lps = _LPS_FROM_RAS @ moving_from_fixed @ _LPS_FROM_RAS
    ants = load_ants()
    transform = ants.create_ants_transform(transform_type="AffineTransform", precision="double", dimension=3)
    transform.set_parameters(np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]]))
    ants.write_transform(transform, str(path))
