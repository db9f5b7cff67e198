"""Many candidate labels of a voxel become one: by majority, by local similarity, or jointly.

A *candidate* is what one atlas says of every voxel of the target. Labels are never averaged: each candidate's weight
goes to its label, and the label with the largest sum wins; of equals, the one of the more similar atlas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant._ants import joint_label_fusion
from slant.errors import SettingsError
from slant.grid import axis_aligned_grid
from slant.multiatlas.settings import Fusion
from slant.volume import LabelMap, Volume

Channels = NDArray[np.uint8]
Array = NDArray[np.float32]

FLOOR = 0.01
"""Mean squared difference of patches (the brain's mean being 1) under which all count about equal."""

SEARCH = 1
"""Voxels around each place at which joint fusion looks for a better patch."""

_SLAB_VOXELS = 600_000  # that joint fusion sees at a time: it holds an image for every label


@dataclass(frozen=True, eq=False)
class Candidates:
    """What the atlases say, on the target's grid, the most similar atlas first.

    Attributes
    ----------
    labels : (K, X, Y, Z) uint8 array
        Channels.
    images : (K, X, Y, Z) float32 array
        The atlases' intensities, 0 outside their brains.
    target : (X, Y, Z) float32 array
        The target's intensities, 0 outside its brain.
    """

    labels: Channels
    images: Array
    target: Array


@dataclass(frozen=True, eq=False)
class Fused:
    """The outcome.

    Attributes
    ----------
    channels : (X, Y, Z) uint8 array
    agreement : (X, Y, Z) float32 array
        Share of all weights that the label won, 0 to 1.
    """

    channels: Channels
    agreement: Array


def fuse(candidates: Candidates, fusion: Fusion, radius: int) -> Fused:
    """One label for every voxel.

    Parameters
    ----------
    candidates : Candidates
    fusion : {"majority", "local", "joint"}
    radius : int
        Voxels from the middle of a patch to its faces; not used by ``majority``.

    Raises
    ------
    SettingsError
        If the fusion is joint and there is only one candidate.
    """
    if fusion == "majority":
        return weighted_vote(candidates.labels, None)
    if fusion == "local":
        return weighted_vote(candidates.labels, local_weights(candidates, radius))
    return _joint(candidates, radius)


def weighted_vote(labels: Channels, weights: Array | None) -> Fused:
    """The label with the largest sum of weights at every voxel, the earliest candidate's of equals.

    Parameters
    ----------
    labels : (K, ...) uint8 array
    weights : (K, ...) float32 array or None
        Positive; None for equal ones.
    """
    disputed = (labels != labels[0]).any(axis=0)
    ballots = labels[:, disputed]
    shares = np.ones(ballots.shape, dtype=np.float32) if weights is None else weights[:, disputed]
    winner, best = np.zeros(ballots.shape[1:], dtype=np.uint8), np.zeros(ballots.shape[1:], dtype=np.float32)
    for mine in ballots:
        votes = np.zeros_like(best)
        for other, share in zip(ballots, shares, strict=True):
            votes += np.where(mine == other, share, np.float32(0))
        leads = votes > best
        winner[leads], best[leads] = mine[leads], votes[leads]
    channels, agreement = labels[0].copy(), np.ones(disputed.shape, dtype=np.float32)
    channels[disputed], agreement[disputed] = winner, np.minimum(best / shares.sum(axis=0), np.float32(1))
    return Fused(channels, agreement)


def local_weights(candidates: Candidates, radius: int) -> Array:
    """(K, X, Y, Z) float32: 1 / (mean squared difference of patches + `FLOOR`), from 0 to 100.

    The local mean square distance weights of Artaechevarria et al. 2009 (IEEE TMI 28:1266), with a floor that keeps
    chance likenesses from deciding alone.
    """
    weights = np.empty_like(candidates.images)
    for weight, image in zip(weights, candidates.images, strict=True):
        squares = (candidates.target - image) ** 2
        difference = ndimage.uniform_filter(squares, 2 * radius + 1, mode="nearest", output=np.float32)
        weight[...] = 1 / (np.maximum(difference, 0) + np.float32(FLOOR))
    return weights


def _joint(candidates: Candidates, radius: int) -> Fused:
    """Joint fusion where the candidates disagree; elsewhere they have decided."""
    if len(candidates.labels) < 2:
        raise SettingsError("joint fusion weighs atlases against each other; give at least 2, or use --fusion majority")
    margin = 2 * radius + SEARCH  # a patch gives its weight to all of its voxels, and needs its surroundings
    pad = ((0, 0), *[(margin, margin)] * 3)
    labels, images = (np.pad(a, pad, mode="edge") for a in (candidates.labels, candidates.images))
    target = np.pad(candidates.target, pad[1:], mode="edge")
    disputed = (labels != labels[0]).any(axis=0)
    channels, agreement = labels[0].copy(), np.ones(disputed.shape, dtype=np.float32)
    for start, stop in _slabs(disputed, margin):
        outer = slice(start - margin, stop + margin)
        mask = disputed[outer].copy()
        mask[: margin - radius], mask[stop - outer.start + radius :] = False, False
        x, y, z = mask.shape
        grid = axis_aligned_grid((x, y, z), 1.0, (0, 0, 0))
        found, share = joint_label_fusion(
            Volume(target[outer], grid),
            LabelMap(mask, grid),
            [Volume(image[outer], grid) for image in images],
            [LabelMap(one[outer], grid) for one in labels],
            radius,
            SEARCH,
        )
        inner, decided = slice(margin, margin + stop - start), (share > 0) & mask
        here = decided[inner]
        channels[start:stop][here], agreement[start:stop][here] = found[inner][here], share[inner][here]
    middle = (slice(margin, -margin),) * 3
    return Fused(channels[middle], np.minimum(agreement[middle], np.float32(1)))


def _slabs(disputed: NDArray[np.bool_], margin: int) -> Iterator[tuple[int, int]]:
    """First and one past the last index along x of thin boxes that hold all disputed voxels, off the margin."""
    size, y, z = disputed.shape
    thickness = max(1, _SLAB_VOXELS // (y * z))
    for start in range(margin, size - margin, thickness):
        stop = min(start + thickness, size - margin)
        if disputed[start:stop].any():
            yield start, stop
