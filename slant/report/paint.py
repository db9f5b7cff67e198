"""Grey levels, colours and outlines that all pictures share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slant.labels import LabelProtocol
from slant.volume import LabelMap, Volume

Picture = NDArray[np.uint8]

_FAINTEST = 110.0  # luma from 0 to 255 below which a colour is lightened, to be seen on a scan


def outlines(channels: NDArray[np.integer], colors: Picture) -> NDArray[np.integer]:
    """Channel of the outline at every pixel of (panels, rows, columns) channels, 0 where there is no line."""
    beside = np.concatenate([channels[:, :, 1:], channels[:, :, -1:]], axis=2)
    below = np.concatenate([channels[:, 1:], channels[:, -1:]], axis=1)
    line = (channels != beside) | (channels != below)
    vivid = np.where(np.arange(len(colors)) > 0, np.ptp(colors.astype(int), axis=1), -1)
    meeting = np.stack([channels[line], beside[line], below[line]])
    drawn: NDArray[np.integer] = np.zeros_like(channels)
    drawn[line] = np.take_along_axis(meeting, vivid[meeting].argmax(axis=0)[None], axis=0)[0]
    return drawn


def gray_range(scan: Volume, labels: LabelMap) -> tuple[float, float]:
    """Intensities to show black and white: the air's, and a little over the brain's brightest."""
    brain = scan.data[labels.data != 0]
    white = np.percentile(brain if brain.size else scan.data, 99.5)
    black = np.percentile(scan.data[::2, ::2, ::2], 2)
    return float(black), float(black + 1.25 * (white - black))


def line_colors(protocol: LabelProtocol) -> Picture:
    """(channels, 3) uint8: the regions' colours, dark ones mixed with white until they show on a scan."""
    colors = np.array([region.color for region in protocol.regions], dtype=np.float64)
    luma = colors @ (0.299, 0.587, 0.114)
    white = np.clip((_FAINTEST - luma) / (255 - luma + 1e-9), 0, 1)[:, None]
    lightened: Picture = np.rint(colors * (1 - white) + 255 * white).astype(np.uint8)
    return lightened
