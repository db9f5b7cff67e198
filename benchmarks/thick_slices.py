"""Which network suits scans with thick slices? Dice, seconds of a tile, parameters and memory of a training step.

    python benchmarks/thick_slices.py MODEL... --data DATA --subjects NAMES... [--thickness-mm 3 5]

DATA holds NAME_T1w.nii.gz with NAME_dseg.nii.gz of subjects that the models have not seen. Each scan is segmented as it
is, and with thick slices along the axis nearest to inferior-superior: a slice is the mean of the slices that it covers,
its labels are the most frequent ones. A scan is prepared once for all models that take the same inputs. Prints, for
each model,

- parameters of one network, in the first assembly
- mean Dice of the regions with the manual labels, in the space of each scan
- processor seconds of a tile with one thread: all tiles of a scan, divided by their number, the least of all scans
- peak memory and processor seconds of a training step on a crop of the size of a tile, as training_memory.py measures

Results are kept in --cache, so that a second run continues and other models can be added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from training_memory import measured, spec_of

from slant.config import SegmentSettings
from slant.grid import Grid
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.model import Model
from slant.pipeline import label, prepare
from slant.segmentation import Prepared
from slant.timing import StepProgress
from slant.volume import LabelMap, Volume
from slant.volumes import mean_dice

ORIGINAL = 0.0
"""Thickness in the tables of a scan that is unchanged."""

_KEY = ["identity", "subject", "thickness_mm"]


def arguments() -> argparse.Namespace:
    """Models, scans and thicknesses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="embedded model or model folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--thickness-mm", type=float, nargs="+", default=[3.0, 5.0])
    parser.add_argument("--cache", type=Path, default=Path("work/thick_slices.tsv"))
    parser.add_argument("--no-step", action="store_true", help="do not measure a training step")
    parser.add_argument("--gib", type=float, default=20.0, help="limit of memory of a training step")
    parser.add_argument("--time-limit", type=float, default=10.0, help="minutes of a training step")
    return parser.parse_args()


def slabs_of(grid: Grid, thickness_mm: float) -> tuple[int, int]:
    """The axis nearest to inferior-superior, and the number of its slices that come nearest to a thickness."""
    cosines = np.abs(grid.ras_from_voxel[2, :3]) / grid.voxel_size_mm
    axis = int(np.argmax(cosines))
    return axis, max(1, round(thickness_mm / grid.voxel_size_mm[axis]))


