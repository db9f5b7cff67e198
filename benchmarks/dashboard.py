"""The dashboard of a large cohort: time to make it, to load it and to filter it, and its size.

    python benchmarks/dashboard.py OUT --scans 2000

Writes simulated scans into OUT, with volumes drawn at random, some of them unusual, and one picture each, then the
dashboard, and loads it from its file in Chromium. Prints the seconds and megabytes of making it, the seconds until it
is ready and until the next frame after a filter, and the JavaScript memory.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from slant.cohort.dashboard import write_dashboard
from slant.cohort.table import CohortResults, CohortRow
from slant.engine.failures import Failure
from slant.grid import Grid
from slant.io.names import ResultNames
from slant.io.quality import Check
from slant.io.resources import load_protocol
from slant.volume import LabelMap
from slant.volumes import region_volumes


def arguments() -> argparse.Namespace:
    """Output folder and number of scans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--picture", type=Path, help="PNG of every scan (default: random pixels)")
    parser.add_argument("--screenshot", type=Path, help="PNG of the whole page")
    return parser.parse_args()


def simulate(out: Path, scans: int, picture: Path) -> CohortResults:
    """Results of the cohort; writes the pictures and a table of participants."""
    random, regions = np.random.default_rng(0), load_protocol().regions[1:]
    reference_mm3 = np.exp(random.normal(8, 0.8, len(regions)))
    rows, subjects = [], ["participant_id\tage\tsex\tsite"]
    for i in range(scans):
        name, etiv = f"sub-{i:04d}", float(random.normal(1.5e6, 1.2e5))
        relative = np.exp(random.normal(0, 0.09, len(regions)))
        grade = random.choice(["pass", "review", "fail"], p=[0.94, 0.05, 0.01])
        if grade != "pass":
            relative[random.integers(len(regions), size=9)] *= random.choice([0.5, 1.8], 9)
        folder = out / name / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        names = ResultNames(name)
        if not (folder / names.overlay).exists():
            (folder / names.overlay).hardlink_to(picture)
        mm3 = reference_mm3 * relative * etiv / 1.5e6
        volumes = {r.abbreviation: float(v) for r, v in zip(regions, mm3, strict=True)} | {"eTIV": etiv}
        problems = () if grade == "pass" else (Check("Noise", "0.2", grade, "the scan is noisy"),)
        similarity, runtime_s = float(random.normal(0.55, 0.05)), float(random.normal(50, 5))
        entities = {"participant_id": name}
        rows.append(
            CohortRow(name, folder / name, str(grade), problems, (), 0.72, similarity, 0, runtime_s, volumes, entities)
        )
        subjects.append(f"{name}\t{random.integers(18, 90)}\t{random.choice(['F', 'M'])}\t{random.choice(list('ABC'))}")
    (out / "participants.tsv").write_text("\n".join(subjects) + "\n", "utf-8")
    empty = LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)))
    columns = {row.abbreviation: row for row in region_volumes(empty, load_protocol()) if row.level == "region"}
    return CohortResults(tuple(rows), columns)


def load(page: Path, screenshot: Path | None) -> dict[str, float]:
    """Seconds and MB in a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="load")
        tab.wait_for_function("document.querySelectorAll('#gallery li').length > 0")
        ready = time.perf_counter() - start
        start = time.perf_counter()
        tab.select_option("#grade", "fail")
        tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        filtered = time.perf_counter() - start
        tab.select_option("#grade", "")
        memory = tab.evaluate("performance.memory.usedJSHeapSize") / 1e6
        if screenshot is not None:
            tab.wait_for_timeout(1500)
            tab.screenshot(path=str(screenshot), full_page=True)
        browser.close()
    return {"seconds to load": ready, "seconds to filter": filtered, "MB of JavaScript": memory}


def main() -> None:
    """Print the table."""
    options = arguments()
    out, picture = options.out, options.picture
    out.mkdir(parents=True, exist_ok=True)
    if picture is None:
        picture = out / "picture.png"
        noise = np.random.default_rng(1).integers(0, 255, (1340, 1600, 3), dtype=np.uint8) // 4
        Image.fromarray(noise).save(picture)
    results = simulate(out, options.scans, picture)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        failures = [Failure("sub-x", "the file is truncated", "x", "")]
        write_dashboard(out, results, failures, out / "participants.tsv")
        times.append(time.perf_counter() - start)
    sizes = {name: (out / name).stat().st_size / 1e6 for name in ("group.html", "group_data.js")}
    print(f"| {options.scans} scans | |\n|---|--:|")
    print(
        f"| seconds to make it, thumbnails included | {times[0]:.1f} |\n| seconds to make it again | {times[1]:.1f} |"
    )
    for name, size in sizes.items():
        print(f"| MB of {name} | {size:.2f} |")
    for name, value in load(out / "group.html", options.screenshot).items():
        print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()
