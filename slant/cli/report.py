"""`slant report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import ReportSettings
from slant.errors import SettingsError, SlantError

_DEFAULTS = ReportSettings()


@app.command
def report(
    *results: Path,
    settings: Annotated[ReportSettings, Parameter(name="*")] = _DEFAULTS,
    compare: Annotated[tuple[Path, Path] | None, Parameter(negative_iterable=())] = None,
    structures: Literal["auto", "regions", "freesurfer"] = "auto",
    scan: Path | None = None,
    out: Path | None = None,
) -> None:
    """Regenerate reports of finished results, or compare two segmentations of one scan.

    Parameters
    ----------
    results : Path
        Output directories of slant segment (searched recursively), or record files NAME_record.json.
    compare : tuple of 2 Path
        Two segmentations of one scan to compare in NAME_comparison.html: label maps (also FreeSurfer's aseg.mgz), or
        output directories of slant segment.
    structures : str
        Structures that --compare compares: the regions of the protocol, the structures that FreeSurfer and BrainCOLOR
        have in common, or auto to detect FreeSurfer label maps.
    scan : Path
        Path of the scan, if its file was moved; only for the results of one scan.
    out : Path
        Output directory (created if missing). Default: the directory of the results, where existing reports are
        replaced; with --compare the working directory.
    """
    if compare is not None:
        if results:
            raise SettingsError(
                f"--compare expects two segmentations and no other results, found also {results[0]}; leave it out"
            )
        _compare(compare, structures, settings, scan, out or Path())
        return
    records = _records(results, scan, out)
    if len(records) == 1:
        _regenerate(records[0], settings, scan, out)
        return
    failed = 0
    for record in records:
        try:
            _regenerate(record, settings, None, out)
        except SlantError as error:
            sys.stderr.write(f"slant: {error}\n")
            failed += 1
    if failed:
        sys.stderr.write(f"slant: {failed} of {len(records)} reports could not be written, see above\n")
        sys.exit(1)


def _records(results: tuple[Path, ...], scan: Path | None, out: Path | None) -> list[Path]:
    """The records of the results, whose reports do not overwrite each other."""
    from slant.io.read_results import find_records

    if not results:
        raise SettingsError(
            "found no folder, expected at least one with finished results; for example: slant report OUT"
        )
    records = [record for path in results for record in find_records(path)]
    if scan is not None and len(records) > 1:
        raise SettingsError(
            f"--scan expects the results of one scan, found those of {len(records)}; leave it out, or give one record"
        )
    names = [record.name for record in records]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if out is not None and duplicates:
        raise SettingsError(
            f"found several records named {duplicates[0]}, whose reports would overwrite each other in {out}; "
            "omit --out, so that each report is written next to its results"
        )
    return records


def _regenerate(record: Path, settings: ReportSettings, scan: Path | None, out: Path | None) -> None:
    from slant.io.names import ResultNames
    from slant.io.read_results import read_result
    from slant.io.write import write_files
    from slant.report.page import reports_of

    result = read_result(record, scan)
    for note in result.notes:
        sys.stderr.write(f"slant: note: {record}: {note}\n")
    names = ResultNames(result.name)
    reports = {names.of(kind): content for kind, content in reports_of(result, settings).items()}
    for path in write_files(out or record.parent, reports):
        say(str(path))


def _compare(
    segmentations: tuple[Path, Path],
    structures: Literal["auto", "regions", "freesurfer"],
    settings: ReportSettings,
    scan: Path | None,
    out: Path,
) -> None:
    from slant.evaluation.compare import compare
    from slant.io.write import write_files
    from slant.report.comparison import draw_comparison

    comparison = compare(*segmentations, scan, structures)
    reports = {f"{comparison.name}_comparison.html": draw_comparison(comparison, settings)}
    if settings.pdf:
        from slant.report.comparison import draw_comparison_pdf

        reports[f"{comparison.name}_comparison.pdf"] = draw_comparison_pdf(comparison, settings)
    for path in write_files(out, reports):
        say(str(path))
