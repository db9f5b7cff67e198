"""Tiny networks of every kind, and variants of the settings that change the layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slant.nets.inputs import InputScaling
from slant.nets.network import Network
from slant.nets.registry import build_network, settings_of
from slant.nets.unet import box_coordinate_channels
from slant.tiles import TileLayout

TINY: dict[str, dict[str, Any]] = {
    "compact": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "residual": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "slant2018": {"outputs": 5, "widths": [2, 4, 4, 6, 6]},
    "slicewise": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "anisotropic": {"outputs": 5, "widths": [4, 6, 8], "tasks": {"tissue": 4, "brain": 2}},
    "orthogonal": {"outputs": 5, "widths": [3, 4, 6]},
    "adapted": {"outputs": 5, "widths": [4, 6], "slice_widths": [2, 4, 6]},
    "fusion": {"outputs": 5, "widths": [4, 6], "slice_widths": [2, 4, 6], "score_channels": 2},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in TINY},
    "residual with a refinement block": ("residual", {"head_layers": 1}),
    "residual without blocks": ("residual", {"stem": 1}),
    "compact with an earlier result": ("compact", {"earlier_channels": 3}),
    "residual with both": ("residual", {"stem": 1, "earlier_channels": 3}),
    "residual with basic blocks": ("residual", {"widths": [4, 6, 8, 8], "encoder": "resnet18"}),
    "residual with bottleneck blocks": ("residual", {"widths": [4, 8, 8, 8], "encoder": "resnet50"}),
    "sagittal slices": ("slicewise", {"plane": "sagittal", "stem": 1, "head_layers": 1}),
    "thick coronal slices": ("anisotropic", {"plane": "coronal", "earlier_channels": 3}),
    "orthogonal without neighbours": ("orthogonal", {"slice_radius": 0, "stem": 1}),
    "adapted with an earlier result": ("adapted", {"earlier_channels": 3}),
    "fusion without blocks": ("fusion", {"stem": 1}),
}
"""Kind of network, and settings that differ from `TINY`, by description."""
SHAPE = (16, 24, 16)
LAYOUT = TileLayout((20, 28, 24), (16, 24, 16), (2, 2, 2))
ORIGINAL = InputScaling(0.0, 1.0, None, mask_brain=False, tile_rescale=(0.0, 255.0), axes="zxy")


def tiny(kind: str, seed: int = 0, **settings: Any) -> Network:
    torch.manual_seed(seed)
    return build_network(kind, settings_of(kind, {**TINY[kind], **settings}))


def backbone(network: Network, image: Tensor) -> Tensor:
    """Features of a (1, 1, X, Y, Z) image, with an earlier result of two channels per voxel if the network needs it."""
    size = (image.shape[2], image.shape[3], image.shape[4])
    coordinates = box_coordinate_channels(size, (0, 0, 0), size, edge=network.stride).to(image)
    if not network.settings.earlier_channels:
        return network.backbone(image, coordinates)
    generator = torch.Generator().manual_seed(0)
    votes = torch.randint(network.settings.outputs, (*coordinates.shape[2:], 2), generator=generator, dtype=torch.uint8)
    fractions = torch.rand(votes.shape, generator=generator)
    return network.backbone(image, coordinates, network.embed(votes, fractions / fractions.sum(dim=-1, keepdim=True)))


def voxel_features(network: Network, image: Tensor) -> Tensor:
    """(X, Y, Z, F) features of the decoder head of a (1, 1, X, Y, Z) image."""
    return network.decoder_head(backbone(network, image), image)[0].permute(1, 2, 3, 0)
