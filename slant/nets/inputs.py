"""How a scan must look when it enters the networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import SettingsError

if TYPE_CHECKING:
    from slant.intensity import IntensityReference
    from slant.nets.groupwise import GroupwiseTemplate
    from slant.template import Template


@dataclass(frozen=True)
class InputScaling:
    """What a harmonized intensity becomes before it enters a network: ``(value + offset) * scale``.

    Attributes
    ----------
    offset, scale : float
    floor : float, optional
        Smallest value; None for no limit.
    keep_head : bool
        Whether the networks see what is around the brain; otherwise it is 0.
    tile_range : tuple of 2 float, optional
        What the smallest and the largest value of each tile become.
    axes : str
        Order of the axes in the arrays that enter a network, such as ``zxy``; the template's is ``xyz``.

    Raises
    ------
    SettingsError
        If the axes are not x, y, z in some order, or the range is not two ascending numbers.
    """

    offset: float = 3.0
    scale: float = 1 / 3
    floor: float | None = 1e-3
    keep_head: bool = False
    tile_range: tuple[float, float] | None = None
    axes: str = "xyz"

    def __post_init__(self) -> None:
        if sorted(self.axes) != ["x", "y", "z"]:
            raise SettingsError(f"axes of the input must be x, y, z in some order, found {self.axes!r}")
        if self.tile_range is not None and not self.tile_range[0] < self.tile_range[1]:
            raise SettingsError(f"tile_range must be two ascending numbers, found {list(self.tile_range)}")

    def __call__(self, harmonized: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 image in network units."""
        scaled = (harmonized + np.float32(self.offset)) * np.float32(self.scale)
        if self.floor is not None:
            scaled = np.maximum(scaled, np.float32(self.floor))
        return scaled if self.keep_head else np.where(brain, scaled, np.float32(0))

    def of_tile(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 part of the image as a tile's network sees it, axes still x, y, z.

        With a ``tile_range`` a constant part becomes the range's lower end.
        """
        if self.tile_range is None:
            return image
        low, high = map(np.float32, self.tile_range)
        span = image.max() - image.min()
        share = (image - image.min()) / span if span > 0 else np.zeros_like(image)
        return np.asarray(share * (high - low) + low, dtype=np.float32)

    @property
    def order(self) -> tuple[int, int, int]:
        """Which of x, y, z (0, 1, 2) is the first, second and third axis in a network."""
        first, second, third = ("xyz".index(axis) for axis in self.axes)
        return first, second, third

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Inputs:
    """How a scan must look when it enters the networks.

    Attributes
    ----------
    template : Template
        The space and grid they see.
    reference : IntensityReference
        The intensities they expect.
    scaling : InputScaling
    groupwise : GroupwiseTemplate, optional
        What the prior of a scan is deformed from; None for networks with an affine prior, or none.
    """

    template: Template
    reference: IntensityReference
    scaling: InputScaling
    groupwise: GroupwiseTemplate | None = None
