"""A simulated rescan: how far volumes and labels of two scans of the same head differ.

    python benchmarks/rescan.py SCANS... --model slant27

For every scan a second one is simulated: the head is rotated and translated, resampled to another grid, and new noise
is added. Both go through the whole pipeline. Prints per scan the mean absolute difference of the two volumes of a
region, in percent of their mean, for large and for small regions, and the mean Dice of both label maps, the second
resampled to the first; then the regions with the largest differences. Results are kept in --cache, so that a second
run continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from slant.config import SegmentSettings
from slant.grid import Matrix
from slant.io.models import load_model
from slant.io.read import read_scan
from slant.pipeline import segment
from slant.resample import pick_labels, resample
from slant.volume import Volume
from slant.volumes import dice_per_region

LARGE_MM3 = 3000.0
"""Volume from which a region counts as large."""


def arguments() -> argparse.Namespace:
    """Scans, model and size of the simulated changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--rotation-deg", type=float, default=5.0)
    parser.add_argument("--translation-mm", type=float, default=4.0)
    parser.add_argument("--noise", type=float, default=0.02, help="standard deviation, of the brightest tissue")
    parser.add_argument("--cache", type=Path, default=Path("work/rescan.tsv"))
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def rigid(rotation_deg: float, translation_mm: float, random: np.random.Generator) -> Matrix:
    """(4, 4) rotation about a random axis and translation in a random direction."""
    axis, direction = random.standard_normal((2, 3))
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(rotation_deg)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = direction / np.linalg.norm(direction) * translation_mm
    return matrix


def second_scan(scan: Volume, options: argparse.Namespace, random: np.random.Generator) -> tuple[Volume, Matrix]:
    """The head in another position with new noise, and the matrix to the first scan from the second, in RAS mm."""
    center = np.eye(4)
    center[:3, 3] = scan.grid.center_ras_mm
    motion = rigid(options.rotation_deg, options.translation_mm, random)
    first_from_second = center @ motion @ np.linalg.inv(center)
    moved = resample(scan, scan.grid, source_from_target=first_from_second, order=3)
    sigma = options.noise * float(np.percentile(scan.data, 99))
    real = moved.data + sigma * random.standard_normal(moved.data.shape)
    noisy = np.hypot(real, sigma * random.standard_normal(moved.data.shape))
    skull_stripped = (scan.data == 0).mean() > 0.3
    inside = moved.data > 0 if skull_stripped else np.ones(moved.data.shape, bool)
    return Volume(np.where(inside, noisy, 0).astype(np.float32), scan.grid), first_from_second


def compare(options: argparse.Namespace, path: Path) -> pd.DataFrame:
    """One row per region: both volumes and the Dice."""
    model, settings = load_model(options.model), SegmentSettings(threads=1)
    scan = read_scan(path).volume
    random = np.random.default_rng(crc32(path.name.encode()))
    rescan, first_from_second = second_scan(scan, options, random)
    first, second = segment(scan, model, settings), segment(rescan, model, settings)
    second_from_first = np.asarray(np.linalg.inv(first_from_second), dtype=np.float64)
    second_labels = pick_labels(second.labels, first.labels.grid, second_from_first)
    regions = model.protocol.regions[1:]
    dice = dice_per_region(second_labels, first.labels, [region.id for region in regions])
    volumes = [{row.name: row.volume_mm3 for row in s.volumes if row.level == "region"} for s in (first, second)]
    return pd.DataFrame(
        [
            {
                "model": options.model,
                "scan": str(path),
                "region": region.name,
                "first_mm3": volumes[0][region.name],
                "second_mm3": volumes[1][region.name],
                "dice": dice[region.id],
            }
            for region in regions
        ]
    )


def main() -> None:
    """Print one row per scan, the mean, and the regions that differ most."""
    options = arguments()
    known = [pd.read_csv(options.cache, sep="\t")] if options.cache.is_file() else []
    done = {(m, s) for table in known for m, s in zip(table.model, table.scan, strict=True)}
    todo = [path for path in options.scans if (options.model, str(path)) not in done]
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    for table in Parallel(n_jobs=options.jobs, return_as="generator")(delayed(compare)(options, path) for path in todo):
        known.append(table)
        pd.concat(known).to_csv(options.cache, sep="\t", index=False, float_format="%.5f")
    table = pd.concat(known)
    table = table[(table.model == options.model) & table.scan.isin([str(path) for path in options.scans])].copy()
    mean = (table.first_mm3 + table.second_mm3) / 2
    table["difference"] = 100 * (table.first_mm3 - table.second_mm3).abs() / mean
    table["size"] = np.where(mean >= LARGE_MM3, "large", "small")
    print("| scan | large regions, % | small regions, % | Dice |\n|---|--:|--:|--:|")
    rows = [(Path(str(name)).name, part) for name, part in table.groupby("scan")]
    for name, part in [*rows, ("mean", table)]:
        by_size = part.groupby("size").difference.mean()
        print(f"| {name} | {by_size['large']:.2f} | {by_size['small']:.2f} | {part.dice.mean():.4f} |")
    largest = table.groupby("region").difference.mean().nlargest(5)
    print("\nlargest differences: " + ", ".join(f"{name} {value:.1f} %" for name, value in largest.items()))


if __name__ == "__main__":
    main()
