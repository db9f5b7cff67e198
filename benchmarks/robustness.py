"""How much Dice is lost when scans of people who were held out are disturbed, at three strengths.

    python benchmarks/robustness.py DATA --model MODEL --people 1000 1008 1013

DATA holds NAME_T1w.nii.gz (skull stripped) with NAME_dseg.nii.gz. Each scan is disturbed as it lies in its file, goes
through the whole pipeline, and is compared with its labels on the grid of the disturbed scan. Mean over the people of
the mean Dice over the regions; in brackets the loss against the same scan undisturbed. Run again to continue: results
are kept in --cache.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from disturbances import DISTURBANCES
from joblib import Parallel, delayed

from slant.config import SegmentSettings
from slant.errors import SlantError
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.measure import dice_per_region
from slant.pipeline import segment
from slant.volume import LabelMap


def arguments() -> argparse.Namespace:
    """Which scans, disturbances and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--people", nargs="+", required=True)
    parser.add_argument("--rows", nargs="+", default=["clean", *DISTURBANCES], choices=["clean", *DISTURBANCES])
    parser.add_argument("--strengths", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("work/robustness.tsv"))
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def dice_of(given: argparse.Namespace, name: str, row: str, level: int) -> float:
    """Mean Dice of one disturbed scan; nan if it was refused."""
    model = load_model(given.model)
    path = given.data / f"{name}_T1w.nii.gz"
    read = read_scan(path)
    truth = read_labels(given.data / f"{name}_dseg.nii.gz", read)
    known = np.where(np.isin(truth.data, model.protocol.ids), truth.data, 0)
    scan, labels = read.volume, LabelMap(known.astype(np.uint8), truth.grid)
    if row != "clean":
        disturb, strengths, _ = DISTURBANCES[row]
        random = np.random.default_rng(crc32(f"{name} {row}".encode()))
        scan, labels = disturb(scan, labels, strengths[level], random)
    try:
        found = segment(scan, model, SegmentSettings(threads=1)).labels
    except SlantError as error:
        print(f"{name}, {row} {level}: {error}", flush=True)
        return np.nan
    dice = dice_per_region(found, labels, [region.id for region in model.protocol.regions[1:]])
    return float(np.nanmean(list(dice.values())))


def measure(given: argparse.Namespace) -> pd.DataFrame:
    """All results, those of earlier runs with this model included."""
    columns = ["model", "name", "row", "level", "dice"]
    known = pd.read_csv(given.cache, sep="\t") if given.cache.is_file() else pd.DataFrame(columns=columns)
    done = set(known[columns[:4]].itertuples(index=False, name=None))
    wanted = [
        (given.model, name, row, level)
        for row in given.rows
        for level in ([0] if row == "clean" else given.strengths)
        for name in given.people
    ]
    todo = [job for job in wanted if job not in done]
    given.cache.parent.mkdir(parents=True, exist_ok=True)
    results = Parallel(n_jobs=given.jobs, return_as="generator")(delayed(dice_of)(given, *job[1:]) for job in todo)
    for job, dice in zip(todo, results, strict=True):
        new = pd.DataFrame([[*job, dice]], columns=columns)
        known = new if known.empty else pd.concat([known, new], ignore_index=True)
        known.to_csv(given.cache, sep="\t", index=False)
    keys = known[columns[:4]].apply(tuple, axis=1)
    return known[keys.isin(wanted)]


def main() -> None:
    """Print the table."""
    given = arguments()
    table = measure(given)
    clean = table[table.row == "clean"].set_index("name").dice
    if len(clean):
        print(f"clean: {clean.mean():.4f} ({', '.join(f'{n} {d:.4f}' for n, d in clean.items())})\n")
    print("| disturbance | weak | middle | strong |\n|---|--:|--:|--:|")
    for row in given.rows[1:] if given.rows[0] == "clean" else given.rows:
        _, strengths, unit = DISTURBANCES[row]
        cells = []
        for level, strength in enumerate(strengths):
            dice = table[(table.row == row) & (table.level == level)].set_index("name").dice
            loss = (clean - dice).mean() if len(dice) else np.nan
            cells.append(f"{strength:g}: {dice.mean():.3f} ({loss:+.3f})" if len(dice) else "")
        print(f"| {row} ({unit}) | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
