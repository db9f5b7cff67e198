"""Labels of a visit on its own grid that keep the volumes measured in template space.

Counting the voxels of a region depends on how the grid lies over it: for two positions of the head in the scanner the
volumes of the same labels differ by about 1 % on average over the regions. All visits of a subject have one template
grid, so their volumes are comparable there. In native space the fractions of each channel are interpolated at each
voxel, and an offset is added to each channel, by which its volume becomes that of template space: of voxels on a border
those change sides about which the fractions say least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slant.grid import Grid, Matrix, transform_points
from slant.within_subject.evidence import Evidence, weighted_sum

CANDIDATES = 3
"""Number of channels between which a voxel can change."""

MAX_OFFSET = 0.25
"""Largest offset, in fractions of the votes."""

ROUNDS, RATE = 60, 0.3
"""Largest number of rounds in which the offsets are fitted, and the part of the error corrected in a round."""

TOLERANCE = 0.5
"""Difference in voxels up to which a volume is reached."""


def decide_native(
    evidence: Evidence, template_grid: Grid, native_grid: Grid, template_from_native: Matrix
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decide the channel of each voxel of a scan.

    Parameters
    ----------
    evidence : Evidence
        Fractions on the template grid.
    template_from_native : (4, 4) float64 array
        Affine from RAS mm in native space to RAS mm in template space.

    Returns
    -------
    channels, fraction : (X, Y, Z) uint8 and float32 arrays
        Channel of each voxel of the scan, and its fraction of the votes, 0 to 1.
    """
    template_voxel_from_voxel = template_grid.voxel_from_ras @ template_from_native @ native_grid.ras_from_voxel
    x, y, z = np.indices(native_grid.shape, sparse=True)
    rows = template_voxel_from_voxel[:3]
    near = np.ones(native_grid.shape, dtype=np.bool_)
    first, last = _occupied(evidence)
    for row, low, high in zip(rows, first, last, strict=True):
        coordinate = row[0] * x + row[1] * y + row[2] * z + row[3]
        near &= (coordinate > low - 1) & (coordinate < high + 1)
    flat = np.flatnonzero(near)
    voxels = np.stack(np.unravel_index(flat, native_grid.shape), axis=1)
    points = transform_points(template_voxel_from_voxel, voxels).T.astype(np.float32)
    candidates, fractions = weighted_sum([(evidence.sampled(points), 1.0)], CANDIDATES)
    targets = _target_volumes(evidence, native_grid, template_voxel_from_voxel)
    targets[0] = np.nan
    chosen = _volume_preserving(candidates, fractions, targets)
    row_index = np.arange(len(flat))
    channels = np.zeros(native_grid.shape, dtype=np.uint8)
    fraction = np.ones(native_grid.shape, dtype=np.float32)
    channels.ravel()[flat] = candidates[row_index, chosen]
    fraction.ravel()[flat] = np.minimum(fractions[row_index, chosen], 1)
    return channels, fraction


def _occupied(evidence: Evidence) -> tuple[list[int], list[int]]:
    """First and last index along each axis of the voxels that are not certain background."""
    occupied = evidence.certain != 0
    spans = [np.flatnonzero(occupied.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [int(span[0]) if span.size else 0 for span in spans], [int(span[-1]) if span.size else 0 for span in spans]


def _target_volumes(evidence: Evidence, native_grid: Grid, template_voxel_from_voxel: Matrix) -> NDArray[np.float64]:
    """Volume of each channel (C,), in voxels of the scan, as far as it lies within the scan's grid."""
    voxel_from_template_voxel = np.asarray(np.linalg.inv(template_voxel_from_voxel), dtype=np.float64)
    inside = np.ones(evidence.channels.shape[:3], dtype=np.bool_)
    x, y, z = np.indices(inside.shape, sparse=True)
    for row, size in zip(voxel_from_template_voxel[:3], native_grid.shape, strict=True):
        coordinate = row[0] * x + row[1] * y + row[2] * z + row[3]
        inside &= (coordinate >= -0.5) & (coordinate <= size - 0.5)
    return evidence.volumes(inside) * abs(float(np.linalg.det(voxel_from_template_voxel[:3, :3])))


def _volume_preserving(
    candidates: NDArray[np.uint8], fractions: NDArray[np.float32], targets: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Which candidate (N,) of each of N voxels, so that each channel has its target number of voxels (nan: any)."""
    chosen = np.zeros(len(candidates), dtype=np.intp)
    open_rows = np.flatnonzero(fractions[:, 1] > 0)
    fixed = np.bincount(np.delete(candidates[:, 0], open_rows), minlength=256)
    names, values = candidates[open_rows], np.where(fractions[open_rows] > 0, fractions[open_rows], -np.inf)
    near = np.maximum(np.bincount(names[:, :2].ravel(), minlength=256), 1)
    offsets = np.zeros(256)
    for _ in range(ROUNDS):
        best = (values + offsets[names]).argmax(axis=1)
        counts = fixed + np.bincount(names[np.arange(len(names)), best], minlength=256)
        error = np.nan_to_num(targets - counts)
        if (np.abs(error) <= TOLERANCE).all():
            break
        offsets = np.clip(offsets + RATE * error / near, -MAX_OFFSET, MAX_OFFSET)
    chosen[open_rows] = best
    return chosen
