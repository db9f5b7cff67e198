"""`slant multiatlas`: segments scans by multi-atlas label fusion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.errors import SettingsError
from slant.multiatlas.settings import MultiAtlasSettings

if TYPE_CHECKING:
    from slant.multiatlas.run import MultiAtlasSummary

_DEFAULTS = MultiAtlasSettings()
_LIST = Parameter(negative_iterable=(), show_default=False)


@app.command
def multiatlas(
    *paths: Path,
    atlases: Path,
    exclude: Annotated[tuple[str, ...], _LIST] = (),
    leave_one_out: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[MultiAtlasSettings, Parameter(name="*")] = _DEFAULTS,
    jobs: int = 1,
    work_dir: Path | None = None,
) -> None:
    """Segment scans by multi-atlas label fusion; rerun with the same options to resume.

    Parameters
    ----------
    paths : Path
        Targets (scans, folders with NAME_T1w.nii.gz at any depth, or TSV tables with name and T1w), then the output
        directory (created if missing). With --leave-one-out only the output directory.
    atlases : Path
        Folder with NAME_T1w.nii.gz and NAME_dseg.nii.gz, or TSV table with name, T1w, dseg and optionally subject.
    exclude : list
        Atlases or subjects to exclude.
    leave_one_out : bool
        Segment each atlas by the atlases of other subjects, and compute Dice with its own labels.
    jobs : int
        Targets processed in parallel, each on one thread.
    work_dir : Path
        Directory for preprocessed scans and registrations. [default: work in the output directory]
    """
    if not paths or (len(paths) < 2 and not leave_one_out):
        raise SettingsError(
            "expected targets, then the output directory: slant multiatlas TARGETS OUT --atlases ATLASES"
        )
    if leave_one_out and len(paths) > 1:
        raise SettingsError(
            f"--leave-one-out segments the atlases themselves; give only the output directory, {paths[-1]}"
        )
    from slant.multiatlas.atlases import read_atlas_scans, without
    from slant.multiatlas.run import MultiAtlasRun, label_targets

    *target_paths, out = paths
    library = without(read_atlas_scans([atlases], labelled=True), exclude)
    targets = library if leave_one_out else read_atlas_scans(target_paths, labelled=False)
    _report(label_targets(MultiAtlasRun(targets, library, out, work_dir or out / "work", settings, jobs)), out)


def _report(summary: MultiAtlasSummary, out: Path) -> None:
    say(f"segmented {len(summary.done)} scan(s), {len(summary.skipped)} already done; results are in {out}")
    if summary.mean_dice is not None:
        say(f"mean Dice {summary.mean_dice:.4f} over the scans with manual labels, see {out / 'dice.tsv'}")
    for name, reason in summary.outliers.items():
        say(f"outlier: {name}: {reason}; check {out / 'contact_sheet.png'}")
    for name, reason in summary.failed.items():
        sys.stderr.write(f"slant: {name} failed: {reason}\n")
    if summary.failed:
        sys.exit(1)
