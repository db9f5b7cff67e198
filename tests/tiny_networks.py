"""Tiny networks of every kind."""

from __future__ import annotations

from typing import Any

import torch

from slant.nets.inputs import InputScaling
from slant.nets.network import Network
from slant.nets.registry import build_network, settings_of
from slant.tiles import TileLayout

TINY: dict[str, dict[str, Any]] = {
    "compact": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "residual": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "slant2018": {"outputs": 5, "widths": [2, 4, 4, 6, 6]},
}
SHAPE = (16, 24, 16)
LAYOUT = TileLayout((20, 28, 24), (16, 24, 16), (2, 2, 2))
ORIGINAL = InputScaling(0.0, 1.0, None, mask_brain=False, tile_rescale=(0.0, 255.0), axes="zxy")


def tiny(kind: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(kind, settings_of(kind, TINY[kind]))
