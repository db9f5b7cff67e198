"""Validates the networks of a running stage: Dice on the held-out subjects, in template space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from slant.nets.predict import Predictor, choose_device, label_tile, tile_votes
from slant.train.groupwise import template_of
from slant.train.loss import IGNORED
from slant.vote import VoteCounter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.nets.predict import Mirroring
    from slant.nets.prior import Prior
    from slant.tiles import Tile, TileLayout
    from slant.train.checkpoint import State
    from slant.train.data import LabelledScan
    from slant.train.prepare import TrainingScans


def validator_of(
    scans: TrainingScans, layout: TileLayout, tile: Tile | None = None, mirroring: Mirroring | None = None
) -> Callable[[State], float | None]:
    """A function that returns the mean Dice of the averaged weights of a state, or None if no subject is held out.

    Parameters
    ----------
    scans : TrainingScans
    layout : TileLayout
    tile : Tile, optional
        Tile in which Dice is computed. By default it is that of the vote of all tiles, which share one network.
    mirroring : Mirroring, optional
        Settings with which every second tile labels the mirror image.
    """
    if not scans.held_out:
        return lambda _: None
    prior = scans.prior

    def validate(state: State) -> float:
        network = state.average
        device = next(network.parameters()).device
        scores = []
        for scan in scans.held_out:
            reference = scan.channels.numpy()
            own, displacement = deformed_prior(scans, scan) or (prior, None)
            predictor = Predictor(
                layout,
                own if network.prior else None,
                lambda _: network,
                displacement=displacement,
                mirroring=mirroring,
            )
            if tile is None:
                scores.append(mean_dice_of(_voted(predictor, scan.image.numpy(), device), reference))
            else:
                labels = label_tile(predictor, tile, scan.image.numpy(), device)
                scores.append(mean_dice_of(labels, reference[tile.box]))
        network.train()
        finite = [score for score in scores if not np.isnan(score)]
        return float(np.mean(finite)) if finite else np.nan

    return validate


def deformed_prior(scans: TrainingScans, scan: LabelledScan) -> tuple[Prior, NDArray[np.float32]] | None:
    """The deformable atlas prior of a scan and its displacement; None if the run has no groupwise template."""
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


def mean_dice_of(predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean Dice over the channels of the reference, without the background and without unlabelled voxels.

    Parameters
    ----------
    predicted, reference : (X, Y, Z) uint8 arrays of channels

    Returns
    -------
    float
        NaN if the reference contains no region.
    """
    known = reference != IGNORED
    predicted_voxels = np.bincount(predicted[known], minlength=256)
    reference_voxels = np.bincount(reference[known], minlength=256)
    overlap = np.bincount(reference[known & (predicted == reference)], minlength=256)
    regions = np.flatnonzero(reference_voxels)
    regions = regions[regions > 0]
    if not len(regions):
        return np.nan
    return float(np.mean(2 * overlap[regions] / (predicted_voxels[regions] + reference_voxels[regions])))


def usable_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """The torch names of the given devices.

    Raises
    ------
    DeviceError
        If a device is not available.
    """
    return tuple(str(choose_device(name)) for name in names)


def whole_tile(layout: TileLayout) -> tuple[TileLayout, Tile]:
    """A layout with one tile that covers the whole grid, and that tile."""
    whole = type(layout)(layout.shape, layout.shape, (1, 1, 1))
    return whole, whole.tiles[0]
