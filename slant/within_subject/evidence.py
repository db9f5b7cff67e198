"""Vote fractions of a visit after the other visits have been heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from slant.resample import over_corners
from slant.sparse_votes import KEPT, SparseVotes
from slant.vote import Channels

BLOCK = 4096
"""Number of disputed voxels whose fractions are added up at once."""

SHARPNESS = 4.0
"""How fast a voxel passes from one channel to the next where their fractions are similar, see `Evidence.volumes`."""

_UNCERTAIN = 255

Coordinates = NDArray[np.float32]
Index = tuple[NDArray[np.intp], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The most likely channels of each voxel with their fractions, on one grid.

    Attributes
    ----------
    channels : (X, Y, Z, K) uint8 array
        Most likely first, ties by the lowest channel; unused entries are 0.
    fractions : (X, Y, Z, K) float32 array
        Their fractions of all votes, 0 to 1.
    """

    channels: Channels
    fractions: NDArray[np.float32]

    @classmethod
    def of(cls, votes: SparseVotes) -> Evidence:
        """The fractions of votes."""
        return cls(votes.channels, np.divide(votes.counts, votes.totals[..., None], dtype=np.float32))

    @property
    def certain(self) -> Channels:
        """(X, Y, Z) channel of the voxels with a fraction of 1, and 255 elsewhere."""
        return np.where(self.fractions[..., 0] == 1, self.channels[..., 0], np.uint8(_UNCERTAIN))

    def volumes(self, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Volume of each channel in voxels, (256,); a voxel on a border counts for both sides.

        The part of the first of two channels is 1/2 + `SHARPNESS` / 2 times the difference of their fractions, at most
        1: a count of whole voxels would jump where a border moves by a small part of a voxel.

        Parameters
        ----------
        inside : (X, Y, Z) bool array
            Voxels that count.
        """
        first, second = (self.fractions[..., k] for k in (0, 1))
        part = np.where(second == 0, 1, np.clip(0.5 + SHARPNESS / 2 * (first - second), 0, 1))
        weights = (part * inside, (1 - part) * inside)
        counts = [np.bincount(self.channels[..., k].ravel(), weights[k].ravel(), 256) for k in (0, 1)]
        return np.asarray(counts[0] + counts[1], dtype=np.float64)

    def sampled(self, coordinates: Coordinates) -> Sampled:
        """These fractions at (3, N) coordinates in voxels, with trilinear interpolation; outside, the nearest."""
        return Sampled(self, coordinates)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Fractions at N points of a grid, interpolated when they are needed."""

    evidence: Evidence
    coordinates: Coordinates

    def _cells(self, points: NDArray[np.intp] | slice) -> tuple[list[NDArray[np.intp]], list[NDArray[np.float32]]]:
        """First corner (N,) of the cell of each point along each axis, and the position (N,) in it, 0 to 1."""
        low, within = [], []
        for at, size in zip(self.coordinates[:, points], self.evidence.channels.shape, strict=False):
            inside = np.clip(at, 0, size - 1)
            low.append(np.minimum(inside.astype(np.intp), size - 2))
            within.append(inside - low[-1].astype(np.float32))
        return low, within

    def agreed(self) -> Channels:
        """(N,) channel of the points around which all corners are certain of it, and 255 elsewhere."""
        certain = self.evidence.certain
        same = np.full(certain.shape, _UNCERTAIN, dtype=np.uint8)
        lowest, highest = over_corners(certain, np.minimum), over_corners(certain, np.maximum)
        same[:-1, :-1, :-1] = np.where(lowest == highest, lowest, _UNCERTAIN)
        low, _ = self._cells(slice(None))
        return np.asarray(same[tuple(low)])

    def corners(self, points: NDArray[np.intp]) -> Iterator[tuple[Index, NDArray[np.float32]]]:
        """Index and weight (N,) of the eight corners of the cells of some points."""
        low, within = self._cells(points)
        for corner in product((0, 1), repeat=3):
            sides = [t if step else 1 - t for step, t in zip(corner, within, strict=True)]
            yield tuple(a + step for a, step in zip(low, corner, strict=True)), sides[0] * sides[1] * sides[2]


def weighted_sum(parts: Sequence[tuple[Sampled, float]], kept: int = KEPT) -> tuple[Channels, NDArray[np.float32]]:
    """The most likely channels (N, K) of N points by a weighted sum of fractions, and their sums (N, K) float32.

    Parameters
    ----------
    parts : sequence of (Sampled, float)
        Fractions at the same N points and their weights, whose sum is 1.
    """
    agreed = [sampled.agreed() for sampled, _ in parts]
    count = agreed[0].size
    channels, sums = np.zeros((count, kept), dtype=np.uint8), np.zeros((count, kept), dtype=np.float32)
    channels[:, 0], sums[:, 0] = agreed[0], 1
    disputed = agreed[0] == _UNCERTAIN
    for other in agreed[1:]:
        disputed |= other != agreed[0]
    points = np.flatnonzero(disputed)
    channel_count = 1 + max(int(sampled.evidence.channels.max()) for sampled, _ in parts)
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        table = _table(parts, block, channel_count)
        rows = np.arange(len(block))
        for k in range(kept):
            channels[block, k] = best = table.argmax(axis=1)
            sums[block, k] = table[rows, best]
            table[rows, best] = 0
    return channels, sums


def _table(parts: Sequence[tuple[Sampled, float]], points: NDArray[np.intp], channel_count: int) -> NDArray[np.float64]:
    """Sum of the fractions of each channel at each point, (N, C)."""
    first = np.arange(len(points))[:, None] * channel_count
    cells, values = [], []
    for sampled, weight in parts:
        evidence = sampled.evidence
        for index, corner in sampled.corners(points):
            cells.append((first + evidence.channels[index]).ravel())
            values.append((corner[:, None] * evidence.fractions[index]).ravel() * weight)
    table = np.bincount(np.concatenate(cells), np.concatenate(values), minlength=len(points) * channel_count)
    return np.asarray(table.reshape(len(points), channel_count), dtype=np.float64)
