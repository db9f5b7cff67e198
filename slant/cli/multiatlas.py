"""`slant multiatlas`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slant.cli.app import app, say
from slant.errors import SettingsError
from slant.multiatlas.settings import MultiAtlasSettings

if TYPE_CHECKING:
    from slant.multiatlas.run import Outcome

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
    work: Path | None = None,
) -> None:
    """Label scans from labelled ones by registration; run again with the same options to continue.

    Parameters
    ----------
    paths : Path
        Targets (scans, folders with NAME_T1w.nii.gz at any depth, or TSV tables with name and T1w), then the folder
        for the results, made if absent. With --leave-one-out only the latter.
    atlases : Path
        Library: folder of NAME_T1w.nii.gz with NAME_dseg.nii.gz, or TSV with name, T1w, dseg and, if known, person.
    exclude : list
        Names or persons of atlases that are not used.
    leave_one_out : bool
        Label every atlas from those of other persons, and compare with its own labels.
    jobs : int
        Targets at a time, each on one thread.
    work : Path
        Folder for prepared scans and registrations. [default: work in the folder for the results]
    """
    if not paths or (len(paths) < 2 and not leave_one_out):
        raise SettingsError(
            "wanted targets, then the folder for the results: slant multiatlas TARGETS OUT --atlases LIB"
        )
    if leave_one_out and len(paths) > 1:
        raise SettingsError(f"--leave-one-out labels the atlases themselves; give only the folder {paths[-1]}")
    from slant.multiatlas.library import read_members, without
    from slant.multiatlas.run import Run, label_targets

    *places, out = paths
    library = without(read_members([atlases], labelled=True), exclude)
    targets = library if leave_one_out else read_members(places, labelled=False)
    _report(label_targets(Run(targets, library, out, work or out / "work", settings, jobs)), out)


def _report(outcome: Outcome, out: Path) -> None:
    say(f"labelled {len(outcome.done)} scan(s), {len(outcome.kept)} had been labelled before; results are in {out}")
    if outcome.mean_dice is not None:
        say(f"mean Dice {outcome.mean_dice:.4f} over the scans with manual labels, see {out / 'dice.tsv'}")
    for name, reason in outcome.suspect.items():
        say(f"suspect: {name}: {reason}; look at {out / 'contact_sheet.png'}")
    for name, reason in outcome.failed.items():
        sys.stderr.write(f"slant: {name} failed: {reason}\n")
    if outcome.failed:
        sys.exit(1)
