"""Evaluates a model on the held-out subjects: Dice of each region in native space."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.pipeline import segment
from slant.train.data import labelled_names
from slant.train.splits import split
from slant.volume import LabelMap
from slant.volumes import dice_per_region

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings


def evaluate(settings: TrainSettings, folder: Path) -> pd.DataFrame:
    """Segment the held-out scans from their files and compare them with the manual labels.

    Parameters
    ----------
    settings : TrainSettings
        Settings with a fold.
    folder : Path
        Folder of the model.

    Returns
    -------
    DataFrame
        Dice with one row per region (``index``, ``name``) and one column per scan; NaN where the manual labels do not
        contain the region. Ids outside the protocol count as background. The table is written to ``dice.tsv`` in the
        model folder, with the columns of `with_intervals`.
    """
    _, held_out = split(settings, labelled_names(settings.data))
    model = load_model(str(folder))
    regions = model.protocol.regions[1:]
    table = pd.DataFrame({"index": [r.id for r in regions], "name": [r.name for r in regions]})
    for name in tqdm(held_out, desc="evaluate", unit="scan", file=sys.stderr):
        scan = read_scan(settings.data / f"{name}_T1w.nii.gz")
        reference = read_labels(settings.data / f"{name}_dseg.nii.gz", scan)
        ignored = reference.data == settings.ignore_label
        known = np.where(np.isin(reference.data, model.protocol.ids) & ~ignored, reference.data, 0)
        predicted = segment(scan.volume, model).labels
        predicted = LabelMap(np.where(ignored, 0, predicted.data), predicted.grid)
        dice = dice_per_region(predicted, LabelMap(known, reference.grid), [r.id for r in regions])
        table[name] = [dice[r.id] for r in regions]
    with_intervals(table).to_csv(folder / "dice.tsv", sep="\t", index=False, float_format="%.4f")
    return table


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Add the ``mean`` of each region over the subjects and its 95 % confidence interval, ``ci_low`` to ``ci_high``.

    Parameters
    ----------
    table : DataFrame
        Table as returned by `evaluate`.

    Returns
    -------
    DataFrame
        The interval is that of Student's t, clipped to 0..1; NaN if fewer than two subjects have the region.
    """
    subjects = table.drop(columns=["index", "name"])
    mean, count = subjects.mean(axis=1), subjects.count(axis=1)
    half_width = stats.t.ppf(0.975, count - 1) * subjects.std(axis=1) / np.sqrt(count)
    return table.assign(mean=mean, ci_low=(mean - half_width).clip(0, 1), ci_high=(mean + half_width).clip(0, 1))


def mean_by_subject(table: pd.DataFrame) -> pd.Series:
    """Mean Dice of each subject over the regions that its manual labels contain."""
    return table.drop(columns=["index", "name"]).mean(skipna=True)
