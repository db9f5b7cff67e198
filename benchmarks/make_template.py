"""Make ``atlases/mni305/template.npz``: the MNI152 T1 that nilearn ships, in MNI305 at 2 mm.

    python benchmarks/make_template.py

Prints the intracranial volume for ``template.toml``. The matrix from MNI305 to MNI152 is published by FreeSurfer
(surfer.nmr.mgh.harvard.edu/fswiki/CoordinateSystems, 8b).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from nilearn import datasets
from scipy import ndimage

from slant.grid import Grid
from slant.io.templates import mni305_grids
from slant.resample import resample
from slant.volume import Volume

MNI152_FROM_MNI305 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0, 0, 0, 1],
    ]
)
SMOOTHING_MM = 0.8  # before sampling at 2 mm


def main() -> None:
    """Write the template and print its intracranial volume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    image = datasets.load_mni152_template(resolution=1)
    mask = datasets.load_mni152_brain_mask(resolution=1)
    grid = Grid(image.shape, image.affine)
    _, coarse = mni305_grids()
    smooth = ndimage.gaussian_filter(image.get_fdata().astype(np.float32), SMOOTHING_MM)
    brain = Volume(mask.get_fdata().astype(np.float32), Grid(mask.shape, mask.affine))
    intensity = resample(Volume(smooth, grid), coarse, source_from_target=MNI152_FROM_MNI305).data
    inside = resample(brain, coarse, source_from_target=MNI152_FROM_MNI305).data > 0.5
    steps = np.where(inside, np.clip(np.round(intensity / intensity.max() * 255), 1, 255), 0).astype(np.uint8)
    folder = Path(__file__).resolve().parents[1] / "atlases" / "mni305"
    np.savez_compressed(folder / "template.npz", image=steps)
    volume = float(mask.get_fdata().sum()) * brain.grid.voxel_volume_mm3
    print(f"intracranial_mm3 = {volume / np.linalg.det(MNI152_FROM_MNI305[:3, :3]):.0f}")


if __name__ == "__main__":
    main()
