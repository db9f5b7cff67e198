"""A shallow 3D network that decides over the scores of three 2D networks, one for the slices of each plane.

After the volumetric fusion net (Xia et al. 2018, MICCAI, arXiv 1804.00392).

- Kept: three views segmented in 2D by networks that are trained first and then left as they are; a shallow 3D network
  over their scores and the image decides. That it is trained on views which have not seen the scan
  (cross-cross-augmentation) is the setting ``folds`` of the stage ``slices`` of the training.
- Left out: several networks of each view per scan, which multiply the training scans; the 3D network has fewer levels.
- Of each block of voxels a view gives one score per region: the softmax of the block's mean logits, without the atlas
  prior, which is added to the decision. The scores of a view enter the 3D network as ``score_channels`` learned sums,
  since those of 133 regions in three views would take a gigabyte for a whole brain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slant.errors import SettingsError
from slant.nets.layers import PlainEncoder
from slant.nets.network import require_positive, run_level
from slant.nets.planes import PLANES, Plane, SlicewiseSettings, SlicewiseUNet
from slant.nets.unet import LevelShape, UNetLevels
from slant.nets.voxel_head import UNetSettings, VoxelNetwork

_ROWS = 1 << 18
"""Number of blocks whose scores are computed at once."""


@dataclass(frozen=True)
class FusionSettings(UNetSettings):
    """Settings that define a `FusionNet`.

    Attributes
    ----------
    widths : tuple of int
        Channels of the levels of the 3D network.
    slice_widths : tuple of int
        Channels of the levels of each 2D network.
    score_channels : int
        Learned sums of the scores of each 2D network.
    """

    widths: tuple[int, ...] = (24, 32)
    slice_widths: tuple[int, ...] = (24, 32, 48, 64)
    score_channels: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("slice_widths", *self.slice_widths)
        require_positive("score_channels", self.score_channels)
        if self.earlier_channels:
            raise SettingsError(
                f"a fusion network takes no result of an earlier assembly, found earlier_channels = "
                f"{self.earlier_channels}; set it to 0, or choose another kind"
            )

    @property
    def slicewise(self) -> Mapping[str, SlicewiseSettings]:
        """The 2D network of each plane."""
        return {
            plane: SlicewiseSettings(
                self.outputs,
                self.slice_widths,
                self.image_channels,
                self.head_channels,
                upsampled_channels=self.upsampled_channels,
                stem=self.stem,
                plane=plane,
            )
            for plane in PLANES
        }


class FusionNet(VoxelNetwork, UNetLevels):
    """A shallow U-Net over the image and the scores of the 2D networks ``views``."""

    frozen = ("views.",)
    settings: FusionSettings

    def add_backbone(self) -> None:
        """Add the 2D networks, the sums of their scores, and the levels of the 3D network."""
        settings, sums = self.settings, self.settings.score_channels
        self.views = nn.ModuleDict({plane: SlicewiseUNet(view) for plane, view in settings.slicewise.items()})
        self.sums = nn.ModuleDict({plane: nn.Linear(settings.outputs, sums) for plane in PLANES})
        shape = LevelShape(self.input_channels + len(PLANES) * sums, settings.widths)
        self.add_levels(shape, lambda _, inputs, outputs: PlainEncoder(inputs, outputs))

    def take_over(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load the 2D networks.

        Parameters
        ----------
        weights : mapping of str to mapping of str to Tensor
            Weights of a `SlicewiseUNet` with the settings ``settings.slicewise``, by its plane.
        """
        for plane in PLANES:
            self.views[plane].load_state_dict(weights[plane])

    def backbone(self, image: Tensor, coordinates: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(N, widths[0], X/stem, Y/stem, Z/stem) features of a (N, 1, X, Y, Z) image; see `Network.backbone`."""
        scores = [run_level(self.memory, self._scores_of(plane), image, coordinates) for plane in PLANES]
        inputs = torch.cat([self.inputs(image, coordinates, earlier), *scores], dim=1)
        return self.run_levels(inputs.contiguous(memory_format=torch.channels_last_3d), self.memory)

    def _scores_of(self, plane: Plane) -> Callable[[Tensor, Tensor], Tensor]:
        """The computation of the learned sums of the scores of a view, at the blocks of an image."""
        view: SlicewiseUNet = self.views[plane]  # type: ignore[assignment]
        sums, edge = self.sums[plane], self.settings.stem

        def scores(image: Tensor, coordinates: Tensor) -> Tensor:
            blocks = _block_means(view.decoder_head(view.backbone(image, coordinates), image), edge)
            parts = [sums(view.logits(rows).softmax(dim=1)) for rows in torch.split(blocks.flatten(0, 3), _ROWS)]
            return torch.cat(parts).reshape(*blocks.shape[:4], -1).permute(0, 4, 1, 2, 3)

        return scores


def _block_means(features: Tensor, edge: int) -> Tensor:
    """(N, X/e, Y/e, Z/e, C) means of (N, C, X, Y, Z) features in cubes of an edge e."""
    n, channels, x, y, z = features.shape
    blocks = features.permute(0, 2, 3, 4, 1).reshape(n, x // edge, edge, y // edge, edge, z // edge, edge, channels)
    return blocks.mean(dim=(2, 4, 6))
