"""How should overlapping tiles be merged? Four ways on the same networks and held-out subjects, in template space.

    python experiments/voting.py WORK/fold0 slant27 [--subjects 1000]

WORK is the folder of `slant train ... --fold 0`. Prints the Dice of each subject and the mean for

vote      the majority of the winning regions of the tiles
core      each tile in its own core
mean      the largest mean of the probabilities of the tiles
centred   the same with weights that fall from the centre of a tile to its faces
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slant.io.models import load_model
from slant.nets.groupwise import Deformation
from slant.nets.model import Model
from slant.nets.network import Network
from slant.nets.predict import Predictor, label_tile
from slant.nets.unet import box_coordinate_channels
from slant.tiles import Tile, TileLayout
from slant.train.data import load_scans
from slant.train.validate import mean_dice_of
from slant.vote import VoteCounter

CPU = torch.device("cpu")
SLAB = 8
"""Planes of a tile whose logits are computed at once."""


def head_features(
    predictor: Predictor, network: Network, tile: Tile, image: NDArray[np.float32], displacement: torch.Tensor | None
) -> torch.Tensor:
    """(X, Y, Z, C) features of a whole tile at 1 mm, before the last layer."""
    x, y, z = predictor.layout.size
    part = predictor.scaling.of_tile(image[tile.box])
    padded = np.pad(part, [(0, -n % network.multiple) for n in part.shape])
    coordinates = box_coordinate_channels(predictor.layout.shape, tile.start, padded.shape, displacement)
    order = predictor.scaling.order
    to_network, from_network = [2 + axis for axis in order], [1 + order.index(axis) for axis in range(3)]
    crop = torch.from_numpy(padded)[None, None].permute(0, 1, *to_network).contiguous()
    features = network.backbone(crop, coordinates.permute(0, 1, *to_network))
    return network.decoder_head(features, crop)[0].permute(*from_network, 0)[:x, :y, :z].float()


def probabilities(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32]
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Channels that can occur in a tile, and their (X, Y, Z, K) probabilities."""
    if predictor.prior is None:
        raise SystemExit("the model has no prior; expected a model whose networks take one")
    network = predictor.ready(tile.name, CPU)
    displacement = None if predictor.displacement is None else torch.from_numpy(predictor.displacement)
    features = head_features(predictor, network, tile, image, displacement)
    channels = predictor.prior.possible(tile.start, tile.stop)
    outputs, (planes, *sides) = torch.from_numpy(channels), tile.box
    logits = []
    for x in range(planes.start, planes.stop, SLAB):
        slab = slice(x, min(x + SLAB, planes.stop))
        inputs = features[slab.start - planes.start : slab.stop - planes.start].flatten(0, 2)
        prior = predictor.prior.of_box([slab, *sides], channels, CPU).flatten(0, 2)
        logits.append(network.logits_of(inputs, outputs, prior))
    return channels, torch.softmax(torch.cat(logits), dim=1).reshape(*features.shape[:3], -1)


def centred_weights(layout: TileLayout) -> torch.Tensor:
    """(X, Y, Z, 1) weights of a tile, 1 in its centre and near 0 at its faces."""
    axes = [1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2) for n in layout.size]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x * y * z)[..., None].sqrt()


@torch.inference_mode()
def merged(predictor: Predictor, image: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The channels of the whole grid, by each way of merging."""
    layout = predictor.layout
    layouts = {"vote": replace(layout, overlap="vote"), "core": replace(layout, overlap="core", vote_margin=0)}
    counters = {name: VoteCounter(own) for name, own in layouts.items()}
    means = {name: torch.zeros(*layout.shape, 133, dtype=torch.float32) for name in ("mean", "centred")}
    weights = {"mean": torch.ones(1), "centred": centred_weights(layout)}
    for i, tile in enumerate(layout):
        winners = label_tile(predictor, tile, image, CPU)
        for name, counter in counters.items():
            counter.aggregate(winners, layouts[name].tiles[i])
        channels, likely = probabilities(predictor, tile, image)
        for name, total in means.items():
            part = total[tile.box]
            part[..., torch.from_numpy(channels)] += likely * weights[name]
    for name, counter in counters.items():
        yield name, counter.finalize().winners
    for name, total in means.items():
        yield name, np.asarray(total.argmax(dim=-1).to(torch.uint8))


def predictor_of(model: Model, image: NDArray[np.float32], deformed: Path) -> Predictor:
    """What labels a prepared scan, without mirror images."""
    groupwise, deformation = model.inputs.groupwise, None
    if groupwise is not None:
        deformation = Deformation(np.load(deformed)["displacement"], 1.0, 0.0, groupwise.identity)
    first, *others = model.cascade(image, deformation).predictors
    if others:
        raise SystemExit("the model has several assemblies; expected a model with one")
    return replace(first, mirroring=None)


def main() -> None:
    """Print one row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fold", type=Path)
    parser.add_argument("model", help="name of the model in that folder")
    parser.add_argument("--subjects", nargs="+", help="names of scans (default: all that are held out)")
    options = parser.parse_args()
    folder = options.fold / f"model-{options.model}"
    model = load_model(str(folder))
    trained = set(json.loads((folder / "manifest.json").read_text())["training"]["subjects"])
    prepared = options.fold.parent / "prepared"
    labelled = [path.name.removesuffix(".labels.npz") for path in sorted(prepared.glob("*.labels.npz"))]
    subjects = options.subjects or [name for name in labelled if name not in trained]
    scores: dict[str, list[float]] = {}
    for name in subjects:
        (scan,) = load_scans(prepared, prepared, [name], {})
        image, reference = scan.image.numpy(), scan.channels.numpy()
        predictor = predictor_of(model, image, options.fold / "groupwise" / f"{name}.npz")
        for way, found in merged(predictor, image):
            scores.setdefault(way, []).append(mean_dice_of(found, reference))
    print(f"| tiles of {options.model} merged by | {' | '.join(subjects)} | mean |")
    print(f"|---|{'--:|' * (len(subjects) + 1)}")
    for way, values in scores.items():
        print(f"| {way} | {' | '.join(f'{v:.4f}' for v in values)} | {np.mean(values):.4f} |")


if __name__ == "__main__":
    main()
