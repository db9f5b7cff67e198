"""`slant phantoms`: makes synthetic scans with labels."""

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
        Output directory for NAME_T1w.nii.gz and NAME_dseg.nii.gz (created if missing).
    count : int
        Number of synthetic subjects.
    seed : int
        Random seed; the same seed gives the same subjects.
    voxel_mm : float
        Voxel size in mm.
    slices : int
        Label only this many slices along each axis. [default: all voxels]
    force : bool
        Overwrite existing phantoms when the new ones are complete.
    """
    from slant.train.phantom import UNLABELLED, PhantomSettings, write_phantoms

    settings = PhantomSettings(count, seed, voxel_mm, slices)
    write_phantoms(out, settings, force=force)
    say(f"{count} phantoms, {settings.names[0]} to {settings.names[-1]}, written to {out}")
    if slices is not None:
        say(
            f"{slices} slices along each axis are labelled; all other voxels have the id {UNLABELLED}: set "
            f"ignore_label = {UNLABELLED}"
        )
