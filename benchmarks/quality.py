"""What the grade catches, what it wrongly doubts, and how well the Dice it expects comes true.

    python benchmarks/quality.py --model MODEL --good SCANS... --spoil SCANS... --labelled DATA --people 1000 1008 1013
    python benchmarks/quality.py ... --write FOLDER

Segments scans that look good, the scans of --spoil with every fault of faults.py, and those of --people, who must be
held out from MODEL, clean and with the disturbances of disturbances.py; measures each; keeps all in --cache, so that a
second run goes on. Then prints

- alarms: limits are made from every second good scan and tried on the others, and the other way round;
- faults caught by limits made from all good scans;
- what each disturbance costs in Dice;
- a reliability table of the Dice expected of regions against manual labels, each person judged by a rule fitted on
  the others;

and with --write puts ``quality.json``, made from all, into the folders of models.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from disturbances import DISTURBANCES
from faults import FAULTS
from joblib import Parallel, delayed

from slant.config import SegmentSettings
from slant.errors import SlantError
from slant.io.finished import Finished
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.measure import dice_per_region
from slant.pipeline import segment
from slant.quality.fit import fit_dice, fit_reference, reliability
from slant.quality.grade import judge
from slant.quality.measures import Measures, measure
from slant.quality.reference import Reference, plain_reference
from slant.volume import LabelMap


def arguments() -> argparse.Namespace:
    """Which scans, and which model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--good", type=Path, nargs="+", default=[])
    parser.add_argument("--spoil", type=Path, nargs="+", default=[])
    parser.add_argument("--labelled", type=Path, help="folder with NAME_T1w.nii.gz and NAME_dseg.nii.gz")
    parser.add_argument("--people", nargs="+", default=[])
    parser.add_argument("--strengths", type=int, nargs="+", default=[1], help="of disturbances: 0 weak, 1, 2 strong")
    parser.add_argument("--cache", type=Path, default=Path("work/quality"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="folders of models that get quality.json")
    parser.add_argument("--diagram", type=Path, help="PNG of expected and found Dice")
    parser.add_argument("--about", default="good scans", help="what the good scans are, for the pages")
    parser.add_argument("--without-votes", action="store_true", help="for models whose tiles do not vote")
    return parser.parse_args()


def wanted(given: argparse.Namespace) -> list[tuple[str, Path, str, int]]:
    """Kind, scan, change and strength of everything to segment."""
    jobs = [("good", path, "", 0) for path in given.good]
    jobs += [("bad", path, fault, 0) for path in given.spoil for fault in FAULTS]
    paths = [given.labelled / f"{name}_T1w.nii.gz" for name in given.people]
    jobs += [("held out", path, "", 0) for path in paths]
    jobs += [("held out", path, row, level) for row in DISTURBANCES for level in given.strengths for path in paths]
    return jobs


def collect(given: argparse.Namespace, kind: str, path: Path, change: str, level: int) -> dict[str, Any]:
    """Measures of one scan, kept in a file; and Dice by region where it is labelled."""
    name = f"{crc32(f'{given.model} {kind} {path} {change} {level}'.encode()):08x}.json"
    kept = given.cache / name
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    entry: dict[str, Any] = {"kind": kind, "scan": str(path), "change": change, "level": level, "refused": ""}
    try:
        entry |= measured(given, kind, path, change, level)
    except SlantError as error:
        entry["refused"] = str(error)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.with_suffix(".part").write_text(json.dumps(entry), "utf-8")
    kept.with_suffix(".part").replace(kept)
    return entry


def measured(given: argparse.Namespace, kind: str, path: Path, change: str, level: int) -> dict[str, Any]:
    """Segment and measure one scan."""
    model = load_model(given.model)
    read = read_scan(path)
    scan, labels = read.volume, None
    random = np.random.default_rng(crc32(f"{path.name} {change}".encode()))
    if kind == "held out":
        truth = read_labels(Path(str(path).replace("_T1w.", "_dseg.")), read)
        known = np.where(np.isin(truth.data, model.protocol.ids), truth.data, 0)
        labels = LabelMap(known.astype(np.uint8), truth.grid)
        if change:
            disturb, strengths, _ = DISTURBANCES[change]
            scan, labels = disturb(scan, labels, strengths[level], random)
    elif kind == "bad":
        scan = FAULTS[change](scan, random)
    found = segment(scan, model, SegmentSettings(threads=1))
    line, deformation = found.prepared.intensity_line, found.prepared.deformation
    record = {
        "registration_similarity": found.prepared.similarity,
        "deformation": None if deformation is None else {"similarity": deformation.similarity},
        "home_from_template": found.prepared.home_from_template.tolist(),
        "intensity": {"slope": line[0]} if line else None,
    }
    parts = (found.labels, found.confidence, found.prepared.brain, found.template_labels, found.prepared.image)
    measures = measure(Finished(path.name, scan, *parts, model.protocol, found.volumes, record), model.inputs.template)
    entry: dict[str, Any] = {"measures": vars(measures)}
    if labels is not None:
        ids = [region.id for region in model.protocol.regions[1:]]
        entry["dice"] = dice_per_region(found.labels, labels, ids)
    return entry


def measures_of(entry: dict[str, Any], *, votes: bool = True) -> Measures:
    """Measures as they were before they went through JSON, with those of the votes or without."""
    plain = dict(entry["measures"])
    if not votes:
        plain["scan"] = {name: value for name, value in plain["scan"].items() if name != "votes"}
        plain["shares"] = {}
    by_id = {key: {int(i): v for i, v in plain[key].items()} for key in plain if key not in ("scan", "sums")}
    return Measures(plain["scan"], **by_id, sums=plain["sums"])


def grades(entries: list[dict[str, Any]], reference: Reference, protocol: Any, *, votes: bool) -> list[tuple[str, str]]:
    """Grade and reasons of each."""
    found = []
    for entry in entries:
        if entry["refused"]:
            found.append(("refused", entry["refused"].split(";")[0]))
            continue
        quality = judge(measures_of(entry, votes=votes), reference, protocol)
        found.append((quality.grade, "; ".join(j.label for j in quality.judgements if j.grade != "pass")))
    return found


def draw_diagram(bins: list[tuple[float, int, float, float]], path: Path) -> None:
    """Expected against found Dice, a dot a bin, as large as the bin has regions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0.3, 1], [0.3, 1], color="#888888", linewidth=1)
    for _, count, expected, found in bins:
        axes.scatter(expected, found, s=12 + count / 6, color="#0072b2", alpha=0.75)
        axes.annotate(str(count), (expected, found), xytext=(9, -11), textcoords="offset points", fontsize=8)
    axes.set(xlabel="expected Dice", ylabel="found Dice", xlim=(0.3, 1), ylim=(0.3, 1), aspect="equal")
    figure.savefig(path, metadata={"Software": None})


def print_losses(held: list[dict[str, Any]]) -> None:
    """Mean Dice under each disturbance, and what it lost against the same scan undisturbed."""
    means = pd.DataFrame(
        [(e["scan"], e["change"] or "clean", e["level"], np.nanmean(list(e["dice"].values()))) for e in held],
        columns=["scan", "change", "level", "dice"],
    ).astype({"dice": float})
    clean = means[means.change == "clean"].set_index("scan").dice
    means["loss"] = means.scan.map(clean) - means.dice
    print("| disturbance | strength | scans | Dice | lost |\n|---|---|--:|--:|--:|")
    for (change, level), own in means.groupby(["change", "level"], sort=False):
        strength = f"{DISTURBANCES[change][1][level]:g} {DISTURBANCES[change][2]}" if change in DISTURBANCES else ""
        print(f"| {change} | {strength} | {len(own)} | {own.dice.mean():.3f} | {own.loss.mean():+.3f} |")
    print()


def main() -> None:
    """Segment, fit and print."""
    given = arguments()
    votes = not given.without_votes
    jobs = wanted(given)
    entries = list(Parallel(n_jobs=given.jobs)(delayed(collect)(given, *job) for job in jobs))
    protocol = load_model(given.model).protocol
    good = [entry for entry in entries if entry["kind"] == "good" and not entry["refused"]]
    bad = [entry for entry in entries if entry["kind"] == "bad"]
    held = [entry for entry in entries if entry["kind"] == "held out" and not entry["refused"]]
    truths = [
        (measures_of(e, votes=votes), {int(i): d for i, d in e["dice"].items()}, Path(e["scan"]).name) for e in held
    ]
    clean = [not entry["change"] for entry in held]
    print("| good scan | grade | why |\n|---|---|---|")
    alarms = 0
    for half in (0, 1):
        known, tried = good[half::2], good[1 - half :: 2]
        reference = fit_dice(fit_reference([measures_of(e, votes=votes) for e in known], "half"), truths, clean)
        for entry, (grade, why) in zip(tried, grades(tried, reference, protocol, votes=votes), strict=True):
            alarms += grade != "pass"
            if grade != "pass":
                print(f"| {Path(entry['scan']).name} | {grade} | {why} |")
    print(f"\nalarms: {alarms} of {len(good)} good scans\n")
    reference = fit_dice(fit_reference([measures_of(e, votes=votes) for e in good], given.about), truths, clean)
    judged = grades(bad, reference, protocol, votes=votes)
    rows = [(e["change"], Path(e["scan"]).name, *own) for e, own in zip(bad, judged, strict=True)]
    table = pd.DataFrame(rows, columns=["fault", "scan", "grade", "why"])
    print("| fault | scan | grade | why |\n|---|---|---|---|")
    for row in table.itertuples():
        print(f"| {row.fault} | {row.scan} | {row.grade} | {row.why} |")
    if len(table):
        print(f"\ncaught: {(table.grade != 'pass').sum()} of {len(table)}\n")
    print_losses(held)
    text = json.dumps(plain_reference(reference), indent=1) + "\n"
    for folder in given.write:
        (folder / "quality.json").write_text(text, "utf-8")
    if not truths:
        return
    bins, error = reliability(fit_reference([measures_of(e, votes=votes) for e in good], "good"), truths, clean)
    print("| expected Dice | regions | expected | found |\n|---|--:|--:|--:|")
    for low, count, expected, found in bins:
        print(f"| {low:.1f} to {low + 0.1:.1f} | {count} | {expected:.3f} | {found:.3f} |")
    if given.diagram:
        draw_diagram(bins, given.diagram)
    print(f"\nexpected calibration error {error['calibration']:.4f}, mean absolute error {error['absolute']:.4f}")
    print(f"a scan's mean Dice is expected with a mean absolute error of {error['scan']:.4f}")


if __name__ == "__main__":
    main()
