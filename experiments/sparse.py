"""How does Dice grow with the number of annotated slices? As in Table 2 of Cicek et al. 2016, for one tile.

    python experiments/sparse.py DATA WORK PRIOR --slices 1 2 4 8 --steps 80

DATA holds the labelled scans, WORK what `slant train` prepared from them, PRIOR a model made on fold 0. One tile is
trained from random weights on some evenly spaced slices along each axis; all other voxels are ignored. Rows *one scan*
are semi-automated: the scan is of a subject held out from PRIOR, whose prior is used, and the Dice is that of its
voxels without annotation. Rows *all scans* are fully automated: the prior is that of the annotated slices, and the Dice
is that of the held-out subjects. Prints the fraction of annotated voxels and the mean Dice in template space.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from networks import manual_settings
from numpy.typing import NDArray

from slant.io.resources import load_protocol
from slant.nets.predict import Predictor, label_tile
from slant.tiles import Tile
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, run_context
from slant.train.data import TrainingScans, label_frequency, labelled_names, load_scans
from slant.train.loss import IGNORED
from slant.train.prepare import load_training
from slant.train.settings import TrainSettings
from slant.train.splits import split
from slant.train.stage_settings import TileSettings
from slant.train.stages import train_tiles
from slant.train.validate import mean_dice_of

ALL_SLICES = 10_000

Labelled = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""A scan in template space: image and channels."""


def arguments() -> argparse.Namespace:
    """Numbers of slices, and how long to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("prior", help="folder of a model made without the held-out subjects")
    parser.add_argument("--slices", type=int, nargs="*", default=[1, 2, 4, 8], help="in one scan")
    parser.add_argument("--all-slices", type=int, nargs="*", default=[1, 4, ALL_SLICES], help="in all scans")
    parser.add_argument("--tile", default="2_2_2")
    parser.add_argument("--steps", type=int, default=150)
    return parser.parse_args()


def annotated(tile: Tile, shape: tuple[int, ...], count: int) -> NDArray[np.bool_]:
    """(X, Y, Z) bool mask of evenly spaced slices of a tile along each axis; all voxels for `ALL_SLICES`."""
    mask = np.zeros(shape, dtype=bool)
    for axis, (start, stop) in enumerate(zip(tile.start, tile.stop, strict=True)):
        slices = np.linspace(start, stop, min(count, stop - start) + 2)[1:-1].round().astype(int)
        np.moveaxis(mask, axis, 0)[slices] = True
    return np.ones(shape, dtype=bool) if count >= max(tile.stop) else mask


def sparse_run(settings: TrainSettings, names: list[str], mask: NDArray[np.bool_], folder: Path) -> TrainSettings:
    """Settings of a run on these scans with labels inside the mask only."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "prepared").mkdir(exist_ok=True)
    for name in names:
        for kind in ("T1w", "dseg"):
            (folder / "data" / f"{name}_{kind}.nii.gz").touch()
        original = settings.work_dir / "prepared" / f"{name}.labels.npz"
        with np.load(original) as stored:
            channels, sha256 = np.where(mask, stored["channels"], np.uint8(IGNORED)), stored["scan_sha256"]
        link = folder / "prepared" / f"{sha256}.npz"
        if not link.exists():
            link.symlink_to(original.with_name(link.name).resolve())
        frequency = label_frequency(channels, len(load_protocol(settings.protocol)))
        labels = link.with_name(original.name)
        np.savez_compressed(labels, channels=channels, frequency=frequency, scan_sha256=sha256)
    return replace(settings, data=folder / "data", work_dir=folder, fold=None, name="sparse")


def dice_of(run: RunContext, trained_on: TrainingScans, tile: Tile, scans: list[Labelled]) -> float:
    """Mean Dice of a trained tile on scans."""
    network = run.network.build().requires_grad_(False)
    network.load_state_dict(averaged_weights(run.tile_checkpoint(tile.name)))
    predictor = Predictor(run.assembly.layout, trained_on.prior, lambda _: network)
    found = [label_tile(predictor, tile, image, torch.device("cpu")) for image, _ in scans]
    return float(np.mean([mean_dice_of(f, channels[tile.box]) for f, (_, channels) in zip(found, scans, strict=True)]))


def main() -> None:
    """Print one row per number of slices."""
    options = arguments()
    stage = TileSettings(options.steps, learning_rate=4e-3, patches=96, ema_decay=0.97, init="scratch")
    settings = replace(manual_settings(options.data, options.work, "narrow.toml"), tile=stage)
    tile = next(t for t in settings.layout if t.name == options.tile)
    trained, held_out = split(settings, labelled_names(options.data))
    prepared = settings.work_dir / "prepared"
    print("| labels of | slices along each axis | voxels annotated | Dice |\n|---|--:|--:|--:|", flush=True)
    for kind, names, counts in (("one scan", held_out[:1], options.slices), ("all scans", trained, options.all_slices)):
        for count in counts:
            one_scan = kind == "one scan"
            mask = annotated(tile, settings.layout.shape, count)
            sparse = sparse_run(settings, names, mask, options.work / "sparse" / f"{kind.replace(' ', '-')}-{count}")
            run = run_context(replace(sparse, prior=options.prior if one_scan else None))
            trained_on = load_training(run)
            train_tiles(run, trained_on, (tile.name,))
            tested = load_scans(prepared, prepared, names if one_scan else held_out, {})
            ignored = mask & (one_scan and not mask.all())
            scans = [(s.image.numpy(), np.where(ignored, np.uint8(IGNORED), s.channels.numpy())) for s in tested]
            dice, fraction = dice_of(run, trained_on, tile, scans), mask[tile.box].mean()
            print(f"| {kind} | {'all' if mask.all() else count} | {fraction:.1%} | {dice:.4f} |", flush=True)


if __name__ == "__main__":
    main()
