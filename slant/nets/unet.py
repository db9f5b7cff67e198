"""A compact 3D U-Net that works at twice the voxel size of the image, with a shallow branch at the image's own.

It is a 3D U-Net (Cicek et al. 2016) without the expensive level at full resolution: space-to-depth turns each 2 x 2 x 2
block of the image into eight channels, four levels work at 2 voxels and coarser, and depth-to-space returns the result
to the voxels of the image, where a few channels from the image itself sharpen the borders before the last 3 x 3 x 3
layer. A final linear layer gives one logit per region, to which an atlas prior (log-frequencies of the regions) may be
added. With ``stem=1`` there are no blocks, and the first level works at the voxels of the image.
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
from slant.nets.network import Network, NetworkSettings, later_setting, require_positive, run_level


@dataclass(frozen=True)
class UNetSettings(NetworkSettings):
    """Settings that define a `CompactUNet` or a `ResidualUNet`.

    Attributes
    ----------
    outputs : int
        Number of output channels.
    widths : tuple of int
        Channels of the levels at ``stem``, ``2 * stem``, ``4 * stem``, ... voxels of the image.
    image_channels : int
        Channels computed from the image at its voxels.
    upsampled_channels : int, optional
        Channels at the voxels of the image after depth-to-space of the features (default: ``image_channels``).
    head_channels : int
        Channels of the last 3 x 3 x 3 layers.
    head_layers : int
        Residual blocks of two 3 x 3 x 3 layers at the voxels of the image before the logits.
    tasks : dict of str to int
        Number of classes of each auxiliary task, learned from the same features, for example ``{"tissue": 4}``.
    stem : {2, 1}
        Edge in voxels of the blocks of the image that space-to-depth turns into channels of the first level; 1: none.
    earlier_channels : int
        Channels of the learned linear embedding of the result of an earlier assembly; 0: the network takes none.
    """

    widths: tuple[int, ...] = (24, 32, 48, 64)
    image_channels: int = 8
    head_channels: int = 16
    tasks: dict[str, int] = field(default_factory=dict)
    upsampled_channels: int | None = None
    head_layers: int = 0
    stem: int = later_setting(2)
    earlier_channels: int = later_setting(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("head_layers", self.head_layers), ("earlier_channels", self.earlier_channels)):
            if value < 0:
                raise SettingsError(f"{name} must be at least 0, found {value}")
        if self.stem not in (1, 2):
            raise SettingsError(
                f"stem must be 2 (blocks of 2 x 2 x 2 voxels become channels) or 1 (no blocks), found {self.stem}"
            )
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
        """Number of channels at the voxels of the image after depth-to-space of the features."""
        return self.image_channels if self.upsampled_channels is None else self.upsampled_channels

    @property
    def stride(self) -> int:
        """Distance between features of the backbone, in voxels of the image."""
        return self.stem

    @property
    def multiple(self) -> int:
        """Number of which the size of an image must be a multiple; levels below the first pad what they need."""
        return self.stem


class CompactUNet(Network):
    """A compact U-Net: features at the voxels of an image, from it, coordinate channels and an earlier result."""

    prior = True
    encoder: ClassVar[type[nn.Module]] = PlainEncoder
    settings: UNetSettings

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__(settings)
        widths, block, earlier = settings.widths, settings.stem**3, settings.earlier_channels
        self.encoders = nn.ModuleList(self.encoder(a, b) for a, b in pairwise((block + 3 + earlier, *widths)))
        self.lifts = nn.ModuleList(Conv3d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoders = nn.ModuleList(ConvBlock(width, width) for width in widths[:-1])
        self.unfold = Conv3d(widths[0], block * settings.upsampled, 1)
        self.detail = Conv3d(1, settings.image_channels, 3, padding=1)
        self.mix = Conv3d(settings.upsampled + settings.image_channels, settings.head_channels, 3, padding=1)
        self.refine = nn.ModuleList(RefinementBlock(settings.head_channels) for _ in range(settings.head_layers))
        self.head = nn.Linear(settings.head_channels, settings.outputs)
        self.heads = nn.ModuleDict({task: nn.Linear(settings.head_channels, n) for task, n in settings.tasks.items()})
        if not self.head.weight.is_meta:  # there, init would import the compiler of torch (about two seconds)
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)
        if earlier:
            self.embedding = nn.Linear(settings.outputs, earlier, bias=False)
            if not self.embedding.weight.is_meta:
                nn.init.normal_(self.embedding.weight)  # vote fractions near 0 and 1 give channels of variance 1

    @property
    def halo(self) -> int:
        """Voxels around a box that the decoder head needs: one for each of its 3 x 3 x 3 layers."""
        return 2 + 2 * self.settings.head_layers

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, widths[0], X/stem, Y/stem, Z/stem) features of a (N, 1, X, Y, Z) image; see `Network.backbone`."""
        self.require_earlier(earlier)
        inputs = [space_to_depth(image, self.settings.stem), coordinates, *([] if earlier is None else [earlier])]
        x = torch.cat(inputs, dim=1).contiguous(memory_format=torch.channels_last_3d)
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

    def embed(self, channels: Tensor, fractions: Tensor) -> Tensor:
        """(1, earlier_channels, X, Y, Z) embedding of the result of an earlier assembly; see `Network.embed`."""
        if not self.settings.earlier_channels:
            return super().embed(channels, fractions)
        vectors = self.embedding.weight.T
        embedded = vectors.new_zeros((*channels.shape[:3], vectors.shape[1]))
        for channel, fraction in zip(channels.unbind(-1), fractions.to(vectors.dtype).unbind(-1), strict=True):
            embedded = embedded + functional.embedding(channel.long(), vectors) * fraction[..., None]
        return embedded.permute(3, 0, 1, 2)[None]

    def decoder_head(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, head_channels, X, Y, Z) features from the features of the backbone and the image."""

        def head(features: Tensor, image: Tensor) -> Tensor:
            fine = functional.leaky_relu(self.detail(image), 0.01, inplace=True)
            both = concatenate_coarse_and_fine(self.unfold(features), fine, self.settings.stem)
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


def box_coordinate_channels(
    shape: Shape, start: Shape, size: Shape, displacement: Tensor | None = None, edge: int = 2
) -> Tensor:
    """Coordinate channels of the cells of a box: (1, 3, X/edge, Y/edge, Z/edge) float32, -1..1 over the template grid.

    Parameters
    ----------
    shape : tuple of 3 int
        Shape of the template grid at 1 mm.
    start, size : tuple of 3 int
        First voxel and shape of the box in template voxels; sizes must be multiples of the edge.
    displacement : (3, A/2, B/2, C/2) float32 tensor, optional
        Displacement from the scan to the groupwise template in template voxels, over the whole template grid; the
        coordinates are then those of the groupwise template.
    edge : int
        Edge length of a cell in template voxels.
    """
    middle = (edge - 1) / 2
    axes = [torch.arange(n // edge, dtype=torch.float32) * edge + middle + s for s, n in zip(start, size, strict=True)]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if displacement is not None:
        coordinates = coordinates + displacement_at(displacement, coordinates)
    return coordinate_channels(coordinates, shape)


def coordinate_channels(coordinates: Tensor, shape: Shape) -> Tensor:
    """Scale (X, Y, Z, 3) template voxel coordinates to -1..1 over a grid of this shape: (1, 3, X, Y, Z) float32."""
    last = torch.tensor(shape, dtype=torch.float32, device=coordinates.device) - 1
    return ((coordinates / last) * 2 - 1).permute(3, 0, 1, 2)[None]
