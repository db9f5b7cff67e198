"""Rigid alignment of the visits of a subject, in which no visit is the reference.

*Subject space* is template space with the scaling and shear of the subject. One affine leads there from template space
for all visits; from there a rigid motion leads to the native space of each visit. The start is the affine of each
visit, whose scaling and shear are averaged over the visits. Then every visit is registered to the mean of the others by
least squares with robust weights (Tukey's biweight, as in Reuter et al. 2010, NeuroImage 53:1181), so that tissue that
changes does not count, and is moved by (n - 1) / n of the motion found: this leads n visits to their mean position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage
from scipy.spatial.transform import Rotation

from slant.grid import Grid, Matrix, transform_points
from slant.resample import resample
from slant.robust import robust_sd
from slant.volume import LabelMap, Volume

VOXEL_MM = 3.0
"""Voxel size (mm), in template space, of the images that are aligned."""

ROUNDS, ITERATIONS = 2, 2
"""Rounds over the visits, and Gauss-Newton iterations of each visit in a round."""

FLAT_MM = 12.0
"""Standard deviation (mm) of the Gaussian mean by which intensities are divided before the alignment."""

TUKEY = 4.685
"""Residual from which a voxel has no weight, in robust standard deviations."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CommonAffines:
    """The affine that all visits share and the rigid motion of each.

    Attributes
    ----------
    subject_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in subject space: scaling and shear about the center of the template.
    native_from_subject : tuple of (4, 4) float64 arrays
        Rigid motion of each visit, RAS mm.
    """

    subject_from_template: Matrix
    native_from_subject: tuple[Matrix, ...]

    @property
    def native_from_template(self) -> tuple[Matrix, ...]:
        """Affine of each visit from RAS mm in template space to RAS mm in native space."""
        return tuple(motion @ self.subject_from_template for motion in self.native_from_subject)


def align_rigidly(
    scans: Sequence[Volume], brains: Sequence[LabelMap], affines: Sequence[Matrix], grid: Grid
) -> CommonAffines:
    """Find the rigid motions between the visits.

    Parameters
    ----------
    scans, brains : sequence of Volume, LabelMap
        Scans with robust intensities and brain masks (0 and 1), in native space.
    affines : sequence of (4, 4) float64 arrays
        Affine of each visit from RAS mm in template space to RAS mm in native space.
    grid : Grid
        Grid of the template.
    """
    coarse = grid.with_voxels_mm(VOXEL_MM)
    start = common_scaling(affines, coarse.center_ras_mm)
    subject_grid = Grid(coarse.shape, start.subject_from_template @ coarse.ras_from_voxel)
    visits = [_smoothed(scan, brain) for scan, brain in zip(scans, brains, strict=True)]
    motions = list(start.native_from_subject)
    share = (len(visits) - 1) / len(visits)
    for _ in range(ROUNDS):
        sampled = [visit.sampled(subject_grid, motion) for visit, motion in zip(visits, motions, strict=True)]
        updates = [
            _update(visit, motion, _mean(sampled[:i] + sampled[i + 1 :]), subject_grid)
            for i, (visit, motion) in enumerate(zip(visits, motions, strict=True))
        ]
        motions = [motion @ _rigid(share * u, subject_grid) for u, motion in zip(updates, motions, strict=True)]
    return replace(start, native_from_subject=tuple(motions))


