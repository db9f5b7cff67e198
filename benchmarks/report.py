"""The report of a scan: seconds and megabytes of each of its parts, from finished results.

    python benchmarks/report.py OUT [--repeat 3]

OUT is a folder that `slant segment` wrote. Prints processor seconds, the minimum of the repeats, so that other programs
on the machine count little, and the sizes.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slant.config import ReportSettings
from slant.io.read_results import find_records, read_result
from slant.report.contents import contents
from slant.report.page import NIIVUE, draw_page, viewer
from slant.report.pdf import draw_pdf


def timed(function: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """The result of a function, and the minimum of its processor seconds."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    record = find_records(options.out)[0]
    result, reading = timed(lambda: read_result(record), options.repeat)
    shown, pictures = timed(lambda: contents(result, ReportSettings()), options.repeat)
    html, writing = timed(lambda: draw_page(shown), options.repeat)
    pdf, printing = timed(lambda: draw_pdf(shown), options.repeat)
    print("| seconds of one core | |\n|---|--:|")
    rows = {"reading finished results": reading, "pictures and numbers": pictures, "HTML": writing, "PDF": printing}
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.1f} |")
    parts = viewer(result)
    text = html.decode()
    data = {
        "NiiVue": len(parts.niivue),
        "brain for the 3D view": len(parts.image),
        "labels for the 3D view": len(parts.labels),
        "pictures": sum(map(len, re.findall(r'src="(data:[^"]*)"', text))),
    }
    data["text, style, script"] = len(html) - sum(data.values())
    print("\n| MB of the HTML report | |\n|---|--:|")
    for name, size in {**data, "**all**": len(html)}.items():
        print(f"| {name} | {size / 1e6:.2f} |")
    print(f"\nPDF: {len(pdf) / 1e6:.2f} MB. NiiVue in the package: {NIIVUE.stat().st_size / 1e6:.2f} MB.")


if __name__ == "__main__":
    main()
