"""2D networks of three planes whose features are joined with those of a 3D network before they decide.

After the idea of the dimension adaptation module (Chen et al. 2019).

- Kept: a 2D network for the slices of each plane, a 3D network beside them, and a module that adapts the 2D features to
  the 3D ones and joins them, so that all are trained as one. Their loss, weighted against the bias towards large
  structures, is the setting ``dice_bias`` of the training.
- Left out: their numbers of layers and channels, and 2D weights of other images.
- The module is described here as it was presented; the layers in it (a linear layer for each plane, then a 3 x 3 x 3
  convolution over the sum) are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from slant.nets.layers import Conv3d, ConvBlock
from slant.nets.network import require_positive, run_level
from slant.nets.planes import PLANES, PlaneUNet
from slant.nets.unet import CompactUNet
from slant.nets.voxel_head import UNetSettings


@dataclass(frozen=True)
class AdaptedSettings(UNetSettings):
    """Settings that define an `AdaptedUNet`.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels of the 3D network.
    slice_widths : tuple of int
        Channels of the levels of each 2D network.
    """

    slice_widths: tuple[int, ...] = (12, 16, 24, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("slice_widths", *self.slice_widths)


class AdaptedUNet(CompactUNet):
    """A `CompactUNet` with a 2D network for the slices of each plane beside it."""

    settings: AdaptedSettings

    def add_backbone(self) -> None:
        """Add the 3D network, the 2D networks, and the module that joins them."""
        super().add_backbone()
        widths, width = self.settings.slice_widths, self.settings.widths[0]
        self.planes = nn.ModuleDict({plane: PlaneUNet(self.input_channels, widths, plane) for plane in PLANES})
        self.adapt = nn.ModuleDict({plane: Conv3d(widths[0], width, 1) for plane in PLANES})
        self.join = ConvBlock(width, width)

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, widths[0], X/stem, Y/stem, Z/stem) features of a (N, 1, X, Y, Z) image; see `Network.backbone`."""
        inputs = self.inputs(image, coordinates, earlier)
        joined = self.run_levels(inputs, self.memory)
        for plane in PLANES:
            network: PlaneUNet = self.planes[plane]  # type: ignore[assignment]
            joined = joined + self.adapt[plane](network.run_levels(inputs, self.memory))
        return run_level(self.memory, self.join, joined)
