"""Dice of a model on the people who were held out of its training, in their own space."""

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
from slant.measure import dice_per_region
from slant.pipeline import segment
from slant.train.data import labelled_names
from slant.train.people import split
from slant.volume import LabelMap

if TYPE_CHECKING:
    from slant.train.settings import TrainSettings


def evaluate(settings: TrainSettings, folder: Path) -> pd.DataFrame:
    """Segment the held-out scans from their files and compare with the manual labels.

    Parameters
    ----------
    settings : TrainSettings
        With a fold.
    folder : Path
        The model.

    Returns
    -------
    DataFrame
        One row a region (``index``, ``name``), one column a person, Dice; nan where the manual labels lack the
        region. Ids outside the protocol count as background. Written to ``dice.tsv`` beside the weights, with the
        columns of `with_intervals`.
    """
    _, held_out = split(settings, labelled_names(settings.data))
    model = load_model(str(folder))
    regions = model.protocol.regions[1:]
    table = pd.DataFrame({"index": [r.id for r in regions], "name": [r.name for r in regions]})
    for name in tqdm(held_out, desc="evaluate", unit="scan", file=sys.stderr):
        scan = read_scan(settings.data / f"{name}_T1w.nii.gz")
        truth = read_labels(settings.data / f"{name}_dseg.nii.gz", scan)
        skipped = truth.data == settings.ignore
        known = np.where(np.isin(truth.data, model.protocol.ids) & ~skipped, truth.data, 0)
        found = segment(scan.volume, model).labels
        found = LabelMap(np.where(skipped, 0, found.data), found.grid)
        dice = dice_per_region(found, LabelMap(known, truth.grid), [r.id for r in regions])
        table[name] = [dice[r.id] for r in regions]
    with_intervals(table).to_csv(folder / "dice.tsv", sep="\t", index=False, float_format="%.4f")
    return table


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the ``mean`` of each region over the people, and its 95 % confidence interval ``low`` to ``high``.

    Parameters
    ----------
    table : DataFrame
        As `evaluate` gives it.

    Returns
    -------
    DataFrame
        The interval is Student's t, cut to 0..1; nan where fewer than two people have the region.
    """
    people = table.drop(columns=["index", "name"])
    mean, count = people.mean(axis=1), people.count(axis=1)
    reach = stats.t.ppf(0.975, count - 1) * people.std(axis=1) / np.sqrt(count)
    return table.assign(mean=mean, low=(mean - reach).clip(0, 1), high=(mean + reach).clip(0, 1))


def mean_by_person(table: pd.DataFrame) -> pd.Series:
    """Mean Dice of each person over the regions that the manual labels have."""
    return table.drop(columns=["index", "name"]).mean(skipna=True)
