"""What the engine of `slant cohort` costs by itself, with a task that only writes a record and a table of volumes.

    python benchmarks/engine.py [--scans 1000 10000] [--workers 2] [--folder TMP]

Prints the runtime and the memory of a first run, of a second run over finished scans and of the tables, each in a
process of its own, and the file system calls per scan of all processes (what 200 scans need more than 100, counted by
strace).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from slant.cohort.run import tabulate
from slant.engine.job import Job, JobList, Workload
from slant.engine.layout import OutputLayout
from slant.engine.pools import LocalPool
from slant.engine.resources import WorkerPlan
from slant.engine.run import run_jobs
from slant.engine.trial import TrialTask
from slant.grid import Grid
from slant.io.resources import load_protocol
from slant.io.volume_table import format_volumes
from slant.volume import LabelMap
from slant.volumes import region_volumes

PHASES = ("first run", "second run", "table")
SHA256_OF_NOTHING = hashlib.sha256(b"").hexdigest()


def volume_table() -> str:
    """A table of volumes as `slant segment` writes it, with no volume."""
    nothing = LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)))
    return format_volumes(region_volumes(nothing, load_protocol()))


def empty_record() -> dict[str, Any]:
    """Entries that every record of `slant segment` has."""
    return {
        "input": {"path": "scan.nii", "sha256": SHA256_OF_NOTHING},
        "model": {"name": "none", "sha256": SHA256_OF_NOTHING, "licence": "none"},
        "versions": {},
        "settings": {},
        "warnings": [],
        "registration_similarity": 0.5,
        "native_from_template": np.eye(4).tolist(),
        "timings": [],
    }


def run_phase(phase: str, scans: int, workers: int, folder: Path) -> dict[str, float]:
    """Runtime of one phase in this process, and peak MiB of this process and of its largest worker."""
    layout = OutputLayout(folder / "out")
    paths = [folder / "in" / f"{i // 1000:03d}" / f"scan{i:05d}.nii" for i in range(scans)]
    jobs = tuple(Job(path.stem, path, layout.out / path.stem, path.stem) for path in paths)
    if phase == "first run":
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    start = time.perf_counter()
    task = TrialTask(texts={"seg-BrainCOLOR_volumes.tsv": volume_table()}, more=empty_record())
    workload = Workload(JobList(jobs, {}), task, layout)
    if phase == "table":
        count = tabulate(workload, ()).scans
    else:
        summary = run_jobs(workload, LocalPool(WorkerPlan(workers, 1)))
        count = len(summary.done if phase == "first run" else summary.kept)
    runtime_s = time.perf_counter() - start
    if count != scans:
        raise SystemExit(f"{phase}: found results of {count} scans, expected {scans}; see the logs in {layout.logs}")
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"runtime_s": runtime_s, "own_mib": own / 1024, "worker_mib": worker / 1024}


def measure_phase(phase: str, scans: int, workers: int, folder: Path, prefix: tuple[str, ...] = ()) -> dict[str, float]:
    """The same in a process of its own."""
    options = ("--phase", phase, "--scans", str(scans), "--workers", str(workers), "--folder", str(folder))
    command = [*prefix, sys.executable, __file__, *options]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(run.stdout))


def calls_per_scan(phase: str, workers: int, folder: Path) -> str:
    """File system calls per scan, counted by strace."""
    if shutil.which("strace") is None:
        return "no strace"
    counts = []
    for scans in (100, 200):
        log = folder / "strace.txt"
        prefix = ("strace", "-f", "-c", "-e", "trace=%file,flock", "-o", str(log))
        measure_phase(phase, scans, workers, folder / f"calls{scans}", prefix)
        total = re.search(r"(\d+)\s+(?:\d+\s+)?total", log.read_text())
        counts.append(int(total[1]) if total else 0)
    return f"{(counts[1] - counts[0]) / 100:.0f}"


def main() -> None:
    """Print the runtime, memory and file system calls of a task that segments nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary files are written")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        sys.stdout.write(json.dumps(run_phase(options.phase, options.scans[0], options.workers, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        top = Path(folder)
        print("| phase | scans | seconds | ms per scan | MiB | MiB per worker | file calls per scan |")
        print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
        for phase in PHASES:
            calls = calls_per_scan(phase, options.workers, top)
            for scans in options.scans:
                m = measure_phase(phase, scans, options.workers, top / str(scans))
                row = f"{m['runtime_s']:.1f} | {1000 * m['runtime_s'] / scans:.2f} | {m['own_mib']:.0f}"
                print(f"| {phase} | {scans} | {row} | {m['worker_mib']:.0f} | {calls} |", flush=True)


if __name__ == "__main__":
    main()
