"""The same head twice: how far volumes and labels of two scans of one person differ.

    python benchmarks/rescan.py SCANS... --model slant27

Of every scan a second one is made as a scanner would: the head lies turned by some degrees and shifted, in voxels of
another grid, with fresh noise. Both go through the whole pipeline. Printed are the mean absolute difference of a
region's two volumes as a share of their mean, for large and small regions, and the mean Dice between the maps, the
second carried back onto the first. Run again to continue: results are kept in --cache.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from slant.config import SegmentSettings
from slant.grid import Grid, Matrix
from slant.io.models import load_model
from slant.io.read import read_scan
from slant.measure import dice_per_region
from slant.pipeline import segment
from slant.resample import pick_labels, resample
from slant.volume import Volume

LARGE_MM3 = 3000.0
"""Volume from which a region counts as large."""


def arguments() -> argparse.Namespace:
    """Which scans, how far apart, and which model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--model", default="slant27")
    parser.add_argument("--degrees", type=float, default=5.0, help="the head is turned by")
    parser.add_argument("--shift-mm", type=float, default=4.0)
    parser.add_argument("--noise", type=float, default=0.02, help="of the brightest tissue")
    parser.add_argument("--cache", type=Path, default=Path("work/rescan.tsv"))
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def rigid(degrees: float, shift_mm: float, random: np.random.Generator) -> Matrix:
    """(4, 4) turn about a random axis and shift in a random direction."""
    axis, shift = random.standard_normal((2, 3))
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = shift / np.linalg.norm(shift) * shift_mm
    return matrix


def second_scan(scan: Volume, given: argparse.Namespace, random: np.random.Generator) -> tuple[Volume, Matrix]:
    """The head in another position with fresh noise, and the matrix to the first from the second, in RAS mm."""
    middle = np.eye(4)
    middle[:3, 3] = scan.grid.center_ras_mm
    first_from_second = middle @ rigid(given.degrees, given.shift_mm, random) @ np.linalg.inv(middle)
    moved = resample(scan, scan.grid, source_from_target=first_from_second, order=3)
    sigma = given.noise * float(np.percentile(scan.data, 99))
    noisy = np.hypot(
        moved.data + sigma * random.standard_normal(moved.data.shape), sigma * random.standard_normal(moved.data.shape)
    )
    stripped = (scan.data == 0).mean() > 0.3
    inside = moved.data > 0 if stripped else np.ones(moved.data.shape, bool)
    return Volume(np.where(inside, noisy, 0).astype(np.float32), Grid(scan.grid.shape, scan.grid.ras_from_voxel)), (
        first_from_second
    )


def compare(given: argparse.Namespace, path: Path) -> pd.DataFrame:
    """A row a region: both volumes and the Dice."""
    model, settings = load_model(given.model), SegmentSettings(threads=1)
    scan = read_scan(path).volume
    random = np.random.default_rng(crc32(path.name.encode()))
    again, first_from_second = second_scan(scan, given, random)
    first, second = segment(scan, model, settings), segment(again, model, settings)
    second_from_first = np.asarray(np.linalg.inv(first_from_second), dtype=np.float64)
    back = pick_labels(second.labels, first.labels.grid, second_from_first)
    dice = dice_per_region(back, first.labels, [region.id for region in model.protocol.regions[1:]])
    volumes = [{row.name: row.volume_mm3 for row in s.volumes if row.level == "region"} for s in (first, second)]
    return pd.DataFrame(
        [
            {
                "model": given.model,
                "scan": str(path),
                "region": region.name,
                "first_mm3": volumes[0][region.name],
                "second_mm3": volumes[1][region.name],
                "dice": dice[region.id],
            }
            for region in model.protocol.regions[1:]
        ]
    )


def main() -> None:
    """Print a row a scan, the mean, and the regions that differ most."""
    given = arguments()
    known = [pd.read_csv(given.cache, sep="\t")] if given.cache.is_file() else []
    done = {(m, s) for table in known for m, s in zip(table.model, table.scan, strict=True)}
    todo = [path for path in given.scans if (given.model, str(path)) not in done]
    given.cache.parent.mkdir(parents=True, exist_ok=True)
    for table in Parallel(n_jobs=given.jobs, return_as="generator")(delayed(compare)(given, path) for path in todo):
        known.append(table)
        pd.concat(known).to_csv(given.cache, sep="\t", index=False, float_format="%.5f")
    table = pd.concat(known)
    table = table[(table.model == given.model) & table.scan.isin([str(path) for path in given.scans])].copy()
    mean = (table.first_mm3 + table.second_mm3) / 2
    table["difference"] = 100 * (table.first_mm3 - table.second_mm3).abs() / mean
    table["size"] = np.where(mean >= LARGE_MM3, "large", "small")
    print("| scan | large regions, % | small regions, % | Dice |\n|---|--:|--:|--:|")
    rows = [(Path(str(name)).name, part) for name, part in table.groupby("scan")]
    for name, part in [*rows, ("mean", table)]:
        by_size = part.groupby("size").difference.mean()
        print(f"| {name} | {by_size['large']:.2f} | {by_size['small']:.2f} | {part.dice.mean():.4f} |")
    worst = table.groupby("region").difference.mean().nlargest(5)
    print("\nlargest differences: " + ", ".join(f"{name} {value:.1f} %" for name, value in worst.items()))


if __name__ == "__main__":
    main()
