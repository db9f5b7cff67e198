"""Segment many scans, a few at a time, and print a line for each.

    python benchmarks/many.py OUT SCAN [SCAN ...] [--model slant27] [--jobs 2]

Each scan is a process of its own on one thread, with a folder of its own in OUT; finished ones are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from joblib import Parallel, delayed

from slant.io.read import scan_name


def segment(scan: Path, out: Path, folder: Path, model: str) -> str:
    """One row of the table, for a scan whose results go to ``folder`` in ``out``."""
    name, title = scan_name(scan), f"{folder.parts[0] if folder.parts else ''} {scan_name(scan)}".strip()
    record, took = out / folder / f"{name}_record.json", out / folder / f"{name}.seconds"
    if not record.is_file() or not took.is_file():
        code = "from slant.cli import main; main()"
        command = [sys.executable, "-c", code, "segment", str(scan), str(out / folder), "--model", model]
        command += ["--threads", "1", "--force"]
        start = time.perf_counter()
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        seconds = time.perf_counter() - start
        if run.returncode:
            return f"| {title} | failed: {run.stderr.strip()} | | | | | |"
        took.write_text(f"{seconds:.1f}")
    seconds = float(took.read_text())
    found = json.loads(record.read_text())
    peak = max(stage["peak_mib"] for stage in found["stages"])
    tiv = found["total_intracranial_volume_mm3"] / 1000
    warnings = "; ".join(found["warnings"])
    similarity, regions = found["registration_similarity"], found["regions_found"]
    return f"| {title} | {seconds:.0f} | {peak:.0f} | {similarity:.3f} | {tiv:.0f} | {regions} | {warnings} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print("| scan | seconds | peak MiB | similarity | TIV cm3 | regions of 132 | warnings |")
    print("|---|--:|--:|--:|--:|--:|---|", flush=True)
    jobs = Parallel(n_jobs=options.jobs, return_as="generator")
    top = Path(os.path.commonpath([scan.resolve().parent for scan in options.scans]))
    folders = [scan.resolve().parent.relative_to(top) for scan in options.scans]
    rows = zip(options.scans, folders, strict=True)
    for row in jobs(delayed(segment)(scan, options.out, folder, options.model) for scan, folder in rows):
        print(row, flush=True)


if __name__ == "__main__":
    main()
