"""How often each region is found at each place of the template, as a map added to a network's logits.

A tile never moves, so it may know where it is. The log-frequencies of the training labels are kept in cells of 4 mm
(the affine prior, the same for all scans) or of 2 mm (the deformable atlas prior of one scan, see
`slant.nets.groupwise`), quantized to 256 steps, and interpolated linearly to 1 mm wherever they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import ModelError
from slant.grid import Shape

SPACING = 4
"""Template voxels (1 mm) a cell of the affine prior spans along each axis."""

FLOOR = 2e-4
"""Frequency below which a region counts as never seen at a place."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Quantized log-frequency of every channel in every cell of the template.

    Parameters
    ----------
    steps : (X/spacing, Y/spacing, Z/spacing, C) uint8 array
        0 is the floor, 255 is certainty; see `quantize`.
    shape : tuple of 3 int
        Voxels of the template grid at 1 mm.
    spacing : int
        Template voxels that a cell spans along each axis.

    Raises
    ------
    ModelError
        If the array does not fit the template.
    """

    steps: NDArray[np.uint8]
    shape: Shape
    spacing: int = SPACING

    def __post_init__(self) -> None:
        wanted = tuple(-(-n // self.spacing) for n in self.shape)
        if self.steps.shape[:3] != wanted or self.steps.ndim != 4 or self.steps.dtype != np.uint8:
            raise ModelError(
                f"a prior on a template of {self.shape} needs uint8 cells of {wanted} x channels, found "
                f"{self.steps.dtype} {self.steps.shape}"
            )

    def log_frequency_at(self, cells: tuple[slice, ...], channels: NDArray[np.int64]) -> Tensor:
        """(x, y, z, C) float32 natural logarithms of the frequencies in some cells, at least ``log(FLOOR)``."""
        return log_frequency(torch.from_numpy(np.ascontiguousarray(self.steps[cells][..., channels])))

    def possible(self, start: Shape, stop: Shape, margin: int = 8) -> NDArray[np.int64]:
        """Channels seen in a box of template voxels widened by ``margin`` voxels, always with channel 0."""
        size, around = self.spacing, margin // self.spacing
        box = tuple(slice(max(0, a // size - around), -(-b // size) + around) for a, b in zip(start, stop, strict=True))
        seen = self.steps[box].max(axis=(0, 1, 2)) > 0
        seen[0] = True
        return np.flatnonzero(seen)


def quantize(frequency: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Uint8 steps of frequencies between 0 and 1, as `Prior` keeps them."""
    scaled = 1 - np.log(np.clip(frequency, FLOOR, 1)) / np.log(FLOOR)
    steps: NDArray[np.uint8] = np.round(scaled * 255).astype(np.uint8)
    return steps


def log_frequency(steps: Tensor) -> Tensor:
    """Float32 natural logarithms of the frequencies that uint8 steps stand for."""
    return steps.float().div_(255).sub_(1).mul_(float(-np.log(FLOOR)))


def neighbours(start: int, size: int, cells: int, spacing: int = SPACING) -> tuple[Tensor, Tensor, Tensor]:
    """For the voxels ``start`` to ``start + size - 1`` the cells of ``spacing`` voxels beside them.

    Returns
    -------
    low, high : (size,) int64 tensor
    weight : (size,) float32 tensor
        Of the high one; the low one has the rest.
    """
    at = np.clip((np.arange(start, start + size) - (spacing - 1) / 2) / spacing, 0, cells - 1)
    low = np.minimum(at.astype(int), max(cells - 2, 0))
    weight = torch.from_numpy((at - low).astype(np.float32))
    return torch.from_numpy(low), torch.from_numpy(np.minimum(low + 1, cells - 1)), weight


def interpolation_matrix(start: int, size: int, cells: int, spacing: int = SPACING) -> Tensor:
    """(size, cells) float32 weights of cells of ``spacing`` voxels for the voxels ``start`` to ``start + size - 1``."""
    low, high, weight = neighbours(start, size, cells, spacing)
    rows = torch.arange(size)
    weights = torch.zeros(size, cells)
    weights[rows, high] = weight
    weights[rows, low] = 1 - weight
    return weights
