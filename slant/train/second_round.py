"""Second, semi-supervised round: the trained model labels scans without labels, and networks are trained on these too.

AssemblyNet (Coupe et al. 2020, NeuroImage 219:117026) gains from such pseudo-labels (Lee 2013). The voxels of a
pseudo-labelled region count in the loss by the Dice that the region is expected to have in that scan.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from slant.config import SegmentSettings
from slant.errors import InputError, OutputError, SlantError
from slant.files import write_atomic
from slant.io.models import load_model
from slant.io.read import read_scan
from slant.io.results import Result
from slant.io.write import write_image
from slant.run import Request, segment_scan
from slant.train.assembly_settings import AssemblySettings
from slant.train.context import RunContext
from slant.train.data import expected_dice_file
from slant.train.settings import TrainSettings

PSEUDO_PROBABILITY = 0.5
"""Probability that a step of the stage whole uses a pseudo-labelled scan, if the settings use no auxiliary scans."""

_SUFFIX = "_T1w.nii.gz"


def unlabelled_scans(folder: Path) -> dict[str, Path]:
    """The scans ``NAME_T1w.nii.gz`` of a folder by name, sorted.

    Raises
    ------
    InputError
        If there are none.
    """
    scans = {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"*{_SUFFIX}"))}
    if not scans:
        raise InputError(f"{folder}: found no *{_SUFFIX}, expected scans to label for the second round (--unlabelled)")
    return scans


def first_model(settings: TrainSettings) -> Path:
    """Folder of the model that the first round exports."""
    return settings.run / f"model-{settings.name}"


def pseudo_label(settings: TrainSettings, unlabelled: Path, deadline: float | None) -> Path | None:
    """Label the scans of a folder with the model of the first round; None if the time is over before.

    Finished scans are not labelled again by the same model; a scan that cannot be segmented, or is graded ``fail``, is
    left out with a message. The returned folder has ``NAME_T1w.nii.gz`` (links), ``NAME_dseg.nii.gz`` and
    ``NAME_expected_dice.tsv``.

    Raises
    ------
    InputError
        If there are no scans, or none can be segmented.
    ModelError
        If the model of the first round does not exist.
    """
    model_folder = str(first_model(settings))
    model, scans = load_model(model_folder), unlabelled_scans(unlabelled)
    folder = settings.run / f"pseudo-labels-{model.identity[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(SegmentSettings(model_folder, settings.devices[0], torch.get_num_threads()))
    for name, path in tqdm(scans.items(), desc="pseudo-labels", unit="scan", file=sys.stderr):
        labels, link = folder / f"{name}_dseg.nii.gz", folder / path.name
        if not labels.is_file():
            if deadline is not None and time.monotonic() > deadline:
                return None
            try:
                scan = read_scan(path)
                result = segment_scan(scan, model, request)
                if result.quality is not None and result.quality.grade == "fail":
                    raise InputError(f"its labels are graded fail: {'; '.join(result.quality.reasons)}")
                write_expected_dice(expected_dice_file(folder, name), result)
                write_image(labels, result.labels, scan)
            except OutputError:  # it would stop the others, too
                raise
            except SlantError as error:
                sys.stderr.write(f"slant: {path} is left out of the second round: {error}\n")
                continue
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    if not any(folder.glob("*_dseg.nii.gz")):
        raise InputError(f"none of the {len(scans)} scans in {unlabelled} could be segmented; see the messages")
    return folder


def write_expected_dice(path: Path, result: Result) -> None:
    """Write the table of the expected Dice of each region of a pseudo-labelled scan: ``index``, ``expected_dice``.

    Where the model has no reference for it, it is the mean vote fraction of the region.
    """
    inside = result.labels.data > 0
    found, votes = result.labels.data[inside], result.confidence.data[inside]
    counts, sums = np.bincount(found), np.bincount(found, weights=votes)
    regions = {} if result.quality is None else result.quality.regions
    rows = []
    for i in np.flatnonzero(counts).tolist():
        expected = regions[i].expected_dice if i in regions else math.nan
        rows.append((i, sums[i] / counts[i] if math.isnan(expected) else expected))
    table = pd.DataFrame(rows, columns=["index", "expected_dice"])
    write_atomic(path, table.to_csv(sep="\t", index=False, float_format="%.4f"))


def second_round(first: RunContext, folder: Path) -> TrainSettings:
    """The settings of the second round: pseudo-labels as auxiliary scans, and the networks of the first round.

    Parameters
    ----------
    first : RunContext
        Of the first round.
    folder : Path
        Pseudo-labels, see `pseudo_label`.
    """
    settings = first.settings
    again = [_initialized(first.at(assembly.name)) for assembly in settings.cascade]
    common = replace(settings, auxiliary_dir=folder, unlabelled=None, round=2)
    if settings.assemblies:
        return replace(common, assemblies=tuple(again))
    only = again[0]
    return replace(common, pretrain=None, slices=None, whole=only.whole, init_from=only.init_from)


def _initialized(run: RunContext) -> AssemblySettings:
    """The settings of an assembly that starts with its whole-brain network of the first round."""
    assembly = run.assembly
    probability = assembly.whole.auxiliary_probability or PSEUDO_PROBABILITY
    whole = replace(assembly.whole, auxiliary_probability=probability)
    return replace(assembly, pretrain=None, slices=None, whole=whole, init_from=run.checkpoint("whole"))
