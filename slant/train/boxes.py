"""Small boxes sampled from a scan, where the loss is computed.

A network's last layers and its 133 logits at 1 mm would cost most of a training step over the whole brain; a few
hundred boxes of 8 mm, a share of them balanced over the regions, teach as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from slant.grid import Shape
from slant.nets.prior import SPACING, interpolation_matrix
from slant.train.loss import IGNORED

EDGE = 8
"""Voxels of a box along each axis."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Where boxes lie in a crop of the template.

    Attributes
    ----------
    starts : (B, 3) int64
        First voxel of each box in the crop; multiples of 4.
    crop_start, crop_shape : tuple of 3 int
        The crop in template voxels.
    """

    starts: Tensor
    crop_start: Shape
    crop_shape: Shape


def candidate_starts(crop_shape: Shape, margin: int = 2) -> Tensor:
    """(nx, ny, nz, 3) int64 first voxels of all boxes that lie ``margin`` voxels or more inside a crop."""
    axes = [torch.arange(SPACING, n - EDGE - margin + 1, SPACING) for n in crop_shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def draw_boxes(
    candidates: Tensor, center_labels: Tensor, in_brain: Tensor, count: int, balanced: float, generator: Generator
) -> Tensor:
    """(count, 3) starts drawn from the candidates.

    Parameters
    ----------
    candidates : (nx, ny, nz, 3) int64
    center_labels : (nx, ny, nz) uint8
        Channel at or near the middle of each candidate; `IGNORED` where nobody has labelled, which is drawn only
        where there is nothing else.
    in_brain : (nx, ny, nz) bool
        Whether its middle lies in the brain mask.
    count : int
    balanced : float
        Share of the draws that gives every region found the same chance, whatever its size.
    """
    labels = center_labels.flatten().long()
    known = labels != IGNORED
    sizes = torch.bincount(labels, minlength=int(labels.max()) + 1).float()
    even = (1 / sizes.clamp(min=1))[labels] * ((labels > 0) & known)
    flat = torch.where((labels > 0) | in_brain.flatten(), 1.0, 0.1) * (known if known.any() else 1.0)
    share = balanced if even.any() else 0.0
    weights = share * even / even.sum().clamp(min=1e-9) + (1 - share) * flat / flat.sum()
    few = count > int(torch.count_nonzero(weights))
    drawn = torch.multinomial(weights, count, replacement=few, generator=generator)
    return candidates.reshape(-1, 3)[drawn]


def _offsets(edge: int) -> Tensor:
    steps = torch.arange(edge)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)


def rows(first: Tensor, edge: int, shape: Shape) -> Tensor:
    """(B * edge^3,) flat indices of cubes of voxels, clamped into the array."""
    index = first[:, None, :] + _offsets(edge)[None]
    index = torch.minimum(index.clamp(min=0), torch.tensor(shape) - 1)
    return ((index[..., 0] * shape[1] + index[..., 1]) * shape[2] + index[..., 2]).flatten()


def gather(array: Tensor, first: Tensor, edge: int) -> Tensor:
    """(B, C, edge, edge, edge) cubes of a (1, C, X, Y, Z) array; differentiable, channels last in memory."""
    _, channels, x, y, z = array.shape
    table = array[0].permute(1, 2, 3, 0).reshape(-1, channels)
    index = rows(first, edge, (x, y, z)).to(table.device)
    cubes = table.index_select(0, index).reshape(len(first), edge, edge, edge, channels)
    return cubes.permute(0, 4, 1, 2, 3)


def box_places(boxes: Boxes) -> Tensor:
    """(B, 8, 8, 8, 3) crop coordinates of the voxels of the boxes."""
    return (boxes.starts[:, None] + _offsets(EDGE)[None]).reshape(-1, EDGE, EDGE, EDGE, 3)


def prior_logits(frequency: Tensor, own: Tensor | None, boxes: Boxes, floor: float) -> Tensor:
    """(B * 512, C) log-frequency at the voxels of the boxes, without the scan's own labels.

    Parameters
    ----------
    frequency : (X/4, Y/4, Z/4, C) float32
        Sum over people of their smoothed labels.
    own : (X/4, Y/4, Z/4, C) float16 or None
        What this scan added to the sum, taken out again.
    floor : float
        Smallest frequency.
    """
    first = boxes.starts + torch.tensor(boxes.crop_start)
    phase = [int(p) for p in first[0] % SPACING]
    cells = rows(first // SPACING - 1, 5, (frequency.shape[0], frequency.shape[1], frequency.shape[2]))
    cells = cells.to(frequency.device)
    channels = frequency.shape[-1]
    picked = frequency.reshape(-1, channels).index_select(0, cells)
    if own is not None:
        picked = picked - own.reshape(-1, channels).index_select(0, cells.to(own.device)).to(picked)
    picked = picked / picked.sum(dim=-1, keepdim=True).clamp(min=floor)
    logs = torch.log(picked.clamp(min=floor)).reshape(-1, 5, 5, 5, channels)
    x, y, z = (interpolation_matrix(SPACING + p, EDGE, 5).to(logs) for p in phase)
    return interpolated(logs, (x, y, z))


def interpolated(logs: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(B * 512, C) values at the voxels of boxes.

    Parameters
    ----------
    logs : (B, I, J, K, C) float32
        Values of the cells around each box.
    weights : (8, I), (8, J) and (8, K) float32
        See `slant.nets.prior.interpolation_matrix`.
    """
    x, y, z = weights
    logs = torch.einsum("bijkc,zk->bijzc", logs, z)
    logs = torch.einsum("bijzc,yj->biyzc", logs, y)
    return torch.einsum("biyzc,xi->bxyzc", logs, x).reshape(-1, logs.shape[-1])
