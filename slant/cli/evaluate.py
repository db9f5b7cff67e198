"""`slant evaluate`."""

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
    truth: Path,
    out: Path,
    /,
    *,
    compare: Path | None = None,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = _DEFAULTS,
    force: bool = False,
) -> None:
    """Compare predicted label maps with manual ones.

    Parameters
    ----------
    predictions : Path
        Label map, or folder of label maps, such as the results of segment.
    truth : Path
        Label map or folder; files are matched by the names of their scans.
    out : Path
        Folder for tables, figure and record; made if absent.
    compare : Path
        Label maps of a second method, to be compared with the first.
    force : bool
        Replace an existing evaluation once the new one is complete.
    """
    from slant.evaluation.results import EvaluationNames, write_evaluation
    from slant.evaluation.run import evaluate as run
    from slant.io.staging import check_output

    check_output(out, EvaluationNames(), force=force, what="an evaluation")
    places = (predictions,) if compare is None else (predictions, compare)
    evaluation = run(places, truth, settings)
    write_evaluation(evaluation, out)
    _report(evaluation, out)


def _report(evaluation: Evaluation, out: Path) -> None:
    for note in evaluation.notes:
        sys.stderr.write(f"slant: note: {note}\n")
    for row in evaluation.scans.to_dict("records"):
        moved = f", shifted by {row['shift_voxels']} voxels" if row["shift_voxels"] != "0 0 0" else ""
        say(f"{row['method']}  {row['scan']}  Dice {row['dice']:.3f}  ({row['regions']} regions{moved})")
    summary = evaluation.summary[evaluation.summary["level"] == "all"]
    for row in summary[summary["metric"] == "dice"].to_dict("records"):
        interval = f"95 % interval {row['low']:.3f} to {row['high']:.3f}" if row["scans"] > 1 else "no interval"
        say(f"{row['method']}  mean over {row['scans']} scan(s): Dice {row['mean']:.3f}, {interval}")
    comparison = evaluation.comparison[evaluation.comparison["level"] == "all"]
    for row in comparison[comparison["metric"] == "dice"].to_dict("records"):
        first, second = evaluation.methods
        note = f" ({row['note']})" if row["note"] else ""
        say(f"{second} - {first}  median Dice {row['median_difference']:+.4f}, Wilcoxon p = {row['p']:.3g}{note}")
    say(f"tables, figure and record are in {out}")
