"""What a run processes: jobs, one per scan, the task, which a worker does with each of them, and pools of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from slant.engine.gpu_server import GpuClient
from slant.engine.layout import OutputLayout
from slant.io.staging import FileNames


@dataclass(frozen=True)
class Job:
    """One scan to process.

    Attributes
    ----------
    id, name : str
        Unique id, the name of the scan in tables; output file prefix.
    scan, folder : Path
        Absolute paths of the scan and of the folder for its results.
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
        Folders that may contain more scans but cannot be read, and scans that cannot be processed, with the reasons.
    notes : tuple of str
        What was left out and why, one line per reason.
    """

    jobs: tuple[Job, ...]
    unreadable: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Worker:
    """What a worker offers to the task: threads for one job, and the GPU server of the run, if it has one."""

    threads: int
    gpu: GpuClient | None = None


class Task(Protocol):
    """Interface of what a run does with each job; picklable."""

    def key(self, job: Job, /) -> str:
        """Digest of everything except the scan that the results of a job depend on.

        Raises
        ------
        OSError
            If a file that they depend on cannot be read.
        """

    def names(self, job: Job, /) -> FileNames:
        """Names of the files that it writes to the folder of a job, including the record."""

    def fits(self, job: Job, record: Mapping[str, Any], /) -> bool:
        """Whether this task would produce the results of a record from the same bytes of the scan.

        Raises
        ------
        OSError, KeyError
            If a file that the results depend on cannot be read, or the record lacks an entry; it then does not fit.
        """

    def scan_sha256(self, record: Mapping[str, Any], /) -> str:
        """SHA-256 of the bytes of the scan, as the record says; KeyError or TypeError if it does not."""

    def __call__(self, job: Job, staging: Path, worker: Worker, /) -> None:
        """Produce the results of a scan; files are first written to the staging folder.

        Raises
        ------
        SlantError
            If the scan cannot be processed.
        """


@dataclass(frozen=True)
class Workload:
    """Jobs with their task and the output directory; ``force`` processes finished scans again."""

    job_list: JobList
    task: Task
    layout: OutputLayout
    force: bool = False


class Pool(Protocol):
    """Workers, each of which processes one scan at a time."""

    def __enter__(self) -> Self:
        """Start the workers."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the workers; after an error at once, with the scans that they are processing."""
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """Stop the workers: now, or when they are done."""

    @property
    def slots(self) -> int:
        """Number of scans that can be processed at the same time."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Start a function on a worker, with the `Worker` as the argument ``worker``."""
