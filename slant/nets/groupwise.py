"""A groupwise template and the deformable atlas prior made from it.

The groupwise template is the mean of the training scans after each was deformed to their common middle, with the votes
of their labels there. Registered to a scan (SyN), it carries those votes to the scan: the prior then follows the brain
and not only its affine alignment. AssemblyNet feeds its networks a nonlinearly registered atlas for the same reason
(Coupe et al. 2020, NeuroImage 219:117026); the template is made as Avants et al. 2010 (NeuroImage 49:2457) make theirs.
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
from slant.errors import ModelError
from slant.nets.prior import FLOOR, Prior, quantize
from slant.resample import IDENTITY
from slant.syn import coarsened, local_correlation, register_syn
from slant.warp import Chain, Warp, interpolate_at

if TYPE_CHECKING:
    from slant.grid import Shape
    from slant.volume import Volume

SPACING = 2
"""Template voxels (1 mm) a cell of the votes spans along each axis."""

LEAST_SIMILARITY = 0.80
"""Similarity after deformation under which the prior stays affine; docs/registration.md tells how it was measured."""

_CELLS_AT_A_TIME = 16_384
_NEAR = 4  # cells around the brain where the prior is looked up; beyond them all is background


@dataclass(frozen=True, eq=False)
class GroupwiseTemplate:
    """The mean of deformed scans, and the votes of their labels.

    Parameters
    ----------
    image : Volume
        2 mm grid over the template's box, network units, 0 outside the brain.
    votes : (X/2, Y/2, Z/2, C) uint8 array
        How often each channel was found in a cell; only the shares of a cell's sum matter.
    identity : str
        SHA-256 of its file; empty for one that was never written.

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
        """The prior of one scan.

        Parameters
        ----------
        displacement : (3, X/2, Y/2, Z/2) float array
            Template voxels (1 mm) from a cell of the scan to its place in the groupwise template.
        brain : (X, Y, Z) bool array
            Where the scan is not 0, in template space at 1 mm; far from it everything is background.
        """
        x, y, z = (2 * n for n in self.image.grid.shape)
        steps = np.zeros(self.votes.shape, dtype=np.uint8)
        steps[..., 0] = 255
        pooled = functional.max_pool3d(torch.from_numpy(brain)[None].float(), SPACING)
        for axis in range(3):  # a cube of cells, one axis after the other
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[axis], padding[axis] = 2 * _NEAR + 1, _NEAR
            pooled = functional.max_pool3d(pooled, kernel, stride=1, padding=padding)
        near = pooled[0] > 0
        cells = torch.nonzero(near)
        moved = torch.from_numpy(np.asarray(displacement, dtype=np.float32))[:, near].T
        votes = torch.from_numpy(self.votes)
        found = np.zeros((len(cells), self.votes.shape[-1]), dtype=np.uint8)
        for start in range(0, len(cells), _CELLS_AT_A_TIME):
            part = slice(start, start + _CELLS_AT_A_TIME)
            sums = votes_at(votes, cells[part] + moved[part] / SPACING)
            share = (sums / sums.sum(dim=1, keepdim=True).clamp(min=FLOOR)).numpy()
            there = share > FLOOR  # few of the regions are anywhere near
            found[part][there] = quantize(share[there])
        steps[near.numpy()] = found
        return Prior(steps, (x, y, z), SPACING)


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where the cells of a scan lie in a groupwise template; picklable.

    Attributes
    ----------
    displacement : (3, X/2, Y/2, Z/2) float16 array
        Template voxels (1 mm) from a cell of the scan, in template space, to its place in the groupwise template.
    similarity : float
        Mean local correlation with the template's image in the scan's brain, 0 to 1.
    affine_similarity : float
        The same before the deformation.
    template : str
        Identity of the groupwise template.
    """

    displacement: NDArray[np.float16]
    similarity: float
    affine_similarity: float
    template: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the scan is more similar to the template than before, and at least by `LEAST_SIMILARITY`."""
        return self.similarity >= LEAST_SIMILARITY and self.similarity > self.affine_similarity


def deform(image: Volume, template: GroupwiseTemplate, settings: SynSettings | None = None) -> Deformation:
    """Register a prepared scan with a groupwise template (SyN at 2 mm).

    Parameters
    ----------
    image : Volume
        Template grid, 1 mm, network units, 0 outside the brain.
    template : GroupwiseTemplate
    settings : SynSettings, optional
    """
    settings = settings or SynSettings()
    coarse, mean = coarsened(image, float(SPACING)), template.image
    warp, _ = register_syn(coarse, mean, settings)
    kept = warp.displacement_mm.astype(np.float16)
    places = Chain(IDENTITY, Warp(kept.astype(np.float32), warp.grid), IDENTITY).voxels(coarse.grid, mean.grid)
    after, before = (
        _similarity(coarse, other, settings.radius) for other in (interpolate_at(mean.data, places), mean.data)
    )
    return Deformation(kept, after, before, template.identity)


def _similarity(scan: Volume, other: NDArray[np.float32], radius: int) -> float:
    inside = scan.data > 0
    return float(np.sqrt(local_correlation(scan.data, other, radius))[inside].mean()) if inside.any() else 0.0


def corners(places: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """(N, 8) int64 flat indices of the cells around (N, 3) places in cells, and their (N, 8) trilinear weights.

    Outside the grid the nearest cell counts.
    """
    last = torch.tensor(shape, device=places.device) - 1
    inside = torch.minimum(places.clamp(min=0), last.to(places))
    low = torch.minimum(inside.floor().long(), (last - 1).clamp(min=0))
    far = inside - low
    index, weight = [], []
    for corner in product((0, 1), repeat=3):
        step = torch.tensor(corner, device=places.device)
        at = torch.minimum(low + step, last)
        index.append((at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2])
        weight.append(torch.where(step.bool(), far, 1 - far).prod(dim=1))
    return torch.stack(index, dim=1), torch.stack(weight, dim=1)


def votes_at(votes: Tensor, places: Tensor) -> Tensor:
    """(N, C) float32 trilinear votes at (N, 3) places.

    Parameters
    ----------
    votes : (X, Y, Z, C) tensor
    places : (N, 3) float32 tensor
        In cells of the votes' grid.
    """
    x, y, z, channels = votes.shape
    index, weight = corners(places, (x, y, z))
    table = votes.reshape(-1, channels)
    out = torch.zeros(len(places), channels, device=places.device)
    for corner in range(8):
        out.addcmul_(table.index_select(0, index[:, corner]).float(), weight[:, corner, None])
    return out


def displacement_at(displacement: Tensor, places: Tensor) -> Tensor:
    """(..., 3) trilinear displacement at (..., 3) places; outside the grid the nearest one holds.

    Parameters
    ----------
    displacement : (3, X/2, Y/2, Z/2) float32 tensor
        In template voxels.
    places : (..., 3) float32 tensor
        In template voxels.
    """
    sizes = torch.tensor(displacement.shape[1:], dtype=torch.float32, device=places.device)
    cells = (places - (SPACING - 1) / 2) / SPACING
    unit = (cells * (2 / (sizes - 1)) - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    found = functional.grid_sample(displacement[None], unit, padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T.reshape(places.shape)
