"""A groupwise template and the deformable atlas prior made from it.

The groupwise template is the mean of the training scans after nonlinear registration to their common mean, with the
votes of their labels. A nonlinear registration (SyN) of the template to a scan deforms these votes to the scan, so that
the prior follows the shape of the brain and not only its affine alignment. AssemblyNet gives its networks a nonlinearly
registered atlas for the same reason (Coupe et al. 2020, NeuroImage 219:117026). The template is built as in Avants et
al. 2010 (NeuroImage 49:2457).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slant.config import SynSettings
from slant.displacement import CompositeTransform, DisplacementField, sample_linear
from slant.errors import ModelError
from slant.nets.prior import FLOOR, Prior, quantize
from slant.resample import IDENTITY, coarsened
from slant.syn import register_syn, similarity

if TYPE_CHECKING:
    from slant.grid import Shape
    from slant.volume import Volume

SPACING = 2
"""Edge length of a cell of the votes, in template voxels (1 mm)."""

MIN_SIMILARITY = 0.80
"""Similarity after deformation below which the prior stays affine; docs/explanation/registration.md says why."""

_CHUNK_CELLS = 16_384
_MARGIN = 4  # cells around the brain where the prior is computed; everything beyond is background


@dataclass(frozen=True, eq=False)
class GroupwiseTemplate:
    """Mean of the deformed training scans, with the votes of their labels.

    Parameters
    ----------
    image : Volume
        Mean image in network units on a 2 mm grid over the box of the template grid, 0 outside the brain.
    votes : (X/2, Y/2, Z/2, C) uint8 array
        Number of training voxels of each channel in each cell, up to a factor that may differ between cells.
    identity : str
        SHA-256 of the file; empty for a template that was not read from a file.

    Raises
    ------
    ModelError
        If the votes are not on the image's grid.
    """

    image: Volume
    votes: NDArray[np.uint8]
    identity: str = ""

    def __post_init__(self) -> None:
        if self.votes.dtype != np.uint8 or self.votes.ndim != 4 or self.votes.shape[:3] != self.image.grid.shape:
            raise ModelError(
                f"the votes of a groupwise template on a grid of {self.image.grid.shape} must be uint8 of that shape "
                f"x channels, found {self.votes.dtype} {self.votes.shape}"
            )

    def prior_at(self, displacement: NDArray[np.floating], brain: NDArray[np.bool_]) -> Prior:
        """The deformable atlas prior of one scan.

        Parameters
        ----------
        displacement : (3, X/2, Y/2, Z/2) float array
            Vectors from each cell of the scan to the corresponding point of the groupwise template, in template voxels
            (1 mm).
        brain : (X, Y, Z) bool array
            Brain mask of the scan in template space at 1 mm; far from it everything is background.
        """
        x, y, z = (2 * n for n in self.image.grid.shape)
        steps = np.zeros(self.votes.shape, dtype=np.uint8)
        steps[..., 0] = 255
        pooled = functional.max_pool3d(torch.from_numpy(brain)[None].float(), SPACING)
        for axis in range(3):  # dilate by a cube of cells, one axis after the other
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[axis], padding[axis] = 2 * _MARGIN + 1, _MARGIN
            pooled = functional.max_pool3d(pooled, kernel, stride=1, padding=padding)
        near = pooled[0] > 0
        cells = torch.nonzero(near)
        shifts = torch.from_numpy(np.asarray(displacement, dtype=np.float32))[:, near].T
        votes = torch.from_numpy(self.votes)
        near_steps = np.zeros((len(cells), self.votes.shape[-1]), dtype=np.uint8)
        for start in range(0, len(cells), _CHUNK_CELLS):
            part = slice(start, start + _CHUNK_CELLS)
            sums = votes_at(votes, cells[part] + shifts[part] / SPACING)
            frequency = (sums / sums.sum(dim=1, keepdim=True).clamp(min=FLOOR)).numpy()
            possible = frequency > FLOOR  # only a few regions are near a cell
            near_steps[part][possible] = quantize(frequency[possible])
        steps[near.numpy()] = near_steps
        return Prior(steps, (x, y, z), SPACING)


@dataclass(frozen=True, eq=False)
class Deformation:
    """Nonlinear registration of a scan to a groupwise template; picklable.

    Attributes
    ----------
    displacement : (3, X/2, Y/2, Z/2) float16 array
        Vectors from each cell of the scan, in template space, to the corresponding point of the groupwise template, in
        template voxels (1 mm).
    similarity : float
        Mean local correlation with the image of the groupwise template in the brain of the scan, 0 to 1.
    affine_similarity : float
        The same before the deformation, with the affine alignment only.
    template : str
        Identity (SHA-256) of the groupwise template.
    """

    displacement: NDArray[np.float16]
    similarity: float
    affine_similarity: float
    template: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the deformation improves the similarity, and the similarity is at least `MIN_SIMILARITY`."""
        return self.similarity >= MIN_SIMILARITY and self.similarity > self.affine_similarity