def slab_grid(grid: Grid, axis: int, count: int) -> Grid:
    """The grid whose slices along an axis are slabs of ``count`` slices; the last one may reach beyond the grid."""
    shape, step, offset = list(grid.shape), np.ones(4), np.zeros(4)
    shape[axis], step[axis], offset[axis] = -(-shape[axis] // count), count, (count - 1) / 2
    matrix = grid.ras_from_voxel @ np.diag(step)
    matrix[:, 3] += grid.ras_from_voxel @ offset
    x, y, z = shape
    return Grid((x, y, z), matrix)


def slab_means(scan: Volume, thickness_mm: float) -> Volume:
    """A scan with thick slices, each the mean of the slices of a slab; the last slab has those that are left."""
    axis, count = slabs_of(scan.grid, thickness_mm)
    size = scan.grid.shape[axis]
    starts = np.arange(0, size, count)
    sums = np.moveaxis(np.add.reduceat(scan.data, starts, axis, dtype=np.float64), axis, -1)
    means = np.moveaxis(sums / np.diff([*starts, size]), -1, axis)
    return Volume(means.astype(np.float32), slab_grid(scan.grid, axis, count))


def slab_labels(labels: LabelMap, thickness_mm: float) -> LabelMap:
    """The most frequent id of each slab of `slab_means` at each place; of several, the one nearest to its middle."""
    axis, count = slabs_of(labels.grid, thickness_mm)
    slices = np.moveaxis(labels.data, axis, -1)
    slabs = [most_frequent(slices[..., start : start + count]) for start in range(0, slices.shape[-1], count)]
    return LabelMap(np.stack(slabs, axis), slab_grid(labels.grid, axis, count))


def most_frequent(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """(...) most frequent of (..., K) ids; of several, the one nearest to the middle."""
    positions = np.arange(ids.shape[-1])
    ids = ids[..., np.argsort(np.abs(positions - positions.mean()), kind="stable")]
    counts = (ids[..., :, None] == ids[..., None, :]).sum(axis=-1)
    return np.take_along_axis(ids, counts.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def read_pair(data: Path, subject: str, ids: NDArray[np.integer]) -> tuple[Volume, LabelMap]:
    """A scan and its manual labels; ids that are not among the given ones become background."""
    scan = read_scan(data / f"{subject}_T1w.nii.gz")
    manual = read_labels(data / f"{subject}_dseg.nii.gz", scan)
    known = np.where(np.isin(manual.data, ids), manual.data, 0)
    return scan.volume, LabelMap(known, manual.grid)


def labelled(prepared: Prepared, model: Model) -> tuple[LabelMap, float]:
    """The labels of a model in native space, and the processor seconds of a tile with one thread."""
    clock: list[float] = []

    def listen(progress: StepProgress) -> None:
        if progress.name == "networks and vote":
            clock.append(time.process_time())

    found = label(prepared, model, SegmentSettings(device="cpu", threads=1), listen)
    return found.labels, (clock[-1] - clock[0]) / sum(len(assembly.layout) for assembly in model.assemblies)


def measure(models: list[Model], scan: Volume, manual: LabelMap) -> Iterator[dict[str, object]]:
    """Dice and seconds of each model on one scan, which is prepared once for all models with the same inputs."""
    prepared: dict[object, Prepared] = {}
    for model in models:
        groupwise = model.inputs.groupwise
        inputs = model.inputs.scaling, None if groupwise is None else groupwise.identity
        if inputs not in prepared:
            prepared[inputs] = prepare(scan, model.inputs, SegmentSettings(device="cpu"))
        labels, tile_s = labelled(prepared[inputs], model)
        dice = mean_dice(labels, manual, model.protocol.ids)
        yield {"identity": model.identity, "dice": round(dice, 5), "tile_s": round(tile_s, 3)}


def measure_missing(options: argparse.Namespace, models: dict[str, Model]) -> pd.DataFrame:
    """All results of the cache, after the missing ones of these models and scans were added to it."""
    path: Path = options.cache
    path.parent.mkdir(parents=True, exist_ok=True)
    known = pd.read_csv(path, sep="\t", dtype={"subject": str}) if path.is_file() else pd.DataFrame(columns=_KEY)
    done = set(known[_KEY].itertuples(index=False, name=None))
    for subject in options.subjects:
        for thickness in (ORIGINAL, *options.thickness_mm):
            missing = [model for model in models.values() if (model.identity, subject, thickness) not in done]
            if not missing:
                continue
            scan, manual = read_pair(options.data, subject, missing[0].protocol.ids)
            if thickness != ORIGINAL:
                scan, manual = slab_means(scan, thickness), slab_labels(manual, thickness)
            for found in measure(missing, scan, manual):
                row = pd.DataFrame([{"subject": subject, "thickness_mm": thickness, **found}])
                known = pd.concat([known, row]) if len(known) else row
                known.to_csv(path, sep="\t", index=False)
    return known


def step_cells(options: argparse.Namespace, name: str, model: Model) -> str:
    """Peak memory and seconds of a training step of the first assembly of a model."""
    if options.no_step:
        return "- | -"
    size = "x".join(map(str, model.assemblies[0].layout.size))
    return measured([name, size, "none", "cpu", "1"], options.gib, options.time_limit)


def main() -> None:
    """Print one row for each model."""
    options = arguments()
    models = {name: load_model(name) for name in options.models}
    table = measure_missing(options, models)
    thicknesses = [ORIGINAL, *options.thickness_mm]
    heads = ["Dice of the original scan", *(f"Dice at {thickness:g} mm" for thickness in options.thickness_mm)]
    print(f"| model | kind | parameters | {' | '.join(heads)} | s of a tile | GiB of a step | s of a step |")
    print(f"|---|---|--:|{'--:|' * (len(heads) + 3)}", flush=True)
    for name, model in models.items():
        own = table[(table.identity == model.identity) & table.subject.isin(options.subjects)]
        means = own.groupby("thickness_mm").dice.mean()
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in spec_of(name).build().parameters())
        cells = [name, model.assemblies[0].kind, f"{parameters:,}", *(f"{means[mm]:.4f}" for mm in thicknesses)]
        print(f"| {' | '.join(cells)} | {own.tile_s.min():.2f} | {step_cells(options, name, model)} |", flush=True)


if __name__ == "__main__":
    main()
