"""A U-Net for thick slices: a 2D network carried into 3D, with convolutions across the slices beside its layers.

After the anisotropic hybrid network, AH-Net (Liu et al. 2018, MICCAI, arXiv 1711.08580).

- Kept: 2D convolutions learned on slices become k x k x 1 convolutions; 1 x 1 x k convolutions join the slices; the
  decoder is anisotropic too; features are pooled in the slices.
- Left out: the pooling pyramid before the output, the dense connections of the decoder, pooling across the slices, and
  weights of natural images. The encoder is the residual one of this package, or with ``encoder`` a ResNet as theirs.
- Added: the decoder and the layers at the voxels are carried over too, and the convolutions across the slices are 0 at
  first, so that the network starts with exactly the function of its 2D parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from slant.nets.layers import CUBE, Kernel, same_conv
from slant.nets.planes import Plane, SlicewiseSettings, SlicewiseUNet, kernel_in


@dataclass(frozen=True)
class AnisotropicSettings(SlicewiseSettings):
    """Settings that define an `AnisotropicUNet`.

    Attributes
    ----------
    plane : {"sagittal", "coronal", "axial"}
        Plane of the slices, whose normal is the direction in which the slices are thick.
    """

    @property
    def head_kernel(self) -> Kernel:
        """3 x 3 x 3 voxels: interpolated slices are smooth across, so these layers join them."""
        return CUBE

    @property
    def slicewise(self) -> Mapping[str, SlicewiseSettings]:
        """The 2D parent: the same network without convolutions across the slices."""
        parent = SlicewiseSettings(**{field.name: getattr(self, field.name) for field in fields(SlicewiseSettings)})
        return {self.plane: parent}


class AcrossSlices(nn.Module):
    """A residual convolution of three features along the normal of a plane, initialized with 0."""

    def __init__(self, channels: int, plane: Plane) -> None:
        super().__init__()
        self.change = same_conv(channels, channels, kernel_in(plane, within=1, across=3))
        with torch.no_grad():
            for parameter in self.change.parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, X, Y, Z) features from features of the same shape."""
        out: Tensor = x + self.change(x)
        return out


class AnisotropicUNet(SlicewiseUNet):
    """A `SlicewiseUNet` with a convolution across the slices after each level, and 3 x 3 x 3 layers at the voxels."""

    settings: AnisotropicSettings

    def __init__(self, settings: AnisotropicSettings) -> None:
        super().__init__(settings)
        widths, plane = settings.widths, settings.plane
        self.encoders_across = nn.ModuleList(AcrossSlices(width, plane) for width in widths)
        self.decoders_across = nn.ModuleList(AcrossSlices(width, plane) for width in widths[:-1])

    def down(self, level: int) -> Callable[[Tensor], Tensor]:
        """That of the 2D parent, then across the slices."""
        down, across = super().down(level), self.encoders_across[level]
        return lambda x: across(down(x))

    def up(self, level: int) -> Callable[[Tensor, Tensor], Tensor]:
        """That of the 2D parent, then across the slices."""
        joined, across = super().up(level), self.decoders_across[level]
        return lambda x, skip: across(joined(x, skip))

    def take_over(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start with the function of a trained 2D parent: its 2D kernels in the middle of 3D ones, 0 elsewhere.

        Parameters
        ----------
        weights : mapping of str to mapping of str to Tensor
            Weights of a `SlicewiseUNet` with the settings ``settings.slicewise``, by its plane.
        """
        own = self.state_dict()
        carried = {name: _carried(tensor, own[name]) for name, tensor in weights[self.settings.plane].items()}
        new = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name not in carried}
        self.load_state_dict({**new, **carried})


def _carried(parent: Tensor, own: Tensor) -> Tensor:
    """The tensor of the parent; a 2D kernel is put in the middle of the 3D kernel of this network."""
    out = torch.zeros_like(own)
    margins = [(n - m) // 2 for n, m in zip(own.shape, parent.shape, strict=True)]
    out[tuple(slice(a, a + m) for a, m in zip(margins, parent.shape, strict=True))] = parent.to(own)
    return out
