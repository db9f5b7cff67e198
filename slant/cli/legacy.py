"""`slant legacy`: the drop-in interface of the original SLANT container."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.cli.cohort import say_failures, say_notes
from slant.config import RunReportSettings, SegmentSettings
from slant.engine.layout import absolute
from slant.engine.resources import Resources

_DEFAULTS, _RESOURCES = SegmentSettings(), Resources()
_INPUTS, _OUTPUTS = Path("/INPUTS"), Path("/OUTPUTS")


@app.command
def legacy(
    inputs: Path = _INPUTS,
    outputs: Path = _OUTPUTS,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment all scans in a folder and name the results like the original SLANT container; rerun to resume.

    Parameters
    ----------
    inputs : Path
        Folder with the scans, NAME.nii.gz or NAME.nii.
    outputs : Path
        Output directory: FinalResult/NAME_seg.nii.gz, FinalPDF/NAME_result.pdf,
        FinalVolTxt/NAME_label_volumes.txt, and the results of `slant cohort` in slant/.
        Existing files are not deleted.
    force : bool
        Reprocess finished scans.
    """
    from slant.cohort.legacy import FOLDER, list_inputs, write_legacy
    from slant.cohort.run import make_cohort, segment_cohort, tabulate
    from slant.run import Request

    inputs, outputs = absolute(inputs), absolute(outputs)
    request = Request(settings, reports=RunReportSettings(pdf=True))
    job_list = list_inputs(inputs, outputs)
    say_notes(job_list.notes)
    cohort = make_cohort(job_list, outputs / FOLDER, request, resources, force=force)
    summary = segment_cohort(cohort)
    tabulate(cohort.workload, summary.failed)
    finished = {*summary.done, *summary.kept}
    for job in cohort.workload.job_list.jobs:
        if job.id in finished:
            write_legacy(job, outputs)
    say_failures(summary.failed)
    say(f"{len(finished)} scan(s) done, {len(summary.failed)} failed; results: {outputs / 'FinalResult'}")
    if summary.failed:
        sys.exit(1)
