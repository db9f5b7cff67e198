"""The most likely channel of each voxel, from the features of a decoder head and the atlas prior.

Only a few of the regions are possible near a voxel, so the logits and the prior are computed in small blocks, each for
its possible channels only: the prior of all channels would take longer than the networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.nets.network import Network
from slant.nets.prior import Prior
from slant.vote import ballot_maps

EDGE, GPU_EDGE = 16, 48
"""Edge length of a block in voxels, on a CPU and on a GPU, where starting a computation takes longer."""

Box = tuple[slice, ...]


def cast_ballots(
    network: Network,
    features: Tensor,
    box: Box,
    prior: Prior | None = None,
    partners: NDArray[np.uint8] | None = None,
    ballots: int = 1,
) -> NDArray[np.uint8]:
    """Ballots for the channels with the largest sums of logit and log-frequency at each voxel.

    Parameters
    ----------
    features : (X, Y, Z, F) float32 tensor
        Features of the decoder head of a box of a tile.
    box : 3 slices
        The box, in voxels of the grid of the assembly.
    prior : Prior, optional
        The channels of a block are those with more than the smallest frequency near it (default: all).
    partners : (C,) uint8 array, optional
        Channels of the network that stand for the channels of the labels (default: the same).
    ballots : int
        Number of ballots of each voxel. A single one is for the most likely channel. Several are divided between the
        two most likely channels in proportion to their probabilities.

    Returns
    -------
    (M, X, Y, Z) uint8 array
        The maps of `slant.vote.ballot_maps`.
    """
    labels = np.zeros((ballot_maps(ballots), *features.shape[:3]), np.uint8)
    for block, within in _blocks(box, EDGE if features.device.type == "cpu" else GPU_EDGE):
        if prior is None:
            channels = np.arange(network.settings.outputs)
        else:
            channels = prior.possible([s.start for s in block], [s.stop for s in block])
            if len(channels) == 1:
                continue
        inputs = features[within]
        logs = None if prior is None else prior.of_box(block, channels, features.device).flatten(0, 2)
        outputs = torch.from_numpy(channels if partners is None else partners[channels].astype(np.int64))
        logits = network.logits_of(inputs.flatten(0, 2), outputs.to(features.device), logs)
        shape = inputs.shape[:3]
        if ballots == 1:
            labels[0][within] = channels[logits.argmax(dim=1).cpu().numpy()].reshape(shape)
            continue
        values, index = logits.topk(2, dim=1)
        second = (torch.sigmoid(values[:, 1] - values[:, 0]) * ballots).round().clamp(max=ballots // 2).byte()
        labels[:2, *within] = channels[index.T.cpu().numpy()].reshape(2, *shape)
        labels[2][within] = second.cpu().numpy().reshape(shape)
    return labels


def _blocks(box: Box, edge: int) -> Iterator[tuple[list[slice], Box]]:
    """The blocks of a box of the grid, and their slices in the box; their borders are multiples of the edge."""
    axes = []
    for span in box:
        borders = [span.start, *range((span.start // edge + 1) * edge, span.stop, edge), span.stop]
        axes.append([(slice(a, b), slice(a - span.start, b - span.start)) for a, b in pairwise(borders)])
    for parts in product(*axes):
        yield [part[0] for part in parts], tuple(part[1] for part in parts)
