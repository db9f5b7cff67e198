"""The grade of a scan: what it detects, how often it is wrong about good scans, and how well the expected Dice holds.

    python benchmarks/quality.py --model MODEL --good SCANS... --fail SCANS... --labelled DATA --subjects 1000 1008 1013
    python benchmarks/quality.py ... --write FOLDER

Segments the scans of --good as they are, those of --fail with every simulated failure (simulated_failures.py), and
those of --subjects, who must be held out from MODEL, clean and with every perturbation (experiments/perturbations.py).
The metrics of each scan are kept in --cache, so that a second run continues. Prints

- false alarms: limits are made from every second good scan and tested on the others, and the other way round;
- which simulated failures are detected with the limits from all good scans;
- the mean Dice under each perturbation, and the loss;
- the expected Dice of regions against the Dice with manual labels, for each subject by a rule fitted on the others.

With --write, the reference made from all scans is written as ``quality.json`` into the folders of models.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from simulated_failures import FAILURES

from slant.config import SegmentSettings
from slant.errors import SlantError
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.io.results import make_result
from slant.labels import LabelProtocol
from slant.pipeline import segment
from slant.quality.fit import LabelledScan, Reliability, fit_quality, without_votes
from slant.quality.grade import grade_scan
from slant.quality.iqm import QualityMetrics, measure_quality
from slant.quality.reference import NormativeReference, write_reference
from slant.volume import LabelMap
from slant.volumes import dice_per_region

sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments"))
from perturbations import PERTURBATIONS

Entry = dict[str, Any]
"""What is kept of one scan: how it was changed, its metrics, its Dice by region, or why it was refused."""


@dataclass(frozen=True)
class Case:
    """One scan to segment.

    Attributes
    ----------
    kind : {"good", "failure", "held out"}
    scan : Path
    change : str
        Name of the simulated failure or of the perturbation; empty for none.
    level : int
        Strength of the perturbation: 0 weak, 1 medium, 2 strong.
    """

    kind: str
    scan: Path
    change: str = ""
    level: int = 0


def arguments() -> argparse.Namespace:
    """Scans, model and output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--good", type=Path, nargs="+", default=[], help="scans of good quality")
    parser.add_argument("--fail", type=Path, nargs="+", default=[], help="scans that get every simulated failure")
    parser.add_argument("--labelled", type=Path, help="folder with NAME_T1w.nii.gz and NAME_dseg.nii.gz")
    parser.add_argument("--subjects", nargs="+", default=[], help="names of the held-out scans in that folder")
    parser.add_argument("--strengths", type=int, nargs="+", default=[1], help="of perturbations: 0 weak to 2 strong")
    parser.add_argument("--cache", type=Path, default=Path("work/quality"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="folders of models that get quality.json")
    parser.add_argument("--diagram", type=Path, help="PNG of the expected Dice against the measured Dice")
    parser.add_argument("--about", default="good scans", help="description of the good scans, for reports")
    parser.add_argument("--without-votes", action="store_true", help="for models whose tiles do not vote")
    return parser.parse_args()


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Everything to segment."""
    cases = [Case("good", path) for path in options.good]
    cases += [Case("failure", path, failure) for path in options.fail for failure in FAILURES]
    paths = [options.labelled / f"{name}_T1w.nii.gz" for name in options.subjects]
    cases += [Case("held out", path) for path in paths]
    cases += [
        Case("held out", path, name, level) for name in PERTURBATIONS for level in options.strengths for path in paths
    ]
    return cases


def collect(case: Case, model: str, cache: Path) -> Entry:
    """The entry of one scan, from the cache if it is there."""
    identity = f"{model} {case.kind} {case.scan} {case.change} {case.level}"
    path = cache / f"{crc32(identity.encode()):08x}.json"
    if path.is_file():
        return dict(json.loads(path.read_text("utf-8")))
    entry: Entry = {"kind": case.kind, "scan": str(case.scan), "change": case.change, "level": case.level}
    try:
        entry |= measure(case, model) | {"refused": ""}
    except SlantError as error:
        entry["refused"] = str(error)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(entry), "utf-8")
    path.with_suffix(".part").replace(path)
    return entry


def measure(case: Case, model_name: str) -> Entry:
    """Segment one scan; its metrics, and its Dice by region where it has manual labels."""
    model = load_model(model_name)
    read = read_scan(case.scan)
    scan, reference = read.volume, None
    if case.kind == "held out":
        manual = read_labels(Path(str(case.scan).replace("_T1w.", "_dseg.")), read)
        known = np.where(np.isin(manual.data, model.protocol.ids), manual.data, 0)
        reference = LabelMap(known.astype(np.uint8), manual.grid)
        if case.change:
            perturbation = PERTURBATIONS[case.change]
            random = np.random.default_rng(crc32(f"{case.scan.name} {perturbation.seed_name}".encode()))
            scan, reference = perturbation.apply(scan, reference, perturbation.strengths[case.level], random)
    elif case.kind == "failure":
        failure = FAILURES[case.change]
        random = np.random.default_rng(crc32(f"{case.scan.name} {failure.seed_name}".encode()))
        scan = failure.apply(scan, random)
    settings = SegmentSettings(threads=1)
    found = segment(scan, model, settings)
    result = make_result(replace(read, volume=scan), found, model, settings)
    entry: Entry = {"metrics": vars(measure_quality(result, model.inputs.template))}
    if reference is not None:
        ids = [region.id for region in model.protocol.regions[1:]]
        entry["dice"] = dice_per_region(found.labels, reference, ids)
    return entry


def metrics_of(entry: Entry, *, votes: bool = True) -> QualityMetrics:
    """The metrics of an entry, with those of the votes or without."""
    plain, by_name = entry["metrics"], ("scan", "aggregates")
    by_id = {key: {int(i): v for i, v in plain[key].items()} for key in plain if key not in by_name}
    metrics = QualityMetrics(plain["scan"], **by_id, aggregates=plain["aggregates"])
    return metrics if votes else without_votes(metrics)


def grades(
    entries: list[Entry], reference: NormativeReference, protocol: LabelProtocol, *, votes: bool
) -> list[tuple[str, str]]:
    """Grade and reasons of each entry."""
    found = []
    for entry in entries:
        if entry["refused"]:
            found.append(("refused", entry["refused"].split(";")[0]))
            continue
        quality = grade_scan(metrics_of(entry, votes=votes), reference, protocol)
        found.append((quality.grade, "; ".join(check.label for check in quality.checks if check.grade != "pass")))
    return found


def print_failures(entries: list[Entry], found: list[tuple[str, str]]) -> None:
    """The grade of every simulated failure, and how many are detected."""
    print("| failure | scan | grade | reasons |\n|---|---|---|---|")
    for entry, (grade, reasons) in zip(entries, found, strict=True):
        print(f"| {entry['change']} | {Path(entry['scan']).name} | {grade} | {reasons} |")
    if entries:
        print(f"\ndetected: {sum(grade != 'pass' for grade, _ in found)} of {len(entries)}\n")


def print_losses(held_out: list[Entry]) -> None:
    """Mean Dice under each perturbation, and the loss against the same scans without it."""
    means = pd.DataFrame(
        [(e["scan"], e["change"] or "clean", e["level"], np.nanmean(list(e["dice"].values()))) for e in held_out],
        columns=["scan", "change", "level", "dice"],
    ).astype({"dice": float})
    clean = means[means.change == "clean"].set_index("scan").dice
    means["loss"] = means.scan.map(clean) - means.dice
    print("| perturbation | strength | scans | Dice | loss |\n|---|---|--:|--:|--:|")
    for (change, level), own in means.groupby(["change", "level"], sort=False):
        known = PERTURBATIONS.get(str(change))
        strength = f"{known.strengths[int(str(level))]:g} {known.unit}" if known else ""
        print(f"| {change} | {strength} | {len(own)} | {own.dice.mean():.3f} | {own.loss.mean():+.3f} |")
    print()


def print_reliability(found: Reliability) -> None:
    """Expected and measured Dice of the regions."""
    print("| expected Dice | regions | expected | measured |\n|---|--:|--:|--:|")
    for one in found.bins:
        print(f"| {one.low:.1f} to {one.low + 0.1:.1f} | {one.regions} | {one.expected:.3f} | {one.measured:.3f} |")
    print(f"\nexpected calibration error {found.calibration:.4f}, mean absolute error {found.absolute:.4f}")
    print(f"mean absolute error of the mean Dice of a scan {found.scan:.4f}")


def draw_diagram(found: Reliability, path: Path) -> None:
    """Expected against measured Dice: one dot per bin, whose size grows with the number of regions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0.3, 1], [0.3, 1], color="#888888", linewidth=1)
    for one in found.bins:
        axes.scatter(one.expected, one.measured, s=12 + one.regions / 6, color="#0072b2", alpha=0.75)
        axes.annotate(
            str(one.regions), (one.expected, one.measured), xytext=(9, -11), textcoords="offset points", fontsize=8
        )
    axes.set(xlabel="expected Dice", ylabel="measured Dice", xlim=(0.3, 1), ylim=(0.3, 1), aspect="equal")
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Segment, fit and print."""
    options = arguments()
    votes = not options.without_votes
    cases = cases_of(options)
    entries = list(Parallel(n_jobs=options.jobs)(delayed(collect)(c, options.model, options.cache) for c in cases))
    protocol = load_model(options.model).protocol
    good = [entry for entry in entries if entry["kind"] == "good" and not entry["refused"]]
    failures = [entry for entry in entries if entry["kind"] == "failure"]
    held_out = [entry for entry in entries if entry["kind"] == "held out" and not entry["refused"]]
    metrics = [metrics_of(entry, votes=votes) for entry in good]
    labelled = [
        LabelledScan(
            metrics_of(e, votes=votes),
            {int(i): d for i, d in e["dice"].items()},
            Path(e["scan"]).name,
            clean=not e["change"],
        )
        for e in held_out
    ]
    print("| good scan | grade | reasons |\n|---|---|---|")
    alarms = 0
    for half in (0, 1):
        reference = fit_quality(metrics[half::2], labelled, "half").reference
        tested = good[1 - half :: 2]
        for entry, (grade, reasons) in zip(tested, grades(tested, reference, protocol, votes=votes), strict=True):
            if grade != "pass":
                alarms += 1
                print(f"| {Path(entry['scan']).name} | {grade} | {reasons} |")
    print(f"\nfalse alarms: {alarms} of {len(good)} good scans\n")
    fit = fit_quality(metrics, labelled, options.about)
    print_failures(failures, grades(failures, fit.reference, protocol, votes=votes))
    print_losses(held_out)
    for folder in options.write:
        write_reference(folder, fit.reference)
    if fit.reliability:
        print_reliability(fit.reliability)
        if options.diagram:
            draw_diagram(fit.reliability, options.diagram)


if __name__ == "__main__":
    main()
