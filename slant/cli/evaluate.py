"""`slant evaluate`: compares predicted with reference label maps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from slant.evaluation.run import Evaluation

_DEFAULTS = EvaluateSettings()


@app.command
def evaluate(
    predictions: Path,
    references: Path,
    out: Path,
    /,
    *,
    compare: Path | None = None,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = _DEFAULTS,
    force: bool = False,
) -> None:
    """Compare predicted with reference label maps, for example manual ones.

    Parameters
    ----------
    predictions : Path
        Predicted label map, or folder of label maps, for example the output directory of segment.
    references : Path
        Reference label map, or folder of label maps; files are matched by the names of the scans.
    out : Path
        Output directory for tables, figure and record (created if missing).
    compare : Path
        Label map or folder of a second method, to compare with the first by a paired test.
    force : bool
        Overwrite an existing evaluation when finished.
    """
    from slant.evaluation.run import EvaluationNames, write_evaluation
    from slant.evaluation.run import evaluate as run
    from slant.io.staging import check_output

    check_output(out, EvaluationNames(), force=force, what="an evaluation")
    methods = (predictions,) if compare is None else (predictions, compare)
    evaluation = run(methods, references, settings)
    write_evaluation(evaluation, out)
    _report(evaluation, out)


def _report(evaluation: Evaluation, out: Path) -> None:
    for note in evaluation.notes:
        sys.stderr.write(f"slant: note: {note}\n")
    for row in evaluation.scans.to_dict("records"):
        shift = f", shifted by {row['shift_voxels']} voxels" if row["shift_voxels"] != "0 0 0" else ""
        say(f"{row['method']}  {row['scan']}  Dice {row['dice']:.3f}  ({row['regions']} regions{shift})")
    summary = evaluation.summary[evaluation.summary["level"] == "all"]
    for row in summary[summary["metric"] == "dice"].to_dict("records"):
        interval = f"95 % CI {row['ci_low']:.3f} to {row['ci_high']:.3f}" if row["scans"] > 1 else "no interval"
        say(f"{row['method']}  mean Dice over {row['scans']} scan(s): {row['mean']:.3f}, {interval}")
    comparison = evaluation.comparison[evaluation.comparison["level"] == "all"]
    for row in comparison[comparison["metric"] == "dice"].to_dict("records"):
        first, second = evaluation.methods
        test = f"Wilcoxon p = {row['p']:.3g}" + (f" ({row['note']})" if row["note"] else "")
        say(f"{second} - {first}  median Dice difference {row['median_difference']:+.4f}, {test}")
    say(f"tables, figure and record are in {out}")
