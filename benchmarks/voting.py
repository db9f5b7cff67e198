"""Ways to merge overlapping tiles, compared on the same networks and people who were held out, in template space.

    python benchmarks/voting.py WORK/fold0 slant27

WORK is the folder of `slant train ... --fold 0`. `vote` is the majority of the tiles' winners, `mean` the largest mean
probability, `centred` the mean with weights that fall towards the faces of a tile, `trim` each tile in its own part.
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

from slant.fusion import VoteCounter
from slant.io.models import load_model
from slant.nets.groupwise import Deformation
from slant.nets.model import Model
from slant.nets.network import channels_last
from slant.nets.predict import Predictor, TilePrior, _features, _Look, label_tile, tile_box
from slant.tiles import Tile, TileLayout
from slant.train.validate import mean_dice_of

CPU = torch.device("cpu")


def probabilities(
    predictor: Predictor, tile: Tile, image: NDArray[np.float32]
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Channels that can occur in a tile, and their (X, Y, Z, K) probabilities."""
    network = channels_last(predictor.network(tile.name).eval())
    look = _Look(tile, image, predictor.prior, predictor.displacement)
    mixed = _features(predictor, network, (look, tile_box(predictor.layout)), CPU)
    if predictor.prior is None:
        raise SystemExit("wanted a model with a prior")
    channels = predictor.prior.possible(tile.start, tile.stop)
    prior = TilePrior(predictor.prior, tile, channels, CPU)
    wanted = torch.from_numpy(channels)
    planes = [
        network.logits_of(mixed[x : x + 8].flatten(0, 2), wanted, prior.slab(x, x + 8).flatten(0, 2))
        for x in range(0, len(mixed), 8)
    ]
    return channels, torch.softmax(torch.cat(planes), dim=1).reshape(*mixed.shape[:3], -1)


def centred(layout: TileLayout) -> torch.Tensor:
    """(X, Y, Z, 1) weights of a tile, 1 in its middle and near 0 at its faces."""
    axes = [1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2) for n in layout.size]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x * y * z)[..., None].sqrt()


@torch.inference_mode()
def merged(predictor: Predictor, image: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The label map of every way."""
    layout = predictor.layout
    voters = {name: VoteCounter(replace(layout, overlap=name)) for name in ("vote", "trim")}
    means = {name: torch.zeros(*layout.shape, 133, dtype=torch.float32) for name in ("mean", "centred")}
    weights = {"mean": torch.ones(1), "centred": centred(layout)}
    for tile in layout:
        winners = label_tile(predictor, tile, image, CPU)
        for name, voter in voters.items():
            voter.aggregate(winners, next(t for t in replace(layout, overlap=name) if t.name == tile.name))
        channels, shares = probabilities(predictor, tile, image)
        for name, total in means.items():
            part = total[tile.box]
            part[..., torch.from_numpy(channels)] += shares * weights[name]
    for name, voter in voters.items():
        yield name, voter.finalize().channels
    for name, total in means.items():
        yield name, np.asarray(total.argmax(dim=-1).to(torch.uint8))


def predictor_of(model: Model, image: NDArray[np.float32], deformed: Path) -> Predictor:
    """What labels a prepared scan, without mirror images."""
    groupwise, deformation = model.inputs.groupwise, None
    if groupwise is not None:
        deformation = Deformation(np.load(deformed)["displacement"], 1.0, 0.0, groupwise.identity)
    return replace(model.predictor(image, deformation), mirroring=None)


def main() -> None:
    """Print a row a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path)
    parser.add_argument("model")
    parser.add_argument("--people", nargs="+")
    given = parser.parse_args()
    folder = given.split / f"model-{given.model}"
    model = load_model(str(folder))
    trained = set(json.loads((folder / "manifest.json").read_text())["training"]["people"])
    prepared = given.split.parent / "prepared"
    labelled = [path.name.removesuffix(".labels.npz") for path in sorted(prepared.glob("*.labels.npz"))]
    people = given.people or [name for name in labelled if name not in trained]
    scores: dict[str, list[float]] = {}
    for name in people:
        image = np.load(prepared / f"{name}.npz")["image"].astype(np.float32)
        truth = np.load(prepared / f"{name}.labels.npz")["channels"]
        predictor = predictor_of(model, image, given.split / "groupwise" / f"{name}.npz")
        for way, found in merged(predictor, image):
            scores.setdefault(way, []).append(mean_dice_of(found, truth))
    print(f"| tiles of {given.model} merged by | {' | '.join(people)} | mean |\n|---|{'--:|' * (len(people) + 1)}")
    for way, values in scores.items():
        print(f"| {way} | {' | '.join(f'{v:.4f}' for v in values)} | {np.mean(values):.4f} |")


if __name__ == "__main__":
    main()
