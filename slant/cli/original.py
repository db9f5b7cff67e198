"""`slant original`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.cli.cohort import Resources, prepare, run
from slant.config import RunPages, SegmentSettings

_DEFAULTS, _RESOURCES = SegmentSettings(), Resources()
_INPUTS, _OUTPUTS = Path("/INPUTS"), Path("/OUTPUTS")


@app.command
def original(
    inputs: Path = _INPUTS,
    outputs: Path = _OUTPUTS,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Label every scan in a folder, with results named as by the original SLANT container; run again to continue.

    Parameters
    ----------
    inputs : Path
        Folder of the scans, NAME.nii.gz or NAME.nii.
    outputs : Path
        Gets FinalResult/NAME_seg.nii.gz, FinalPDF/NAME_result.pdf, FinalVolTxt/NAME_label_volumes.txt, and in slant/
        all that `slant cohort` leaves. Nothing is deleted there.
    force : bool
        Do finished scans again.
    """
    from slant.cohort.jobs import absolute
    from slant.cohort.original import FOLDER, list_inputs, write_original
    from slant.cohort.scan import Request
    from slant.cohort.table import write_tables

    inputs, outputs = absolute(inputs), absolute(outputs)
    request = Request(settings, pages=RunPages(pdf=True))
    made, _ = prepare(list_inputs(inputs, outputs), outputs / FOLDER, request, resources, force=force)
    summary = run(made, resources, settings)
    write_tables(made.place, made.listed.jobs, summary.failed)
    finished = {*summary.done, *summary.kept}
    for job in made.listed.jobs:
        if job.id in finished:
            write_original(job, outputs)
    for failure in summary.failed:
        sys.stderr.write(f"slant: {failure.name} failed: {failure.reason}\n")
    say(f"{len(finished)} scan(s) are in {outputs / 'FinalResult'}, {len(summary.failed)} failed")
    if summary.failed:
        sys.exit(1)
