"""`evaluate` compares predicted with reference label maps, scan by scan, and collects the tables.

`write_evaluation` writes them atomically, with a figure and a record.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm import tqdm

from slant._version import __version__
from slant.errors import SettingsError, errors_about
from slant.evaluation.files import Match, match_files
from slant.evaluation.maps import align_maps
from slant.evaluation.metrics import compare_groups, compare_regions
from slant.evaluation.settings import EvaluateSettings
from slant.evaluation.statistics import compare_methods, scan_means, summarize
from slant.extras import require_extra
from slant.io.read import read_label_map
from slant.io.resources import load_protocol
from slant.io.staging import staged, write_json
from slant.report.dice_figure import MethodDice, draw_dice

RULE = (
    "For each scan, the mean over the regions of the protocol that the reference contains, without background, each "
    "region with the same weight; then the mean over scans. A region that the reference does not contain is left out, "
    "whatever was predicted. A region that the prediction does not contain has Dice 0 and no distances."
)
_MIN_DICE = 0.1  # of aligned maps: even with wrong labels their mean Dice is higher

_TABLES = ("regions", "groups", "scans", "summary", "comparison")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All tables of an evaluation and its record, see docs/reference/evaluation.md."""

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
    """Metrics of one prediction."""

    scan: dict[str, Any]
    regions: pd.DataFrame
    groups: pd.DataFrame
    record: dict[str, Any]


def evaluate(predictions: tuple[Path, ...], references: Path, settings: EvaluateSettings) -> Evaluation:
    """Evaluate the label maps of one or two methods against reference label maps.

    Parameters
    ----------
    predictions : tuple of Path
        A label map or a folder for each method; the second method is compared with the first.
    references : Path
        A label map or a folder.

    Raises
    ------
    InputError, GeometryError, ProtocolError
        If files do not match, cannot be read or do not fit; the message names the file.
    """
    require_extra("train", "monai")
    load_protocol(settings.protocol)
    matches, notes = match_files(predictions, references, allow_missing=settings.allow_missing)
    methods = _method_names(predictions)
    tasks = [(method, i, match) for i, method in enumerate(methods) for match in matches]
    jobs = min(settings.jobs or joblib.cpu_count(), len(tasks))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    results = parallel(joblib.delayed(_compare)(*task, settings) for task in tasks)
    compared = list(tqdm(results, total=len(tasks), desc="evaluate", unit="scan", file=sys.stderr))
    scans = pd.DataFrame([one.scan for one in compared])
    regions = pd.concat([one.regions for one in compared], ignore_index=True)
    groups = pd.concat([one.groups for one in compared], ignore_index=True)
    summary = summarize(scans, groups, regions, settings.resamples, settings.seed)
    comparison = compare_methods(scans, groups, regions)
    low = [scan for scan, dice in zip(scans["scan"], scans["dice"], strict=True) if dice < _MIN_DICE]
    if low:
        notes = (*notes, f"the maps of {', '.join(low)} hardly overlap; try --align shift if a header lost its origin")
    if len(matches) == 1:
        notes = (*notes, "only one scan: no confidence interval, no paired test")
    record = {
        "rule": RULE,
        "settings": {**asdict(settings), "jobs": jobs},
        "versions": _versions(),
        "notes": list(notes),
        "files": [one.record for one in compared],
    }
    return Evaluation(methods, regions, groups, scans, summary, comparison, notes, record)


def _compare(method: str, number: int, match: Match, settings: EvaluateSettings) -> _Compared:
    path = match.predictions[number]
    protocol = load_protocol(settings.protocol)
    prediction, prediction_sha256 = read_label_map(path)
    reference, reference_sha256 = read_label_map(match.reference)
    with errors_about(f"{path} against {match.reference}"):
        maps = align_maps(prediction, reference, protocol, settings.align)
    regions = compare_regions(maps, protocol)
    groups = compare_groups(maps, protocol, regions)
    for table in (groups, regions):
        table.insert(0, "scan", match.scan)
        table.insert(0, "method", method)
    name = {"method": method, "scan": match.scan}
    scan = {**name, **scan_means(regions), "reference_other_mm3": maps.other_mm3, "shift_voxels": str(maps.shift)}
    record = {
        **name,
        "prediction": {"path": os.fspath(path), "sha256": prediction_sha256},
        "reference": {"path": os.fspath(match.reference), "sha256": reference_sha256},
        "shift": asdict(maps.shift),
    }
    return _Compared(scan, regions, groups, record)


def _method_names(predictions: tuple[Path, ...]) -> tuple[str, ...]:
    """The last parts of the paths, or the whole paths if these are equal."""
    short, names = (path.resolve().name for path in predictions), map(os.fspath, predictions)
    for candidates in (tuple(short), tuple(names)):
        if len(set(candidates)) == len(candidates):
            return candidates
    raise SettingsError(f"{candidates[0]} was given twice, expected two different methods to compare")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("monai", "nibabel", "numpy", "pandas", "scipy")
    return {"slant": __version__, **{name: version(name) for name in packages}}


@dataclass(frozen=True)
class EvaluationNames:
    """File names of an evaluation."""

    record: str = "evaluation.json"
    figure: str = "dice.png"

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all files, the record last."""
        return (*(f"{table}.tsv" for table in _TABLES), self.figure, self.record)


def write_evaluation(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write all files of an evaluation; numbers of tables have six significant digits.

    Returns the paths of the tables by their names, and of the figure and the record by their file names.

    Raises
    ------
    OutputError
        If a file cannot be written; existing results are then unchanged.
    """
    names = EvaluationNames()
    with staged(folder, names) as temporary:
        for name in _TABLES:
            table: pd.DataFrame = getattr(evaluation, name)
            path = temporary / f"{name}.tsv"
            table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
        (temporary / names.figure).write_bytes(draw_dice(figure_data(evaluation)))
        write_json(temporary / names.record, evaluation.record)
    return {Path(name).stem if name.endswith(".tsv") else name: folder / name for name in names.all}


def figure_data(evaluation: Evaluation) -> tuple[MethodDice, ...]:
    """Dice of groups and, with left and right pooled, of regions, for each method."""
    methods = []
    for method in evaluation.methods:
        scans, groups, regions = (
            table[table["method"] == method] for table in (evaluation.scans, evaluation.groups, evaluation.regions)
        )
        parts = {"all regions": tuple(scans["dice"].dropna())}
        for name, rows in groups[groups["aggregation"] == "mean"].groupby("name", sort=False):
            parts[str(name)] = tuple(rows["dice"].dropna())
        short = regions["name"].str.removeprefix("Left ").str.removeprefix("Right ")
        pooled = regions.groupby([short, "scan"])["dice"].mean().dropna()
        by_region = {str(name): tuple(dice) for name, dice in pooled.groupby(level=0)}
        methods.append(MethodDice(method, {n: v for n, v in parts.items() if v}, by_region))
    return tuple(methods)
