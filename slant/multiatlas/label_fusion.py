"""Label fusion: majority voting, locally weighted voting or joint label fusion.

A *candidate* is the label map that one atlas proposes for the target. Labels are never averaged: the weight of each
candidate counts for its label, and the label with the largest sum of weights wins; ties go to the more similar atlas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import SettingsError
from slant.grid import axis_aligned_grid
from slant.multiatlas.settings import Fusion
from slant.preprocess.ants import joint_label_fusion
from slant.volume import LabelMap, Volume

Channels = NDArray[np.uint8]
Array = NDArray[np.float32]

FLOOR = 0.01
"""Mean squared difference of patches (mean of the brain = 1) below which all patches have about the same weight."""

SEARCH = 1
"""Search radius in voxels within which joint label fusion looks for a more similar patch."""

_SLAB_VOXELS = 600_000  # processed at a time by joint label fusion, which keeps an image for every label


@dataclass(frozen=True, eq=False)
class Candidates:
    """Labels and images of the atlases on the target's grid, the most similar atlas first.

    Attributes
    ----------
    labels : (K, X, Y, Z) uint8 array
        Channels of each atlas.
    images : (K, X, Y, Z) float32 array
        Intensities of each atlas, 0 outside its brain.
    target : (X, Y, Z) float32 array
        Intensities of the target, 0 outside its brain.
    """

    labels: Channels
    images: Array
    target: Array


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
    return _joint(candidates, patch_radius)


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


def _joint(candidates: Candidates, patch_radius: int) -> Fused:
    """Joint label fusion at the voxels where the candidates disagree; elsewhere the label that all of them have."""
    if len(candidates.labels) < 2:
        raise SettingsError("joint fusion needs at least 2 atlases, found 1; use more atlases or --fusion majority")
    margin = 2 * patch_radius + SEARCH  # a patch counts for all of its voxels, and is compared within the search radius
    pad = ((0, 0), *[(margin, margin)] * 3)
    labels, images = (np.pad(a, pad, mode="edge") for a in (candidates.labels, candidates.images))
    target = np.pad(candidates.target, pad[1:], mode="edge")
    disputed = (labels != labels[0]).any(axis=0)
    channels, agreement = labels[0].copy(), np.ones(disputed.shape, dtype=np.float32)
    for start, stop in _slabs(disputed, margin):
        outer = slice(start - margin, stop + margin)
        mask = disputed[outer].copy()
        mask[: margin - patch_radius], mask[stop - outer.start + patch_radius :] = False, False
        x, y, z = mask.shape
        grid = axis_aligned_grid((x, y, z), 1.0, (0, 0, 0))
        fused, fraction = joint_label_fusion(
            Volume(target[outer], grid),
            LabelMap(mask, grid),
            [Volume(image[outer], grid) for image in images],
            [LabelMap(one[outer], grid) for one in labels],
            patch_radius,
            SEARCH,
        )
        inner = slice(margin, margin + stop - start)
        decided = ((fraction > 0) & mask)[inner]
        channels[start:stop][decided], agreement[start:stop][decided] = fused[inner][decided], fraction[inner][decided]
    unpadded = (slice(margin, -margin),) * 3
    return Fused(channels[unpadded], np.minimum(agreement[unpadded], np.float32(1)))


def _slabs(disputed: NDArray[np.bool_], margin: int) -> Iterator[tuple[int, int]]:
    """Start and stop indices along x of slabs that contain all disputed voxels, without the margin."""
    size, y, z = disputed.shape
    thickness = max(1, _SLAB_VOXELS // (y * z))
    for start in range(margin, size - margin, thickness):
        stop = min(start + thickness, size - margin)
        if disputed[start:stop].any():
            yield start, stop
