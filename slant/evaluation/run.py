"""`evaluate` compares files of label maps with the true ones, scan by scan, and gathers the tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm import tqdm

import slant
from slant.errors import SettingsError, SlantError
from slant.evaluation.files import Match, match_files
from slant.evaluation.maps import bring_together
from slant.evaluation.metrics import compare_groups, compare_regions
from slant.evaluation.settings import EvaluateSettings
from slant.evaluation.tables import compare_methods, scan_means, summarize
from slant.io.read import read_label_map
from slant.io.resources import load_protocol

RULE = (
    "Per scan, the mean over the regions of the protocol that the truth has, background excluded, every region "
    "counting the same; then the mean over scans. A region that the truth lacks is left out whatever was predicted; a "
    "region that the prediction lacks has Dice 0 and no distances."
)
_HARDLY = 0.1  # mean Dice of maps that lie apart; wrong labels in the right place give more


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All tables of a comparison, see docs/evaluation.md, and how they were made."""

    methods: tuple[str, ...]
    regions: pd.DataFrame
    groups: pd.DataFrame
    scans: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame
    notes: tuple[str, ...]
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Compared:
    """One prediction of one scan."""

    scan: dict[str, Any]
    regions: pd.DataFrame
    groups: pd.DataFrame
    record: dict[str, Any]


def evaluate(predictions: tuple[Path, ...], truth: Path, settings: EvaluateSettings) -> Evaluation:
    """Compare the label maps of one or two methods with the true ones.

    Parameters
    ----------
    predictions : tuple of Path
        A label map or a folder of each method; the second is compared with the first.
    truth : Path
        A label map or a folder.
    settings : EvaluateSettings

    Raises
    ------
    InputError, GeometryError, ProtocolError
        If files do not match, cannot be read or do not fit; the message names the file.
    """
    load_protocol(settings.protocol)
    matches, notes = match_files(predictions, truth, allow_missing=settings.allow_missing)
    methods = _method_names(predictions)
    tasks = [(method, i, match) for i, method in enumerate(methods) for match in matches]
    found = list(_run(tasks, settings))
    scans = pd.DataFrame([one.scan for one in found])
    regions = pd.concat([one.regions for one in found], ignore_index=True)
    groups = pd.concat([one.groups for one in found], ignore_index=True)
    summary = summarize(scans, groups, regions, settings.resamples, settings.seed)
    comparison = compare_methods(scans, groups, regions)
    apart = [scan for scan, dice in zip(scans["scan"], scans["dice"], strict=True) if dice < _HARDLY]
    if apart:
        notes = (*notes, f"the maps of {', '.join(apart)} hardly overlap; try --align shift if the headers lost a crop")
    if len(matches) == 1:
        notes = (*notes, "one scan: there are no intervals, and no test can tell methods apart")
    record = {
        "rule": RULE,
        "settings": {**asdict(settings), "jobs": _jobs(settings, len(tasks))},
        "versions": _versions(),
        "notes": list(notes),
        "files": [one.record for one in found],
    }
    return Evaluation(methods, regions, groups, scans, summary, comparison, notes, record)


def _run(tasks: list[tuple[str, int, Match]], settings: EvaluateSettings) -> Iterator[_Compared]:
    jobs = _jobs(settings, len(tasks))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    calls = (joblib.delayed(_compare)(*task, settings) for task in tasks)
    yield from tqdm(parallel(calls), total=len(tasks), desc="evaluate", unit="scan", file=sys.stderr)


def _jobs(settings: EvaluateSettings, tasks: int) -> int:
    return min(settings.jobs or joblib.cpu_count(), tasks)


def _compare(method: str, number: int, match: Match, settings: EvaluateSettings) -> _Compared:
    path = match.predictions[number]
    protocol = load_protocol(settings.protocol)
    prediction, prediction_sha256 = read_label_map(path)
    truth, truth_sha256 = read_label_map(match.truth)
    try:
        pair = bring_together(prediction, truth, protocol, settings.align)
    except SlantError as error:
        raise type(error)(f"{path} against {match.truth}: {error}") from error
    regions = compare_regions(pair, protocol)
    groups = compare_groups(pair, protocol, regions)
    for table in (groups, regions):
        table.insert(0, "scan", match.scan)
        table.insert(0, "method", method)
    name = {"method": method, "scan": match.scan}
    scan = {**name, **scan_means(regions), "truth_other_mm3": pair.other_mm3, "shift_voxels": str(pair.shift)}
    record = {
        **name,
        "prediction": {"path": os.fspath(path), "sha256": prediction_sha256},
        "truth": {"path": os.fspath(match.truth), "sha256": truth_sha256},
        "shift": asdict(pair.shift),
    }
    return _Compared(scan, regions, groups, record)


def _method_names(predictions: tuple[Path, ...]) -> tuple[str, ...]:
    """The last part of every path, or more of it where these are equal."""
    names = tuple(path.resolve().name for path in predictions)
    if len(set(names)) == len(names):
        return names
    names = tuple(os.fspath(path) for path in predictions)
    if len(set(names)) == len(names):
        return names
    raise SettingsError(f"{names[0]} is given twice, wanted two methods to compare")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("monai", "nibabel", "numpy", "pandas", "scipy")
    return {"slant": slant.__version__, **{name: version(name) for name in packages}}
