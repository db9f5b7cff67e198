"""The space in which all scans are labelled: an image to register to and a grid to work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.errors import GeometryError

if TYPE_CHECKING:
    from slant.grid import Grid
    from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class Template:
    """A template space.

    Attributes
    ----------
    name : str
    image : Volume
        Brain intensities, 2 mm, 0 outside the brain.
    brain : LabelMap
        Brain mask (0 and 1) on the image's grid.
    grid : Grid
        The working grid of the networks, 1 mm.
    intracranial_mm3 : float
        Intracranial volume of the template.

    Raises
    ------
    GeometryError
        If image and mask are not on one grid.
    """

    name: str
    image: Volume
    brain: LabelMap
    grid: Grid
    intracranial_mm3: float

    def __post_init__(self) -> None:
        if not self.image.grid.same_as(self.brain.grid):
            raise GeometryError(f"template {self.name}: image and brain mask are not on one grid")

    @property
    def mirror_x(self) -> float:
        """Sum of the x of left-right partners, in voxels of the working grid: twice the plane of world x = 0."""
        return 2 * float(self.grid.voxel_from_ras[0, 3])
