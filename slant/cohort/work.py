"""What is done with each scan: read, segmented, drawn, written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slant.cohort import feed
from slant.cohort.jobs import Job
from slant.cohort.scan import Request, segment_scan
from slant.config import RunPages, SegmentSettings
from slant.errors import ModelError
from slant.io.staging import FileNames

if TYPE_CHECKING:
    from slant.nets.model import Model


class Work(Protocol):
    """What a cohort does with each scan; picklable."""

    @property
    def key(self) -> str:
        """Digest of all that the results depend on beside the scan."""

    def names(self, job: Job) -> FileNames:
        """The files it leaves in the job's folder, the record among them."""

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record's results are what this work would make of the same scan."""

    def __call__(self, job: Job, stage: Path, threads: int) -> None:
        """Make the results, by way of a folder for those that are not complete.

        Raises
        ------
        SlantError
            If the scan cannot be done.
        """


@dataclass(frozen=True)
class SegmentWork:
    """`slant segment` for each scan.

    Attributes
    ----------
    settings : SegmentSettings
    model_sha256 : str
        Of the model's manifest, which holds the hashes of its weights.
    volume : int, optional
        Which volume of 4D files to take.
    pages : RunPages
        What else is left beside the results; finished ones without it stay as they are.
    """

    settings: SegmentSettings
    model_sha256: str
    volume: int | None = None
    pages: RunPages = field(default_factory=RunPages)

    @property
    def key(self) -> str:
        """Digest of the model and of the settings that can change the labels."""
        settings = self.settings
        plain = [self.model_sha256, settings.warp, settings.skull_stripped, settings.device, self.volume]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    def names(self, job: Job) -> FileNames:
        """The files of `slant segment`."""
        from slant.io.results import ResultNames

        return ResultNames(job.name)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether model, volume and settings are the same; a device only counts if one is asked for."""
        settings, asked, used = self.settings, record.get("requested"), record.get("settings")
        if not isinstance(asked, dict) or not isinstance(used, dict):
            return False
        return (
            record.get("model", {}).get("sha256") == self.model_sha256
            and asked.get("volume") == self.volume
            and asked.get("skull_stripped") == settings.skull_stripped
            and used.get("warp") == settings.warp
            and settings.device in ("auto", used.get("device"))
        )

    def __call__(self, job: Job, stage: Path, threads: int) -> None:
        """Segment a scan and write its results."""
        from slant.io.read import read_scan
        from slant.io.results import write_results
        from slant.io.staging import check_output

        scan = dataclasses.replace(read_scan(job.scan, volume=self.volume), name=job.name)
        check_output(job.folder, self.names(job), force=True)
        model, request = _model(self.settings.model, self.model_sha256), Request(self.settings, self.volume, self.pages)
        run = segment_scan(scan, model, request, threads=threads, feed=feed.current())
        write_results(run, job.folder, stage)
        for warning in run.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        for stage_done in run.segmentation.stages:
            sys.stderr.write(f"{stage_done.name}: {stage_done.seconds:.1f} s, {stage_done.peak_mib:.0f} MiB\n")


def model_sha256(name_or_folder: str) -> str:
    """The identity of a model without its weights.

    Raises
    ------
    ModelError
        If it is not there.
    """
    from slant.io.models import model_folder

    manifest = model_folder(name_or_folder) / "manifest.json"
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {manifest}: {error.strerror}; wanted a folder made by slant train") from error


@cache
def _model(name_or_folder: str, identity: str) -> Model:
    """The model, loaded once in a process."""
    from slant.io.models import load_model

    model = load_model(name_or_folder)
    if model.identity != identity:
        raise ModelError(
            f"the model {name_or_folder} has the hash {model.identity[:12]} here, wanted {identity[:12]}; it changed "
            "since the run began, or this machine has another version: install the same and run again"
        )
    return model
