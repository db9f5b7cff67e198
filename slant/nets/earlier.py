"""What an assembly takes from the template grid at 1 mm and from an earlier assembly, on its own grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import ModelError
from slant.grid import Shape
from slant.nets.prior import Prior
from slant.sparse_votes import SparseVotes


def block_mean(image: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """Means of the blocks of ``edge`` voxels along each axis of an (X, Y, Z) image, float32.

    Raises
    ------
    ModelError
        If the blocks do not divide the image.
    """
    if edge == 1:
        return image
    if any(n % edge for n in image.shape):
        raise ModelError(f"an image of {image.shape} voxels cannot be divided into blocks of {edge} voxels")
    x, y, z = (n // edge for n in image.shape)
    blocks = image.reshape(x, edge, y, edge, z, edge)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return means


def prior_at(prior: Prior, resolution_mm: int) -> Prior:
    """The same prior for the voxels of a coarser grid, of which a cell must contain a whole number.

    Raises
    ------
    ModelError
        If the cells cannot be divided into voxels.
    """
    if prior.spacing % resolution_mm or any(n % resolution_mm for n in prior.shape):
        raise ModelError(
            f"an assembly at {resolution_mm} mm cannot use a prior with cells of {prior.spacing} mm on {prior.shape} "
            "voxels; expected a resolution of 1 or 2 mm"
        )
    x, y, z = (n // resolution_mm for n in prior.shape)
    return replace(prior, shape=(x, y, z), spacing=prior.spacing // resolution_mm, voxel_mm=resolution_mm)


def votes_in_box(votes: SparseVotes, start: Shape, size: Shape, edge: int) -> tuple[Tensor, Tensor]:
    """Channels (X, Y, Z, K) uint8 and fractions (X, Y, Z, K) float32 of the votes at the cells of a box.

    Parameters
    ----------
    start, size : tuple of 3 int
        First voxel and size of the box in template voxels (1 mm).
    edge : int
        Edge length of a cell of the box in template voxels; the nearest voxel of the votes is taken.
    """
    index = [
        np.clip((np.arange(n // edge) * edge + edge // 2 + s) // votes.voxel_mm, 0, count - 1)
        for s, n, count in zip(start, size, votes.channels.shape[:3], strict=True)
    ]
    channels, fractions = votes.at(np.ix_(*index))
    return torch.from_numpy(channels), torch.from_numpy(fractions)


def mirrored_votes(votes: SparseVotes, partners: NDArray[np.uint8]) -> SparseVotes:
    """The votes for the mirror image, with the channels of left and right regions exchanged.

    Parameters
    ----------
    partners : (C,) uint8 array
        Channel of the left-right partner of each channel.
    """
    return SparseVotes(partners[votes.channels[::-1]], votes.counts[::-1], votes.totals[::-1], votes.voxel_mm)
