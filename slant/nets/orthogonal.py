"""Three 2.5D networks with nested skip connections, one for the slices of each plane, fused before they decide.

After the orthogonal fused U-Net++ (Cui, Liu and Huang 2019, MICCAI, arXiv 2107.01502) and U-Net++ (Zhou et al. 2018,
DLMIA, arXiv 1807.10165).

- Kept: each slice is seen with its neighbours up to the ``slice_radius`` as channels; nested skip connections; one
  network for each of the three planes; their features are fused, and the fused network is trained as one.
- Left out: deep supervision, the graph of vessels that refines their result, and the other ways of fusion they compare.
- Neighbours as channels are computed as a first kernel of ``2 * slice_radius + 1`` features across the slices, which is
  the same sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from slant.errors import SettingsError
from slant.nets.layers import Conv3d, ConvBlock, PlainEncoder
from slant.nets.network import MemorySettings, run_level
from slant.nets.planes import PLANES, Plane, kernel_in
from slant.nets.unet import upsampled
from slant.nets.voxel_head import UNetSettings, VoxelNetwork


@dataclass(frozen=True)
class OrthogonalSettings(UNetSettings):
    """Settings that define an `OrthogonalUNet`.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels of each of the three networks.
    slice_radius : int
        Number of neighbouring slices on each side that a slice is seen with; with ``stem=2`` they have two voxels.
    """

    widths: tuple[int, ...] = (12, 16, 24, 32)
    slice_radius: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slice_radius < 0:
            raise SettingsError(f"slice_radius must be at least 0, found {self.slice_radius}")


class NestedUNet(nn.Module):
    """A U-Net++ on the slices of one plane: each skip connection has a node for each level below it."""

    def __init__(self, inputs: int, widths: tuple[int, ...], plane: Plane, slice_radius: int) -> None:
        super().__init__()
        kernel = kernel_in(plane)
        first = ConvBlock(inputs, widths[0], kernel_in(plane, across=2 * slice_radius + 1))
        encoders = [nn.Sequential(first, ConvBlock(widths[0], widths[0], kernel))]
        encoders += [PlainEncoder(shallow, deep, kernel) for shallow, deep in pairwise(widths)]
        self.encoders, self.pooling = nn.ModuleList(encoders), kernel_in(plane, within=2)
        self.nodes = nn.ModuleList(
            nn.ModuleList(ConvBlock(column * width + deeper, width, kernel) for column in range(1, len(widths) - level))
            for level, (width, deeper) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor, memory: MemorySettings) -> Tensor:
        """(N, widths[0], X, Y, Z) features of (N, inputs, X, Y, Z) inputs."""
        rows: list[list[Tensor]] = []
        for level in range(len(self.encoders)):
            x = run_level(memory, self._down(level), x)
            rows.append([x])
            for above in reversed(range(level)):  # the diagonal of nodes that this level completes
                row, deeper = rows[above], rows[above + 1][-1]
                row.append(run_level(memory, self._node(above, level - above), deeper, *row))
        return rows[0][-1]

    def _down(self, level: int) -> Callable[[Tensor], Tensor]:
        encoder: Callable[[Tensor], Tensor] = self.encoders[level]
        if level == 0:
            return encoder
        return lambda x: encoder(functional.max_pool3d(x, self.pooling, ceil_mode=True))

    def _node(self, level: int, column: int) -> Callable[..., Tensor]:
        block = self.nodes[level][column - 1]  # type: ignore[index]

        def node(deeper: Tensor, *row: Tensor) -> Tensor:
            out: Tensor = block(torch.cat([*row, upsampled(deeper, row[0], self.pooling)], dim=1))
            return out

        return node


class OrthogonalUNet(VoxelNetwork):
    """A `NestedUNet` for each plane; a linear layer fuses their features."""

    settings: OrthogonalSettings

    def add_backbone(self) -> None:
        """Add the networks of the planes, and the layer that fuses them."""
        widths, radius = self.settings.widths, self.settings.slice_radius
        self.planes = nn.ModuleDict({plane: NestedUNet(self.input_channels, widths, plane, radius) for plane in PLANES})
        self.fuse = Conv3d(len(PLANES) * widths[0], widths[0], 1)

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, widths[0], X/stem, Y/stem, Z/stem) features of a (N, 1, X, Y, Z) image; see `Network.backbone`."""
        x = self.inputs(image, coordinates, earlier)
        features = [network(x, self.memory) for network in self.planes.values()]
        out: Tensor = self.fuse(torch.cat(features, dim=1))
        return out
