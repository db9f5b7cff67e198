"""`slant phantoms`."""

from __future__ import annotations

from pathlib import Path

from slant.cli.app import app, say


@app.command
def phantoms(
    out: Path,
    /,
    *,
    count: int = 6,
    seed: int = 0,
    voxel_mm: float = 2.0,
    slices: int | None = None,
    force: bool = False,
) -> None:
    """Make synthetic scans with labels, to try out training.

    Parameters
    ----------
    out : Path
        Folder for NAME_T1w.nii.gz and NAME_dseg.nii.gz; made if absent.
    count : int
        How many people.
    seed : int
        The same seed gives the same people.
    voxel_mm : float
        Edge of a voxel.
    slices : int
        Annotate only so many slices along each axis. [default: everything]
    force : bool
        Replace phantoms of the same names once the new ones are complete.
    """
    from slant.train.phantom import UNLABELLED, PhantomSettings, write_phantoms

    settings = PhantomSettings(count, seed, voxel_mm, slices)
    write_phantoms(out, settings, force=force)
    say(f"{count} phantoms, {settings.names[0]} to {settings.names[-1]}, in {out}")
    if slices is not None:
        say(f"{slices} slices along each axis are annotated; all else has id {UNLABELLED}: set ignore = {UNLABELLED}")
