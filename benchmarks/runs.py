"""Commands in processes of their own, and the files of two runs compared; for `cohort.py`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLE_EVERY_S = 0.5

# Files of two runs, compared


COMPARED = """\
Compared byte for byte: label maps, confidence maps, masks, volumes, transforms, pictures, sidecars, thumbnails.
Without runtimes, memory and number of threads: records, reports, volumes.tsv and the dashboard. Without the times of
files: the index (last line of each scan). By name only: logs, and reports as PDF."""


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of what must agree in every file of an output folder, by the path in it."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(comparable(path, out)).hexdigest() for path in paths}


def differing(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Paths that one of both lacks, or whose digests differ."""
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))


def comparable(path: Path, out: Path) -> bytes:
    """The content of a file without what depends on when and how fast it was made."""
    if path.relative_to(out).parts[0] == "logs" or path.suffix == ".pdf":
        return b""
    for ending, without_times in WITHOUT_TIMES.items():
        if path.name.endswith(ending):
            return without_times(path.read_text(encoding="utf-8")).encode()
    return path.read_bytes()


def record_without_times(text: str) -> str:
    """A record without timings and number of threads."""
    record: dict[str, Any] = json.loads(text)
    del record["timings"], record["settings"]["threads"], record["requested"]["threads"]
    return json.dumps(record)


def table_without_times(text: str) -> str:
    """The cohort's table of volumes without the runtimes; the table of a single scan as it is."""
    if "runtime_s" not in text.partition("\n")[0].split("\t"):
        return text
    rows = csv.DictReader(io.StringIO(text), delimiter="\t")
    return json.dumps([{column: row[column] for column in row if column != "runtime_s"} for row in rows])


def dashboard_without_times(text: str) -> str:
    """The dashboard's numbers without the runtimes."""
    data: dict[str, Any] = json.loads(text.partition("=")[2].rstrip().rstrip(";"))
    runtime = data["columns"].index("runtime_s")
    for scan in data["scans"]:
        del scan[-1][runtime]
    return json.dumps(data)


def index_without_times(text: str) -> str:
    """The last entry of each scan in the index, without the times of its files."""
    entries = {entry["id"]: entry for entry in map(json.loads, text.splitlines())}
    fields = ("id", "scan", "name", "folder", "key", "sha256")
    return json.dumps([{field: entries[i][field] for field in fields} for i in sorted(entries)])


def without(pattern: str) -> Callable[[str], str]:
    """A function that removes all matches of a pattern from a text."""
    return lambda text: re.sub(pattern, "", text, flags=re.DOTALL)


WITHOUT_TIMES: dict[str, Callable[[str], str]] = {
    "_record.json": record_without_times,
    "_report.html": without('<dl class="record">.*?</dl>|<pre tabindex="0">.*?</pre>'),
    "group.html": without('<p class="sub">.*?</p>'),
    "group_data.js": dashboard_without_times,
    "index.jsonl": index_without_times,
    "volumes.tsv": table_without_times,
}


def print_differences(paths: list[str]) -> None:
    """Print how files are compared, and which of them differ."""
    print(f"\n{COMPARED}\n")
    print("\n".join(["These files differ:", *paths]) if paths else "No file differs.")


# Commands in processes of their own


@dataclass(frozen=True)
class Measured:
    """A command that has ended, with the peak resident memory of all its processes and of the largest one."""

    status: int
    runtime_s: float
    all_mib: float
    largest_mib: float


def run_measured(command: tuple[str, ...], log: Path, kill_when: Callable[[], bool] = lambda: False) -> Measured:
    """Run a command with its output in a log; SIGKILL to its main process alone once ``kill_when`` is true.

    All child processes of this process are sampled, so the workers of a cluster that was started for it count too.
    """
    start, all_mib, largest = time.monotonic(), 0.0, 0.0
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("a") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        while process.poll() is None:
            sizes = list(resident_mib())
            all_mib, largest = max(all_mib, sum(sizes)), max([largest, *sizes])
            if kill_when():
                process.send_signal(signal.SIGKILL)
            time.sleep(SAMPLE_EVERY_S)
    return Measured(process.returncode, time.monotonic() - start, all_mib, largest)


def resident_mib() -> Iterator[float]:
    """Resident memory of each child process."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            yield process.memory_info().rss / 2**20


@dataclass(frozen=True)
class Runs:
    """Several runs of one program with one input (``program``), each with its own folder and log in ``work``."""

    program: tuple[str, ...]
    work: Path
    options: tuple[str, ...]

    def command(self, run: str, *more: str) -> tuple[str, ...]:
        """The command line with the output folder of a run."""
        return (*self.program, str(self.out(run)), *more, *self.options)

    def out(self, run: str) -> Path:
        """Output folder; its name is the same for all runs, because it is the title of the dashboard."""
        return self.work / run / "results"

    def log(self, run: str) -> Path:
        """What the commands of a run print."""
        return self.work / f"{run}.log"


def has_open_file(process: psutil.Process, out: Path) -> bool:
    """Whether a process has a file open in the output folder, for example a log or a lock."""
    try:
        return any(Path(file.path).is_relative_to(out) for file in process.open_files())
    except psutil.Error:
        return False
