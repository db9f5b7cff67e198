"""`slant quality fit`: makes the reference with which scans of a model are graded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from slant.cli.app import app, say

quality = App(name="quality", help="Make the reference with which slant segment grades the scans of a model.")
app.command(quality)


@quality.command
def fit(
    model: Path,
    /,
    *results: Path,
    references: Path | None = None,
    perturbed: Annotated[tuple[Path, ...], Parameter(negative_iterable=(), show_default=False)] = (),
    about: str | None = None,
    jobs: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fit the reference of a model from finished results, and write it to quality.json in the folder of the model.

    Parameters
    ----------
    model : Path
        Folder of the model.
    results : Path
        Output directories of slant segment or slant cohort with this model, for scans of good quality.
    references : Path
        Folder of reference label maps of scans held out from training, for the expected Dice; matched by name.
    perturbed : Path
        Output directory with results of perturbed or bad scans of the same subjects, under the same names (repeatable).
    about : str
        Description of the scans of good quality, shown in reports.
    jobs : int
        Results read in parallel (default: one per CPU); does not change the reference.
    force : bool
        Replace the existing reference of the model.
    """
    from slant.errors import OutputError, SettingsError
    from slant.evaluation.fit_quality import FitInputs, fit_from_results
    from slant.io.models import model_folder
    from slant.quality.reference import FILE, write_reference

    if not results:
        raise SettingsError("found no folder, expected at least one with finished results of scans of good quality")
    folder = model_folder(str(model))
    if (folder / FILE).exists() and not force:
        raise OutputError(f"{folder / FILE} already exists; use --force to replace it when the new one is complete")
    fitted, notes = fit_from_results(folder, FitInputs(results, references, perturbed, about), jobs)
    path = write_reference(folder, fitted.reference)
    for note in notes:
        sys.stderr.write(f"slant: note: {note}\n")
    say(f"reference: {fitted.reference.about}")
    found = fitted.reliability
    if found is None:
        say("no expected Dice: it needs --references")
    else:
        regions = sum(one.regions for one in found.bins)
        say(f"expected Dice of {regions} regions, each by a rule fitted without its subject:")
        say(f"  calibration error {found.calibration:.3f}")
        say(f"  mean absolute error {found.absolute:.3f} of a region, {found.scan:.3f} of the mean of a scan")
    say(f"wrote {path}; slant segment --model {model} grades scans with it")
