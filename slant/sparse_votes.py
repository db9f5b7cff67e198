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


def most_frequent(votes: NDArray[np.uint8], kept: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The most frequent channels for each voxel, most frequent first, ties by the lowest channel.

    Parameters
    ----------
    votes : (V, N) uint8 array
        V votes, at most `MOST_VOTES`, for each of N voxels.
    kept : int
        Number K of channels to return for each voxel.

    Returns
    -------
    channels, counts : (N, K) uint8 arrays
        The channels and their numbers of votes; both 0 where a voxel has fewer different channels.
    """
    votes = np.sort(votes, axis=0)
    # One key for each run of equal votes: the length of the run in the high byte, 255 - channel in the low byte.
    keys = np.zeros((max(kept, len(votes)), votes.shape[1]), dtype=np.uint16)
    length = np.ones(votes.shape[1], dtype=np.uint16)
    keys[0] = (length << 8) | ~votes[0]
    for i, (previous, current) in enumerate(pairwise(votes), 1):
        same = current == previous
        length = length * same + np.uint16(1)
        keys[i] = (length << 8) | ~current
        keys[i - 1][same] = 0
    best = np.sort(keys, axis=0)[::-1][:kept].T
    counts = (best >> 8).astype(np.uint8)
    return np.where(counts > 0, ~best.astype(np.uint8), np.uint8(0)), counts
