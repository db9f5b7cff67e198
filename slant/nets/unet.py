"""A compact 3D U-Net that works at 2 mm, with a shallow branch at 1 mm.

It is a 3D U-Net (Cicek et al. 2016) without the expensive level at 1 mm: space-to-depth turns each 2 x 2 x 2 block of
the image into eight channels, four levels work at 2 mm and coarser, and depth-to-space returns the result to 1 mm,
where a few channels from the image itself sharpen the borders before the last 3 x 3 x 3 layer. A final linear layer
gives one logit per region, to which an atlas prior (log-frequencies of the regions) may be added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.grid import Shape
from slant.nets.groupwise import displacement_at
from slant.nets.layers import (
    Conv3d,
    ConvBlock,
    PlainEncoder,
    RefinementBlock,
    ResidualEncoder,
    concatenate_coarse_and_fine,
    space_to_depth,
)
from slant.nets.network import Network, NetworkSettings, require_positive, run_level


@dataclass(frozen=True)
class UNetSettings(NetworkSettings):
    """Settings that define a `CompactUNet` or a `ResidualUNet`.

    Attributes
    ----------
    outputs : int
        Number of output channels.
    widths : tuple of int
        Channels at 2, 4, 8, 16 mm.
    image_channels : int
        Channels computed from the image at 1 mm.
    upsampled_channels : int, optional
        Channels at 1 mm after depth-to-space of the 2 mm features (default: ``image_channels``).
    head_channels : int
        Channels of the last 3 x 3 x 3 layers.
    head_layers : int
        Residual blocks of two 3 x 3 x 3 layers at 1 mm before the logits.
    tasks : dict of str to int
        Number of classes of each auxiliary task, learned from the same features, for example ``{"tissue": 4}``.
    """

    widths: tuple[int, ...] = (24, 32, 48, 64)
    image_channels: int = 8
    head_channels: int = 16
    tasks: dict[str, int] = field(default_factory=dict)
    upsampled_channels: int | None = None
    head_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_layers < 0:
            raise SettingsError(f"head_layers must be at least 0, found {self.head_layers}")
        require_positive("widths", *self.widths)
        require_positive("image_channels", self.image_channels)
        require_positive("head_channels", self.head_channels)
        require_positive("upsampled_channels", self.upsampled)
        for task, classes in self.tasks.items():
            if not task.isidentifier() or hasattr(nn.ModuleDict, task):
                raise SettingsError(f"a task cannot be called {task!r}; use a word, for example tissue, lobe or brain")
            if classes < 2:
                raise SettingsError(f"the task {task!r} has {classes} classes, expected at least 2")

    @property
    def upsampled(self) -> int:
        """Number of channels at 1 mm after depth-to-space of the 2 mm features."""
        return self.image_channels if self.upsampled_channels is None else self.upsampled_channels


class CompactUNet(Network):
    """A compact U-Net: features at 1 mm from an image and coordinate channels."""

    stride, multiple, prior = 2, 2, True
    encoder: ClassVar[type[nn.Module]] = PlainEncoder
    settings: UNetSettings

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__(settings)
        widths = settings.widths
        self.encoders = nn.ModuleList(self.encoder(a, b) for a, b in pairwise((8 + 3, *widths)))
        self.lifts = nn.ModuleList(Conv3d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoders = nn.ModuleList(ConvBlock(width, width) for width in widths[:-1])
        self.unfold = Conv3d(widths[0], 8 * settings.upsampled, 1)
        self.detail = Conv3d(1, settings.image_channels, 3, padding=1)
        self.mix = Conv3d(settings.upsampled + settings.image_channels, settings.head_channels, 3, padding=1)
        self.refine = nn.ModuleList(RefinementBlock(settings.head_channels) for _ in range(settings.head_layers))
        self.head = nn.Linear(settings.head_channels, settings.outputs)
        self.heads = nn.ModuleDict({task: nn.Linear(settings.head_channels, n) for task, n in settings.tasks.items()})
        if not self.head.weight.is_meta:  # there, init would import the compiler of torch (about two seconds)
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)

    @property
    def halo(self) -> int:
        """Voxels around a box that the decoder head needs: one for each of its 3 x 3 x 3 layers."""
        return 2 + 2 * self.settings.head_layers

    def backbone(self, image: Tensor, coordinates: Tensor) -> Tensor:
        """(N, C, X/2, Y/2, Z/2) features of a (N, 1, X, Y, Z) image with even sizes; see `Network.backbone`."""
        x = torch.cat([space_to_depth(image), coordinates], dim=1).contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for level in range(len(self.encoders)):
            x = run_level(self.memory, self._down(level), x)
            skips.append(x)
        for level in reversed(range(len(self.decoders))):
            x = run_level(self.memory, self._up(level), x, skips[level])
        return x

    def _down(self, level: int) -> Callable[[Tensor], Tensor]:
        encoder: Callable[[Tensor], Tensor] = self.encoders[level]
        if level == 0:
            return encoder
        return lambda x: encoder(functional.max_pool3d(x, 2, ceil_mode=True))

    def _up(self, level: int) -> Callable[[Tensor, Tensor], Tensor]:
        lift, decoder = self.lifts[level], self.decoders[level]

        def up(x: Tensor, skip: Tensor) -> Tensor:
            lifted = functional.interpolate(lift(x), scale_factor=2.0, mode="nearest")
            out: Tensor = decoder(skip + lifted[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]])
            return out

        return up

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, head_channels, X, Y, Z) features at 1 mm from the features of the backbone and the image."""

        def head(features: Tensor, image: Tensor) -> Tensor:
            fine = functional.leaky_relu(self.detail(image), 0.01, inplace=True)
            both = concatenate_coarse_and_fine(self.unfold(features), fine)
            mixed = functional.leaky_relu(self.mix(both), 0.01, inplace=True)
            for block in self.refine:
                mixed = block(mixed)
            return mixed

        return run_level(self.memory, head, features, image)

    def logits(self, features: Tensor) -> Tensor:
        """(..., outputs) logits of (..., head_channels) features, channels last."""
        out: Tensor = self.head(features)
        return out

    def logits_of(self, features: Tensor, channels: Tensor, prior: Tensor | None = None) -> Tensor:
        """(N, K) logits of selected channels, from (N, head_channels) features; see `Network.logits_of`."""
        weight, bias = (part[channels].to(features.dtype) for part in (self.head.weight, self.head.bias))
        weight = weight.T.contiguous()
        if prior is None:
            return torch.addmm(bias, features, weight)
        return prior.add_(bias).addmm_(features, weight)

    def tasks(self, features: Tensor) -> dict[str, Tensor]:
        """(..., classes) logits of each auxiliary task, learned by hard parameter sharing (Caruana 1997)."""
        return {task: head(features) for task, head in self.heads.items()}


