"""Inputs of the networks: template space, intensity reference and scaling."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import SettingsError

if TYPE_CHECKING:
    from slant.nets.groupwise import GroupwiseTemplate
    from slant.preprocess.intensity import IntensityReference
    from slant.template import Template


@dataclass(frozen=True)
class InputScaling:
    """Scaling of normalized intensities to network units: ``(value + offset) * scale``.

    Attributes
    ----------
    offset, scale : float
        Offset and factor of the scaling.
    min_value : float, optional
        Lower limit of the scaled values; None for no limit.
    mask_brain : bool
        Whether voxels outside the brain are set to 0.
    tile_rescale : tuple of 2 float, optional
        Range to which the smallest and the largest value of each tile are mapped; None for no rescaling.
    axes : str
        Order of the axes in the input arrays of a network, for example ``zxy``; the order of the template is ``xyz``.

    Raises
    ------
    SettingsError
        If the axes are not x, y, z in some order, or ``tile_rescale`` is not two ascending numbers.
    """

    offset: float = 3.0
    scale: float = 1 / 3
    min_value: float | None = 1e-3
    mask_brain: bool = True
    tile_rescale: tuple[float, float] | None = None
    axes: str = "xyz"

    def __post_init__(self) -> None:
        if sorted(self.axes) != ["x", "y", "z"]:
            raise SettingsError(f"axes of the input must be x, y, z in some order, found {self.axes!r}")
        if self.tile_rescale is not None and not self.tile_rescale[0] < self.tile_rescale[1]:
            raise SettingsError(f"tile_rescale must be two ascending numbers, found {list(self.tile_rescale)}")

    def __call__(self, normalized: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Scale a (X, Y, Z) image of normalized intensities to network units, float32."""
        scaled = (normalized + np.float32(self.offset)) * np.float32(self.scale)
        if self.min_value is not None:
            scaled = np.maximum(scaled, np.float32(self.min_value))
        return np.where(brain, scaled, np.float32(0)) if self.mask_brain else scaled

    def of_tile(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rescale the (X, Y, Z) image of a tile for its network, float32, axes still x, y, z.

        With ``tile_rescale``, a constant image becomes the lower end of the range.
        """
        if self.tile_rescale is None:
            return image
        low, high = map(np.float32, self.tile_rescale)
        span = image.max() - image.min()
        unit = (image - image.min()) / span if span > 0 else np.zeros_like(image)
        return np.asarray(unit * (high - low) + low, dtype=np.float32)

    @property
    def order(self) -> tuple[int, int, int]:
        """Axes of the template (0, 1, 2 for x, y, z) that are the first, second and third axis of a network."""
        first, second, third = ("xyz".index(axis) for axis in self.axes)
        return first, second, third

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a scan must be converted to before it enters the networks.

    ``groupwise`` is the template of the deformable atlas prior; None for networks with an affine prior or none.
    """

    template: Template
    reference: IntensityReference
    scaling: InputScaling
    groupwise: GroupwiseTemplate | None = None
