"""A BIDS dataset through `slant-bids`, killed in the middle and resumed, against a run that nothing disturbed.

    python benchmarks/cohort_killed.py BIDS KEEP [--model slant27] [--limit 14] [--no-report] [--after 5]

The participant level gets SIGKILL once so many scans are finished, its process alone; its workers must end by
themselves. Then it is run again, then the group level, and all files are compared with those of participant and group
without a kill. KEEP holds both; the undisturbed one is made once, the other anew each time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from cohort_files import PARTS, differing, digests
from cohort_processes import SLANT_BIDS, measure

_ENDED_WITHIN_S = 30


@dataclass(frozen=True)
class Plan:
    """What both runs are asked for.

    Attributes
    ----------
    bids : Path
    keep : Path
    options : tuple of str
        Of ``slant-bids``.
    """

    bids: Path
    keep: Path
    options: tuple[str, ...]

    def command(self, name: str, level: str) -> tuple[str, ...]:
        """`slant-bids` with a folder for results."""
        return (*SLANT_BIDS, str(self.bids), str(self.out(name)), level, *self.options)

    def out(self, name: str) -> Path:
        """Of one name for both, as it is the dashboard's title."""
        return self.keep / name / "results"

    def run(self, name: str, level: str) -> None:
        """One level to its end."""
        print(f"{name}: {level} level, see {self.log(name)}", file=sys.stderr, flush=True)
        done = measure(self.command(name, level), self.log(name))
        if done.status:
            raise SystemExit(f"the {level} level ended with exit status {done.status}, see {self.log(name)}")
        print(f"{name}: {level} level in {done.seconds:.0f} s")

    def log(self, name: str) -> Path:
        """What its commands say."""
        return self.keep / f"{name}.log"


def finished(out: Path) -> dict[str, int]:
    """The records that are there, with the times of their last change."""
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*_record.json") if ".slant" not in path.parts}


def kill(plan: Plan, name: str, after: int) -> dict[str, int]:
    """Kill the participant level once so many scans are finished; those that were, when its workers had ended."""
    out = plan.out(name)
    print(f"{name}: participant level, killed after {after} scans", file=sys.stderr, flush=True)
    killed = measure(plan.command(name, "participant"), plan.log(name), lambda: len(finished(out)) >= after)
    if killed.status != -9:
        raise SystemExit(f"it was over before it could be killed, with {killed.status}; take a smaller --after")
    start = time.monotonic()
    while left := [process for process in psutil.process_iter(["cmdline"]) if _works_on(process, out)]:
        if time.monotonic() - start > _ENDED_WITHIN_S:
            raise SystemExit(f"workers outlived the run: {left}")
        time.sleep(0.1)
    there = finished(out)
    at_work = len(list((out / "logs").glob("*.log"))) - len(there)
    print(f"{name}: killed after {killed.seconds:.0f} s with {len(there)} scans finished and {at_work} at work")
    return there


def _works_on(process: psutil.Process, out: Path) -> bool:
    """Whether a process has a file open in the results: a log, a lock."""
    try:
        return any(Path(file.path).is_relative_to(out) for file in process.open_files())
    except psutil.Error:
        return False


def main() -> None:
    """Do it; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids", type=Path)
    parser.add_argument("keep", type=Path)
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--limit", type=int, help="only the first so many participants")
    parser.add_argument("--no-report", action="store_true", help="without the pages")
    parser.add_argument("--after", type=int, help="finished scans, by default a third of the participants")
    given = parser.parse_args()
    bids, keep = given.bids.resolve(), given.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    people = sorted(path.name for path in bids.glob("sub-*") if path.is_dir())[: given.limit]
    report = ["--no-report"] if given.no_report else []
    plan = Plan(bids, keep, ("--model", given.model, *report, "--participant-label", *people))
    asked, kept = json.dumps([str(bids), *plan.options]), keep / "undisturbed.json"
    if not kept.is_file() or kept.read_text() != asked:
        shutil.rmtree(keep / "undisturbed", ignore_errors=True)
        for level in ("participant", "group"):
            plan.run("undisturbed", level)
        kept.write_text(asked)
    shutil.rmtree(keep / "killed", ignore_errors=True)
    before = kill(plan, "killed", given.after or max(1, len(people) // 3))
    for level in ("participant", "group"):
        plan.run("killed", level)
    after, wanted = finished(plan.out("killed")), digests(plan.out("undisturbed"))
    again = [name for name, changed in before.items() if after.get(name) != changed]
    others = differing(digests(plan.out("killed")), wanted)
    print(f"killed: {len(after) - len(before)} scans were done after the kill, {len(again)} of those before it again")
    print(f"\n{len(wanted)} files in each, {PARTS[0].lower()}{PARTS[1:]}\n")
    print("\n".join(["These differ:", *others]) if others else "No file differs.")
    if others or again:
        sys.exit(1)


if __name__ == "__main__":
    main()
