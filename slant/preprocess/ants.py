"""Wraps ANTs with deterministic settings, and converts images and affines to and from it.

ITK splits its sums among threads, so its results depend on the number of threads; here it always runs on one thread.
Registration jitters its sampling points at random, with a seed from the clock unless the environment sets one. World
coordinates of ITK are LPS+ mm, those of slant are RAS+ mm: x and y change sign.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from slant.grid import Matrix

_DETERMINISTIC = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "1"}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINE, _CENTER = "AffineTransform_double_3_3", "fixed"  # names in an ITK transform file


def load_ants() -> Any:
    """The `ants` module with a fixed seed, limited to one thread if this process has not used ITK before."""
    os.environ.update(_DETERMINISTIC)
    import ants

    return ants


def to_ants(volume: Volume | LabelMap) -> Any:
    """A float32 ANTs image of a volume or mask on an axis-aligned grid."""
    lps = _LPS_FROM_RAS @ volume.grid.ras_from_voxel
    size = volume.grid.voxel_size_mm
    return load_ants().from_numpy(
        np.ascontiguousarray(volume.data, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=list(size),
        direction=lps[:3, :3] / np.array(size),
    )


def affine_file(moving_from_fixed: Matrix) -> bytes:
    """The ITK transform file (``.mat``) of an affine from fixed to moving points (RAS mm): resamples moving to fixed.

    It is made here and not by ANTs, which does not notice a full disk. As ANTs does, it keeps float32 precision.
    """
    lps = (_LPS_FROM_RAS @ moving_from_fixed @ _LPS_FROM_RAS)[:3]
    parameters = np.concatenate([lps[:, :3].ravel(), lps[:, 3]]).astype(np.float32).astype(np.float64)
    file = io.BytesIO()
    contents = {_AFFINE: parameters, _CENTER: np.zeros(3)}
    savemat(file, contents, format="4", oned_as="column")  # type: ignore[arg-type]  # stubs lack buffers
    return file.getvalue()


def read_affine(path: Path) -> Matrix:
    """(4, 4) float64 matrix of an ITK affine, from points of the fixed image to points of the moving image, RAS mm.

    ITK is not asked to read it, because it prints many lines about an incomplete file.

    Raises
    ------
    OSError
        If the file is missing or incomplete.
    """
    try:
        contents = loadmat(path)
        parameters = next(values.ravel() for name, values in contents.items() if "Transform" in name)
        center = contents[_CENTER].ravel().astype(np.float64)
    except (MatReadError, ValueError, TypeError, KeyError, StopIteration) as error:
        raise OSError(errno.ENOSPC, f"ANTs left {path.name} incomplete") from error
    parameters = parameters.astype(np.float32).astype(np.float64)
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:] + center - lps[:3, :3] @ center
    return np.asarray(_LPS_FROM_RAS @ lps @ _LPS_FROM_RAS, dtype=np.float64)
