"""`slant report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.config import PageSettings
from slant.errors import SettingsError, SlantError

_DEFAULTS = PageSettings()


@app.command
def report(
    *results: Path,
    settings: Annotated[PageSettings, Parameter(name="*")] = _DEFAULTS,
    compare: tuple[Path, Path] | None = None,
    structures: Literal["auto", "regions", "freesurfer"] = "auto",
    scan: Path | None = None,
    out: Path | None = None,
) -> None:
    """Make the pages of finished results anew, without segmenting, or compare two segmentations of one scan.

    Parameters
    ----------
    results : Path
        Folders that slant segment wrote, with the folders in them, or records in them.
    compare : tuple of 2 Path
        Two segmentations of one scan: label maps (FreeSurfer's aseg.mgz too), or results of slant segment. The page is
        NAME_difference.html.
    structures : str
        What --compare compares: regions, the structures that FreeSurfer and BrainCOLOR share, or whichever fits.
    scan : Path
        The scan, if it is no longer where it was segmented; for the results of one scan.
    out : Path
        Folder for the pages; by default that of the results, where older pages are replaced, and for --compare the
        working directory.
    """
    if compare is not None:
        if results:
            raise SettingsError(
                f"--compare A B makes one page of two segmentations, found also {results[0]}; leave it out"
            )
        _compare(compare, structures, settings, scan, out or Path())
        return
    from slant.io.finished import find_records

    if not results:
        raise SettingsError("found no folder, wanted at least one with finished results: slant report OUT")
    records = [record for place in results for record in find_records(place)]
    if scan is not None and len(records) > 1:
        raise SettingsError(f"--scan is for the results of one scan, found those of {len(records)}")
    names = [record.name for record in records]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if out is not None and doubled:
        raise SettingsError(
            f"found several results with the record {doubled[0]}, whose pages would have one name in {out}; "
            "leave --out out, so that each lies beside its results"
        )
    if len(records) == 1:
        _remake(records[0], settings, scan, out)
        return
    failed = 0
    for record in records:
        try:
            _remake(record, settings, None, out)
        except SlantError as error:
            sys.stderr.write(f"slant: {error}\n")
            failed += 1
    if failed:
        sys.stderr.write(f"slant: {failed} of {len(records)} pages could not be made, see above\n")
        sys.exit(1)


def _remake(record: Path, settings: PageSettings, scan: Path | None, out: Path | None) -> None:
    from slant.io.finished import read_finished
    from slant.io.results import ResultNames
    from slant.io.write import write_files
    from slant.report.page import pages_of

    finished = read_finished(record, scan)
    for note in finished.notes:
        sys.stderr.write(f"slant: note: {record}: {note}\n")
    names = ResultNames(finished.name)
    pages = {getattr(names, kind): content for kind, content in pages_of(finished, settings).items()}
    for path in write_files(out or record.parent, pages):
        say(str(path))


def _compare(
    places: tuple[Path, Path],
    structures: Literal["auto", "regions", "freesurfer"],
    settings: PageSettings,
    scan: Path | None,
    out: Path,
) -> None:
    from slant.evaluation.difference import compare
    from slant.io.write import write_files
    from slant.report.difference import draw_difference

    found = compare(*places, scan, structures)
    pages = {f"{found.name}_difference.html": draw_difference(found, settings)}
    if settings.pdf:
        from slant.report.pdf_difference import draw_difference_pdf

        pages[f"{found.name}_difference.pdf"] = draw_difference_pdf(found, settings)
    for path in write_files(out, pages):
        say(str(path))
