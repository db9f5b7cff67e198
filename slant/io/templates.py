"""Load the template and the intensity reference that ship with the package."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from slant.config import read_toml
from slant.grid import Grid, axis_aligned_grid
from slant.io.resources import resource
from slant.preprocess.intensity import IntensityReference
from slant.template import Template
from slant.volume import LabelMap, Volume

REFERENCE = ("atlases", "braincolor", "intensity_reference.tsv")


def _settings() -> dict[str, Any]:
    return read_toml(resource("atlases", "mni305", "template.toml"))


def mni305_grids() -> tuple[Grid, Grid]:
    """The 1 mm working grid of MNI305, and the 2 mm grid of the template image over the same volume."""
    grid = _settings()["grid"]
    shape, first, voxel_mm = grid["shape"], np.array(grid["first_voxel_ras_mm"]), grid["voxel_mm"]
    fine = axis_aligned_grid(tuple(shape), voxel_mm, first)
    coarse = axis_aligned_grid(tuple(n // 2 for n in shape), 2 * voxel_mm, first + voxel_mm / 2)
    return fine, coarse


@cache
def load_template() -> Template:
    """MNI305 with the MNI152 T1 resampled to it; ``atlases/mni305/template.toml`` has its sources and licence."""
    settings = _settings()
    fine, coarse = mni305_grids()
    with np.load(resource("atlases", "mni305", "template.npz")) as stored:
        levels = stored["image"]
    image, brain = Volume(levels.astype(np.float32), coarse), LabelMap(levels > 0, coarse)
    return Template(settings["name"], image, brain, fine, float(settings["intracranial_mm3"]))


@cache
def load_intensity_reference() -> IntensityReference:
    """Mean quantiles of the intensities of the 15 MICCAI 2012 training scans, as z-scores."""
    import pandas as pd

    table = pd.read_csv(resource(*REFERENCE), sep="\t", comment="#")
    return IntensityReference(table["quantile"].to_numpy(np.float64), table["z"].to_numpy(np.float64))
