"""Arrays on a grid: a `Volume` may be interpolated, a `LabelMap` is resampled by nearest voxel or by vote only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError
from slant.grid import Grid


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a grid.

    Parameters
    ----------
    data : (X, Y, Z) float32 array
        Intensities, read-only after construction; other dtypes are converted.

    Raises
    ------
    GeometryError
        If array and grid differ in shape.
    """

    data: NDArray[np.float32]
    grid: Grid

    def __post_init__(self) -> None:
        data = np.asarray(self.data, dtype=np.float32)
        if data.shape != self.grid.shape:
            raise GeometryError(f"array of shape {data.shape} does not fit a grid of shape {self.grid.shape}")
        object.__setattr__(self, "data", _frozen(data))

    def masked(self, mask: LabelMap) -> Volume:
        """The same volume with zeros where ``mask`` is zero; a GeometryError is raised if the grids differ."""
        if not mask.grid.same_as(self.grid):
            raise GeometryError(f"mask of shape {mask.grid.shape} is not on the volume's grid {self.grid.shape}")
        return Volume(np.where(mask.data != 0, self.data, np.float32(0)), self.grid)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Region ids (or a mask of 0 and 1) on a grid; ids are never averaged.

    Parameters
    ----------
    data : (X, Y, Z) array of any integer type or bool
        Ids, read-only after construction; bool becomes uint8.

    Raises
    ------
    GeometryError
        If array and grid differ in shape, or if the dtype is not an integer or bool.
    """

    data: NDArray[np.integer]
    grid: Grid

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        if data.dtype == np.bool_:
            data = data.astype(np.uint8)
        if not np.issubdtype(data.dtype, np.integer):
            raise GeometryError(f"a label map must have an integer dtype, found {data.dtype}")
        if data.shape != self.grid.shape:
            raise GeometryError(f"array of shape {data.shape} does not fit a grid of shape {self.grid.shape}")
        object.__setattr__(self, "data", _frozen(data))

    @property
    def ids(self) -> tuple[int, ...]:
        """The distinct ids in the map, ascending."""
        return tuple(int(i) for i in np.unique(self.data))
