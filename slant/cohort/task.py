"""The task of a cohort: what a worker does with each scan."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slant.config import RunReportSettings, SegmentSettings
from slant.engine.gpu_server import GpuClient, GpuServer
from slant.engine.job import Job, Worker
from slant.errors import ModelError
from slant.files import file_sha256
from slant.io.staging import FileNames, check_output
from slant.run import Compute, Output, Request, run_scan
from slant.timing import TimingLog

if TYPE_CHECKING:
    from slant.io.atlas_library import LibraryFile
    from slant.nets.model import Model

T = TypeVar("T")


@dataclass(frozen=True)
class SegmentTask:
    """Task that does the same as `slant segment` for each scan.

    Attributes
    ----------
    model_sha256 : str
        SHA-256 of the model's manifest, which contains the hashes of its weights.
    volume : int, optional
        Volume of 4D files, counted from 0.
    reports : RunReportSettings
        Reports to write; finished scans without them are not processed again.
    atlases : LibraryFile, optional
        Atlases that vote together with the networks.
    """

    settings: SegmentSettings
    model_sha256: str
    volume: int | None = None
    reports: RunReportSettings = field(default_factory=RunReportSettings)
    atlases: LibraryFile | None = None

    def key(self, _: Job) -> str:
        """Digest of the model, of the atlases and of the settings that affect the labels."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("model", "threads")}
        plain = [self.model_sha256, self.volume, settings, *([] if self.atlases is None else [self.atlases.sha256])]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    def names(self, job: Job) -> FileNames:
        """Names of the files of `slant segment`."""
        from slant.io.names import ResultNames

        return ResultNames(job.name)

    def fits(self, _: Job, record: Mapping[str, Any]) -> bool:
        """Whether model, volume, settings and atlases are the same, see `slant.run.Request.made`."""
        return self._request.made(record, self.model_sha256)

    def scan_sha256(self, record: Mapping[str, Any]) -> str:
        """SHA-256 of the segmented file."""
        return str(record["input"]["sha256"])

    def __call__(self, job: Job, staging: Path, worker: Worker) -> None:
        """Segment a scan and write its results."""
        clock = TimingLog()
        with clock("read"):
            from slant.io.read import read_scan

            scan = replace(read_scan(job.scan, volume=self.volume), name=job.name)
        check_output(job.folder, self.names(job), force=True)
        with clock("load model"):
            model = loaded_model(self.settings.model, self.model_sha256)
        compute = compute_of(worker, self.model_sha256)
        result, _ = run_scan(scan, model, self._request, Output(job.folder, staging), compute, clock)
        for warning in result.record.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        for timing in clock.timings:
            sys.stderr.write(f"{timing}\n")

    @property
    def _request(self) -> Request:
        return Request(self.settings, self.volume, self.reports, atlases=self.atlases)


def compute_of(worker: Worker, model_sha256: str) -> Compute:
    """What a worker computes with: its threads, and the networks of this model on the GPU server if there is one."""
    return Compute(worker.threads, None if worker.gpu is None else GpuNetworks(worker.gpu, model_sha256))


@dataclass(frozen=True)
class GpuNetworks:
    """Runs the networks on the GPU server, see `slant.run.Networks`, with the model of this SHA-256."""

    client: GpuClient
    model_sha256: str

    @property
    def device(self) -> str:
        """Device of the server."""
        return self.client.device

    def run(self, work: Callable[[Model, SegmentSettings], T], model: str, settings: SegmentSettings) -> T:
        """Call a picklable function on the server."""
        result: T = self.client.call(work, model, self.model_sha256, settings)
        return result


def start_gpu_server(device: str) -> GpuServer | None:
    """Start a server that runs the networks, if the device is a GPU; otherwise each worker runs them itself.

    Raises
    ------
    DeviceError
        If the device is not available.
    """
    if device == "cpu":
        return None
    from slant.nets.device import choose_device

    chosen = choose_device(device)
    return None if chosen.type == "cpu" else GpuServer(str(chosen), _call)


def _call(work: Callable[[Model, SegmentSettings], T], model: str, identity: str, settings: SegmentSettings) -> T:
    """Call a function with the model on the server."""
    return work(loaded_model(model, identity), settings)


def model_sha256(name_or_folder: str) -> str:
    """SHA-256 of the manifest of a model, which identifies the model; ModelError if it is not found."""
    from slant.io.models import model_folder

    manifest = model_folder(name_or_folder) / "manifest.json"
    try:
        return file_sha256(manifest)
    except OSError as error:
        raise ModelError(
            f"cannot read {manifest}: {error.strerror}; expected a folder written by slant train"
        ) from error


@cache
def loaded_model(name_or_folder: str, identity: str) -> Model:
    """The model, loaded once per process; ModelError if it cannot be loaded or does not have this SHA-256."""
    from slant.io.models import load_model

    model = load_model(name_or_folder)
    if model.identity != identity:
        raise ModelError(
            f"the model {name_or_folder} has the hash {model.identity[:12]} here, expected {identity[:12]}; it changed "
            "since the run began, or this machine has another version: install the same version and run again"
        )
    return model
