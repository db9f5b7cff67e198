"""A job, one scan to process, and what a worker does with it: the protocol of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slant.io.staging import FileNames


@dataclass(frozen=True)
class Job:
    """One scan to process.

    Attributes
    ----------
    id : str
        Unique id, the name of the scan in tables.
    scan : Path
        Absolute path of the scan.
    folder : Path
        Absolute path of the folder for its results.
    name : str
        Output file prefix.
    """

    id: str
    scan: Path
    folder: Path
    name: str


@dataclass(frozen=True)
class JobList:
    """The jobs of a run.

    Attributes
    ----------
    jobs : tuple of Job
        Jobs, sorted by id.
    unreadable : dict of str to str
        Folders that may contain more scans but cannot be read, with the reasons.
    """

    jobs: tuple[Job, ...]
    unreadable: dict[str, str]


class Task(Protocol):
    """Interface of what a run does with each scan; picklable."""

    @property
    def key(self) -> str:
        """Digest of everything except the scan that the results depend on."""

    def names(self, job: Job) -> FileNames:
        """Names of the files that it writes to the folder of a job, including the record."""

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether this task would produce the results of a record from the same scan."""

    def __call__(self, job: Job, staging: Path, threads: int) -> None:
        """Produce the results of a scan; files are first written to the staging folder.

        Raises
        ------
        SlantError
            If the scan cannot be processed.
        """
