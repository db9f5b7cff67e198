"""The same scans through every engine of `slant cohort`: scans an hour, speed-up, memory, and whether the files agree.

    python benchmarks/cohort_real.py SCANS KEEP [--model slant27] [--limit 14] [--no-report] [--engines joblib-2 dask]

SCANS is what `slant cohort` takes, a BIDS dataset among others. KEEP holds the results of each engine; an engine that
came to its end there is not run again, so that the table can be had in parts. For SLURM there must be one (SLURM_CONF),
or the programs of one, which local_slurm.sh then starts for the time. Memory is resident memory of all processes that
are started here, twice a second; those of SLURM are not, so that they have none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cohort_files import PARTS, differing, digests
from cohort_processes import SLANT, Measured, dask_cluster, measure, slurm

from slant.cohort.jobs import list_jobs

CORES = len(os.sched_getaffinity(0))
WORKERS = 2
CLUSTER = """\
workers = {workers}

[slurm]
cores = 1
memory = "4GB"
walltime = "12:00:00"
interface = "lo"
log_directory = "{logs}"
"""


@dataclass(frozen=True)
class Plan:
    """What all engines are asked for.

    Attributes
    ----------
    scans : Path
        Table of names and paths.
    count : int
        Rows.
    keep : Path
    options : tuple of str
        Of ``slant cohort``.
    """

    scans: Path
    count: int
    keep: Path
    options: tuple[str, ...]

    def command(self, engine: str, *more: str) -> tuple[str, ...]:
        """`slant cohort` with the engine's own folder for results."""
        return (*SLANT, "cohort", str(self.scans), str(self.out(engine)), *self.options, *more)

    def out(self, engine: str) -> Path:
        """Of one name for all engines, as it is the dashboard's title."""
        return self.keep / engine / "results"

    def log(self, engine: str) -> Path:
        """What an engine's commands say."""
        return self.keep / f"{engine}.log"


def local(plan: Plan, engine: str, workers: int, threads: int) -> Measured:
    """Processes of this machine, by joblib."""
    return measure(plan.command(engine, "--jobs", str(workers), "--threads", str(threads)), plan.log(engine))


def dask(plan: Plan, engine: str) -> Measured:
    """A dask cluster of two workers that runs already."""
    with dask_cluster(plan.keep, WORKERS) as address:
        return measure(plan.command(engine, "--scheduler", address, "--threads", "1"), plan.log(engine))


def slurm_workers(plan: Plan, engine: str) -> Measured:
    """Two SLURM jobs that take one scan after the other, started by slant through dask-jobqueue."""
    path = plan.keep / "cluster.toml"
    path.write_text(CLUSTER.format(workers=WORKERS, logs=plan.keep / f"{engine}-jobs"))
    done = measure(plan.command(engine, "--cluster", str(path)), plan.log(engine))
    return replace(done, all_mib=0, largest_mib=0)


def slurm_array(plan: Plan, engine: str) -> Measured:
    """One array job a scan, from the printed commands; then the tables."""
    command, log = plan.command(engine, "--threads", "1"), plan.log(engine)
    jobs, said = plan.keep / f"{engine}.txt", plan.keep / f"{engine}-jobs"
    said.mkdir(exist_ok=True)
    jobs.unlink(missing_ok=True)
    measure((*command, "--print-jobs"), jobs)
    lines = [line for line in jobs.read_text().splitlines() if line.startswith("slant segment ")]
    jobs.write_text("\n".join(lines) + "\n")
    array = ("sbatch", "--wait", f"--array=1-{len(lines)}", "--cpus-per-task=1", "--mem=4G", f"--output={said}/%a.txt")
    done = measure((*array, "--wrap", f'bash -c "$(sed -n ${{SLURM_ARRAY_TASK_ID}}p {jobs})"'), log)
    tables = measure(command, log)
    if "0 scan(s) segmented" not in log.read_text():
        raise SystemExit(f"the array job did not do all scans, see {log} and {said}")
    return Measured(done.status or tables.status, done.seconds + tables.seconds, 0, 0)


Engine = Callable[[Plan, str], Measured]
ENGINES: dict[str, tuple[str, Engine]] = {
    "joblib-1": (f"joblib, 1 worker of {CORES} threads", lambda plan, name: local(plan, name, 1, CORES)),
    "joblib-1-1": ("joblib, 1 worker of 1 thread", lambda plan, name: local(plan, name, 1, 1)),
    "joblib-2": ("joblib, 2 workers of 1 thread", lambda plan, name: local(plan, name, WORKERS, 1)),
    "dask": ("dask cluster, 2 workers of 1 thread", dask),
    "slurm": ("SLURM, 2 jobs that take scans", slurm_workers),
    "array": ("SLURM, an array job a scan", slurm_array),
}
_SLURM = {"slurm", "array"}


