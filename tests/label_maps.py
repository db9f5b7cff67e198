"""Label maps for the tests of evaluation."""

from __future__ import annotations

import numpy as np

from slant.io.resources import load_protocol

PROTOCOL = load_protocol()
IDS = [int(i) for i in PROTOCOL.ids[1:]]


def blocks(shape: tuple[int, int, int] = (24, 20, 16), seed: int = 0) -> np.ndarray:
    """Cubes of 4 voxels with ids of the protocol, surrounded by background."""
    cells = np.random.default_rng(seed).choice(IDS[:12], [n // 4 for n in shape]).astype(np.int32)
    data = cells.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    inside = np.zeros(shape, dtype=bool)
    inside[2:-3, 3:-2, 2:-2] = True
    return np.where(inside, data, 0)
