"""What does slant do with the scans, files and cohorts that users really have? Checked before every release.

    python experiments/field.py DATA WORK [--only 'headers/*' ...] [--jobs 1] [--threads 2] [--fast]

DATA holds scans: --full-head and --stripped are the two files, relative to it, that the inputs are made from, of good
quality and graded pass. Each input (field_scans.py, field_files.py, field_cohorts.py) is made in WORK/KIND/NAME/in and
run by the command line of slant in a child process: about 40 full segmentations, and 50 refusals or listings. To test
another checkout, set PYTHONPATH to it, and use another WORK. Prints one line for each input as it ends:

- exit status, lines on stderr, and T if there is a traceback;
- Dice: mean over regions against the labels of the untouched scan, on the voxels of the input;
- grid: whether the labels have exactly the grid of the input; eTIV: ratio to the untouched scan; grade;
- whether all that was expected was met or, if not, what was not; the first warning or error.

WORK/field.tsv has the same table. Run the same command again to continue: an input that has run is not run again unless
its files or its command have changed. The exit status is 1 if an expectation was not met.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import field_cohorts
import field_files
import field_scans
import nibabel as nib
import numpy as np
from field_check import Measures, Reference, Run, measure, read_reference, unmet
from field_inputs import FULL_HEAD, Base, FieldInput, Made, UnavailableError, segment

INPUTS: tuple[FieldInput, ...] = field_scans.INPUTS + field_files.INPUTS + field_cohorts.INPUTS
WIDTHS = {"input": 40, "exit": 4, "stderr": 6, "dice": 5, "grid": 4, "etiv": 5, "grade": 6, "met": 3}
COLUMNS = (*WIDTHS, "not met", "message", "runtime_s")
LIMIT_S = 3600
"""Longest runtime of an input."""

Bases = dict[str, tuple[Base, Reference]]
Row = dict[str, str]


def arguments() -> argparse.Namespace:
    """Folders, scans and selection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--full-head", type=Path, default=Path("single/chris_T1w.nii.gz"))
    parser.add_argument("--stripped", type=Path, default=Path("ds002748/sub-02/anat/sub-02_T1w.nii.gz"))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="KIND/NAME, with * for anything")
    parser.add_argument("--fast", action="store_true", help="leave out what needs a full segmentation if all is right")
    parser.add_argument("--model", default="whole")
    parser.add_argument("--jobs", type=int, default=1, help="inputs that run at the same time")
    parser.add_argument("--threads", type=int, default=2, help="threads of each")
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


