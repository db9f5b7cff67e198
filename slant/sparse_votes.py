"""Votes of an assembly in a few bytes per voxel: its most frequent channels with their numbers of votes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slant.errors import LayoutError

KEPT = 4
"""Number of different channels kept for each voxel; votes for any others are only counted in the totals."""

MOST_VOTES = 255
"""Largest number of votes for one voxel."""


@dataclass(frozen=True, eq=False)
class SparseVotes:
    """Votes of the tiles of an assembly, on its grid.

    Attributes
    ----------
    channels : (X, Y, Z, K) uint8 array
        The K = `KEPT` most frequent channels of each voxel, most frequent first, ties by the lowest channel. Unused
        entries have channel 0 and count 0.
    counts : (X, Y, Z, K) uint8 array
        Their numbers of votes.
    totals : (X, Y, Z) uint8 array
        Number of all votes for the voxel, at least 1.
    voxel_mm : int
        Edge length of a voxel in template voxels (1 mm).

    Raises
    ------
    LayoutError
        If shapes or dtypes are others, a voxel has no vote, or the edge length is not a positive integer.
    """

    channels: NDArray[np.uint8]
    counts: NDArray[np.uint8]
    totals: NDArray[np.uint8]
    voxel_mm: int = 1

    def __post_init__(self) -> None:
        grid = self.channels.shape[:3]
        for name, shape in (("channels", (*grid, KEPT)), ("counts", (*grid, KEPT)), ("totals", grid)):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.uint8:
                found = f"{array.dtype} of shape {array.shape}"
                raise LayoutError(f"{name} of sparse votes must be uint8 of shape {shape}, found {found}")
        if not self.totals.all():
            raise LayoutError(f"{(self.totals == 0).sum()} voxels have no vote, expected at least 1 vote for each")
        if isinstance(self.voxel_mm, bool) or not isinstance(self.voxel_mm, int) or self.voxel_mm < 1:
            raise LayoutError(f"voxel_mm of sparse votes must be a positive integer, found {self.voxel_mm!r}")

    @property
    def winners(self) -> NDArray[np.uint8]:
        """(X, Y, Z) channel with the most votes; ties go to the lowest channel."""
        return self.channels[..., 0]

    @property
    def fraction(self) -> NDArray[np.float32]:
        """(X, Y, Z) votes for the winner divided by all votes of the voxel, above 0 and at most 1."""
        return np.divide(self.counts[..., 0], self.totals, dtype=np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid in voxels."""
        return self.totals.shape

    def at(self, index: tuple[NDArray[np.intp], ...]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Channels (..., K) uint8 and their fractions of all votes (..., K) float32 at some voxels.

        Parameters
        ----------
        index : tuple of 3 int arrays
            Indices along each axis, which broadcast to the shape of the result.
        """
        return self.channels[index], np.divide(self.counts[index], self.totals[index][..., None], dtype=np.float32)


def most_frequent(
    votes: NDArray[np.uint8], kept: int, weights: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The most frequent channels for each voxel, most frequent first, ties by the lowest channel.

    Parameters
    ----------
    votes : (V, N) uint8 array
        V channels for each of N voxels.
    kept : int
        Number K of channels to return for each voxel.
    weights : (V, N) uint8 array, optional
        How many votes each of them has (default: 1), at most `MOST_VOTES` for a voxel.

    Returns
    -------
    channels, counts : (N, K) uint8 arrays
        The channels and their numbers of votes; both 0 where a voxel has fewer different channels.
    """
    if weights is None:
        votes, weight = np.sort(votes, axis=0), np.ones(votes.shape, dtype=np.uint16)
    else:
        pairs = np.sort((votes.astype(np.uint16) << 8) | weights, axis=0)
        votes, weight = (pairs >> 8).astype(np.uint8), pairs & np.uint16(255)
    # One key for each run of equal votes: the weight of the run in the high byte, 255 - channel in the low byte.
    keys = np.zeros((max(kept, len(votes)), votes.shape[1]), dtype=np.uint16)
    total = weight[0].copy()
    keys[0] = (total << 8) | ~votes[0]
    for i, (previous, current) in enumerate(pairwise(votes), 1):
        same = current == previous
        total = total * same + weight[i]
        keys[i] = (total << 8) | ~current
        keys[i - 1][same] = 0
    best = np.sort(keys, axis=0)[::-1][:kept].T
    counts = (best >> 8).astype(np.uint8)
    return np.where(counts > 0, ~best.astype(np.uint8), np.uint8(0)), counts
