"""`slant multiatlas`: segments scans by multi-atlas label fusion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.cli.cohort import say_failures
from slant.engine.resources import Resources
from slant.errors import SettingsError
from slant.multiatlas.settings import MultiAtlasSettings

if TYPE_CHECKING:
    from slant.multiatlas.run import MultiAtlasSummary

_DEFAULTS, _RESOURCES = MultiAtlasSettings(), Resources()
_LIST = Parameter(negative_iterable=(), show_default=False)


@app.command
def multiatlas(
    *paths: Path,
    atlases: Path,
    exclude: Annotated[tuple[str, ...], _LIST] = (),
    leave_one_out: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[MultiAtlasSettings, Parameter(name="*")] = _DEFAULTS,
    resources: Annotated[Resources, Parameter(name="*")] = _RESOURCES,
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
    _report(label_targets(MultiAtlasRun(targets, library, out, settings, resources)), out)


def _report(summary: MultiAtlasSummary, out: Path) -> None:
    jobs = summary.jobs
    say(f"segmented {len(jobs.done)} scan(s), {len(jobs.kept)} already done; results are in {out}")
    if summary.mean_dice is not None:
        say(f"mean Dice {summary.mean_dice:.4f} over the scans with manual labels, see {out / 'dice.tsv'}")
    for name, reason in summary.outliers.items():
        say(f"outlier: {name}: {reason}; check {out / 'contact_sheet.png'}")
    say_failures(jobs.failed)
    if jobs.failed:
        sys.exit(1)