def common_scaling(affines: Sequence[Matrix], center: NDArray[np.float64]) -> CommonAffines:
    """Affines with the mean scaling and shear of some affines and the rotation of each, equal to them at the center.

    Parameters
    ----------
    affines : sequence of (4, 4) float64 arrays
    center : (3,) float64 array
        Point in RAS mm of the space that the affines lead from.
    """
    parts = [linalg.polar(affine[:3, :3]) for affine in affines]  # affine = rotation @ scaling
    scaling = np.eye(4)
    scaling[:3, :3] = np.mean([part[1] for part in parts], axis=0)
    scaling[:3, 3] = center - scaling[:3, :3] @ center
    motions = []
    for affine, (rotation, _) in zip(affines, parts, strict=True):
        motion = np.eye(4)
        motion[:3, :3] = rotation
        motion[:3, 3] = transform_points(affine, [center])[0] - rotation @ center
        motions.append(motion)
    return CommonAffines(scaling, tuple(motions))


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Image and weight (X, Y, Z) of a visit on the grid of subject space."""

    image: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class _Visit:
    """A scan, smoothed for sampling, with a brain mask, in native space."""

    scan: Volume
    mask: Volume

    def sampled(self, grid: Grid, native_from_subject: Matrix) -> _Sampled:
        parts = (resample(part, grid, source_from_target=native_from_subject).data for part in (self.scan, self.mask))
        return _Sampled(*parts)


def _smoothed(scan: Volume, brain: LabelMap) -> _Visit:
    """A visit without its bias field: the intensities are divided by their Gaussian mean in the brain."""
    sigma, wide = ([mm / size for size in scan.grid.voxel_size_mm] for mm in (0.4 * VOXEL_MM, FLAT_MM))
    mask = brain.data.astype(np.float32)
    smooth = ndimage.gaussian_filter(scan.data, sigma)
    mean = ndimage.gaussian_filter(smooth * mask, wide) / np.maximum(ndimage.gaussian_filter(mask, wide), 1e-3)
    return _Visit(Volume(smooth / np.maximum(mean, 0.1 * mean.max()), scan.grid), Volume(mask, brain.grid))


def _mean(visits: Sequence[_Sampled]) -> _Sampled:
    return _Sampled(
        np.mean([visit.image for visit in visits], axis=0), np.mean([visit.weight for visit in visits], axis=0)
    )


def _update(visit: _Visit, motion: Matrix, target: _Sampled, grid: Grid) -> NDArray[np.float64]:
    """Rigid motion (6,) of a visit to a target: translation in mm and rotation vector in rad about the center."""
    total = np.eye(4)
    for _ in range(ITERATIONS):
        own = visit.sampled(grid, motion @ total)
        total = total @ _rigid(_gauss_newton_step(own, target, grid), grid)
    rotation = Rotation.from_matrix(total[:3, :3])
    return np.concatenate([transform_points(total, [grid.center_ras_mm])[0] - grid.center_ras_mm, rotation.as_rotvec()])


def _gauss_newton_step(own: _Sampled, target: _Sampled, grid: Grid) -> NDArray[np.float64]:
    """Motion (6,) that makes an image more similar to a target, up to brightness that varies linearly in space."""
    inside = np.minimum(own.weight, target.weight) > 0.5
    slopes = np.stack([part[inside] for part in np.gradient((own.image + target.image) / 2)]).astype(np.float64)
    slopes = grid.voxel_from_ras[:3, :3].T @ slopes  # per mm along x, y, z
    offsets = transform_points(grid.ras_from_voxel, np.argwhere(inside)) - grid.center_ras_mm
    values = own.image[inside].astype(np.float64)
    columns = np.stack(
        [*slopes, *np.cross(offsets, slopes.T).T, values, *values * offsets.T / 50, np.ones_like(values)]
    )
    residual = target.image[inside] - values
    weights = np.ones_like(values)
    for _ in range(3):
        weighted = columns * weights  # einsum sums on one thread, a matrix product perhaps on several
        normal, right = np.einsum("in,jn->ij", weighted, columns), np.einsum("in,n->i", weighted, residual)
        solution = linalg.solve(normal, right, assume_a="sym")
        error = residual - np.einsum("i,in->n", solution, columns)
        weights = np.clip(1 - (error / max(TUKEY * robust_sd(error), 1e-12)) ** 2, 0, None) ** 2
    return np.asarray(solution[:6], dtype=np.float64)


def _rigid(parameters: NDArray[np.float64], grid: Grid) -> Matrix:
    """(4, 4) motion in RAS mm of a translation (3,) in mm and a rotation vector (3,) in rad about the grid's center."""
    center = grid.center_ras_mm
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[3:]).as_matrix()
    matrix[:3, 3] = center + parameters[:3] - matrix[:3, :3] @ center
    return matrix
