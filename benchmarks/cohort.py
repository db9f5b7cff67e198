"""Speed and robustness of `slant cohort`: its own overhead, all of its engines on the same scans, and a killed run.

    python benchmarks/cohort.py overhead [--scans 1000 10000] [--workers 2] [--folder TMP]
    python benchmarks/cohort.py engines SCANS WORK [--engines joblib-2 dask] [--model slant8] [--limit 14] [--no-report]
    python benchmarks/cohort.py resume BIDS WORK [--after 5] [--model slant8] [--limit 14] [--no-report]

overhead
    What the engine costs by itself, with a task that only writes a record and a table of volumes. Prints the runtime
    and the memory of a first run, of a second run over finished scans and of the tables, each in a process of its own,
    and the file system calls per scan of all processes (what 200 scans need more than 100, counted by strace).
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
import csv
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from slant.cohort.jobs import list_jobs
from slant.cohort.table import write_tables
from slant.engine.job import Job, JobList
from slant.engine.layout import OutputLayout
from slant.engine.pools import LocalPool
from slant.engine.resources import WorkerPlan
from slant.engine.run import Cohort, run_cohort
from slant.io.resources import load_protocol
from slant.io.staging import staged, write_json

SLANT = (sys.executable, "-c", "from slant.cli import main; main()")
SLANT_BIDS = (sys.executable, "-c", "from slant.cli.bids import main; main()")
LOCAL_SLURM = Path(__file__).with_name("local_slurm.sh")
SAMPLE_EVERY_S = 0.5
WORKERS_END_WITHIN_S = 30


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


# The overhead of the engine


PHASES = ("first run", "second run", "table")
SHA256_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class TaskFiles:
    """Files that the empty task leaves, named as those of `slant segment`."""

    name: str

    @property
    def record(self) -> str:
        """The record, which is written last."""
        return f"{self.name}_record.json"

    @property
    def all(self) -> tuple[str, ...]:
        """Both files."""
        return f"{self.name}_seg-BrainCOLOR_volumes.tsv", self.record


@dataclass(frozen=True)
class EmptyTask:
    """A segmentation that reports the same volumes for every scan."""

    volumes: str
    key: str = "empty"

    def names(self, job: Job) -> TaskFiles:
        """The two files of a scan."""
        return TaskFiles(job.name)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether this task wrote the record."""
        return record.get("key") == self.key

    def __call__(self, job: Job, staging: Path, threads: int) -> None:
        """Write the two files."""
        names = self.names(job)
        with staged(job.folder, names, unfinished=staging) as folder:
            (folder / names.all[0]).write_text(self.volumes, encoding="utf-8")
            record = {"input": {"sha256": SHA256_OF_NOTHING}, "key": self.key, "threads": threads}
            more = {"registration_similarity": 0.5, "regions_found": 132, "warnings": [], "timings": []}
            write_json(folder / names.record, record | more)


def volume_table() -> str:
    """A table of volumes as `slant segment` writes it, with the regions only."""
    columns = ("level", "index", "name", "abbreviation", "hemisphere", "tissue", "lobe", "volume_mm3")
    rows = [
        ("region", r.id, r.name, r.abbreviation, r.hemisphere, r.tissue, r.lobe, "1234.567")
        for r in load_protocol().regions[1:]
    ]
    return "\n".join("\t".join(map(str, row)) for row in (columns, *rows)) + "\n"


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
    if phase == "table":
        count, _ = write_tables(layout, jobs, ())
    else:
        cohort = Cohort(JobList(jobs, {}), EmptyTask(volume_table()), layout)
        summary = run_cohort(cohort, LocalPool(WorkerPlan(workers, 1)))
        count = len(summary.done if phase == "first run" else summary.kept)
    runtime_s = time.perf_counter() - start
    if count != scans:
        raise SystemExit(f"{phase}: found results of {count} scans, expected {scans}; see the logs in {layout.logs}")
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"runtime_s": runtime_s, "own_mib": own / 1024, "worker_mib": worker / 1024}


def measure_phase(phase: str, scans: int, workers: int, folder: Path, prefix: tuple[str, ...] = ()) -> dict[str, float]:
    """The same in a process of its own."""
    options = ("--phase", phase, "--scans", str(scans), "--workers", str(workers), "--folder", str(folder))
    command = [*prefix, sys.executable, __file__, "overhead", *options]
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


def overhead(options: argparse.Namespace) -> None:
    """Print the runtime, memory and file system calls of an empty task."""
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


def print_differences(paths: list[str]) -> None:
    """Print how files are compared, and which of them differ."""
    print(f"\n{COMPARED}\n")
    print("\n".join(["These files differ:", *paths]) if paths else "No file differs.")


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


def has_open_file(process: psutil.Process, out: Path) -> bool:
    """Whether a process has a file open in the output folder, for example a log or a lock."""
    try:
        return any(Path(file.path).is_relative_to(out) for file in process.open_files())
    except psutil.Error:
        return False


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
    """Run one of the three benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("overhead", help="runtime and memory of the engine with an empty task")
    command.add_argument("--scans", type=int, nargs="+", default=[1000, 10000])
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--folder", type=Path, help="where the temporary files are written")
    command.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    command.set_defaults(run=overhead)
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