def run(plan: Plan, engine: str) -> Measured:
    """One engine, unless it came to its end before."""
    kept = plan.keep / f"{engine}.json"
    asked = {"scans": plan.scans.read_text(), "options": list(plan.options)}
    if kept.is_file() and (found := json.loads(kept.read_text()))["asked"] == asked:
        return Measured(**found["measured"])
    shutil.rmtree(plan.keep / engine, ignore_errors=True)
    plan.log(engine).unlink(missing_ok=True)
    print(f"{engine} runs, see {plan.log(engine)}", file=sys.stderr, flush=True)
    measured = ENGINES[engine][1](plan, engine)
    if measured.status:
        raise SystemExit(f"{engine} ended with exit status {measured.status}, see {plan.log(engine)}")
    kept.write_text(json.dumps({"asked": asked, "measured": asdict(measured)}, indent=2))
    return measured


def speeds(plan: Plan, found: dict[str, Measured]) -> None:
    """Print the table of times and memory."""
    print("| engine | seconds | scans an hour | speed-up | peak MiB of all | of the largest process |")
    print("|---|--:|--:|--:|--:|--:|")
    first = next(iter(found.values())).seconds
    for engine, m in found.items():
        memory = f"{m.all_mib:.0f} | {m.largest_mib:.0f}" if m.all_mib else " | "
        rate = f"{m.seconds:.0f} | {3600 * plan.count / m.seconds:.0f} | {first / m.seconds:.2f}"
        print(f"| {ENGINES[engine][0]} | {rate} | {memory} |")


def agreement(plan: Plan, engines: list[str]) -> bool:
    """Print which files are those of the first engine; False if any is not."""
    print(f"\n| engine | label maps like those of {engines[0]} | tables of volumes | other files |\n|---|--:|--:|--:|")
    wanted = digests(plan.out(engines[0]))
    others: list[str] = []
    for engine in engines[1:]:
        found = digests(plan.out(engine))
        other = [path for path in differing(found, wanted) if not path.startswith(("logs/", ".slant/"))]
        kinds = [[0, 0], [0, 0], [0, 0]]
        for path in wanted.keys() | found.keys():
            if not path.startswith(("logs/", ".slant/")):
                kind = kinds[0 if path.endswith("_dseg.nii.gz") else 1 if path.endswith("volumes.tsv") else 2]
                kind[0], kind[1] = kind[0] + (path not in other), kind[1] + 1
        print(f"| {ENGINES[engine][0]} | {' | '.join(f'{same} of {all_}' for same, all_ in kinds)} |")
        others += [f"{engine}/{path}" for path in other]
    print(f"\n{PARTS}\n")
    print("\n".join(["These differ:", *others]) if others else "No file differs.")
    return not others


def main() -> None:
    """Print both tables; exit status 1 if a file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("keep", type=Path)
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--limit", type=int, help="only the first so many scans")
    parser.add_argument("--no-report", action="store_true", help="without the pages")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    given = parser.parse_args()
    keep = given.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    jobs = list_jobs([str(given.scans)], keep).jobs[: given.limit]
    rows = "".join(f"{job.id.replace('/', '_')}\t{job.scan}\n" for job in jobs)
    (keep / "scans.tsv").write_text(f"name\tT1w\n{rows}")
    options = ("--model", given.model, *(["--no-report"] if given.no_report else []))
    plan = Plan(keep / "scans.tsv", len(jobs), keep, options)
    found = {}
    jobs_wanted = not _SLURM.isdisjoint(given.engines)
    with slurm(keep / "local-slurm", WORKERS) if jobs_wanted else nullcontext(enter_result=False) as there:
        for engine in given.engines:
            if there or engine not in _SLURM:
                found[engine] = run(plan, engine)
            else:
                print(f"{engine} is left out: there is no SLURM", file=sys.stderr)
    print(f"{len(jobs)} scans, {given.model}{', without pages' if given.no_report else ''}, {CORES} cores\n")
    speeds(plan, found)
    if not agreement(plan, list(found)):
        sys.exit(1)


if __name__ == "__main__":
    main()
