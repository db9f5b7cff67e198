"""Do networks that were trained apart vote better together? Each alone, in the tiles in turn, and all in all tiles.

    python experiments/ensemble.py MODEL MODEL ... --data DATA --subjects 1000 1008 1013

The models have one assembly with the same tiles, like the `model-whole` of trainings with different seeds. Prints the
mean Dice over the regions in native space for each scan: of each model; of a vote in which neighbouring tiles have the
networks of different models, which takes the time of one model; and of a vote of all models in all tiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from slant.config import SegmentSettings
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.device import choose_device, inference_dtype
from slant.nets.groupwise import deform
from slant.nets.model import Model
from slant.nets.predict import Predictor, tile_ballots
from slant.pipeline import labels_of, prepare
from slant.resample_votes import resample_votes
from slant.segmentation import Prepared
from slant.sparse_votes import SparseVotes
from slant.tiles import Tile
from slant.volume import LabelMap
from slant.volumes import dice_per_region
from slant.vote import VoteCounter, most_ballots

Choice = Callable[[Tile], list[Predictor]]


def predictor_of(model: Model, prepared: Prepared, device: torch.device) -> Predictor:
    """The predictor of the only assembly of a model for a scan, deformed to the template of this model."""
    groupwise = model.inputs.groupwise
    deformation = None if groupwise is None else deform(prepared.image, groupwise)
    (predictor,) = model.cascade(prepared.image.data, deformation, inference_dtype("float32", device)).predictors
    return predictor


def vote_of(predictors: list[Predictor], choice: Choice, prepared: Prepared, device: torch.device) -> SparseVotes:
    """The vote in which every tile has the ballots of each of its predictors, each with as many."""
    layout = predictors[0].layout
    views = len(choice(layout.tiles[0]))
    divided = all(one.network(layout.tiles[0].name).probabilistic for one in predictors)
    ballots = most_ballots(layout, views) if divided else 1
    counter = VoteCounter(layout, ballots=ballots, views=views)
    for tile in layout:
        ready = [replace(one, ballots=ballots) for one in choice(tile)]
        maps = [tile_ballots(one, tile, prepared.image.data, device, tile.core_within) for one in ready]
        counter.aggregate(np.concatenate(maps), tile)
    return counter.finalize()


def in_all_tiles(predictors: list[Predictor]) -> Choice:
    """Every tile has all these predictors."""
    return lambda _: predictors


def in_turn(predictors: list[Predictor]) -> Choice:
    """Neighbouring tiles along every axis, also those that label the same view, have different predictors."""

    def choice(tile: Tile) -> list[Predictor]:
        x, y, z = map(int, tile.name.split("_"))
        return [predictors[(x + y + z + (x + y) // 2) % len(predictors)]]

    return choice


def dice_of(votes: SparseVotes, prepared: Prepared, model: Model, reference: LabelMap) -> float:
    """Mean Dice over the regions in native space."""
    template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
    channels, _ = resample_votes(votes, prepared.image.grid, prepared.native_grid, template_from_native)
    labels = labels_of(channels, prepared.native_grid, model)
    known = LabelMap(np.where(np.isin(reference.data, model.protocol.ids), reference.data, 0), reference.grid)
    dice = dice_per_region(labels, known, [region.id for region in model.protocol.regions[1:]])
    return float(np.nanmean(list(dice.values())))


def row(title: str, scores: list[float]) -> str:
    """A line of the table."""
    return f"| {title} | {np.mean(scores):.4f} | {', '.join(f'{score:.4f}' for score in scores)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME_T1w.nii.gz and NAME_dseg.nii.gz")
    parser.add_argument("--subjects", nargs="+", required=True, help="scans that no model has seen")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    models, device = [load_model(name) for name in options.models], choose_device(options.device)
    layouts = {model.networks.assemblies[0].layout for model in models}
    if len(layouts) > 1 or any(len(model.networks.assemblies) > 1 for model in models):
        raise SystemExit(
            "the models have other tiles or several assemblies; give models of one assembly, of one layout"
        )
    scores: dict[str, list[float]] = {}
    for name in options.subjects:
        scan = read_scan(options.data / f"{name}_T1w.nii.gz")
        reference = read_labels(options.data / f"{name}_dseg.nii.gz", scan)
        prepared = prepare(scan.volume, replace(models[0].inputs, groupwise=None), SegmentSettings())
        predictors = [predictor_of(model, prepared, device) for model in models]
        ways = {title: in_all_tiles([one]) for title, one in zip(options.models, predictors, strict=True)}
        if len(models) > 1:
            ways |= {"tiles in turn": in_turn(predictors), "all in all tiles": in_all_tiles(predictors)}
        for way, choice in ways.items():
            votes = vote_of(predictors, choice, prepared, device)
            scores.setdefault(way, []).append(dice_of(votes, prepared, models[0], reference))
            print(f"{name} {way}: {scores[way][-1]:.4f}", flush=True)
    print("\n| networks | mean | scans |\n|---|--:|---|")
    print("\n".join(row(way, values) for way, values in scores.items()))


if __name__ == "__main__":
    main()
