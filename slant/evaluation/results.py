"""Write the files of an evaluation atomically: tables, figure and record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slant.evaluation.run import Evaluation
from slant.io.staging import staged, write_json
from slant.report.dice_figure import MethodDice, draw_dice

_TABLES = ("regions", "groups", "scans", "summary", "comparison")


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
    """Write all files of an evaluation.

    Returns
    -------
    dict of str to Path
        Paths of the tables by their names, and of the figure and the record by their file names.

    Raises
    ------
    OutputError
        If a file cannot be written; existing results are then unchanged.
    """
    names = EvaluationNames()
    with staged(folder, names) as temporary:
        for name in _TABLES:
            _write_table(temporary / f"{name}.tsv", getattr(evaluation, name))
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


def _write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table, numbers with six significant digits."""
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
