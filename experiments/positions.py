"""Compare the labels from one position of a scan in template space with the average of those from several positions.

    python experiments/positions.py DATA --subjects 1000 1008 1013 --model whole

DATA contains NAME_T1w.nii.gz and NAME_dseg.nii.gz of subjects that the model has not seen. Each scan is prepared and
labelled once as `slant segment` does it, and again after the affine to the template was rotated and shifted a
little: the scan is resampled at other points, and its prior comes from a registration of its own. The vote fractions
of all positions are interpolated to the grid of the scan and averaged. Prints the Dice of each position, and of the
mean of the positions up to it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from slant.config import SegmentSettings
from slant.grid import Matrix, transform_points
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.device import choose_device, inference_dtype
from slant.nets.model import Model
from slant.pipeline import labels_of, prepare
from slant.preprocess import register
from slant.segmentation import Prepared
from slant.sparse_votes import SparseVotes
from slant.volume import LabelMap, Volume
from slant.volumes import dice_per_region
from slant.within_subject.evidence import Evidence, Sampled, weighted_sum


def move(degrees: float, shift_mm: float) -> Matrix:
    """Rotation about the left-right axis and shift along all axes, (4, 4) float64."""
    matrix: Matrix = np.eye(4)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    matrix[:3, 3] = shift_mm
    return matrix


POSITIONS = {
    "as registered": move(0, 0),
    "rotated by 3 degrees, shifted by 0.5 mm": move(3, 0.5),
}


def prepared_at(scan: Volume, model: Model, moved: Matrix, settings: SegmentSettings) -> Prepared:
    """The scan prepared with the affine after a movement in template space."""
    original = register.register_to_template

    def registered(*arguments: Any, **options: Any) -> register.Registration:
        found = original(*arguments, **options)
        return replace(found, native_from_template=found.native_from_template @ moved)

    with patch.object(register, "register_to_template", registered):
        return prepare(scan, model.inputs, settings)


def votes_of(prepared: Prepared, model: Model, settings: SegmentSettings) -> SparseVotes:
    """The votes of the tiles in template space."""
    device, image = choose_device(settings.device), prepared.image.data
    cascade = model.cascade(image, prepared.deformation, inference_dtype(settings.precision, device))
    return cascade.vote(image, device, settings.thread_count)


def sampled(votes: SparseVotes, prepared: Prepared) -> Sampled:
    """Vote fractions at all voxels of the scan."""
    template_from_native = np.linalg.inv(prepared.native_from_template)
    grid = prepared.native_grid
    matrix = prepared.image.grid.voxel_from_ras @ template_from_native @ grid.ras_from_voxel
    voxels = np.indices(grid.shape).reshape(3, -1).T
    return Evidence.of(votes).sampled(transform_points(matrix, voxels).T.astype(np.float32))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--model", default="whole")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    settings, model = SegmentSettings(model=options.model, threads=options.threads), load_model(options.model)
    print("| scan | position | Dice | mean of the positions so far |\n|---|---|--:|--:|")
    for subject in options.subjects:
        scan = read_scan(options.data / f"{subject}_T1w.nii.gz")
        reference = read_labels(options.data / f"{subject}_dseg.nii.gz", scan)
        known = np.where(np.isin(reference.data, model.protocol.ids), reference.data, 0)
        parts: list[Sampled] = []
        for name, moved in POSITIONS.items():
            prepared = prepared_at(scan.volume, model, moved, settings)
            parts.append(sampled(votes_of(prepared, model, settings), prepared))
            scores = []
            for used in (parts[-1:], parts):
                channels = weighted_sum([(part, 1 / len(used)) for part in used], 1)[0][:, 0]
                scores.append(dice_of(channels.reshape(known.shape), LabelMap(known, reference.grid), model))
            print(f"| {subject} | {name} | {scores[0]:.4f} | {scores[1]:.4f} |", flush=True)


def dice_of(channels: NDArray[np.uint8], known: LabelMap, model: Model) -> float:
    """Mean Dice over the regions in native space."""
    found = labels_of(channels, known.grid, model)
    dice = dice_per_region(found, known, [region.id for region in model.protocol.regions[1:]])
    return float(np.nanmean(list(dice.values())))


if __name__ == "__main__":
    main()
