"""Do auxiliary labels by trained networks help? A second round of labels, where tiles agree better than atlases did.

    python experiments/relabel.py AUX OUT --model work/fold0/model-slant27

AUX is a folder that `slant multiatlas` wrote, MODEL one whose tiles vote, trained with the same held-out subjects. OUT
gets every scan of AUX with the labels of the model if their mean vote fraction is above the mean vote agreement of the
atlases, otherwise with the labels of the atlases, and the record of AUX, so that `slant train` still knows which
subjects the labels come from. Prints for each scan the vote fraction, the agreement and the Dice between both. Train
with OUT (for example ablation.py --relabelled OUT) to see the effect. Run the same command again to continue.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from slant.config import SegmentSettings
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.io.write import write_image
from slant.pipeline import segment
from slant.train.data import labelled_names
from slant.volumes import dice_per_region

COLUMNS = ["scan", "vote fraction of the tiles", "vote agreement of the atlases", "Dice between both"]

Row = tuple[str, float, float, float]
"""A value for each of `COLUMNS`."""


def relabel(options: argparse.Namespace, name: str) -> Row:
    """Write one scan; its row of the table."""
    record = options.auxiliary / f"{name}_multiatlas.json"
    done = options.out / f"{name}_relabel.json"
    if not done.is_file():
        model = load_model(options.model)
        scan = read_scan(options.auxiliary / f"{name}_T1w.nii.gz")
        atlas_labels = read_labels(options.auxiliary / f"{name}_dseg.nii.gz", scan)
        found = segment(scan.volume, model, SegmentSettings(threads=1))
        vote_fraction = float(found.confidence.data[found.labels.data > 0].mean())
        agreement = float(json.loads(record.read_text("utf-8"))["quality"]["agreement"])
        better = found.labels if vote_fraction > agreement else atlas_labels
        dice = dice_per_region(found.labels, atlas_labels, [region.id for region in model.protocol.regions[1:]])
        write_image(options.out / f"{name}_dseg.nii.gz", better, scan)
        shutil.copyfile(options.auxiliary / f"{name}_T1w.nii.gz", options.out / f"{name}_T1w.nii.gz")
        shutil.copyfile(record, options.out / record.name)
        done.write_text(json.dumps([vote_fraction, agreement, float(np.nanmean(list(dice.values())))]), "utf-8")
    vote_fraction, agreement, mean_dice = json.loads(done.read_text("utf-8"))
    return name, vote_fraction, agreement, mean_dice


def main() -> None:
    """Relabel all scans of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("auxiliary", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = labelled_names(options.auxiliary)
    rows = Parallel(n_jobs=options.jobs)(delayed(relabel)(options, name) for name in names)
    table = pd.DataFrame(rows, columns=COLUMNS)
    print("| " + " | ".join(COLUMNS) + " |\n|---|--:|--:|--:|")
    for name, *numbers in table.itertuples(index=False):
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in numbers)} |")
    taken = int((table[COLUMNS[1]] > table[COLUMNS[2]]).sum())
    print(f"\nlabels of the networks taken for {taken} of {len(table)} scans")


if __name__ == "__main__":
    main()
