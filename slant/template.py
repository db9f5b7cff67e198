"""The template space in which scans are labelled: an image for registration and a grid for the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.errors import GeometryError

if TYPE_CHECKING:
    from slant.grid import Grid
    from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class Template:
    """A template space: brain (0 outside) and brain mask (0 and 1) at 2 mm, and grid of the networks at 1 mm.

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
        """Sum of the x coordinates of two mirrored points, in voxels of the working grid."""
        return 2 * float(self.grid.voxel_from_ras[0, 3])
