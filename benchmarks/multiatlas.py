"""How many atlases, which of them, at what resolution, and how fused: leave-one-out Dice and minutes of each choice.

    python benchmarks/multiatlas.py LIBRARY WORK [--resolution 2] [--best 3 5 7 10 14] [--fusion majority local]

Every scan is a target once and labelled from the others. Registrations are kept in WORK as `slant multiatlas --work`
keeps them, so each is made once, whatever is tried after. Minutes are of processor time on one core: of registration
(as it was made), resampling and fusion, without the preparation of the target. With --around N a target has only the N
atlases before and after it in the order of names.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.measure import mean_dice
from slant.multiatlas.candidates import Chosen, Source, choose, gather, whole
from slant.multiatlas.fusion import Candidates, fuse
from slant.multiatlas.library import read_members
from slant.multiatlas.run import source_of
from slant.multiatlas.settings import MultiAtlasSettings
from slant.volume import LabelMap


def atlases_of(target: Source, sources: list[Source], around: int | None) -> list[Source]:
    """The other scans, or the nearest of them in the order of names, round the end."""
    if around is None:
        return [s for s in sources if s is not target]
    here, count = sources.index(target), len(sources)
    return [sources[(here + step) % count] for step in range(-around, around + 1) if step]


def rows_of(target: Source, atlases: list[Source], options: argparse.Namespace) -> list[dict[str, object]]:
    """Dice of one target for every number of atlases, order and fusion."""
    settings = MultiAtlasSettings(
        best=len(atlases), rank="warped", resolution_mm=options.resolution, unknown="background"
    )
    mutual = frozenset(a.member.name for a in atlases)
    chosen = choose(target, atlases, settings, options.work, mutual)
    scan = read_scan(target.member.t1w)
    start = time.process_time()
    candidates, box = gather(scan, target.prepared(options.work), chosen, options.work, "background")
    resampling = (time.process_time() - start) / len(chosen)
    truth = read_labels(target.member.dseg, scan)
    orders = {"warped": list(range(len(chosen))), "affine": sorted(range(len(chosen)), key=affine_rank(chosen))}
    rows = []
    for rank in options.rank:
        order = orders[rank]
        for best in sorted({min(k, len(chosen)) for k in options.best}):
            picked = sorted(order[:best])
            part = Candidates(candidates.labels[picked], candidates.images[picked], candidates.target)
            for fusion in options.fusion:
                start = time.process_time()
                fused = fuse(part, fusion, options.radius)
                seconds = time.process_time() - start
                ids = whole(scan.volume.grid, box, load_protocol().ids_from_channels(fused.channels), 0)
                dice = mean_dice(LabelMap(np.asarray(ids), truth.grid), truth, load_protocol().ids.tolist())
                registering = sum(chosen[i].pair.seconds for i in picked)
                rows.append(
                    {
                        "target": target.member.name,
                        "rank": rank,
                        "atlases": best,
                        "fusion": fusion,
                        "dice": dice,
                        "registration_s": registering,
                        "resampling_s": resampling * best,
                        "fusion_s": seconds,
                    }
                )
    return rows


def affine_rank(chosen: tuple[Chosen, ...]) -> object:
    """Sorting key: the atlases most similar before SyN first."""
    return lambda i: (-chosen[i].affine_similarity, chosen[i].source.member.name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--targets", nargs="*", default=[], help="names; all scans if left out")
    parser.add_argument("--around", type=int)
    parser.add_argument("--rows", type=Path, help="TSV for a row of every target and choice")
    parser.add_argument("--resolution", type=float, default=MultiAtlasSettings().resolution_mm)
    parser.add_argument("--radius", type=int, default=MultiAtlasSettings().radius)
    parser.add_argument("--best", type=int, nargs="+", default=[1, 3, 5, 7, 10, 14])
    parser.add_argument("--rank", nargs="+", default=["affine"], choices=["affine", "warped"])
    parser.add_argument("--fusion", nargs="+", default=["majority", "local"])
    options = parser.parse_args()
    sources = [source_of(member) for member in read_members([options.library], labelled=True)]
    rows: list[dict[str, object]] = []
    for target in sources:
        if not options.targets or target.member.name in options.targets:
            rows += rows_of(target, atlases_of(target, sources, options.around), options)
            print(target.member.name, f"{rows[-1]['dice']:.4f}", flush=True)
            if options.rows:
                pd.DataFrame(rows).to_csv(options.rows, sep="\t", index=False)
    table = pd.DataFrame(rows)
    table["total_s"] = table[["registration_s", "resampling_s", "fusion_s"]].sum(axis=1)
    means = table.groupby(["rank", "atlases", "fusion"])[["dice", "fusion_s", "total_s"]].mean()
    spread = table.groupby(["rank", "atlases", "fusion"])["dice"].agg(["min", "max"])
    print(f"\n{table['target'].nunique()} targets, SyN at {options.resolution:g} mm; processor time on one core\n")
    print("| chosen by | atlases | fusion | mean Dice | lowest | highest | fusion s | minutes a target |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for (rank, best, fusion), row in means.join(spread).iterrows():
        print(
            f"| {rank} | {best} | {fusion} | {row['dice']:.4f} | {row['min']:.3f} | {row['max']:.3f} "
            f"| {row['fusion_s']:.0f} | {row['total_s'] / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
