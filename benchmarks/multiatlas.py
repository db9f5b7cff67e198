"""Multi-atlas segmentation: leave-one-out Dice and minutes by number and ranking of atlases, resolution and fusion.

    python benchmarks/multiatlas.py LIBRARY WORK [--resolution 2] [--n-atlases 3 5 7 10 14] [--fusion majority local]

Every scan is the target once and is labelled from the others. WORK keeps the registrations, as `slant multiatlas
--work-dir` does, so each is made only once. Prints mean, lowest and highest Dice and the minutes per target: processor
time on one core of registration (when it was made), resampling and fusion, without the preparation of the target. With
--around N a target uses only the N scans before and after it in the order of names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from slant.io.read import read_labels, read_scan
from slant.io.resources import load_protocol
from slant.joint_fusion import Candidates
from slant.multiatlas.atlases import read_atlas_scans
from slant.multiatlas.candidates import Chosen, LabelSource, choose, gather, on_whole_grid
from slant.multiatlas.label_fusion import fuse
from slant.multiatlas.settings import MultiAtlasSettings
from slant.multiatlas.task import source_of
from slant.volume import LabelMap
from slant.volumes import mean_dice


def atlases_of(target: LabelSource, sources: list[LabelSource], around: int | None) -> list[LabelSource]:
    """The other scans, or the nearest of them in the order of names, continued at the start after the last."""
    if around is None:
        return [s for s in sources if s is not target]
    index, count = sources.index(target), len(sources)
    return [sources[(index + step) % count] for step in range(-around, around + 1) if step]


def rows_of(target: LabelSource, atlases: list[LabelSource], options: argparse.Namespace) -> list[dict[str, object]]:
    """Dice of one target for every number of atlases, order and fusion."""
    settings = MultiAtlasSettings(
        n_atlases=len(atlases), rank="warped", resolution_mm=options.resolution, unknown_ids="background"
    )
    mutual = frozenset(a.atlas_scan.name for a in atlases)
    chosen = choose(target, atlases, settings, options.work, mutual)
    scan = read_scan(target.atlas_scan.t1w)
    start = time.process_time()
    candidates, box = gather(scan, target.prepared(options.work), chosen, options.work, "background")
    resampling = (time.process_time() - start) / len(chosen)
    reference = read_labels(target.atlas_scan.dseg, scan)
    orders = {"warped": list(range(len(chosen))), "affine": sorted(range(len(chosen)), key=affine_rank(chosen))}
    rows = []
    for rank in options.rank:
        order = orders[rank]
        for count in sorted({min(n, len(chosen)) for n in options.n_atlases}):
            used = sorted(order[:count])
            part = Candidates(candidates.labels[used], candidates.images[used], candidates.target)
            for fusion in options.fusion:
                start = time.process_time()
                fused = fuse(part, fusion, options.patch_radius)
                fusion_s = time.process_time() - start
                ids = on_whole_grid(scan.volume.grid, box, load_protocol().ids_from_channels(fused.channels), 0)
                dice = mean_dice(LabelMap(np.asarray(ids), reference.grid), reference, load_protocol().ids.tolist())
                rows.append(
                    {
                        "target": target.atlas_scan.name,
                        "rank": rank,
                        "atlases": count,
                        "fusion": fusion,
                        "dice": dice,
                        "registration_s": sum(chosen[i].pair.runtime_s for i in used),
                        "resampling_s": resampling * count,
                        "fusion_s": fusion_s,
                    }
                )
    return rows


def affine_rank(chosen: tuple[Chosen, ...]) -> Callable[[int], tuple[float, str]]:
    """Sorting key that puts the atlases that are most similar before SyN first."""
    return lambda i: (-chosen[i].affine_similarity, chosen[i].source.atlas_scan.name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--targets", nargs="*", default=[], help="names of the targets (default: all scans)")
    parser.add_argument("--around", type=int, help="atlases before and after a target (default: all)")
    parser.add_argument("--rows", type=Path, help="TSV with one row per target and choice")
    parser.add_argument("--resolution", type=float, default=MultiAtlasSettings().resolution_mm)
    parser.add_argument("--patch-radius", type=int, default=MultiAtlasSettings().patch_radius)
    parser.add_argument("--n-atlases", type=int, nargs="+", default=[1, 3, 5, 7, 10, 14])
    parser.add_argument("--rank", nargs="+", default=["affine"], choices=["affine", "warped"])
    parser.add_argument("--fusion", nargs="+", default=["majority", "local"])
    options = parser.parse_args()
    sources = [source_of(atlas_scan) for atlas_scan in read_atlas_scans([options.library], labelled=True)]
    rows: list[dict[str, object]] = []
    for target in sources:
        if not options.targets or target.atlas_scan.name in options.targets:
            rows += rows_of(target, atlases_of(target, sources, options.around), options)
            print(target.atlas_scan.name, f"{rows[-1]['dice']:.4f}", flush=True)
            if options.rows:
                pd.DataFrame(rows).to_csv(options.rows, sep="\t", index=False)
    table = pd.DataFrame(rows)
    table["total_s"] = table[["registration_s", "resampling_s", "fusion_s"]].sum(axis=1)
    means = table.groupby(["rank", "atlases", "fusion"])[["dice", "fusion_s", "total_s"]].mean()
    extremes = table.groupby(["rank", "atlases", "fusion"])["dice"].agg(["min", "max"])
    print(f"\n{table['target'].nunique()} targets, SyN at {options.resolution:g} mm; processor time on one core\n")
    print("| ranked by | atlases | fusion | mean Dice | lowest | highest | fusion s | minutes per target |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for (rank, count, fusion), row in means.join(extremes).iterrows():
        print(
            f"| {rank} | {count} | {fusion} | {row['dice']:.4f} | {row['min']:.3f} | {row['max']:.3f} "
            f"| {row['fusion_s']:.0f} | {row['total_s'] / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
