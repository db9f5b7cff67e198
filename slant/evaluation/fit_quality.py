"""Fits the normative reference of a model from finished results that the model has made."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
from tqdm import tqdm

from slant.errors import InputError, SettingsError, errors_about
from slant.evaluation.files import find_labels, label_name
from slant.evaluation.maps import align_maps
from slant.evaluation.metrics import compare_regions
from slant.io.models import load_model
from slant.io.names import ResultNames, subject_of
from slant.io.read import read_label_map
from slant.io.read_results import RECORD, find_records, read_result
from slant.io.results import Result
from slant.io.templates import load_template
from slant.nets.model import Model
from slant.quality.fit import Fit, LabelledScan, fit_quality, without_votes
from slant.quality.iqm import measure_quality

MIN_SCANS, MIN_SUBJECTS = 5, 2
"""Minimum numbers of scans of good quality, and of subjects with reference labels."""


@dataclass(frozen=True)
class FitInputs:
    """Finished results of one model.

    Attributes
    ----------
    good : tuple of Path
        Output directories with results of scans of good quality, searched recursively, or records.
    references : Path, optional
        Reference label maps of scans held out from training, matched by the names of the scans.
    perturbed : tuple of Path
        The same of perturbed or bad scans of the same subjects, under the names of the scans.
    about : str, optional
        Description of the scans of good quality (default: their number).
    """

    good: tuple[Path, ...]
    references: Path | None = None
    perturbed: tuple[Path, ...] = ()
    about: str | None = None


@dataclass(frozen=True)
class _Task:
    record: Path
    clean: bool
    reference: Path | None


def fit_from_results(folder: Path, inputs: FitInputs, jobs: int | None = None) -> tuple[Fit, tuple[str, ...]]:
    """Fit the normative reference of a model.

    Parameters
    ----------
    folder : Path
        Folder of the model.
    jobs : int, optional
        Results read in parallel (default: one per CPU); does not change the reference.

    Returns
    -------
    fit : Fit
    notes : tuple of str
        Messages about reference label maps and perturbed scans that were left out.

    Raises
    ------
    ModelError
        If the folder is not a model.
    SettingsError
        If perturbed scans are given without reference label maps.
    InputError, GeometryError, ProtocolError
        If there are too few results, they are damaged, of another model or with atlases, or label maps do not fit them.
    """
    if inputs.perturbed and inputs.references is None:
        raise SettingsError("perturbed scans are compared with reference label maps; give them with --references")
    model = load_model(str(folder))
    tasks, notes = _tasks(inputs)
    parallel = joblib.Parallel(n_jobs=jobs or -1, return_as="generator")
    measured = parallel(joblib.delayed(partial(_measure, model))(task) for task in tasks)
    scans = list(tqdm(measured, total=len(tasks), desc="measure", unit="scan", file=sys.stderr))
    good, labelled = [scan.metrics for scan in scans if scan.clean], [scan for scan in scans if scan.dice]
    return fit_quality(good, labelled, inputs.about or f"{len(good)} scans of good quality"), notes


def _tasks(inputs: FitInputs) -> tuple[list[_Task], tuple[str, ...]]:
    good, perturbed = _records(inputs.good), _records(inputs.perturbed)
    if len(good) < MIN_SCANS:
        raise InputError(f"found results of {len(good)} scans of good quality, expected at least {MIN_SCANS}")
    if inputs.references is None:
        return [_Task(record, clean=True, reference=None) for record in good], ()
    references = find_labels(inputs.references)
    held_out = references.keys() & set(map(_scan_name, good))
    subjects = set(map(subject_of, held_out))
    if len(subjects) < MIN_SUBJECTS:
        raise InputError(
            f"{len(held_out)} of the scans of good quality have a reference label map in {inputs.references}, of "
            f"{len(subjects)} subject(s), expected at least {MIN_SUBJECTS}; names are compared as by slant evaluate"
        )
    kept = [record for record in perturbed if _scan_name(record) in held_out]
    unused = sorted(references.keys() - held_out), sorted(_scan_name(r) for r in perturbed if r not in kept)
    texts = "no scan of good quality for the reference label maps", "no reference label map for the perturbed scans"
    notes = tuple(f"{text} {', '.join(names)}: skipped" for text, names in zip(texts, unused, strict=True) if names)
    tasks = [_Task(record, clean=True, reference=references.get(_scan_name(record))) for record in good]
    return tasks + [_Task(record, clean=False, reference=references[_scan_name(record)]) for record in kept], notes


def _records(paths: Iterable[Path]) -> list[Path]:
    return sorted({record.absolute() for path in paths for record in find_records(path)})


def _scan_name(record: Path) -> str:
    """Name of the scan, as in the name of its label map."""
    return label_name(record.with_name(ResultNames(record.name.removesuffix(RECORD)).labels))


def _measure(model: Model, task: _Task) -> LabelledScan:
    """Quality metrics of a scan, and its Dice with its reference label map if it has one."""
    result = read_result(task.record)
    found = result.record.model
    if found.sha256 != model.identity:
        raise InputError(
            f"{task.record} was made by the model {found.name} with the hash {found.sha256[:12]}, expected "
            f"{model.name} with {model.identity[:12]}; segment the scan with this model"
        )
    if result.record.atlases is not None:
        raise InputError(
            f"{task.record} was made with --atlases, but the reference is one of the networks alone; segment the scan "
            "without --atlases"
        )
    metrics = measure_quality(result, load_template())
    if model.one_vote:
        metrics = without_votes(metrics)
    dice = {} if task.reference is None else _dice(task.record, result, task.reference)
    return LabelledScan(metrics, dice, subject_of(_scan_name(task.record)), task.clean)


def _dice(record: Path, result: Result, reference: Path) -> dict[int, float]:
    labels, _ = read_label_map(reference)
    with errors_about(f"{record} against {reference}"):
        maps = align_maps(result.labels, labels, result.protocol)
    table = compare_regions(maps, result.protocol, surfaces=False)
    return dict(zip(table["index"].tolist(), table["dice"].tolist(), strict=True))
