"""A second round of auxiliary labels: by trained networks, where their tiles agree better than the atlases did.

    python benchmarks/relabel.py AUX OUT --model work/fold0/model-slant27

AUX is a folder that `slant multiatlas` wrote, MODEL one whose tiles vote, trained with the same people held out. OUT
gets every scan of AUX with the labels of the model if the mean share of the votes over what it labels is above the mean
agreement of the atlases, else with those of the atlases, and the record of AUX, so that `slant train` still knows which
people the labels come from. Run again to continue. Prints a row a scan: both agreements, and the Dice between both.
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
from slant.measure import dice_per_region
from slant.pipeline import segment
from slant.train.data import labelled_names


def relabelled(given: argparse.Namespace, name: str) -> tuple[str, float, float, float]:
    """Write one scan; its name, the agreement of tiles and of atlases, and the Dice between their labels."""
    record = given.auxiliary / f"{name}_multiatlas.json"
    kept = given.out / f"{name}_relabel.json"
    if not kept.is_file():
        model = load_model(given.model)
        scan = read_scan(given.auxiliary / f"{name}_T1w.nii.gz")
        atlases = read_labels(given.auxiliary / f"{name}_dseg.nii.gz", scan)
        found = segment(scan.volume, model, SegmentSettings(threads=1))
        tiles = float(found.confidence.data[found.labels.data > 0].mean())
        agreement = float(json.loads(record.read_text("utf-8"))["quality"]["agreement"])
        better = found.labels if tiles > agreement else atlases
        dice = dice_per_region(found.labels, atlases, [region.id for region in model.protocol.regions[1:]])
        write_image(given.out / f"{name}_dseg.nii.gz", better, scan)
        shutil.copyfile(given.auxiliary / f"{name}_T1w.nii.gz", given.out / f"{name}_T1w.nii.gz")
        shutil.copyfile(record, given.out / record.name)
        kept.write_text(json.dumps([name, tiles, agreement, float(np.nanmean(list(dice.values())))]), "utf-8")
    name, *numbers = json.loads(kept.read_text("utf-8"))
    return name, *numbers


def main() -> None:
    """Relabel all scans of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("auxiliary", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    names = labelled_names(given.auxiliary)
    rows = Parallel(n_jobs=given.jobs)(delayed(relabelled)(given, name) for name in names)
    table = pd.DataFrame(rows, columns=["scan", "share of the votes", "agreement of the atlases", "Dice between them"])
    print("| " + " | ".join(table.columns) + " |\n|---|--:|--:|--:|")
    for name, *numbers in table.itertuples(index=False):
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in numbers)} |")
    taken = int((table["share of the votes"] > table["agreement of the atlases"]).sum())
    print(f"\nlabels of the networks taken for {taken} of {len(table)} scans")


if __name__ == "__main__":
    main()
