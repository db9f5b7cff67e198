"""`slant atlases`: makes a library of atlases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slant.cli.app import app, say

_LIST = Parameter(negative_iterable=(), show_default=False)


@app.command
def atlases(  # noqa: PLR0913 (the options of a library)
    scans: Path,
    library: Path,
    /,
    *,
    exclude: Annotated[tuple[str, ...], _LIST] = (),
    unknown_ids: Literal["error", "background"] = "error",
    jobs: int | None = None,
    work_dir: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a library of atlases from labelled scans, for --atlases of slant segment, slant cohort and slant-bids.

    Parameters
    ----------
    scans : Path
        Folder with NAME_T1w.nii.gz and NAME_dseg.nii.gz, or TSV table with name, T1w, dseg and optionally subject.
    library : Path
        File to write, ending in .npz. It contains the brains and labels: their licence and consent apply.
    exclude : list
        Scans or subjects to exclude.
    unknown_ids : str
        How to treat label ids outside the protocol.
    jobs : int
        Scans prepared in parallel (default: as many as cores and available memory allow).
    work_dir : Path
        Directory in which prepared scans are kept, shared with slant multiatlas and slant train (default: not kept).
    force : bool
        Replace an existing library when the new one is complete.
    """
    from slant.multiatlas.atlases import read_atlas_scans, without
    from slant.multiatlas.library import LibrarySettings, make_library

    found = without(read_atlas_scans([scans], labelled=True), exclude)
    size = make_library(library, found, LibrarySettings(unknown_ids, jobs, work_dir, force))
    subjects = len({scan.subject for scan in found})
    say(f"{len(found)} atlases of {subjects} subjects, {size / 2**20:.1f} MiB, written to {library}")
    say(f"slant segment SCAN OUT --atlases {library} uses them together with the networks")
