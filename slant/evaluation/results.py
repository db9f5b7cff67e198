"""The files of an evaluation: tables, figure and record, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slant.evaluation.run import Evaluation
from slant.io.staging import staged, write_json
from slant.report.agreement import Marks, draw_agreement

_TABLES = ("regions", "groups", "scans", "summary", "comparison")


class EvaluationNames:
    """File names of an evaluation."""

    record = "evaluation.json"
    figure = "dice.png"
    all = (*(f"{table}.tsv" for table in _TABLES), figure, record)


def write_evaluation(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write all files.

    Returns
    -------
    dict of str to Path
        By what they are: the tables, ``figure`` and ``record``.

    Raises
    ------
    OutputError
        If one cannot be written; what was in the folder before is then unchanged.
    """
    names = EvaluationNames()
    with staged(folder, names) as temporary:
        for name in _TABLES:
            _write_table(temporary / f"{name}.tsv", getattr(evaluation, name))
        (temporary / names.figure).write_bytes(draw_agreement(marks_of(evaluation)))
        write_json(temporary / names.record, evaluation.record)
    return {Path(name).stem if name.endswith(".tsv") else name: folder / name for name in names.all}


def marks_of(evaluation: Evaluation) -> tuple[Marks, ...]:
    """What the figure shows of every method: Dice of groups and, left and right pooled, of regions."""
    marks = []
    for method in evaluation.methods:
        scans, groups, regions = (
            table[table["method"] == method] for table in (evaluation.scans, evaluation.groups, evaluation.regions)
        )
        parts = {"all regions": tuple(scans["dice"].dropna())}
        for name, own in groups[groups["how"] == "mean"].groupby("name", sort=False):
            parts[str(name)] = tuple(own["dice"].dropna())
        short = regions["name"].str.removeprefix("Left ").str.removeprefix("Right ")
        pooled = regions.groupby([short, "scan"])["dice"].mean().dropna()
        by_region = {str(name): tuple(own) for name, own in pooled.groupby(level=0)}
        marks.append(Marks(method, {n: v for n, v in parts.items() if v}, by_region))
    return tuple(marks)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    """Six digits are more than any of the numbers carries."""
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
