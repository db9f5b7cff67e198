"""The task of a cohort: what a worker does with each scan."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.config import RunReportSettings, SegmentSettings
from slant.engine import gpu_server
from slant.engine.job import Job
from slant.errors import ModelError
from slant.files import file_sha256
from slant.io.staging import FileNames
from slant.run import Request, segment_scan

if TYPE_CHECKING:
    from slant.nets.model import Model


@dataclass(frozen=True)
class SegmentTask:
    """Task that does the same as `slant segment` for each scan.

    Attributes
    ----------
    settings : SegmentSettings
    model_sha256 : str
        SHA-256 of the model's manifest, which contains the hashes of its weights.
    volume : int, optional
        Volume of 4D files, counted from 0.
    reports : RunReportSettings
        Reports to write; finished scans without them are not processed again.
    """

    settings: SegmentSettings
    model_sha256: str
    volume: int | None = None
    reports: RunReportSettings = field(default_factory=RunReportSettings)

    @property
    def key(self) -> str:
        """Digest of the model and of the settings that affect the labels."""
        settings = self.settings
        plain = [self.model_sha256, settings.interpolation, settings.skull_stripped, settings.device, self.volume]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    def names(self, job: Job) -> FileNames:
        """Names of the files of `slant segment`."""
        from slant.io.results import ResultNames

        return ResultNames(job.name)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether model, volume and settings are the same; the device counts only if one is requested."""
        settings, requested, used = self.settings, record.get("requested"), record.get("settings")
        if not isinstance(requested, dict) or not isinstance(used, dict):
            return False
        return (
            record.get("model", {}).get("sha256") == self.model_sha256
            and requested.get("volume") == self.volume
            and requested.get("skull_stripped") == settings.skull_stripped
            and used.get("interpolation") == settings.interpolation
            and settings.device in ("auto", used.get("device"))
        )

    def __call__(self, job: Job, staging: Path, threads: int) -> None:
        """Segment a scan and write its results."""
        from slant.io.read import read_scan
        from slant.io.results import write_results
        from slant.io.staging import check_output

        scan = dataclasses.replace(read_scan(job.scan, volume=self.volume), name=job.name)
        check_output(job.folder, self.names(job), force=True)
        model = _model(self.settings.model, self.model_sha256)
        request = Request(self.settings, self.volume, self.reports)
        run = segment_scan(scan, model, request, threads=threads, labeller=gpu_server.get_client())
        write_results(run, job.folder, staging)
        for warning in run.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        for timing in run.segmentation.timings:
            sys.stderr.write(f"{timing.name}: {timing.runtime_s:.1f} s, {timing.peak_mib:.0f} MiB\n")


def model_sha256(name_or_folder: str) -> str:
    """SHA-256 of the manifest of a model, which identifies the model; no weights are read.

    Raises
    ------
    ModelError
        If the model is not found.
    """
    from slant.io.models import model_folder

    manifest = model_folder(name_or_folder) / "manifest.json"
    try:
        return file_sha256(manifest)
    except OSError as error:
        raise ModelError(
            f"cannot read {manifest}: {error.strerror}; expected a folder written by slant train"
        ) from error


@cache
def _model(name_or_folder: str, identity: str) -> Model:
    """The model, loaded once per process."""
    from slant.io.models import load_model

    model = load_model(name_or_folder)
    if model.identity != identity:
        raise ModelError(
            f"the model {name_or_folder} has the hash {model.identity[:12]} here, expected {identity[:12]}; it changed "
            "since the run began, or this machine has another version: install the same version and run again"
        )
    return model
