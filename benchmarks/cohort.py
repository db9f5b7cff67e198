"""What the engine of cohorts costs by itself, with a job that only writes two small files.

    python benchmarks/cohort.py [--scans 1000 10000] [--workers 2] [--folder TMP]

Each row is a process of its own: the first run, a second run over finished scans, and the table of volumes. Calls are
those of the file system, of all processes, by strace: what 200 scans need more than 100, for one scan.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.cohort.jobs import Job, JobList
from slant.cohort.machine import Plan
from slant.cohort.place import Place
from slant.cohort.pools import LocalPool
from slant.cohort.run import Cohort, run_cohort
from slant.cohort.table import write_tables
from slant.io.resources import load_protocol
from slant.io.staging import staged, write_json

PHASES = ("first run", "second run", "table")


@dataclass(frozen=True)
class Names:
    """The record and the volumes of `slant segment`."""

    name: str

    @property
    def record(self) -> str:
        """Written last."""
        return f"{self.name}_record.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Both files."""
        return f"{self.name}_seg-BrainCOLOR_volumes.tsv", self.record


@dataclass(frozen=True)
class Nothing:
    """A segmentation that finds the same volumes everywhere."""

    volumes: str
    key: str = "nothing"

    def names(self, job: Job) -> Names:
        """Of the two files."""
        return Names(job.name)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether it made the record."""
        return record.get("key") == self.key

    def __call__(self, job: Job, stage: Path, threads: int) -> None:
        """Write the two files."""
        names = self.names(job)
        with staged(job.folder, names, unfinished=stage) as folder:
            (folder / names.all[0]).write_text(self.volumes, encoding="utf-8")
            record = {"input": {"sha256": EMPTY}, "key": self.key, "registration_similarity": 0.5, "threads": threads}
            more = {"regions_found": 132, "warnings": [], "stages": []}
            write_json(folder / names.record, record | more)


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def volumes() -> str:
    """A table such as `slant segment` writes, of its regions alone."""
    columns = ("level", "index", "name", "abbreviation", "hemisphere", "tissue", "lobe", "volume_mm3")
    rows = [
        ("region", r.id, r.name, r.abbreviation, r.hemisphere, r.tissue, r.lobe, "1234.567")
        for r in load_protocol().regions[1:]
    ]
    return "\n".join("\t".join(map(str, row)) for row in (columns, *rows)) + "\n"


def phase(name: str, scans: int, workers: int, folder: Path) -> dict[str, float]:
    """One phase in this process: seconds, and MiB of this process and of its largest worker."""
    out = folder / "out"
    places = [folder / "in" / f"{i // 1000:03d}" / f"scan{i:05d}.nii" for i in range(scans)]
    jobs = tuple(Job(place.stem, place, out / place.stem, place.stem) for place in places)
    if name == PHASES[0]:
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    start = time.perf_counter()
    if name == PHASES[2]:
        rows, _ = write_tables(Place(out), jobs, ())
        correct = rows == scans
    else:
        summary = run_cohort(Cohort(JobList(jobs, {}), Nothing(volumes()), Place(out)), LocalPool(Plan(workers, 1)))
        correct = len(summary.done if name == PHASES[0] else summary.kept) == scans
    seconds = time.perf_counter() - start
    if not correct:
        raise SystemExit(f"{name}: not all of the {scans} scans came out")
    own, workers_kib = (resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": seconds, "own": own / 1024, "worker": workers_kib / 1024}


def measure(name: str, scans: int, workers: int, folder: Path, prefix: tuple[str, ...] = ()) -> dict[str, float]:
    """The same in a process of its own."""
    command = [*prefix, sys.executable, __file__, "--folder", str(folder), "--workers", str(workers)]
    run = subprocess.run(
        [*command, "--phase", name, "--scans", str(scans)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return dict(json.loads(run.stdout))


def calls(name: str, workers: int, top: Path) -> str:
    """File system calls a scan, by strace."""
    if shutil.which("strace") is None:
        return "no strace"
    counts = []
    for scans in (100, 200):
        folder, log = top / f"calls{scans}", top / "strace.txt"
        measure(name, scans, workers, folder, ("strace", "-f", "-c", "-e", "trace=%file,flock", "-o", str(log)))
        total = re.search(r"(\d+)\s+(?:\d+\s+)?total", log.read_text())
        counts.append(int(total[1]) if total else 0)
    return f"{(counts[1] - counts[0]) / 100:.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(phase(options.phase, options.scans[0], options.workers, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        top = Path(folder)
        print("| phase | scans | seconds | ms a scan | MiB | MiB of a worker | calls a scan |")
        print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
        for name in PHASES:
            needed = calls(name, options.workers, top)
            for scans in options.scans:
                found = measure(name, scans, options.workers, top / str(scans))
                seconds, own, worker = found["seconds"], found["own"], found["worker"]
                row = f"{seconds:.1f} | {1000 * seconds / scans:.2f} | {own:.0f} | {worker:.0f} | {needed}"
                print(f"| {name} | {scans} | {row} |", flush=True)


if __name__ == "__main__":
    main()
