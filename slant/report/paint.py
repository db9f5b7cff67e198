"""Grey levels, colours and outlines used by all pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slant.labels import LabelProtocol
from slant.volume import LabelMap, Volume

Picture = NDArray[np.uint8]

_MIN_LUMA = 110.0  # 0 to 255; darker colours are lightened to be visible on a scan


def outlines(channels: NDArray[np.integer], colors: Picture) -> NDArray[np.integer]:
    """Channel of the outline at every pixel of (panels, rows, columns) channels; 0 where there is no outline."""
    right = np.concatenate([channels[:, :, 1:], channels[:, :, -1:]], axis=2)
    below = np.concatenate([channels[:, 1:], channels[:, -1:]], axis=1)
    line = (channels != right) | (channels != below)
    vivid = np.where(np.arange(len(colors)) > 0, np.ptp(colors.astype(int), axis=1), -1)
    candidates = np.stack([channels[line], right[line], below[line]])
    drawn: NDArray[np.integer] = np.zeros_like(channels)
    drawn[line] = np.take_along_axis(candidates, vivid[candidates].argmax(axis=0)[None], axis=0)[0]
    return drawn


def gray_range(scan: Volume, labels: LabelMap) -> tuple[float, float]:
    """Intensities shown black and white: that of air, and slightly above the brightest voxels of the brain."""
    brain = scan.data[labels.data != 0]
    white = np.percentile(brain if brain.size else scan.data, 99.5)
    black = np.percentile(scan.data[::2, ::2, ::2], 2)
    return float(black), float(black + 1.25 * (white - black))


def line_colors(protocol: LabelProtocol) -> Picture:
    """(channels, 3) uint8: colours of the regions; dark ones are mixed with white to be visible on a scan."""
    colors = np.array([region.color for region in protocol.regions], dtype=np.float64)
    luma = colors @ (0.299, 0.587, 0.114)
    white = np.clip((_MIN_LUMA - luma) / (255 - luma + 1e-9), 0, 1)[:, None]
    lightened: Picture = np.rint(colors * (1 - white) + 255 * white).astype(np.uint8)
    return lightened
