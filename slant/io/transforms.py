"""The affine of a scan as the file that ANTs applies."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from slant.preprocess.ants import write_affine

if TYPE_CHECKING:
    from slant.grid import Matrix


def ants_affine(native_from_template: Matrix) -> bytes:
    """Contents of the ``.mat`` file with which ``antsApplyTransforms -t`` resamples the scan to MNI305.

    ANTs writes it to a temporary folder, because ITK neither takes all names nor notices a full disk.

    Parameters
    ----------
    native_from_template : (4, 4) float64 array
        Affine in RAS mm; the file stores it in LPS mm, as ITK does.
    """
    with tempfile.TemporaryDirectory(prefix="slant-") as folder:
        path = Path(folder) / "affine.mat"
        write_affine(path, native_from_template)
        return path.read_bytes()
