"""Label fusion: majority voting, locally weighted voting or joint label fusion.

A *candidate* is the label map that one atlas proposes for the target. Labels are never averaged: the weight of each
candidate counts for its label, and the label with the largest sum of weights wins. Ties go to the more similar atlas,
in joint label fusion to the lowest channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.joint_fusion import Candidates, fuse_jointly
from slant.multiatlas.settings import Fusion

Channels = NDArray[np.uint8]
Array = NDArray[np.float32]

FLOOR = 0.01
"""Mean squared difference of patches (mean of the brain = 1) below which all patches have about the same weight."""


@dataclass(frozen=True, eq=False)
class Fused:
    """Result of the label fusion, the winning label of each voxel.

    Attributes
    ----------
    channels : (X, Y, Z) uint8 array
    agreement : (X, Y, Z) float32 array
        Vote agreement: fraction of the weights that the winning label has, 0 to 1.
    """

    channels: Channels
    agreement: Array


def fuse(candidates: Candidates, fusion: Fusion, patch_radius: int) -> Fused:
    """Fuse the candidates to one label for every voxel.

    Parameters
    ----------
    fusion : {"majority", "local", "joint"}
    patch_radius : int
        Patch radius in voxels; not used by ``majority``.

    Raises
    ------
    SettingsError
        If ``fusion`` is ``"joint"`` and there is only one candidate.
    """
    if fusion == "majority":
        return weighted_vote(candidates.labels, None)
    if fusion == "local":
        return weighted_vote(candidates.labels, local_weights(candidates, patch_radius))
    fused = fuse_jointly(candidates, patch_radius)
    return Fused(fused.channels[..., 0], fused.fractions[..., 0])


def weighted_vote(labels: Channels, weights: Array | None) -> Fused:
    """The label with the largest sum of weights at every voxel; ties go to the earliest candidate.

    Parameters
    ----------
    labels : (K, ...) uint8 array
    weights : (K, ...) float32 array or None
        Positive weights; None for equal weights.
    """
    disputed = (labels != labels[0]).any(axis=0)
    votes = labels[:, disputed]
    vote_weights = np.ones(votes.shape, dtype=np.float32) if weights is None else weights[:, disputed]
    winner, best = np.zeros(votes.shape[1:], dtype=np.uint8), np.zeros(votes.shape[1:], dtype=np.float32)
    for label in votes:
        total = np.zeros_like(best)
        for other, weight in zip(votes, vote_weights, strict=True):
            total += np.where(label == other, weight, np.float32(0))
        leads = total > best
        winner[leads], best[leads] = label[leads], total[leads]
    channels, agreement = labels[0].copy(), np.ones(disputed.shape, dtype=np.float32)
    channels[disputed], agreement[disputed] = winner, np.minimum(best / vote_weights.sum(axis=0), np.float32(1))
    return Fused(channels, agreement)


def local_weights(candidates: Candidates, patch_radius: int) -> Array:
    """(K, X, Y, Z) float32: 1 / (mean squared difference of patches + `FLOOR`), from 0 to 100.

    Weights by local mean squared distance (Artaechevarria et al. 2009, IEEE TMI 28:1266), with a floor so that a patch
    that is similar by chance does not decide alone.
    """
    weights = np.empty_like(candidates.images)
    for weight, image in zip(weights, candidates.images, strict=True):
        squares = (candidates.target - image) ** 2
        difference = ndimage.uniform_filter(squares, 2 * patch_radius + 1, mode="nearest", output=np.float32)
        weight[...] = 1 / (np.maximum(difference, 0) + np.float32(FLOOR))
    return weights