def child_environment(options: argparse.Namespace) -> dict[str, str]:
    """The environment with the programs beside this Python first, and the options of every segmentation."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        **os.environ,
        "PATH": programs,
        "OPTIONS": f"--model {options.model} --no-report --threads {options.threads}",
    }


def digest(folder: Path, command: str) -> str:
    """SHA-256 of a command and of the files and links of a folder."""
    found = hashlib.sha256(command.encode())
    for path in sorted(folder.rglob("*")):
        found.update(f"\n{path.relative_to(folder)}\n".encode())
        if path.is_symlink():
            found.update(os.fsencode(path.readlink()))
        elif path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def run(one: FieldInput, base: Base, options: argparse.Namespace) -> tuple[Made, Run]:
    """Make an input, and run it unless the same has run before."""
    folder = options.work / one.kind / one.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        fresh = Path(temporary, "in")
        fresh.mkdir()
        made = one.make(base, fresh)
        sha256 = digest(fresh, f"{made.command} {options.model}")
        kept = folder / "run.json"
        if kept.is_file():
            before: dict[str, Any] = json.loads(kept.read_text("utf-8"))
            if before.pop("sha256") == sha256:
                return made, Run(**before)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fresh.rename(folder / "in")
    found = run_command(made.command, folder / "in", child_environment(options))
    kept.write_text(json.dumps({"sha256": sha256, **asdict(found)}, indent=1), "utf-8")
    return made, found


def run_command(command: str, folder: Path, environment: dict[str, str]) -> Run:
    """Run a shell line in a folder."""
    start = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 (the commands are those of the inputs)
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        stdout, stderr = process.communicate()
    texts = [text.decode("utf-8", "backslashreplace") for text in (stdout, stderr)]
    return Run(process.returncode, *texts, round(time.perf_counter() - start, 1))


def untouched(kind: str, options: argparse.Namespace) -> tuple[Base, Reference]:
    """Segment an untouched scan; its labels are the reference, and its brain mask is that of the inputs."""
    path = (options.data / (options.full_head if kind == FULL_HEAD else options.stripped)).resolve()
    image = nib.load(path)
    stored = np.asanyarray(image.dataobj)

    def make(_: Base, folder: Path) -> Made:
        (folder / "scan.nii.gz").symlink_to(path)
        return Made(segment())

    base = Base(path, image.header, stored, stored != 0)
    run(FieldInput("untouched", kind.replace(" ", "-"), kind, make, ()), base, options)
    out = options.work / "untouched" / kind.replace(" ", "-") / "out"
    reference = read_reference(out)
    mask = nib.load(next(out.rglob("*_desc-brain_mask.nii.gz")))
    return Base(path, image.header, stored, np.asarray(mask.dataobj) != 0), reference


def row_of(one: FieldInput, bases: Bases, options: argparse.Namespace) -> Row:
    """Make, run and check one input."""
    base, reference = bases[one.base]
    row = dict.fromkeys(COLUMNS, "") | {"input": f"{one.kind}/{one.name}"}
    try:
        made, found = run(one, base, options)
    except UnavailableError as error:
        return row | {"met": "-", "message": f"not run: {error}"}
    folder = options.work / one.kind / one.name
    measures = measure(made, folder, reference)
    failed = min((unmet(expected, found, measures, folder / "out") for expected in one.expected), key=len)
    return row | {
        "exit": str(found.status),
        "stderr": f"{len(found.lines)}{' T' if found.traceback else ''}",
        **cells(measures),
        "met": "no" if failed else "yes",
        "not met": "; ".join(failed),
        "message": " ".join(found.message.split()),
        "runtime_s": str(found.runtime_s),
    }


def cells(measures: Measures) -> Row:
    """Texts of what was measured."""
    numbers = {"dice": measures.dice, "etiv": measures.etiv}
    return {
        **{name: "" if value is None else f"{value:.3f}" for name, value in numbers.items()},
        "grid": {None: "", True: "yes", False: "no"}[measures.grid],
        "grade": measures.grade or "",
    }


def line(row: Row) -> str:
    """One line of the printed table."""
    last = " | ".join(text for text in (row["not met"], row["message"]) if text)
    return f"{' '.join(row[name].ljust(width) for name, width in WIDTHS.items())} {last[:200]}".rstrip()


def rows(selected: list[FieldInput], options: argparse.Namespace) -> Iterator[Row]:
    """The row of each input, in their order."""
    bases = {kind: untouched(kind, options) for kind in sorted({one.base for one in selected})}
    with ThreadPoolExecutor(options.jobs) as pool:
        yield from pool.map(partial(row_of, bases=bases, options=options), selected)


def main() -> None:
    """Print the table, and write it after every row."""
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    selected = [i for i in INPUTS if any(fnmatch(f"{i.kind}/{i.name}", pattern) for pattern in options.only)]
    if options.fast:
        selected = [
            i for i in selected if all(expected.dice is None and not expected.grades for expected in i.expected)
        ]
    about = "import slant; print(f'slant {slant.__version__} in {slant.__file__}')"
    environment = child_environment(options)
    print(run_command(f'{sys.executable} -c "{about}"', options.work, environment).stdout, flush=True)
    print(line({name: name for name in COLUMNS}), flush=True)
    table: list[Row] = []
    for row in rows(selected, options):
        table.append(row)
        print(line(row), flush=True)
        with (options.work / "field.tsv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    counts = {met: sum(row["met"] == met for row in table) for met in ("yes", "no", "-")}
    print(f"{counts['yes']} as expected, {counts['no']} not, {counts['-']} not run; {options.work / 'field.tsv'}")
    sys.exit(counts["no"] > 0)


if __name__ == "__main__":
    main()
