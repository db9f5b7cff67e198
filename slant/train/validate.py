"""Dice of the networks of a running stage on people who were held out, in template space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from slant.fusion import VoteCounter
from slant.nets.predict import Predictor, choose_device, label_tile, tile_votes
from slant.train.groupwise import template_of
from slant.train.loss import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.nets.predict import Mirroring
    from slant.nets.prior import Prior
    from slant.tiles import Tile, TileLayout
    from slant.train.checkpoint import State
    from slant.train.data import LabelledScan
    from slant.train.prepare import TrainingScans


def judge_of(
    scans: TrainingScans, layout: TileLayout, tile: Tile | None = None, mirroring: Mirroring | None = None
) -> Callable[[State], float | None]:
    """A function that gives the mean Dice of a state's averaged weights; None if nobody is held out.

    Parameters
    ----------
    scans : TrainingScans
    layout : TileLayout
    tile : Tile, optional
        Of that layout: the Dice in this tile; else that of the vote of all tiles, with one network for all.
    mirroring : Mirroring, optional
        With which every second tile labels the mirror image.
    """
    if not scans.held_out:
        return lambda _: None
    prior = scans.prior

    def judge(state: State) -> float:
        network = state.average
        device = next(network.parameters()).device
        scores = []
        for scan in scans.held_out:
            truth = scan.channels.numpy()
            own, displacement = deformed_prior(scans, scan) or (prior, None)
            predictor = Predictor(
                layout,
                own if network.prior else None,
                lambda _: network,
                displacement=displacement,
                mirroring=mirroring,
            )
            if tile is None:
                scores.append(mean_dice_of(_voted(predictor, scan.image.numpy(), device), truth))
            else:
                scores.append(mean_dice_of(label_tile(predictor, tile, scan.image.numpy(), device), truth[tile.box]))
        network.train()
        found_any = [score for score in scores if not np.isnan(score)]
        return float(np.mean(found_any)) if found_any else np.nan

    return judge


def deformed_prior(scans: TrainingScans, scan: LabelledScan) -> tuple[Prior, NDArray[np.float32]] | None:
    """The deformable atlas prior of a scan and its displacement; None where a run has no groupwise template."""
    if scans.groupwise is None:
        return None
    template = template_of(scans.groupwise.mean, scans.groupwise.votes)
    displacement = scans.groupwise.displacements[scan.name].numpy()
    return template.prior_at(displacement, scan.image.numpy() > 0), displacement


def _voted(predictor: Predictor, image: NDArray[np.float32], device: torch.device) -> NDArray[np.uint8]:
    votes = VoteCounter(predictor.layout)
    for tile, channels in tile_votes(predictor, image, device, torch.get_num_threads()):
        votes.aggregate(channels, tile)
    return votes.finalize().channels


def mean_dice_of(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Mean Dice of the channels that the truth has, background excluded; voxels nobody labelled are left out.

    Parameters
    ----------
    found, truth : (X, Y, Z) uint8 arrays of channels
    """
    known = truth != IGNORED
    predicted = np.bincount(found[known], minlength=256)
    true = np.bincount(truth[known], minlength=256)
    shared = np.bincount(truth[known & (found == truth)], minlength=256)
    regions = np.flatnonzero(true)
    regions = regions[regions > 0]
    return float(np.mean(2 * shared[regions] / (predicted[regions] + true[regions]))) if len(regions) else np.nan


def usable_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """The devices asked for, by their torch names.

    Raises
    ------
    DeviceError
        If one is not there.
    """
    return tuple(str(choose_device(name)) for name in names)


def whole_tile(layout: TileLayout) -> tuple[TileLayout, Tile]:
    """A layout of one tile over the whole grid, and that tile."""
    whole = type(layout)(layout.shape, layout.shape, (1, 1, 1))
    return whole, whole.tiles[0]