def deform(image: Volume, template: GroupwiseTemplate) -> Deformation:
    """Register a prepared scan to a groupwise template (SyN at 2 mm).

    Parameters
    ----------
    image : Volume
        Scan on the template grid (1 mm) in network units, 0 outside the brain.
    """
    coarse, mean = coarsened(image, float(SPACING)), template.image
    warp, _ = register_syn(coarse, mean, SynSettings(resolution_mm=float(SPACING)))
    displacement = warp.displacement_mm.astype(np.float16)
    rounded = DisplacementField(displacement.astype(np.float32), warp.grid)
    coordinates = CompositeTransform(IDENTITY, rounded, IDENTITY).voxels(coarse.grid, mean.grid)
    after, before = (similarity(coarse, other) for other in (sample_linear(mean.data, coordinates), mean.data))
    return Deformation(displacement, after, before, template.identity)


def corners(coordinates: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Flat indices (N, 8) int64 of the cells around (N, 3) coordinates in cells, and their trilinear weights (N, 8).

    Outside the grid the nearest cell is used.
    """
    last = torch.tensor(shape, device=coordinates.device) - 1
    inside = torch.minimum(coordinates.clamp(min=0), last.to(coordinates))
    low = torch.minimum(inside.floor().long(), (last - 1).clamp(min=0))
    fraction = inside - low
    index, weight = [], []
    for corner in product((0, 1), repeat=3):
        step = torch.tensor(corner, device=coordinates.device)
        cell = torch.minimum(low + step, last)
        index.append((cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2])
        weight.append(torch.where(step.bool(), fraction, 1 - fraction).prod(dim=1))
    return torch.stack(index, dim=1), torch.stack(weight, dim=1)


def votes_at(votes: Tensor, coordinates: Tensor) -> Tensor:
    """Votes at (N, 3) coordinates by trilinear interpolation, (N, C) float32.

    Parameters
    ----------
    votes : (X, Y, Z, C) tensor
    coordinates : (N, 3) float32 tensor
        Coordinates in cells of the grid of the votes.
    """
    x, y, z, channels = votes.shape
    index, weight = corners(coordinates, (x, y, z))
    table = votes.reshape(-1, channels)
    out = torch.zeros(len(coordinates), channels, device=coordinates.device)
    for corner in range(8):
        out.addcmul_(table.index_select(0, index[:, corner]).float(), weight[:, corner, None])
    return out


def displacement_at(displacement: Tensor, coordinates: Tensor) -> Tensor:
    """Displacement (..., 3) at (..., 3) coordinates by trilinear interpolation; outside the grid the nearest is used.

    Parameters
    ----------
    displacement : (3, X/2, Y/2, Z/2) float32 tensor
        Displacement of each cell in template voxels.
    coordinates : (..., 3) float32 tensor
        Coordinates in template voxels.
    """
    sizes = torch.tensor(displacement.shape[1:], dtype=torch.float32, device=coordinates.device)
    cells = (coordinates - (SPACING - 1) / 2) / SPACING
    unit = (cells * (2 / (sizes - 1)) - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    sampled = functional.grid_sample(displacement[None], unit, padding_mode="border", align_corners=True)
    return sampled[0, :, 0, 0].T.reshape(coordinates.shape)
