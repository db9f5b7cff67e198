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

from slant.grid import Shape
from slant.nets.network import Network
from slant.nets.prior import Prior

EDGE, GPU_EDGE = 16, 48
"""Edge length of a block in voxels, on a CPU and on a GPU, where starting a computation takes longer."""

Box = tuple[slice, ...]


def most_likely(
    network: Network,
    features: Tensor,
    box: Box,
    start: Shape,
    prior: Prior | None = None,
    partners: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The channel with the largest sum of logit and log-frequency at each voxel, (X, Y, Z) uint8.

    Parameters
    ----------
    features : (X, Y, Z, F) float32 tensor
        Features of the decoder head of a box of a tile.
    box : 3 slices
        The box, in voxels of the tile.
    start : tuple of 3 int
        First voxel of the tile in the template.
    prior : Prior, optional
        The channels of a block are those with more than the smallest frequency near it (default: all).
    partners : (C,) uint8 array, optional
        Channels of the network that stand for the channels of the labels (default: the same).
    """
    labels = np.zeros(features.shape[:3], np.uint8)
    template_box = [slice(s.start + first, s.stop + first) for s, first in zip(box, start, strict=True)]
    for block, within in _blocks(template_box, EDGE if features.device.type == "cpu" else GPU_EDGE):
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
        labels[within] = channels[logits.argmax(dim=1).cpu().numpy()].reshape(inputs.shape[:3])
    return labels


def _blocks(box: list[slice], edge: int) -> Iterator[tuple[list[slice], Box]]:
    """The blocks of a box of the template, and their slices in the box; their borders are multiples of the edge."""
    axes = []
    for span in box:
        borders = [span.start, *range((span.start // edge + 1) * edge, span.stop, edge), span.stop]
        axes.append([(slice(a, b), slice(a - span.start, b - span.start)) for a, b in pairwise(borders)])
    for parts in product(*axes):
        yield [part[0] for part in parts], tuple(part[1] for part in parts)
