"""Evaluates a model on the held-out subjects: Dice of each region in native space."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from slant.evaluation.settings import EvaluateSettings
from slant.evaluation.statistics import bootstrap_interval
from slant.files import write_atomic
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.pipeline import segment
from slant.train.data import labelled_names
from slant.train.splits import split
from slant.volume import LabelMap
from slant.volumes import dice_per_region

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings

_BOOTSTRAP = EvaluateSettings()


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
    write_atomic(folder / "dice.tsv", with_intervals(table).to_csv(sep="\t", index=False, float_format="%.4f"))
    return table


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Add the ``mean`` of each region over the scans and its 95 % confidence interval, ``ci_low`` to ``ci_high``.

    Parameters
    ----------
    table : DataFrame
        Table as returned by `evaluate`.

    Returns
    -------
    DataFrame
        The interval is that of ``slant evaluate`` with its default settings, see
        `slant.evaluation.statistics.bootstrap_interval`; NaN if fewer than two scans have the region.
    """
    scans = table.drop(columns=["index", "name"])
    low, high = bootstrap_interval(scans.to_numpy(dtype=float).T, _BOOTSTRAP.resamples, _BOOTSTRAP.seed)
    return table.assign(mean=scans.mean(axis=1), ci_low=low, ci_high=high)


def mean_by_subject(table: pd.DataFrame) -> pd.Series:
    """Mean Dice of each subject over the regions that its manual labels contain."""
    return table.drop(columns=["index", "name"]).mean(skipna=True)
