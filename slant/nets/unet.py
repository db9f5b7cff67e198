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

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.grid import Shape
from slant.nets.groupwise import displacement_at
from slant.nets.layers import CUBE, Conv3d, ConvBlock, Kernel, PlainEncoder, ResidualEncoder
from slant.nets.network import UNCHANGED, MemorySettings, run_level
from slant.nets.resnet import BLOCKS, ResNetName, resnet_level
from slant.nets.voxel_head import UNetSettings, VoxelNetwork


@dataclass(frozen=True)
class ResidualSettings(UNetSettings):
    """Settings that define a `ResidualUNet`.

    Attributes
    ----------
    encoder : {"resnet10", "resnet18", "resnet34", "resnet50"}, optional
        Residual blocks of the four levels of the encoder, see `slant.nets.resnet`; by default one block per level.
    """

    encoder: ResNetName | None = field(default=None, metadata={UNCHANGED: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder not in (None, *BLOCKS):
            raise SettingsError(f"encoder must be {', '.join(BLOCKS)} or none, found {self.encoder!r}")
        if self.encoder is not None and len(self.widths) != len(BLOCKS[self.encoder]):
            raise SettingsError(
                f"encoder {self.encoder!r} has {len(BLOCKS[self.encoder])} levels; give as many widths, found "
                f"{list(self.widths)}"
            )


@dataclass(frozen=True)
class LevelShape:
    """Numbers of channels of the levels of a U-Net, the kernel of their convolutions, and the pooling between them."""

    inputs: int
    widths: tuple[int, ...]
    kernel: Kernel = CUBE
    pooling: Kernel = (2, 2, 2)


class UNetLevels(nn.Module):
    """The levels of a U-Net (Ronneberger et al. 2015; Cicek et al. 2016), for networks that add what is around them."""

    def add_levels(self, shape: LevelShape, encoder: Callable[[int, int, int], nn.Module]) -> None:
        """Add the levels of the encoder and of the decoder, with linear layers between their widths.

        Parameters
        ----------
        encoder : callable
            Makes the layers of a level of the encoder from the number of the level, its inputs and its outputs.
        """
        widths, kernel = shape.widths, shape.kernel
        self.pooling = shape.pooling
        self.encoders = nn.ModuleList(
            encoder(level, a, b) for level, (a, b) in enumerate(pairwise((shape.inputs, *widths)))
        )
        self.lifts = nn.ModuleList(Conv3d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoders = nn.ModuleList(ConvBlock(width, width, kernel) for width in widths[:-1])

    def run_levels(self, x: Tensor, memory: MemorySettings) -> Tensor:
        """(N, widths[0], X, Y, Z) features of (N, inputs, X, Y, Z) inputs."""
        skips = []
        for level in range(len(self.encoders)):
            x = run_level(memory, self.down(level), x)
            skips.append(x)
        for level in reversed(range(len(self.decoders))):
            x = run_level(memory, self.up(level), x, skips[level])
        return x

    def down(self, level: int) -> Callable[[Tensor], Tensor]:
        """The computation of a level of the encoder from the level above it."""
        encoder: Callable[[Tensor], Tensor] = self.encoders[level]
        if level == 0:
            return encoder
        return lambda x: encoder(functional.max_pool3d(x, self.pooling, ceil_mode=True))

    def up(self, level: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The computation of a level of the decoder from the level below it and the encoder."""
        lift, decoder = self.lifts[level], self.decoders[level]

        def up(x: Tensor, skip: Tensor) -> Tensor:
            out: Tensor = decoder(skip + upsampled(lift(x), skip, self.pooling))
            return out

        return up


class CompactUNet(VoxelNetwork, UNetLevels):
    """A compact U-Net: features at the voxels of an image, from it, coordinate channels and an earlier result."""

    def add_backbone(self) -> None:
        """Add the levels."""
        settings = self.settings
        shape = LevelShape(self.input_channels, settings.widths, settings.kernel, settings.pooling)
        self.add_levels(shape, self.encoder)

    def encoder(self, level: int, inputs: int, outputs: int) -> nn.Module:
        """The layers of a level of the encoder."""
        del level
        return PlainEncoder(inputs, outputs, self.settings.kernel)

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, widths[0], X/stem, Y/stem, Z/stem) features of a (N, 1, X, Y, Z) image; see `Network.backbone`."""
        return self.run_levels(self.inputs(image, coordinates, earlier), self.memory)


class ResidualUNet(CompactUNet):
    """A `CompactUNet` with an encoder of residual blocks (He et al. 2016; Lee et al. 2017)."""

    settings: ResidualSettings

    def encoder(self, level: int, inputs: int, outputs: int) -> nn.Module:
        """One residual block, or as many as the ResNet of the settings has."""
        settings = self.settings
        if settings.encoder is not None:
            return resnet_level(settings.encoder, level, inputs, outputs, settings.kernel)
        return ResidualEncoder(inputs, outputs, settings.kernel)


def upsampled(x: Tensor, fine: Tensor, factors: Kernel) -> Tensor:
    """(N, C, X, Y, Z) features of a level at the features of the finer one, ``fine``, from the nearest ones."""
    lifted = functional.interpolate(x, scale_factor=tuple(map(float, factors)), mode="nearest")
    return lifted[:, :, : fine.shape[2], : fine.shape[3], : fine.shape[4]]


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
