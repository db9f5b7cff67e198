"""All engines of `slant cohort` on the same scans, and a run that is killed and resumed.

    python benchmarks/cohort.py engines SCANS WORK [--engines joblib-2 dask] [--model slant8] [--limit 14] [--no-report]
    python benchmarks/cohort.py resume BIDS WORK [--after 5] [--model slant8] [--limit 14] [--no-report]

engines
    The same scans through every engine. Prints scans per hour, speed-up and peak memory, and compares the SHA-256 of
    all files with those of the first engine; exit status 1 if any differs. SCANS is what `slant cohort` takes. WORK
    keeps the results of each engine, and a finished engine is not run again. The SLURM engines need a SLURM
    (SLURM_CONF) or its programs, which local_slurm.sh then starts. Memory is that of all processes started here,
    sampled twice a second; SLURM starts its jobs itself, so its rows have none.
resume
    A BIDS dataset through `slant-bids`, once without interruption, once with the participant level killed (SIGKILL)
    after some scans and run again. Checks that the workers end by themselves, that no finished scan is segmented
    again and that all files of both runs agree; exit status 1 otherwise. WORK keeps the uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import psutil
from runs import Measured, Runs, differing, digests, has_open_file, print_differences, run_measured

from slant.cohort.jobs import list_jobs

SLANT = (sys.executable, "-c", "from slant.cli import main; main()")
SLANT_BIDS = (sys.executable, "-c", "from slant.cli.bids import main; main()")
LOCAL_SLURM = Path(__file__).with_name("local_slurm.sh")
WORKERS_END_WITHIN_S = 30

# All engines on the same scans


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


def run_local(runs: Runs, engine: str, workers: int, threads: int) -> Measured:
    """Processes of this machine, by joblib."""
    return run_measured(runs.command(engine, "--jobs", str(workers), "--threads", str(threads)), runs.log(engine))


def run_dask(runs: Runs, engine: str) -> Measured:
    """A dask cluster that is already running."""
    from distributed import LocalCluster

    folder = str(runs.work)
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=folder) as dask:
        address = dask.scheduler_address
        return run_measured(runs.command(engine, "--scheduler", address, "--threads", "1"), runs.log(engine))


def run_slurm_workers(runs: Runs, engine: str) -> Measured:
    """SLURM jobs that take one scan after the other, started by slant through dask-jobqueue."""
    settings = runs.work / "cluster.toml"
    settings.write_text(CLUSTER.format(workers=WORKERS, logs=runs.work / f"{engine}-jobs"))
    done = run_measured(runs.command(engine, "--cluster", str(settings)), runs.log(engine))
    return replace(done, all_mib=0, largest_mib=0)


def run_slurm_array(runs: Runs, engine: str) -> Measured:
    """One array job per scan from the printed commands, then the tables."""
    command, log = runs.command(engine, "--threads", "1"), runs.log(engine)
    jobs, job_logs = runs.work / f"{engine}.txt", runs.work / f"{engine}-jobs"
    job_logs.mkdir(exist_ok=True)
    jobs.unlink(missing_ok=True)
    run_measured((*command, "--print-jobs"), jobs)
    lines = [line for line in jobs.read_text().splitlines() if line.startswith("slant segment ")]
    jobs.write_text("\n".join(lines) + "\n")
    one_job = f'bash -c "$(sed -n ${{SLURM_ARRAY_TASK_ID}}p {jobs})"'
    resources = (f"--array=1-{len(lines)}", "--cpus-per-task=1", "--mem=4G", f"--output={job_logs}/%a.txt")
    done = run_measured(("sbatch", "--wait", *resources, "--wrap", one_job), log)
    tables = run_measured(command, log)
    if "0 scan(s) segmented" not in log.read_text():
        raise SystemExit(f"the array job did not segment all scans; see {log} and {job_logs}")
    return Measured(done.status or tables.status, done.runtime_s + tables.runtime_s, 0, 0)


@contextmanager
def slurm(folder: Path, cpus: int) -> Iterator[bool]:
    """Whether there is a SLURM: the one that ``SLURM_CONF`` names, or one that is started in the folder."""
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


Engine = Callable[[Runs, str], Measured]
ENGINES: dict[str, tuple[str, Engine]] = {
    "joblib-1": (f"joblib, 1 worker of {CORES} threads", lambda runs, name: run_local(runs, name, 1, CORES)),
    "joblib-1-1": ("joblib, 1 worker of 1 thread", lambda runs, name: run_local(runs, name, 1, 1)),
    "joblib-2": ("joblib, 2 workers of 1 thread", lambda runs, name: run_local(runs, name, WORKERS, 1)),
    "dask": ("dask cluster, 2 workers of 1 thread", run_dask),
    "slurm": ("SLURM, 2 jobs that take scans", run_slurm_workers),
    "array": ("SLURM, one array job per scan", run_slurm_array),
}
NEED_SLURM = {"slurm", "array"}


def run_engine(runs: Runs, engine: str, scans: str) -> Measured:
    """One engine, unless it has finished before with the same scans and options."""
    summary = runs.work / f"{engine}.json"
    request = {"scans": scans, "options": list(runs.options)}
    if summary.is_file() and (found := json.loads(summary.read_text()))["request"] == request:
        return Measured(**found["measured"])
    shutil.rmtree(runs.work / engine, ignore_errors=True)
    runs.log(engine).unlink(missing_ok=True)
    print(f"{engine} runs; see {runs.log(engine)}", file=sys.stderr, flush=True)
    measured = ENGINES[engine][1](runs, engine)
    if measured.status:
        raise SystemExit(f"{engine} ended with exit status {measured.status}; see {runs.log(engine)}")
    summary.write_text(json.dumps({"request": request, "measured": asdict(measured)}, indent=2))
    return measured


def print_speed(scans: int, found: dict[str, Measured]) -> None:
    """Print the table of runtime and memory."""
    print("| engine | seconds | scans per hour | speed-up | peak MiB of all processes | of the largest process |")
    print("|---|--:|--:|--:|--:|--:|")
    first = next(iter(found.values())).runtime_s
    for engine, m in found.items():
        memory = f"{m.all_mib:.0f} | {m.largest_mib:.0f}" if m.all_mib else " | "
        speed = f"{m.runtime_s:.0f} | {3600 * scans / m.runtime_s:.0f} | {first / m.runtime_s:.2f}"
        print(f"| {ENGINES[engine][0]} | {speed} | {memory} |")


def same_files(runs: Runs, engines: list[str]) -> bool:
    """Print how many files agree with those of the first engine; False if any differs."""
    print(f"\n| engine | label maps that agree with {engines[0]} | tables of volumes | other files |")
    print("|---|--:|--:|--:|")
    expected = digests(runs.out(engines[0]))
    differ: list[str] = []
    for engine in engines[1:]:
        found = digests(runs.out(engine))
        paths = [path for path in expected.keys() | found.keys() if not path.startswith(("logs/", ".slant/"))]
        others = [path for path in differing(found, expected) if path in paths]
        kinds = {"_dseg.nii.gz": [0, 0], "volumes.tsv": [0, 0], "": [0, 0]}
        for path in paths:
            agree = next(count for ending, count in kinds.items() if path.endswith(ending))
            agree[0], agree[1] = agree[0] + (path not in others), agree[1] + 1
        print(f"| {ENGINES[engine][0]} | {' | '.join(f'{same} of {total}' for same, total in kinds.values())} |")
        differ += [f"{engine}/{path}" for path in others]
    print_differences(differ)
    return not differ


def engines(options: argparse.Namespace) -> None:
    """Print speed, memory and agreement of the engines; exit status 1 if a file differs."""
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    jobs = list_jobs([str(options.scans)], work).jobs[: options.limit]
    scans = "name\tT1w\n" + "".join(f"{job.id.replace('/', '_')}\t{job.scan}\n" for job in jobs)
    (work / "scans.tsv").write_text(scans)
    runs = Runs((*SLANT, "cohort", str(work / "scans.tsv")), work, segmentation_options(options))
    found = {}
    needs_slurm = not NEED_SLURM.isdisjoint(options.engines)
    with slurm(work / "local-slurm", WORKERS) if needs_slurm else nullcontext(enter_result=False) as has_slurm:
        for engine in options.engines:
            if has_slurm or engine not in NEED_SLURM:
                found[engine] = run_engine(runs, engine, scans)
            else:
                print(f"{engine} is left out: found no SLURM", file=sys.stderr)
    print(f"{len(jobs)} scans, {options.model}{', without reports' if options.no_report else ''}, {CORES} cores\n")
    print_speed(len(jobs), found)
    if not same_files(runs, list(found)):
        sys.exit(1)


# A run that is killed and resumed


def run_level(runs: Runs, run: str, level: str) -> None:
    """One level of `slant-bids` to its end."""
    print(f"{run}: {level} level; see {runs.log(run)}", file=sys.stderr, flush=True)
    done = run_measured(runs.command(run, level), runs.log(run))
    if done.status:
        raise SystemExit(f"the {level} level ended with exit status {done.status}; see {runs.log(run)}")
    print(f"{run}: {level} level in {done.runtime_s:.0f} s")


def finished_records(out: Path) -> dict[str, int]:
    """Names of the records in an output folder, with the times of their last change in ns."""
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*_record.json") if ".slant" not in path.parts}


def run_killed(runs: Runs, run: str, after: int) -> dict[str, int]:
    """Kill the participant level after some finished scans; the records that exist once its workers have ended."""
    out = runs.out(run)
    print(f"{run}: participant level, killed after {after} scans", file=sys.stderr, flush=True)
    command = runs.command(run, "participant")
    killed = run_measured(command, runs.log(run), lambda: len(finished_records(out)) >= after)
    if killed.status != -signal.SIGKILL:
        raise SystemExit(f"the run ended with {killed.status} before it could be killed; use a smaller --after")
    start = time.monotonic()
    while left := [process for process in psutil.process_iter(["cmdline"]) if has_open_file(process, out)]:
        if time.monotonic() - start > WORKERS_END_WITHIN_S:
            raise SystemExit(f"workers still run {WORKERS_END_WITHIN_S} s after the kill: {left}")
        time.sleep(0.1)
    done = finished_records(out)
    begun = len(list((out / "logs").glob("*.log"))) - len(done)
    print(f"{run}: killed after {killed.runtime_s:.0f} s with {len(done)} scans finished and {begun} begun")
    return done


def resume(options: argparse.Namespace) -> None:
    """Compare a killed and resumed run with an uninterrupted one; exit status 1 if they differ."""
    bids, work = options.bids.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    subjects = sorted(path.name for path in bids.glob("sub-*") if path.is_dir())[: options.limit]
    more = (*segmentation_options(options), "--participant-label", *subjects)
    runs = Runs((*SLANT_BIDS, str(bids)), work, more)
    request, summary = json.dumps([str(bids), *more]), work / "uninterrupted.json"
    if not summary.is_file() or summary.read_text() != request:
        shutil.rmtree(work / "uninterrupted", ignore_errors=True)
        for level in ("participant", "group"):
            run_level(runs, "uninterrupted", level)
        summary.write_text(request)
    shutil.rmtree(work / "killed", ignore_errors=True)
    before = run_killed(runs, "killed", options.after or max(1, len(subjects) // 3))
    for level in ("participant", "group"):
        run_level(runs, "killed", level)
    after, expected = finished_records(runs.out("killed")), digests(runs.out("uninterrupted"))
    again = [name for name, changed in before.items() if after.get(name) != changed]
    print(f"killed: {len(after) - len(before)} scans segmented after the kill, {len(again)} finished ones again")
    print(f"\n{len(expected)} files in the uninterrupted run")
    others = differing(digests(runs.out("killed")), expected)
    print_differences(others)
    if others or again:
        sys.exit(1)


def segmentation_options(options: argparse.Namespace) -> tuple[str, ...]:
    """Model and reports as options of `slant`."""
    return ("--model", options.model, *(["--no-report"] if options.no_report else []))


def main() -> None:
    """Run one of the two benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("engines", help="speed, memory and files of every engine")
    command.add_argument("scans", type=Path)
    command.add_argument("work", type=Path)
    command.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    add_segmentation_options(command)
    command.set_defaults(run=engines)
    command = commands.add_parser("resume", help="files of a run that is killed and run again")
    command.add_argument("bids", type=Path)
    command.add_argument("work", type=Path)
    command.add_argument("--after", type=int, help="finished scans before the kill (default: a third)")
    add_segmentation_options(command)
    command.set_defaults(run=resume)
    options = parser.parse_args()
    options.run(options)


def add_segmentation_options(command: argparse.ArgumentParser) -> None:
    """Options of the benchmarks that segment scans."""
    command.add_argument("--model", default="slant27")
    command.add_argument("--limit", type=int, help="number of scans or participants to use (default: all)")
    command.add_argument("--no-report", action="store_true", help="write no reports")


if __name__ == "__main__":
    main()
