"""Samples the small patches of a scan on which the loss is computed.

On the whole brain, the last layers of a network and its 133 logits at 1 mm would take most of the time of a training
step. A few hundred patches of 8 voxels, a fraction of them class-balanced, train the network as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from slant.grid import Shape
from slant.nets.prior import SPACING, interpolation_matrix
from slant.train import draws
from slant.train.loss import IGNORED

EDGE = 8
"""Number of voxels of a patch along each axis."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Positions of patches in a crop of the template.

    Attributes
    ----------
    starts : (B, 3) int64
        First voxel of each patch in the crop; multiples of 4.
    crop_start : tuple of 3 int
        First voxel of the crop, on the grid of the assembly.
    voxel_mm : int
        Edge length of a voxel of the crop in template voxels (1 mm).
    """

    starts: Tensor
    crop_start: Shape
    voxel_mm: int = 1

    def cells(self, spacing_mm: int, start: Shape) -> tuple[Tensor, int, tuple[Tensor, Tensor, Tensor]]:
        """The blocks of cells from which values are interpolated linearly at the voxels of the patches.

        Parameters
        ----------
        spacing_mm : int
            Edge length of a cell in template voxels, a multiple of ``voxel_mm``. 4 voxels must be a multiple of it, so
            that the first voxels of all patches are at the same place in their cells.
        start : tuple of 3 int
            First voxel of the crop on a grid that begins with a cell.

        Returns
        -------
        first : (B, 3) int64
            First cell of each block.
        edge : int
            Number of cells along each edge of a block.
        weights : three (8, edge) float32
            See `slant.nets.prior.interpolation_matrix`.
        """
        spacing = spacing_mm // self.voxel_mm
        voxel = self.starts + torch.tensor(start, device=self.starts.device)
        phase = [first % spacing for first in start]  # the starts are multiples of SPACING, so of every spacing
        before = 0 if spacing == 1 else 1
        edge = -(-EDGE // spacing) + 2 * before + any(phase)
        x, y, z = (interpolation_matrix(before * spacing + p, EDGE, edge, spacing) for p in phase)
        return voxel // spacing - before, edge, (x, y, z)


def candidate_starts(crop_shape: Sequence[int], margin: int = 2, device: torch.device | None = None) -> Tensor:
    """(nx, ny, nz, 3) int64 first voxels of all patches that are at least ``margin`` voxels inside a crop."""
    axes = [torch.arange(SPACING, n - EDGE - margin + 1, SPACING, device=device) for n in crop_shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def draw_patches(
    candidates: Tensor,
    center_labels: Tensor,
    in_brain: Tensor,
    count: int,
    class_balanced_fraction: float,
    generator: Generator,
) -> Tensor:
    """(count, 3) int64 first voxels of patches, drawn from the candidates without replacement.

    The random numbers come from the CPU, so all devices draw the same patches: those with the largest weight divided by
    an exponentially distributed number (Efraimidis and Spirakis 2006, Inf. Process. Lett. 97:181). If fewer candidates
    than ``count`` can be drawn, each is repeated.

    Parameters
    ----------
    candidates : (nx, ny, nz, 3) int64
    center_labels : (nx, ny, nz) uint8
        Channel at or near the center of each candidate; `IGNORED` if nobody has labelled it. Such candidates are only
        drawn if there are no others.
    in_brain : (nx, ny, nz) bool
        Whether the center of each candidate is in the brain mask.
    class_balanced_fraction : float
        Fraction of the draws in which every region present has the same probability, whatever its size.
    """
    labels = center_labels.flatten().long()
    known = labels != IGNORED
    sizes = torch.zeros(256, device=labels.device).index_add(0, labels, torch.ones_like(labels, dtype=torch.float32))
    balanced = (1 / sizes.clamp(min=1))[labels] * ((labels > 0) & known)
    unbalanced = torch.where((labels > 0) | in_brain.flatten(), 1.0, 0.1) * torch.where(known.any(), known, 1.0)
    fraction = torch.where(balanced.any(), class_balanced_fraction, 0.0)
    weights = fraction * balanced / balanced.sum().clamp(min=1e-9) + (1 - fraction) * unbalanced / unbalanced.sum()
    numbers = draws.exponential(generator, len(labels)).to(labels.device)
    order = torch.argsort(weights / numbers.clamp(min=1e-30), descending=True, stable=True)
    drawn = torch.arange(count, device=labels.device) % torch.count_nonzero(weights)
    return candidates.reshape(-1, 3)[order[drawn]]


def _offsets(edge: int, device: torch.device) -> Tensor:
    steps = torch.arange(edge, device=device)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)


def flat_indices(first: Tensor, edge: int, shape: Shape) -> Tensor:
    """(B * edge^3,) int64 flat indices of the voxels of B cubes, clamped to the array."""
    index = first[:, None, :] + _offsets(edge, first.device)[None]
    index = torch.minimum(index.clamp(min=0), torch.tensor(shape, device=first.device) - 1)
    return ((index[..., 0] * shape[1] + index[..., 1]) * shape[2] + index[..., 2]).flatten()


def gather(array: Tensor, first: Tensor, edge: int) -> Tensor:
    """(B, C, edge, edge, edge) cubes of a (1, C, X, Y, Z) array; differentiable, channels last in memory."""
    _, channels, x, y, z = array.shape
    table = array[0].permute(1, 2, 3, 0).reshape(-1, channels)
    index = flat_indices(first, edge, (x, y, z))
    cubes = table.index_select(0, index).reshape(len(first), edge, edge, edge, channels)
    return cubes.permute(0, 4, 1, 2, 3)


def patch_coordinates(patches: Patches) -> Tensor:
    """(B, 8, 8, 8, 3) int64 coordinates of the voxels of the patches in the crop."""
    offsets = _offsets(EDGE, patches.starts.device)
    return (patches.starts[:, None] + offsets[None]).reshape(-1, EDGE, EDGE, EDGE, 3)


def prior_logits(frequency: Tensor, own: Tensor | None, patches: Patches, floor: float) -> Tensor:
    """(B * 512, C) log-frequency at the voxels of the patches, without the labels of the scan itself.

    Parameters
    ----------
    frequency : (X/4, Y/4, Z/4, C) float32
        Sum of the label frequencies of all scans.
    own : (X/4, Y/4, Z/4, C) float16 or None
        Contribution of this scan to the sum, which is subtracted.
    floor : float
        Minimum frequency.
    """
    first, edge, weights = patches.cells(SPACING, patches.crop_start)
    cells = flat_indices(first, edge, (frequency.shape[0], frequency.shape[1], frequency.shape[2]))
    channels = frequency.shape[-1]
    selected = frequency.reshape(-1, channels).index_select(0, cells)
    if own is not None:
        selected = selected - own.reshape(-1, channels).index_select(0, cells)
    selected = selected / selected.sum(dim=-1, keepdim=True).clamp(min=floor)
    logs = torch.log(selected.clamp(min=floor)).reshape(-1, edge, edge, edge, channels)
    return interpolated(logs, weights)


def interpolated(logs: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(B * 512, C) values interpolated at the voxels of patches.

    Parameters
    ----------
    logs : (B, I, J, K, C) float32
        Values of the cells around each patch.
    weights : (8, I), (8, J) and (8, K) float32
        Interpolation weights, see `slant.nets.prior.interpolation_matrix`.
    """
    x, y, z = (matrix.to(logs) for matrix in weights)
    logs = torch.einsum("bijkc,zk->bijzc", logs, z)
    logs = torch.einsum("bijzc,yj->biyzc", logs, y)
    return torch.einsum("biyzc,xi->bxyzc", logs, x).reshape(-1, logs.shape[-1])
