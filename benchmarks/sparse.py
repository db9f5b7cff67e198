"""Dice against the number of annotated slices, as Table 2 of Cicek et al. 2016 has it for the 3D U-Net.

    python benchmarks/sparse.py DATA WORK PRIOR --slices 1 2 4 8 --steps 80

DATA holds the labelled scans, WORK what `slant train` prepared from them, PRIOR a model exported from fold 0. One tile
is trained from random weights on so many slices along each axis, all other voxels ignored. *One scan*: semi-automated,
the scan of a person held out from PRIOR, whose prior is used; Dice on the voxels of that scan that nobody annotated.
*All scans*: fully automated, with a prior of the annotated slices; Dice on the people held out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from networks import base
from numpy.typing import NDArray

from slant.io.resources import load_protocol
from slant.nets.predict import Predictor, label_tile
from slant.nets.registry import build_network
from slant.tiles import Tile
from slant.train.checkpoint import averaged_weights
from slant.train.data import label_frequency, labelled_names, load_scans
from slant.train.loss import IGNORED
from slant.train.people import split
from slant.train.prepare import load_training
from slant.train.settings import TileSettings, TrainSettings
from slant.train.stages import network_of, train_tiles
from slant.train.validate import mean_dice_of

EVERY = 10_000


def arguments() -> argparse.Namespace:
    """How many slices, and how long to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("prior", help="folder of a model made without the people held out")
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--all-slices", type=int, nargs="*", default=[1, 4, EVERY])
    parser.add_argument("--tile", default="2_2_2")
    parser.add_argument("--steps", type=int, default=150)
    return parser.parse_args()


def annotated(tile: Tile, shape: tuple[int, ...], count: int) -> NDArray[np.bool_]:
    """(X, Y, Z) bool: so many evenly spread slices of the tile's box along each axis; all voxels for many."""
    mask = np.zeros(shape, dtype=bool)
    for axis, (start, stop) in enumerate(zip(tile.start, tile.stop, strict=True)):
        at = np.linspace(start, stop, min(count, stop - start) + 2)[1:-1].round().astype(int)
        np.moveaxis(mask, axis, 0)[at] = True
    return np.ones(shape, dtype=bool) if count >= max(tile.stop) else mask


def thin(settings: TrainSettings, names: list[str], mask: NDArray[np.bool_], folder: Path) -> TrainSettings:
    """Settings of a run whose scans have labels in the mask only."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "prepared").mkdir(exist_ok=True)
    for name in names:
        for kind in ("T1w", "dseg"):
            (folder / "data" / f"{name}_{kind}.nii.gz").touch()
        link, labels = folder / "prepared" / f"{name}.npz", folder / "prepared" / f"{name}.labels.npz"
        if not link.exists():
            link.symlink_to((settings.work / "prepared" / f"{name}.npz").resolve())
        with np.load(settings.work / "prepared" / f"{name}.labels.npz") as stored:
            channels = np.where(mask, stored["channels"], np.uint8(IGNORED))
        frequency = label_frequency(channels, len(load_protocol(settings.protocol)))
        np.savez_compressed(labels, channels=channels, frequency=frequency)
    return replace(settings, data=folder / "data", work=folder, fold=None, name="sparse")


def dice_of(settings: TrainSettings, tile: Tile, judged: list[tuple[NDArray[np.float32], NDArray[np.uint8]]]) -> float:
    """Mean Dice of a trained tile on images and their channels."""
    network = build_network(*network_of(settings)).requires_grad_(False)
    network.load_state_dict(averaged_weights(settings.run / settings.name / f"{tile.name}.pt"))
    predictor = Predictor(settings.layout, load_training(settings).prior, lambda _: network)
    found = [label_tile(predictor, tile, image, torch.device("cpu")) for image, _ in judged]
    return float(np.mean([mean_dice_of(f, truth[tile.box]) for f, (_, truth) in zip(found, judged, strict=True)]))


def main() -> None:
    """Print a row for each number of slices."""
    given = arguments()
    stage = TileSettings(given.steps, learning_rate=4e-3, boxes=96, average=0.97, start="scratch")
    settings = replace(base(given, "narrow.toml"), tile=stage)
    tile = next(t for t in settings.layout if t.name == given.tile)
    trained, held_out = split(settings, labelled_names(given.data))
    prepared = settings.work / "prepared"
    print("| labels of | slices along each axis | voxels annotated | Dice |\n|---|--:|--:|--:|", flush=True)
    for kind, names, counts in (("one scan", held_out[:1], given.slices), ("all scans", trained, given.all_slices)):
        for count in counts:
            mask = annotated(tile, settings.layout.shape, count)
            run = thin(settings, names, mask, given.work / "sparse" / f"{kind.replace(' ', '-')}-{count}")
            run = replace(run, prior=given.prior if kind == "one scan" else None)
            train_tiles(run, (tile.name,))
            judged = load_scans(prepared, prepared, names if kind == "one scan" else held_out, {})
            left = np.uint8(IGNORED)
            unseen = kind == "one scan" and not mask.all()
            pairs = [(s.image.numpy(), np.where(mask & unseen, left, s.channels.numpy())) for s in judged]
            share = mask[tile.box].mean()
            shown = "every one" if mask.all() else str(count)
            print(f"| {kind} | {shown} | {share:.1%} | {dice_of(run, tile, pairs):.4f} |", flush=True)


if __name__ == "__main__":
    main()
