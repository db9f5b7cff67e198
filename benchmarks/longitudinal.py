"""Visits of one subject segmented one by one and together: noise of the volumes, measured change, and Dice.

    python benchmarks/longitudinal.py SCANS... --model whole

From each scan four visits are simulated (`simulated_visits.py`): two without change, one whose whole brain is deformed
by a smooth random field, and one in which single regions shrink by 0 to 5 %. Three pairs of the first visit and another
are segmented one by one and together, with different weights of the other visits. Prints

- noise: mean absolute difference of the volumes of the regions without change, in percent of their mean
- slopes of the measured on the true logarithm of the ratio of the volumes, weighted by the root of the volume, in the
  other two pairs
- Dice with manual labels beside the scan (NAME_dseg.nii.gz), in the space of each visit, of all six visits

Results are kept in --cache, so that a second run continues.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from simulated_visits import Conditions, SimulatedVisit, change_field, local_change, true_log_ratios, visit

from slant import pipeline
from slant.displacement import CompositeTransform, DisplacementField, sample_nearest
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.model import Model
from slant.resample import IDENTITY
from slant.segmentation import Segmentation
from slant.volume import LabelMap
from slant.volumes import dice_per_region
from slant.within_subject import subject as subject_module
from slant.within_subject.share import shared_evidence
from slant.within_subject.subject import align_subject, label_visit, visit_votes
from slant.within_subject.visit import align_visit

WEIGHTS = (0.0, 0.5, 0.75, 1.0)

LOCAL = {
    "Left Hippocampus": 5.0,
    "Right Hippocampus": 2.0,
    "Left Thalamus Proper": 1.0,
    "Right Thalamus Proper": 3.0,
    "Left Caudate": 4.0,
    "Right Putamen": 2.5,
    "Left MFG middle frontal gyrus": 3.0,
    "Right PCu precuneus": 5.0,
    "Left STG superior temporal gyrus": 1.5,
}
"""Regions that shrink, with the approximate percentage."""

PAIRS = {"no change": 1, "whole brain": 2, "single regions": 3}
"""Second visit of each pair; the first is 0."""


def arguments() -> argparse.Namespace:
    """Scans, model and size of the simulated changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--model", default="whole")
    parser.add_argument("--percent", type=float, default=3.0, help="SD of the change of volumes of the whole brain")
    parser.add_argument("--cache", type=Path, default=Path("work/longitudinal.tsv"))
    return parser.parse_args()


def volumes_mm3(labels: LabelMap, ids: list[int]) -> NDArray[np.float64]:
    """Volume of each region, counted in voxels."""
    return np.bincount(labels.data.ravel(), minlength=max(ids) + 1)[ids] * labels.grid.voxel_volume_mm3


