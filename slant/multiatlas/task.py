"""The task of a multi-atlas segmentation: what a worker does with each target."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slant.engine.job import Job, Worker
from slant.errors import SlantError
from slant.files import file_sha256
from slant.io.prepared import input_sha256
from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.multiatlas.atlases import AtlasScan, atlases_for
from slant.multiatlas.candidates import LabelSource, atlas_channels, choose, gather, on_whole_grid
from slant.multiatlas.label_fusion import fuse
from slant.multiatlas.results import Labelled, MultiAtlasNames, identity, write_labelled
from slant.multiatlas.settings import MultiAtlasSettings
from slant.timing import TimingLog
from slant.volume import LabelMap, Volume
from slant.volumes import dice_per_region


@dataclass(frozen=True)
class MultiAtlasTask:
    """Segments each target by the atlases of other subjects.

    Attributes
    ----------
    targets : mapping of str to AtlasScan
        Targets by the ids of their jobs.
    library : tuple of LabelSource
        All atlases.
    work_dir : Path
        Absolute path of the directory of preprocessed scans and registrations.
    """

    targets: Mapping[str, AtlasScan]
    library: tuple[LabelSource, ...]
    settings: MultiAtlasSettings
    work_dir: Path

    @property
    def mutual(self) -> frozenset[str]:
        """Names of the atlases that are targets, too."""
        return frozenset(self.targets) & {atlas.atlas_scan.name for atlas in self.library}

    def key(self, job: Job) -> str:
        """Digest of the atlases, the target's own labels, the settings and the versions."""
        return hashlib.sha256(json.dumps(self._identity(job, ""), sort_keys=True).encode()).hexdigest()[:16]

    def names(self, job: Job) -> MultiAtlasNames:
        """Names of the files of a target."""
        return MultiAtlasNames(job.name)

    def fits(self, job: Job, record: Mapping[str, Any]) -> bool:
        """Whether a record was made from the same atlases with the same settings, see `identity`."""
        expected = self._identity(job, self.scan_sha256(record))
        return "quality" in record and all(record.get(key) == value for key, value in expected.items())

    def scan_sha256(self, record: Mapping[str, Any]) -> str:
        """SHA-256 of the target in a record."""
        return str(record["target"]["sha256"])

    def __call__(self, job: Job, staging: Path, _: Worker) -> None:
        """Segment a target and write its results."""
        target = source_of(self.targets[job.id])
        atlases = self._atlases(target)
        labelled = label_target(target, atlases, self)
        write_labelled(job.folder, labelled, identity(target, atlases, self.settings), staging)
        for warning in labelled.scan.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        for step, runtime_s in labelled.runtime_s.items():
            sys.stderr.write(f"{step}: {runtime_s:.1f} s\n")

    def _identity(self, job: Job, sha256: str) -> dict[str, Any]:
        """The inputs and settings of a target with this hash; OSError if its own labels cannot be read."""
        scan = self.targets[job.id]
        target = LabelSource(scan, sha256, "" if scan.dseg is None else file_sha256(scan.dseg))
        return identity(target, self._atlases(target), self.settings)

    def _atlases(self, target: LabelSource) -> tuple[LabelSource, ...]:
        """The atlases that may be used for a target: those with another subject, name and SHA-256."""
        allowed = {a.name for a in atlases_for(target.atlas_scan, [a.atlas_scan for a in self.library])}
        return tuple(a for a in self.library if a.atlas_scan.name in allowed and a.sha256 != target.sha256)


def source_of(atlas_scan: AtlasScan) -> LabelSource:
    """The scan with the hashes of its files.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    dseg_sha256 = "" if atlas_scan.dseg is None else input_sha256(atlas_scan.dseg)
    return LabelSource(atlas_scan, input_sha256(atlas_scan.t1w), dseg_sha256)


def prepare_atlas(task: MultiAtlasTask, atlas: LabelSource, **_worker: Worker) -> str:
    """Preprocess an atlas and check its labels; the reason if it cannot be used, otherwise empty."""
    try:
        atlas.prepared(task.work_dir)
        atlas_channels(atlas.atlas_scan, read_scan(atlas.atlas_scan.t1w), task.settings.unknown_ids)
    except SlantError as error:
        return str(error)
    return ""


def label_target(target: LabelSource, atlases: Sequence[LabelSource], task: MultiAtlasTask) -> Labelled:
    """Segment one target by the atlases that may be used for it, without writing results.

    Raises
    ------
    SlantError
        If the target or an atlas cannot be used.
    """
    settings, work_dir = task.settings, task.work_dir
    clock = TimingLog()
    with clock("prepare"):
        scan = read_scan(target.atlas_scan.t1w)
        prepared = target.prepared(work_dir)
    with clock("register"):
        chosen = choose(target, atlases, settings, work_dir, task.mutual)
    with clock("resample"):
        candidates, box = gather(scan, prepared, chosen, work_dir, settings.unknown_ids)
    with clock("fuse"):
        fused = fuse(candidates, settings.fusion, settings.patch_radius)
    grid, protocol = scan.volume.grid, load_protocol()
    ids = on_whole_grid(grid, box, protocol.ids_from_channels(fused.channels), 0)
    labels = LabelMap(np.asarray(ids, dtype=np.int16), grid)
    agreement = Volume(np.asarray(on_whole_grid(grid, box, fused.agreement, 1), dtype=np.float32), grid)
    dice: dict[int, float] = {}
    if target.atlas_scan.dseg is not None:
        dice = dice_per_region(labels, read_labels(target.atlas_scan.dseg, scan), protocol.ids.tolist())
    return Labelled(scan, labels, agreement, chosen, dice, {timing.name: timing.runtime_s for timing in clock.timings})
