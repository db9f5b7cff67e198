"""The atlas prior: log-frequencies of the regions at each voxel of the template, added to the logits of a network.

Tile positions are fixed, so each tile has a spatial prior. The log-frequencies of the training labels are stored in
cells of 4 mm (the affine prior, the same for all scans) or of 2 mm (the deformable atlas prior of one scan, see
`slant.nets.groupwise`), quantized to 256 steps, and interpolated linearly to 1 mm where they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.errors import ModelError
from slant.grid import Shape

SPACING = 4
"""Edge length of a cell of the affine prior, in template voxels (1 mm)."""

FLOOR = 2e-4
"""Smallest frequency; a region with a lower one counts as impossible in a cell."""

_POSSIBLE_MARGIN = 8  # mm


@dataclass(frozen=True, eq=False)
class Prior:
    """Quantized log-frequency of every channel in every cell of the template.

    Parameters
    ----------
    steps : (X/spacing, Y/spacing, Z/spacing, C) uint8 array
        Quantized log-frequencies: 0 stands for `FLOOR`, 255 for frequency 1; see `quantize`.
    shape : tuple of 3 int
        Shape of the grid, by default the template grid at 1 mm.
    spacing : int
        Edge length of a cell in voxels of the grid.
    voxel_mm : int
        Edge length of a voxel of the grid, see `slant.nets.earlier.prior_at`.

    Raises
    ------
    ModelError
        If the array does not fit the template.
    """

    steps: NDArray[np.uint8]
    shape: Shape
    spacing: int = SPACING
    voxel_mm: int = 1

    def __post_init__(self) -> None:
        expected = tuple(-(-n // self.spacing) for n in self.shape)
        if self.steps.shape[:3] != expected or self.steps.ndim != 4 or self.steps.dtype != np.uint8:
            raise ModelError(
                f"a prior on a template of {self.shape} needs uint8 cells of {expected} x channels, found "
                f"{self.steps.dtype} {self.steps.shape}"
            )

    def log_frequency_at(self, cells: tuple[slice, ...], channels: NDArray[np.int64]) -> Tensor:
        """Natural logarithms of the frequencies in some cells, (x, y, z, C) float32, at least ``log(FLOOR)``."""
        return log_frequency(torch.from_numpy(np.ascontiguousarray(self.steps[cells][..., channels])))

    def possible(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int64]:
        """Channels possible in a box of voxels and 8 mm around it, always including channel 0."""
        size, border = self.spacing, _POSSIBLE_MARGIN // (self.spacing * self.voxel_mm)
        box = tuple(slice(max(0, a // size - border), -(-b // size) + border) for a, b in zip(start, stop, strict=True))
        is_possible = self.steps[box].max(axis=(0, 1, 2)) > 0
        is_possible[0] = True
        return np.flatnonzero(is_possible)

    def of_box(self, box: Sequence[slice], channels: NDArray[np.int64], device: torch.device) -> Tensor:
        """Log-frequencies of some channels in a box of voxels, (X, Y, Z, C) float32 on a device."""
        cells, weights = [], []
        for span, count in zip(box, self.steps.shape[:3], strict=True):
            first = max(0, min((span.start - self.spacing // 2) // self.spacing, count - 1))
            stop = min(count, (span.stop + 1) // self.spacing + 2)
            cells.append(slice(first, stop))
            position = span.start - first * self.spacing
            weights.append(interpolation_matrix(position, span.stop - span.start, stop - first, self.spacing))
        along_x, along_y, along_z = (matrix.to(device) for matrix in weights)
        values = self.log_frequency_at(tuple(cells), channels).to(device)
        _, y, z, c = values.shape
        values = torch.matmul(along_x, values.reshape(-1, y * z * c)).reshape(-1, y, z * c)
        values = torch.matmul(along_y, values).reshape(len(along_x), -1, z, c)
        return torch.matmul(along_z, values)


def quantize(frequency: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Quantize frequencies from 0 to 1 to the uint8 steps of a `Prior`."""
    scaled = 1 - np.log(np.clip(frequency, FLOOR, 1)) / np.log(FLOOR)
    steps: NDArray[np.uint8] = np.round(scaled * 255).astype(np.uint8)
    return steps


def log_frequency(steps: Tensor) -> Tensor:
    """Convert uint8 steps of a `Prior` to natural logarithms of frequencies, float32."""
    return steps.float().div_(255).sub_(1).mul_(float(-np.log(FLOOR)))


def interpolation_matrix(start: int, size: int, cells: int, spacing: int = SPACING) -> Tensor:
    """Linear weights of cells for the voxels ``start`` to ``start + size - 1`` along an axis, (size, cells) float32."""
    position = np.clip((np.arange(start, start + size) - (spacing - 1) / 2) / spacing, 0, cells - 1)
    low = np.minimum(position.astype(int), max(cells - 2, 0))
    rows, weight = np.arange(size), (position - low).astype(np.float32)
    weights = np.zeros((size, cells), dtype=np.float32)
    weights[rows, np.minimum(low + 1, cells - 1)] = weight
    weights[rows, low] = 1 - weight
    return torch.from_numpy(weights)