class ResidualUNet(CompactUNet):
    """A `CompactUNet` with an encoder of residual blocks (He et al. 2016; Lee et al. 2017)."""

    encoder = ResidualEncoder


def box_coordinate_channels(shape: Shape, start: Shape, size: Shape, displacement: Tensor | None = None) -> Tensor:
    """Coordinate channels of the 2 mm voxels of a box: (1, 3, X/2, Y/2, Z/2) float32, -1..1 over the template grid.

    Parameters
    ----------
    shape : tuple of 3 int
        Shape of the template grid at 1 mm.
    start, size : tuple of 3 int
        First voxel and shape of the box; sizes must be even.
    displacement : (3, A/2, B/2, C/2) float32 tensor, optional
        Displacement from the scan to the groupwise template in template voxels, over the whole template grid; the
        coordinates are then those of the groupwise template.
    """
    axes = [torch.arange(n // 2, dtype=torch.float32) * 2 + 0.5 + s for s, n in zip(start, size, strict=True)]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if displacement is not None:
        coordinates = coordinates + displacement_at(displacement, coordinates)
    return coordinate_channels(coordinates, shape)


def coordinate_channels(coordinates: Tensor, shape: Shape) -> Tensor:
    """Scale (X, Y, Z, 3) template voxel coordinates to -1..1 over a grid of this shape: (1, 3, X, Y, Z) float32."""
    last = torch.tensor(shape, dtype=torch.float32, device=coordinates.device) - 1
    return ((coordinates / last) * 2 - 1).permute(3, 0, 1, 2)[None]
