"""Data of the interactive 3D view of a report: two small volumes and the NiiVue library."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from slant.grid import Grid, axis_aligned_grid
from slant.io.results import Result
from slant.io.write import small_nifti
from slant.report.encode import base64_text
from slant.report.overlay import labelled_box
from slant.report.paint import gray_range
from slant.report.qc_figures import base_in_native
from slant.resample import pick_labels, resample
from slant.volume import LabelMap

NIIVUE = Path(__file__).parent / "vendor" / "niivue-0.69.0.umd.js.gz"
"""NiiVue's bundle from the npm package @niivue/niivue, dist/niivue.umd.js, compressed; see NOTICE."""

_VOXEL_MM = 1.0
_MAX_VOXELS = 5_000_000  # about 3 MB in the report
_GRAY_STEP = 2  # every second of 256 grey levels: compresses a fifth better without a visible difference


@dataclass(frozen=True)
class Viewer:
    """Parts of the 3D view, each encoded in base64.

    Attributes
    ----------
    image, labels : str
        ``.nii.gz`` files of the brain in grey levels and of channels of the protocol, on one grid in native space.
    niivue : str
        JavaScript, compressed with gzip.
    """

    image: str
    labels: str
    niivue: str


def viewer(result: Result) -> Viewer:
    """The brain and its labels with voxels of 1 mm, or larger ones if there would be more than five million."""
    grid = _grid(result.labels)
    base = base_in_native(result)
    black, white = gray_range(base, result.labels)
    inside = pick_labels(LabelMap((result.brain.data != 0) | (result.labels.data != 0), base.grid), grid).data
    fraction = np.clip((resample(base, grid).data - black) / max(white - black, 1e-30), 0, 1)
    levels = np.where(inside != 0, _GRAY_STEP * np.rint(255 / _GRAY_STEP * fraction), 0)
    image = LabelMap(np.minimum(levels, 255).astype(np.uint8), grid)
    labels = pick_labels(result.labels, grid)
    channels = LabelMap(result.protocol.channels_from_ids(labels.data), grid)
    return Viewer(base64_text(small_nifti(image)), base64_text(small_nifti(channels)), niivue())


@cache
def niivue() -> str:
    """The NiiVue bundle, compressed with gzip and encoded in base64."""
    return base64_text(NIIVUE.read_bytes())


def _grid(labels: LabelMap) -> Grid:
    low, high = labelled_box(labels)
    edge = max(_VOXEL_MM, float((np.prod(high - low) / _MAX_VOXELS) ** (1 / 3)))
    x, y, z = (int(n) for n in np.ceil((high - low) / edge))
    return axis_aligned_grid((x, y, z), edge, low + edge / 2)
