"""Networks that see slices: the planes, and the 2D U-Net that labels a stack of slices one by one.

A 2D layer on a stack of slices is a 3D layer whose kernel has one voxel along the normal of the plane. Instance
normalization over the stack is then the batch normalization of a 2D network whose batch is the stack, with the
statistics of this batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slant.errors import SettingsError
from slant.nets.layers import Kernel, ResidualEncoder
from slant.nets.unet import LevelShape, ResidualSettings, ResidualUNet, UNetLevels

Plane = Literal["sagittal", "coronal", "axial"]

PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
"""The planes in the order of their normals x, y, z."""


def kernel_in(plane: Plane, within: int = 3, across: int = 1) -> Kernel:
    """Kernel of ``within`` x ``within`` voxels in the slices of a plane, and of ``across`` voxels along its normal."""
    x, y, z = (across if plane == other else within for other in PLANES)
    return x, y, z


@dataclass(frozen=True)
class SlicewiseSettings(ResidualSettings):
    """Settings that define a `SlicewiseUNet`.

    Attributes
    ----------
    plane : {"sagittal", "coronal", "axial"}
        Plane of the slices. With ``stem=2``, a slice has two voxels along the normal, which are channels.
    """

    plane: Plane = "axial"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plane not in PLANES:
            raise SettingsError(f"plane must be {', '.join(PLANES)}, found {self.plane!r}")

    @property
    def kernel(self) -> Kernel:
        """3 x 3 features in the plane, one along its normal."""
        return kernel_in(self.plane)

    @property
    def head_kernel(self) -> Kernel:
        """3 x 3 voxels in the plane, one along its normal."""
        return kernel_in(self.plane)

    @property
    def pooling(self) -> Kernel:
        """2 x 2 features in the plane, one along its normal."""
        return kernel_in(self.plane, within=2)


class SlicewiseUNet(ResidualUNet):
    """A 2D `ResidualUNet` (Ronneberger et al. 2015; He et al. 2016) for each slice of one plane.

    A slice sees nothing of its neighbours, except in the statistics of the normalization, which are those of the stack.
    """

    settings: SlicewiseSettings


class PlaneUNet(UNetLevels):
    """The levels of a 2D U-Net for the slices of one plane, without layers at the voxels: a part of other networks."""

    def __init__(self, inputs: int, widths: tuple[int, ...], plane: Plane) -> None:
        super().__init__()
        kernel = kernel_in(plane)
        shape = LevelShape(inputs, widths, kernel, kernel_in(plane, within=2))
        self.add_levels(shape, lambda _, a, b: ResidualEncoder(a, b, kernel))
