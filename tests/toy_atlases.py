"""Small heads with known labels for multi-atlas segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from toy import (
    QFORM_CODE,
    SFORM_CODE,
    SHAPE,
    native_from_template,
    patches_1mm,
    save,
    toy_grid,
    toy_head,
    write_toy_scan,
)

from slant.displacement import sample_linear, sample_nearest
from slant.io.resources import load_protocol
from slant.io.templates import load_template
from slant.resample import pick_labels
from slant.volume import LabelMap

NAMES = ("p1", "p2", "p3", "p4")
OPTIONS = ("--resolution-mm", 5, "--n-atlases", 2, "--fusion", "local")


def write_subject(folder: Path, name: str, seed: int) -> None:
    """The toy head with its patches as labels, both deformed by up to about 10 mm."""
    noise = np.random.default_rng(seed).normal(size=(3, *SHAPE))
    displacement = np.stack([ndimage.gaussian_filter(component, 8) for component in noise])
    coordinates = (np.indices(SHAPE) + 4 * displacement / np.abs(displacement).max()).astype(np.float32)
    channels = LabelMap(patches_1mm().astype(np.uint8), load_template().grid)
    labels = pick_labels(channels, toy_grid(), np.linalg.inv(native_from_template())).data
    image = np.rint(sample_linear(toy_head().astype(np.float32), coordinates)).astype(np.int16)
    write_toy_scan(folder / f"{name}_T1w.nii.gz", image)
    sampled = np.where(image > 0, sample_nearest(labels, coordinates), 0).astype(np.uint8)
    write_labels(folder / f"{name}_dseg.nii.gz", load_protocol().ids_from_channels(sampled))


def write_labels(path: Path, ids: np.ndarray) -> None:
    """Save label ids on the grid of the toy head."""
    save(path, ids.astype(np.int16), toy_grid().ras_from_voxel, (SFORM_CODE, QFORM_CODE))
