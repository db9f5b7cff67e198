"""Dice on the held-out subjects: of the networks of a running stage in template space, of a model in native space."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slant.decision import decide
from slant.evaluation.settings import EvaluateSettings
from slant.evaluation.statistics import bootstrap_interval
from slant.files import write_atomic
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.earlier import block_mean
from slant.nets.network import Network
from slant.nets.predict import label_tile
from slant.pipeline import segment
from slant.train.context import StageContext
from slant.train.data import LabelledScan, labelled_names
from slant.train.earlier import predictor_of, votes_of
from slant.train.loss import IGNORED
from slant.train.settings import TrainSettings
from slant.train.splits import split
from slant.volume import LabelMap
from slant.volumes import dice_per_region


def held_out_dice(network: Network, context: StageContext) -> float | None:
    """Mean Dice of a network on the held-out subjects, in its tile or in the vote of all tiles if it labels all.

    None if no subject is held out; NaN if the reference labels contain no region there. The network is in training
    mode afterwards.
    """
    scans = context.scans
    if not scans.held_out:
        return None
    scores = [_dice_of_scan(network, scan, context) for scan in scans.held_out]
    network.train()
    finite = [score for score in scores if not np.isnan(score)]
    return float(np.mean(finite)) if finite else np.nan


def _dice_of_scan(network: Network, scan: LabelledScan, context: StageContext) -> float:
    run = context.run
    predictor = replace(predictor_of(run, context.scans, scan, lambda _: network), layout=context.layout)
    r, device, reference = run.assembly.resolution_mm, torch.device(context.device), scan.channels.numpy()
    if context.tile is not None:
        tile, alone = context.tile, replace(predictor, mirroring=None)
        labels = label_tile(alone, tile, block_mean(scan.image.numpy(), r), device)
        voxels = tuple(slice(span.start * r, span.stop * r) for span in tile.box)
        return mean_dice_of(labels.repeat(r, 0).repeat(r, 1).repeat(r, 2), reference[voxels])
    x, y, z = reference.shape
    return mean_dice_of(decide([votes_of(predictor, scan, device)], (x, y, z)).winners, reference)


def mean_dice_of(predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean Dice of two (X, Y, Z) uint8 maps over the channels of the reference, NaN if it contains no region.

    The background and unlabelled voxels do not count.
    """
    known = reference != IGNORED
    predicted_voxels = np.bincount(predicted[known], minlength=256)
    reference_voxels = np.bincount(reference[known], minlength=256)
    overlap = np.bincount(reference[known & (predicted == reference)], minlength=256)
    regions = np.flatnonzero(reference_voxels)
    regions = regions[regions > 0]
    if not len(regions):
        return np.nan
    return float(np.mean(2 * overlap[regions] / (predicted_voxels[regions] + reference_voxels[regions])))


def evaluate(settings: TrainSettings, folder: Path) -> pd.DataFrame:
    """Segment the held-out scans from their files with the model of a folder, and compare with the manual labels.

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

    The interval is that of ``slant evaluate`` with its default settings, see
    `slant.evaluation.statistics.bootstrap_interval`; NaN if fewer than two scans have the region.
    """
    scans, bootstrap = table.drop(columns=["index", "name"]), EvaluateSettings()
    low, high = bootstrap_interval(scans.to_numpy(dtype=float).T, bootstrap.resamples, bootstrap.seed)
    return table.assign(mean=scans.mean(axis=1), ci_low=low, ci_high=high)


def mean_by_subject(table: pd.DataFrame) -> pd.Series:
    """Mean Dice of each subject over the regions that its manual labels contain."""
    return table.drop(columns=["index", "name"]).mean(skipna=True)
