"""Commands of slant in processes of their own with the memory of all, and clusters of this machine for them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOCAL_SLURM = Path(__file__).with_name("local_slurm.sh")
SLANT = (sys.executable, "-c", "from slant.cli import main; main()")
SLANT_BIDS = (sys.executable, "-c", "from slant.cli.bids import main; main()")
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Measured:
    """A command that ended.

    Attributes
    ----------
    status : int
    seconds : float
    all_mib, largest_mib : float
        Largest resident memory seen of the tree together, and of any of its processes.
    """

    status: int
    seconds: float
    all_mib: float
    largest_mib: float


def measure(command: tuple[str, ...], log: Path, until: Callable[[], bool] = lambda: False) -> Measured:
    """Run a command, its words into a log; its process alone gets SIGKILL once ``until`` says so.

    Looks at the tree of this process twice a second, so that workers that a cluster started for it count too.
    """
    start, all_mib, largest = time.monotonic(), 0.0, 0.0
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("a") as said:
        said.write(" ".join(command) + "\n")
        said.flush()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        while process.poll() is None:
            sizes = list(_resident_mib())
            all_mib, largest = max(all_mib, sum(sizes)), max([largest, *sizes])
            if until():
                process.send_signal(signal.SIGKILL)
            time.sleep(_LOOK_EVERY_S)
    return Measured(process.returncode, time.monotonic() - start, all_mib, largest)


def _resident_mib() -> Iterator[float]:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            yield process.memory_info().rss / 2**20


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a scheduler with so many workers of one thread, each a process."""
    file, python = folder / "scheduler.json", sys.executable
    file.unlink(missing_ok=True)
    dask = (python, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
    worker = (python, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard")
    where = ("--scheduler-file", str(file))
    with (folder / "dask.log").open("w") as log:
        started = [subprocess.Popen((*dask, *where), stdout=log, stderr=log)]
        try:
            while not (address := _address(file)):
                if started[0].poll() is not None:
                    raise SystemExit(f"the dask scheduler did not start, see {log.name}")
                time.sleep(0.1)
            space = ("--local-directory", str(folder))
            started += [subprocess.Popen((*worker, *where, *space), stdout=log, stderr=log) for _ in range(workers)]
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(60)


def _address(file: Path) -> str:
    with suppress(OSError, ValueError):  # not there, or not whole
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    return ""


@contextmanager
def slurm(folder: Path, cpus: int) -> Iterator[bool]:
    """Whether there is a SLURM: one that ``SLURM_CONF`` names, or one that is started in the folder."""
    if "SLURM_CONF" in os.environ:
        yield True
        return
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") is None:
        yield False
        return
    subprocess.run([LOCAL_SLURM, "start", folder, str(cpus)], check=True, stdout=subprocess.DEVNULL)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield True
    finally:
        subprocess.run([LOCAL_SLURM, "stop", folder], check=True)
        del os.environ["SLURM_CONF"]
