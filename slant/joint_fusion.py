"""Joint label fusion: the vote of every atlas at every voxel, from the similarity of patches."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from slant.errors import SettingsError
from slant.filters import box_mean
from slant.sparse_votes import KEPT
from slant.threads import ONE_THREAD, SINGLE_THREAD, Threads

SEARCH = 1
"""Search radius in voxels within which the most similar patch of an atlas is looked for."""

ALPHA = 0.001
"""Added to the diagonal of the matrix of expected errors (mean of the brain = 1), so that it can be inverted."""

_PLANES = 16  # planes along x whose patches are compared at once
_BLOCK = 2048  # voxels whose weights or votes are computed at once


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

    labels: NDArray[np.uint8]
    images: NDArray[np.float32]
    target: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FusedVotes:
    """Most likely channels by the weights of the atlases.

    Attributes
    ----------
    channels : (X, Y, Z, K) uint8 array
        The K = `slant.sparse_votes.KEPT` most likely channels, most likely first, ties by the lowest channel; unused
        entries are 0.
    fractions : (X, Y, Z, K) float32 array
        Their fractions of the weights, 0 to 1; exactly 1 where all atlases have one label.
    """

    channels: NDArray[np.uint8]
    fractions: NDArray[np.float32]


def fuse_jointly(candidates: Candidates, patch_radius: int = 1, threads: Threads = ONE_THREAD) -> FusedVotes:
    """Fuse the labels of atlases where they differ (Wang et al. 2013, IEEE TPAMI 35:611).

    Each atlas offers the patch within `SEARCH` voxels that is most similar to the target's. The weights of the atlases
    minimize the expected error, if two atlases err together as often as their patches differ from the target's
    together: they are the row sums of the inverse of M, scaled to 1, those below 0 set to 0. M is the square of the
    mean product of the absolute differences, plus `ALPHA` on the diagonal. A patch votes at all of its voxels.

    Parameters
    ----------
    patch_radius : int, optional
        Patch radius in voxels.

    Raises
    ------
    SettingsError
        If there is only one candidate.
    """
    if len(candidates.labels) < 2:
        raise SettingsError("joint fusion needs at least 2 atlases, found 1; use more atlases or --fusion majority")
    pad = 2 * patch_radius + SEARCH
    beside = [(pad, pad)] * 3
    labels: NDArray[np.uint8] = np.pad(candidates.labels, [(0, 0), *beside], mode="edge")
    images = np.pad(candidates.images, [(0, 0), *beside], mode="edge")
    target = np.pad(candidates.target, beside, mode="edge")
    disputed = np.pad((candidates.labels != candidates.labels[0]).any(axis=0), beside)
    near = ndimage.binary_dilation(disputed, np.ones((3, 3, 3), dtype=np.bool_), iterations=patch_radius)
    patches = _Patches(torch.from_numpy(target), torch.from_numpy(images), patch_radius, near)
    channels, fractions = np.zeros((*target.shape, KEPT), np.uint8), np.zeros((*target.shape, KEPT), np.float32)
    channels[..., 0], fractions[..., 0] = labels[0], 1
    voted = np.flatnonzero(disputed)
    votes = _Votes.of(patches, labels, threads)
    flat_channels, flat_fractions = channels.reshape(-1, KEPT), fractions.reshape(-1, KEPT)
    blocks = [voted[start : start + _BLOCK] for start in range(0, len(voted), _BLOCK)]
    for block, found in [(block, threads.start(votes.at, block)) for block in blocks]:
        flat_channels[block], flat_fractions[block] = found.result()
    inside = (slice(pad, -pad),) * 3
    return FusedVotes(channels[inside], fractions[inside])


def _cube(radius: int, strides: tuple[int, ...]) -> NDArray[np.intp]:
    """(N,) steps in flat order to the voxels of a cube, the nearest to its middle first."""
    offsets = np.array(list(itertools.product(range(-radius, radius + 1), repeat=3)))
    ordered = offsets[np.argsort((offsets**2).sum(axis=1), kind="stable")]
    return np.asarray(ordered @ np.array(strides), dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Patches:
    """Target (X, Y, Z) and images (K, X, Y, Z), padded by 2 radius + `SEARCH`, and the centers of the patches."""

    target: Tensor
    images: Tensor
    radius: int
    near: NDArray[np.bool_]

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.target.stride())

    def best_steps(self, image: Tensor) -> NDArray[np.int32]:
        """(N,) flat step from each center to the center of the most similar patch of an image."""
        margin = self.radius + SEARCH
        steps, found = _cube(SEARCH, self.strides).astype(np.int32), []
        with SINGLE_THREAD:
            for start in range(margin, len(image) - margin, _PLANES):
                stop = min(start + _PLANES, len(image) - margin)
                found.append(steps[self._best(image, slice(start, stop))])
        return np.concatenate(found)

    def _best(self, image: Tensor, planes: slice) -> NDArray[np.intp]:
        """(N,) index of the best step of each center in some planes."""
        inner = self.near[planes]
        if not inner.any():
            return np.zeros(0, dtype=np.intp)
        lowest = torch.full(inner.shape, torch.inf)
        best = torch.zeros(inner.shape, dtype=torch.uint8)
        outer = slice(planes.start - self.radius, planes.stop + self.radius)
        own = self.target[outer]
        first, count = outer.start * self.strides[0], own.numel()
        flat = image.flatten()
        for i, step in enumerate(_cube(SEARCH, self.strides).tolist()):
            begin = max(0, first + step)
            end = min(flat.numel(), first + step + count)
            other = flat[begin:end]
            if len(other) < count:  # the first or last voxels of the padding, which no patch contains
                other = torch.nn.functional.pad(other, (begin - first - step, first + step + count - end))
            squares = (own - other.reshape(own.shape)).square_()
            mean = box_mean(squares, self.radius)[self.radius : len(own) - self.radius]
            best[mean < lowest] = i
            torch.minimum(lowest, mean, out=lowest)
        return np.asarray(best.numpy()[inner], dtype=np.intp)


def _weights_of(patches: _Patches, centers: NDArray[np.intp], steps: NDArray[np.integer]) -> NDArray[np.float32]:
    """(N, K) weights at N centers with (N, K) steps; none is negative, their sum is 1."""
    around = torch.from_numpy(centers[:, None] + _cube(patches.radius, patches.strides))
    with SINGLE_THREAD:
        own = patches.target.flatten()[around]
        shifted = around[None] + torch.from_numpy(steps.T)[..., None]
        others = [image[at] for image, at in zip(patches.images.flatten(1), shifted, strict=True)]
        differences = torch.stack([(own - other).abs_() for other in others], dim=1)
        joint = (differences @ differences.transpose(1, 2) / differences.shape[2]).square_()
        joint.diagonal(dim1=1, dim2=2).add_(ALPHA)
        ones = torch.ones((len(joint), joint.shape[1], 1))
        weights = torch.cholesky_solve(ones, torch.linalg.cholesky(joint))[..., 0].clamp_(min=0)
        return np.asarray((weights / weights.sum(dim=1, keepdim=True)).numpy(), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Votes:
    """Flat labels of all atlases, weights and steps (N, K) at the centers, and the number of a center by its index."""

    labels: NDArray[np.uint8]
    weights: NDArray[np.float32]
    steps: NDArray[np.int32] | NDArray[np.int64]
    number: NDArray[np.int32]
    patch: NDArray[np.intp]

    @classmethod
    def of(cls, patches: _Patches, labels: NDArray[np.uint8], threads: Threads) -> _Votes:
        margin = patches.radius + SEARCH
        inner = patches.near[margin : len(patches.near) - margin]
        centers = np.flatnonzero(inner) + margin * patches.strides[0]
        number = np.full(patches.near.size, -1, dtype=np.int32)
        number[centers] = np.arange(len(centers), dtype=np.int32)
        found = [threads.start(patches.best_steps, image) for image in patches.images]
        flat = np.int32 if labels.size <= np.iinfo(np.int32).max else np.int64
        steps: NDArray[Any] = np.stack([one.result() for one in found], axis=1, dtype=flat, casting="same_kind")
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(centers), _BLOCK)]
        weights_of = partial(_weights_of, patches)
        parts = [threads.start(weights_of, centers[block], steps[block]) for block in blocks]
        weights = np.concatenate([np.zeros((0, len(labels)), np.float32), *(part.result() for part in parts)])
        steps += labels[0].size * np.arange(len(labels), dtype=flat)
        return cls(labels.ravel(), weights, steps, number, _cube(patches.radius, patches.strides))

    def at(self, voxels: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Channels and fractions (N, `KEPT`) of N voxels by the votes of all patches that contain them."""
        count, channel_count = len(voxels), 1 + int(self.labels.max())
        centers = self.number[voxels[:, None] - self.patch]
        labels = self.labels[self.steps[centers] + voxels[:, None, None]]
        cells = labels + channel_count * np.arange(count)[:, None, None]
        sums = np.bincount(cells.ravel(), self.weights[centers].ravel(), minlength=count * channel_count)
        table = sums.reshape(count, channel_count) / len(self.patch)
        best = np.argsort(-table, axis=1, kind="stable")[:, :KEPT]
        channels, fractions = np.zeros((count, KEPT), np.uint8), np.zeros((count, KEPT), np.float32)
        fractions[:, : best.shape[1]] = np.take_along_axis(table, best, axis=1)
        channels[:, : best.shape[1]] = best
        return np.where(fractions > 0, channels, np.uint8(0)), fractions