def dice(labels: LabelMap, manual: LabelMap | None, simulated: Simulated, ids: list[int]) -> NDArray[np.float64]:
    """Dice of each region with the manual labels carried to the space of the visit; nan without manual labels."""
    if manual is None:
        return np.full(len(ids), np.nan)
    transform = CompositeTransform(simulated.visit.original_from_visit, simulated.change, IDENTITY)
    at = transform.voxels(labels.grid, manual.grid)
    found = dice_per_region(labels, LabelMap(sample_nearest(manual.data, at), labels.grid), ids)
    return np.array([found[i] for i in ids])


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated visit with its field of change."""

    visit: SimulatedVisit
    change: DisplacementField | None


def simulate(path: Path, model: Model, options: argparse.Namespace) -> tuple[list[Simulated], LabelMap]:
    """The four visits of a scan, and the labels of the original scan."""
    scan = read_scan(path).volume
    random = np.random.default_rng(crc32(path.name.encode()))
    labels = pipeline.segment(scan, model).labels
    ids = {region.name: region.id for region in model.protocol.regions}
    whole = change_field(scan.grid, random, options.percent)
    single = local_change(labels, {ids[name]: percent for name, percent in LOCAL.items()})
    changes = (None, None, whole, single)
    return [Simulated(visit(scan, random, Conditions(), change), change) for change in changes], labels


def together(pair: list[Simulated], model: Model) -> dict[str, list[Segmentation]]:
    """Segmentations of two visits by the weight of the other visit."""
    scans = [simulated.visit.scan for simulated in pair]
    aligned = [align_visit(scan, model.inputs) for scan in scans]
    subject = align_subject(("first", "second"), scans, aligned, model.inputs)
    votes = [visit_votes(subject, i, model) for i in range(2)]
    found = {}
    for weight in WEIGHTS:
        with patch.object(subject_module, "shared_evidence", partial(shared_evidence, weight=weight)):
            found[f"{weight:g}"] = [label_visit(subject, i, votes, model) for i in range(2)]
    return found


def measure(options: argparse.Namespace, path: Path) -> pd.DataFrame:
    """One row per pair, way of segmenting and region."""
    model = load_model(options.model)
    regions = model.protocol.regions[1:]
    ids = [region.id for region in regions]
    reference = Path(str(path).replace("_T1w", "_dseg"))
    manual = read_labels(reference, read_scan(path)) if reference != path and reference.is_file() else None
    visits, original = simulate(path, model, options)
    single = [pipeline.segment(simulated.visit.scan, model) for simulated in visits]
    rows = []
    for pair, second in PAIRS.items():
        chosen = [visits[0], visits[second]]
        change = visits[second].change
        true = np.zeros(len(ids)) if change is None else true_log_ratios(original, change, ids)
        for way, segmentations in {"one by one": [single[0], single[second]], **together(chosen, model)}.items():
            labels = [segmentation.labels for segmentation in segmentations]
            rows.append(
                pd.DataFrame(
                    {
                        "model": options.model,
                        "scan": str(path),
                        "pair": pair,
                        "way": way,
                        "region": [region.name for region in regions],
                        "first_mm3": volumes_mm3(labels[0], ids),
                        "second_mm3": volumes_mm3(labels[1], ids),
                        "true": true,
                        "dice_first": dice(labels[0], manual, chosen[0], ids),
                        "dice_second": dice(labels[1], manual, chosen[1], ids),
                    }
                )
            )
    return pd.concat(rows)


def slope(part: pd.DataFrame) -> float:
    """Slope of the measured on the true logarithm of the ratio of the volumes."""
    part = part[(part.first_mm3 > 0) & (part.second_mm3 > 0)]
    measured = np.log(part.second_mm3 / part.first_mm3)
    return float(np.polyfit(part.true, measured, 1, w=np.sqrt(part.first_mm3))[0])


def summary(table: pd.DataFrame) -> pd.Series:
    """One row of the printed table."""
    none, whole, single = (table[table.pair == pair] for pair in PAIRS)
    mean = (none.first_mm3 + none.second_mm3) / 2
    difference = 100 * (none.first_mm3 - none.second_mm3).abs() / mean.where(mean > 0)
    single = single[single.region.isin(LOCAL)]
    by_scan = table.groupby(["scan", "pair"])[["dice_first", "dice_second"]].mean()
    return pd.Series(
        {
            "noise, %": difference.mean(),
            "slope, whole brain": slope(whole),
            "slope, single regions": slope(single),
            "Dice": by_scan.to_numpy().mean() if by_scan.notna().all(axis=None) else np.nan,
        }
    )


def main() -> None:
    """Print one row for each way of segmenting, over all scans and for each scan."""
    options = arguments()
    known = [pd.read_csv(options.cache, sep="\t")] if options.cache.is_file() else []
    done = {(m, s) for table in known for m, s in zip(table.model, table.scan, strict=True)}
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    for path in options.scans:
        if (options.model, str(path)) not in done:
            known.append(measure(options, path))
            pd.concat(known).to_csv(options.cache, sep="\t", index=False, float_format="%.6f")
    table = pd.concat(known)
    table = table[(table.model == options.model) & table.scan.isin([str(path) for path in options.scans])]
    for name, part in [*((Path(scan).name, part) for scan, part in table.groupby("scan")), ("all", table)]:
        rows = pd.DataFrame({way: summary(own) for way, own in part.groupby("way", sort=False)}).T
        print(f"\n{name}\n{rows.to_string(float_format='%.4f')}", flush=True)


if __name__ == "__main__":
    main()
