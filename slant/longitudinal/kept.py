"""What is kept of each visit until its subject is finished, so that an interrupted run continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slant.engine.layout import key
from slant.grid import Grid
from slant.io.prepared import kept
from slant.sparse_votes import SparseVotes
from slant.timing import Timing
from slant.volume import LabelMap

if TYPE_CHECKING:
    from slant.within_subject.visit import AlignedVisit

Timings = tuple[Timing, ...]


def kept_alignment(path: Path, identity: str, compute: Callable[[], AlignedVisit]) -> AlignedVisit:
    """What `slant.within_subject.visit.align_visit` found, read from a file if it was computed before.

    Parameters
    ----------
    path, identity
        See `slant.io.prepared.kept`, also for the errors.
    """
    from slant.within_subject.visit import AlignedVisit

    def arrays() -> dict[str, Any]:
        found = compute()
        about = {
            "skull_stripped": bool(found.skull_stripped),
            "similarity": float(found.similarity),
            "warnings": found.warnings,
            "timings": [vars(timing) for timing in found.timings],
        }
        return {
            "brain": np.packbits(found.brain.data != 0),
            "shape": np.array(found.brain.grid.shape),
            "ras_from_voxel": found.brain.grid.ras_from_voxel,
            "native_from_template": found.native_from_template,
            "about": np.array(json.dumps(about)),
        }

    stored = kept(path, identity, arrays)
    about = json.loads(str(stored["about"]))
    x, y, z = (int(n) for n in stored["shape"])
    brain = np.unpackbits(stored["brain"], count=x * y * z).reshape(x, y, z)
    return AlignedVisit(
        LabelMap(brain, Grid((x, y, z), stored["ras_from_voxel"])),
        about["skull_stripped"],
        stored["native_from_template"],
        about["similarity"],
        tuple(about["warnings"]),
        tuple(Timing(**timing) for timing in about["timings"]),
    )


def kept_votes(
    path: Path, identity: str, compute: Callable[[], tuple[SparseVotes, Timings]]
) -> tuple[SparseVotes, Timings]:
    """The votes of the networks for a visit and their timings, read from a file if they were computed before."""

    def arrays() -> dict[str, Any]:
        votes, timings = compute()
        about = {"voxel_mm": votes.voxel_mm, "timings": [vars(timing) for timing in timings]}
        values = {"channels": votes.channels, "counts": votes.counts, "totals": votes.totals}
        return {**values, "about": np.array(json.dumps(about))}

    stored = kept(path, identity, arrays)
    about = json.loads(str(stored["about"]))
    votes = SparseVotes(stored["channels"], stored["counts"], stored["totals"], about["voxel_mm"])
    return votes, tuple(Timing(**timing) for timing in about["timings"])


def folder_of(work: Path, subject: str) -> Path:
    """Folder of what is kept of a subject."""
    return work / key(subject)


def remove_kept(work: Path, subject: str) -> None:
    """Remove what was kept of a finished subject."""
    shutil.rmtree(folder_of(work, subject), ignore_errors=True)
