"""A task that segments nothing, to try out and measure the engine by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slant.engine.job import Job, Worker
from slant.io.staging import staged, write_json


@dataclass(frozen=True)
class TrialNames:
    """Names of the files of a `TrialTask`, the record last."""

    all: tuple[str, ...]

    @property
    def record(self) -> str:
        """The record, which is written last."""
        return self.all[-1]


@dataclass(frozen=True)
class TrialTask:
    """Writes files of fixed text and three times the bytes of the scan, and a record.

    Attributes
    ----------
    setting : str
        Results of another setting are not finished.
    texts, more : mapping
        Text of each file by the end of its name; further entries of the record.
    during : callable, optional
        Picklable; called with the job and the worker when all files but the record are written.
    """

    setting: str = "a"
    texts: Mapping[str, str] = field(default_factory=lambda: {"labels.txt": "labels ", "volumes.txt": "volumes "})
    more: Mapping[str, Any] = field(default_factory=dict)
    during: Callable[[Job, Worker], None] | None = None

    def key(self, _: Job) -> str:
        """The setting."""
        return self.setting

    def names(self, job: Job) -> TrialNames:
        """Names of the files of a job."""
        return TrialNames(tuple(f"{job.name}_{end}" for end in (*self.texts, "record.json")))

    def fits(self, _: Job, record: Mapping[str, Any]) -> bool:
        """Whether a record has the same setting."""
        return bool(record["setting"] == self.setting)

    def scan_sha256(self, record: Mapping[str, Any]) -> str:
        """SHA-256 of the scan in a record."""
        return str(record["scan_sha256"])

    def __call__(self, job: Job, staging: Path, worker: Worker) -> None:
        """Write the files of a job."""
        names, content = self.names(job), job.scan.read_bytes()
        with staged(job.folder, names, unfinished=staging) as folder:
            for name, text in zip(names.all, self.texts.values(), strict=False):
                (folder / name).write_bytes(text.encode() + 3 * content)
            if self.during is not None:
                self.during(job, worker)
            record = {"scan_sha256": hashlib.sha256(content).hexdigest(), "setting": self.setting}
            write_json(folder / names.record, record | dict(self.more))
