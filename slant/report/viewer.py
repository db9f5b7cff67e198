"""What the interactive 3D view of a page is made of: two small volumes, colours, and NiiVue."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from slant.grid import Grid, axis_aligned_grid
from slant.io.finished import Finished
from slant.io.write import small_nifti
from slant.report.checks import base_at_home
from slant.report.overlay import labelled_box
from slant.report.paint import gray_range
from slant.resample import pick_labels, resample
from slant.volume import LabelMap

NIIVUE = Path(__file__).parent / "vendor" / "niivue-0.69.0.umd.js.gz"
"""NiiVue's bundle from the npm package @niivue/niivue, dist/niivue.umd.js, compressed; see NOTICE."""

_VOXEL_MM = 1.0
_MOST_VOXELS = 5_000_000  # about 3 MB in the page
_GRAY_STEP = 2  # of 256 grey levels: half of them compress a fifth better and look alike


@dataclass(frozen=True)
class Viewer:
    """Parts of the 3D view, each in base64.

    Attributes
    ----------
    image, labels : str
        ``.nii.gz``: the brain in grey levels, and channels of the protocol, on one grid in the scan's space.
    niivue : str
        JavaScript, compressed by gzip.
    """

    image: str
    labels: str
    niivue: str


def viewer(finished: Finished) -> Viewer:
    """The brain and its labels in voxels of 1 mm, or larger ones where there would be too many."""
    grid = _grid(finished.labels)
    base = base_at_home(finished)
    black, white = gray_range(base, finished.labels)
    inside = pick_labels(LabelMap((finished.brain.data != 0) | (finished.labels.data != 0), base.grid), grid).data
    share = np.clip((resample(base, grid).data - black) / max(white - black, 1e-30), 0, 1)
    levels = np.where(inside != 0, _GRAY_STEP * np.rint(255 / _GRAY_STEP * share), 0)
    image = LabelMap(np.minimum(levels, 255).astype(np.uint8), grid)
    found = pick_labels(finished.labels, grid)
    channels = LabelMap(finished.protocol.channels_from_ids(found.data), grid)
    return Viewer(_base64(small_nifti(image)), _base64(small_nifti(channels)), niivue())


@cache
def niivue() -> str:
    """NiiVue's bundle, compressed, in base64."""
    return _base64(NIIVUE.read_bytes())


def _grid(labels: LabelMap) -> Grid:
    low, high = labelled_box(labels)
    edge = max(_VOXEL_MM, float((np.prod(high - low) / _MOST_VOXELS) ** (1 / 3)))
    x, y, z = (int(n) for n in np.ceil((high - low) / edge))
    return axis_aligned_grid((x, y, z), edge, low + edge / 2)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
