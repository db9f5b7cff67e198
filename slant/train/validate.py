"""Validates the networks of a running stage: Dice on the held-out subjects, in template space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from slant.nets.predict import Predictor, label_tile, tile_votes
from slant.train.groupwise import template_of
from slant.train.loss import IGNORED
from slant.vote import VoteCounter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slant.nets.network import Network
    from slant.nets.prior import Prior
    from slant.train.context import StageContext
    from slant.train.data import Groupwise, LabelledScan


def held_out_dice(network: Network, context: StageContext) -> float | None:
    """Mean Dice of a network on the held-out subjects, in its tile or in the vote of all tiles if it labels all.

    Parameters
    ----------
    network : Network
        It is in training mode afterwards.

    Returns
    -------
    float or None
        None if no subject is held out; NaN if the reference labels contain no region there.
    """
    scans = context.scans
    if not scans.held_out:
        return None
    scores = [_dice_of_scan(network, scan, context) for scan in scans.held_out]
    network.train()
    finite = [score for score in scores if not np.isnan(score)]
    return float(np.mean(finite)) if finite else np.nan


def _dice_of_scan(network: Network, scan: LabelledScan, context: StageContext) -> float:
    groupwise, displacement, prior = context.scans.groupwise, None, context.prior
    if groupwise is not None:
        displacement, prior = groupwise.displacements[scan.name].numpy(), deformed_prior(groupwise, scan)
    predictor = Predictor(
        context.layout,
        prior if network.prior else None,
        lambda _: network,
        displacement=displacement,
        mirroring=context.run.mirroring if context.tile is None else None,
    )
    image, reference, device = scan.image.numpy(), scan.channels.numpy(), torch.device(context.device)
    if context.tile is None:
        return mean_dice_of(_voted(predictor, image, device), reference)
    return mean_dice_of(label_tile(predictor, context.tile, image, device), reference[context.tile.box])


def deformed_prior(groupwise: Groupwise, scan: LabelledScan) -> Prior:
    """The deformable atlas prior of a scan."""
    template = template_of(groupwise.mean, groupwise.votes)
    return template.prior_at(groupwise.displacements[scan.name].numpy(), scan.image.numpy() > 0)


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
