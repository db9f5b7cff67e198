"""Preparation: resamples every training scan and its labels to template space, and loads the results."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from slant.errors import InputError, ModelError, OutputError, ProtocolError, SlantError
from slant.io.models import load_model
from slant.io.prepared import PreparedScan, digest, input_sha256, kept, prepared_scan
from slant.io.read import read_labels, read_scan
from slant.io.templates import load_template
from slant.labels import LabelProtocol
from slant.nets.prior import Prior
from slant.resample import pick_labels
from slant.train.context import RunContext
from slant.train.data import (
    Groupwise,
    LabelledScan,
    TrainingScans,
    expected_dice_file,
    label_frequency,
    labelled_names,
    load_scans,
    load_stored,
)
from slant.train.earlier import with_earlier
from slant.train.groupwise import ScanFiles, count_votes, load_deformed, load_mean, make_template, register_scans
from slant.train.loss import IGNORED
from slant.train.settings import TrainSettings
from slant.train.splits import auxiliary_names, read_table, split
from slant.train.stage_settings import GroupwiseSettings
from slant.volume import LabelMap


def prepare_scans(run: RunContext) -> None:
    """Prepare all scans whose files or settings have changed; a scan that fails does not stop the others.

    Raises
    ------
    InputError
        If scans could not be prepared; the message lists their names and the reasons.
    OutputError
        If a file cannot be written.
    """
    settings = run.settings
    manual = labelled_names(settings.data)
    jobs = [(run, settings.data, name) for name in manual]
    if settings.auxiliary_dir is not None:
        jobs += [(run, settings.auxiliary_dir, name) for name in auxiliary_names(settings, manual)]
    done = Parallel(n_jobs=-1, return_as="generator")(delayed(_prepare)(*job) for job in jobs)
    bar = tqdm(done, total=len(jobs), desc="prepare", unit="scan", file=sys.stderr)
    failed = [f"{job[2]}: {reason}" for job, reason in zip(jobs, bar, strict=True) if reason]
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} scans could not be prepared: " + "; ".join(failed))


def load_training(run: RunContext) -> TrainingScans:
    """Load the prepared scans of a run, with the result of the earlier assembly if the networks take one.

    Raises
    ------
    InputError
        If a scan has not been prepared.
    TrainingError
        If the earlier assembly is not trained.
    """
    settings, protocol = run.settings, run.protocol
    manual = labelled_names(settings.data)
    trained, held_out = split(settings, manual)
    regions = read_table(settings.scans).regions
    covered = {name: covered_channels(protocol, ids, name) for name, ids in regions.items()}
    images = settings.work_dir / "prepared"
    training, validation = (
        load_scans(images, _labels_folder(settings, settings.data), names, covered) for names in (trained, held_out)
    )
    auxiliary: list[LabelledScan] = []
    if settings.auxiliary_dir is not None:
        names = auxiliary_names(settings, manual)
        auxiliary = load_scans(images, _labels_folder(settings, settings.auxiliary_dir), names, covered)
    scans = TrainingScans(training, auxiliary, validation, _external_prior(settings, protocol))
    if settings.groupwise is not None:
        scans = replace(scans, groupwise=_load_groupwise(run, settings.groupwise, scans))
    return with_earlier(run, scans)


def template_scans(settings: TrainSettings) -> list[str]:
    """Names of the scans that make the groupwise template: training scans whose manual labels are complete."""
    regions = read_table(settings.scans).regions
    trained, _ = split(settings, labelled_names(settings.data))
    return [] if settings.ignore_label is not None else [name for name in trained if name not in regions]


def prepare_groupwise(settings: TrainSettings) -> None:
    """Make the groupwise template of a run and register every scan to it.

    Raises
    ------
    TrainingError
        If fewer than two scans have complete manual labels.
    """
    if settings.groupwise is None:
        return
    manual = labelled_names(settings.data)
    voting = template_scans(settings)
    images, folder = settings.work_dir / "prepared", settings.split / "groupwise"

    def files(source: Path, name: str) -> ScanFiles:
        labels = _labels_folder(settings, source) / f"{name}.labels.npz"
        sha256 = load_stored(labels, "prepared scan", "prepare", ("scan_sha256",))["scan_sha256"]
        return ScanFiles(name, images / f"{sha256}.npz", labels if name in voting else None)

    scans = [files(settings.data, name) for name in manual]
    if settings.auxiliary_dir is not None:
        scans += [files(settings.auxiliary_dir, name) for name in auxiliary_names(settings, manual)]
    grid = load_template().grid
    make_template([scan.image for scan in scans if scan.labels is not None], folder, grid, settings.groupwise)
    register_scans(scans, folder, grid, settings.groupwise)


def _load_groupwise(run: RunContext, groupwise: GroupwiseSettings, scans: TrainingScans) -> Groupwise:
    settings = run.settings
    folder, subject = settings.split / "groupwise", read_table(settings.scans).subject
    names = [scan.name for scan in [*scans.training, *scans.held_out]]
    deformed = {name: load_deformed(folder, name) for name in names}
    voting = template_scans(settings)
    labels = {name: blocks for name in voting if (blocks := deformed[name][1]) is not None}
    own = {name: tuple(labels[other] for other in labels if subject(other) == subject(name)) for name in names}
    votes = count_votes(list(labels.values()), len(run.protocol))
    displacements = {name: displacement for name, (displacement, _) in deformed.items()}
    return Groupwise(load_mean(folder, load_template().grid), votes, displacements, own, groupwise)


def _external_prior(settings: TrainSettings, protocol: LabelProtocol) -> Prior | None:
    if settings.prior is None:
        return None
    model = load_model(settings.prior)
    problem = "no prior" if model.networks.prior is None else "other regions"
    if model.networks.prior is None or model.protocol.ids.tolist() != protocol.ids.tolist():
        raise ModelError(
            f"prior = {settings.prior!r}: this model has {problem}, expected a prior of protocol {protocol.name!r}; "
            "choose another model or remove prior"
        )
    return model.networks.prior


def covered_channels(protocol: LabelProtocol, ids: tuple[int, ...], name: str) -> Tensor:
    """(C,) bool: whether the labels of the named scan, which cover these ids, cover each channel.

    Raises
    ------
    InputError
        If an id is the background, or not an id of the protocol.
    """
    regions = set(ids)
    unknown = sorted(regions - set(protocol.ids[1:].tolist()))
    if unknown:
        raise InputError(
            f"the table of scans says that {name} covers {unknown}, which are not regions of {protocol.name!r}; "
            "correct the column regions"
        )
    return torch.tensor([int(i) in regions for i in protocol.ids])


def _labels_folder(settings: TrainSettings, folder: Path) -> Path:
    """Folder of prepared labels: shared for manual ones, one per split for automatic ones, which can depend on it."""
    return settings.work_dir / "prepared" if folder == settings.data else settings.run / "auxiliary"


def _prepare(run: RunContext, folder: Path, name: str) -> str:
    """Prepare one scan; the error message if that fails, else an empty string."""
    try:
        scan = prepared_scan(folder / f"{name}_T1w.nii.gz", run.settings.work_dir / "prepared")
        _prepare_labels(run, folder, name, scan)
    except OutputError:  # it would stop the others, too
        raise
    except SlantError as error:
        return str(error)
    return ""


def _prepare_labels(run: RunContext, folder: Path, name: str, scan: PreparedScan) -> None:
    settings, protocol = run.settings, run.protocol
    source, table = folder / f"{name}_dseg.nii.gz", expected_dice_file(folder, name)

    def compute() -> dict[str, Any]:
        labels = read_labels(source, read_scan(folder / f"{name}_T1w.nii.gz"))
        channels = LabelMap(channels_of(labels, protocol, settings), labels.grid)
        resampled = pick_labels(channels, scan.image.grid, scan.native_from_template).data.astype(np.uint8)
        if not ((resampled > 0) & (resampled != IGNORED)).any():
            raise InputError(
                f"{source} contains no region of protocol {protocol.name!r}; remove the scan or correct its labels"
            )
        frequency = label_frequency(resampled, len(protocol))
        arrays = {"channels": resampled, "frequency": frequency, "scan_sha256": np.array(scan.sha256)}
        return {**arrays, "weights": voxel_weights(table, protocol)} if table.is_file() else arrays

    how = (protocol.ids.tolist(), settings.unknown_ids, settings.ignore_label)
    weighted = (input_sha256(table),) if table.is_file() else ()
    identity = digest("labels", scan.sha256, input_sha256(source), *how, *weighted)
    kept(_labels_folder(settings, folder) / f"{name}.labels.npz", identity, compute)


def voxel_weights(path: Path, protocol: LabelProtocol) -> NDArray[np.float32]:
    """(C,) weight of the voxels of each channel in the loss: the expected Dice of the region, 1 for the background.

    Parameters
    ----------
    path : Path
        Table with the columns ``index`` and ``expected_dice`` (0 to 1); regions that it does not list have weight 1.

    Raises
    ------
    InputError
        If the table cannot be read, or a column or value is another.
    """
    try:
        table = pd.read_csv(path, sep="\t")
        expected = dict(zip(table["index"].astype(int), table["expected_dice"].astype(float), strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: found {error}, expected a table with the columns index and expected_dice") from error
    weights = np.array([expected.get(int(i), 1.0) if i else 1.0 for i in protocol.ids], dtype=np.float32)
    if not ((weights >= 0) & (weights <= 1)).all():
        raise InputError(f"{path}: found an expected_dice outside 0 to 1; correct it or remove the table")
    return weights


def channels_of(labels: LabelMap, protocol: LabelProtocol, settings: TrainSettings) -> NDArray[np.uint8]:
    """(X, Y, Z) uint8 channel of every voxel of a label map, `IGNORED` where the id is ``settings.ignore_label``.

    Raises
    ------
    ProtocolError
        If the map contains unknown ids and ``settings.unknown_ids`` is ``"error"``.
    """
    ignored = (
        labels.data == settings.ignore_label if settings.ignore_label is not None else np.zeros(labels.data.shape, bool)
    )
    try:
        channels = protocol.channels_from_ids(np.where(ignored, 0, labels.data), unknown=settings.unknown_ids)
    except ProtocolError as error:
        raise ProtocolError(
            f'{error} with unknown_ids = "background"; ignore_label = ID marks unlabelled voxels'
        ) from error
    return np.where(ignored, np.uint8(IGNORED), channels)
