"""Registers a scan to the template by a 12-parameter affine, also when the head is rotated.

The registration has three steps, each on the brain alone. A grid of rotations of up to 50 degrees about the centre of
the brain is scored on 8 mm voxels; a local search over rotation, translation and scale refines the best few; ANTs then
finds the affine at 2 mm by mutual information (Mattes), on a regular half of the voxels. If this fails, it is repeated
after a coarse correction of the bias field.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from slant.errors import RegistrationError
from slant.files import temporary_folder
from slant.grid import Matrix, axis_aligned_grid, exceeds, transform_points
from slant.preprocess.ants import affine_file, load_ants, read_affine, to_ants
from slant.resample import resample
from slant.template import Template
from slant.volume import LabelMap, Volume

MIN_SIMILARITY = 0.30
"""Correlation below which a registration has failed; docs/explanation/registration.md tells how it was chosen."""

DEPTH = 3
"""Border of the brain (2 mm voxels) left out of the correlation, so that a brain mask filled with noise fails."""

FINE_MM = 2.0
COARSE_FACTOR = 4  # 2 mm voxels along the edge of an 8 mm voxel
ROTATIONS_DEG = (-50.0, -25.0, 0.0, 25.0, 50.0)
N_REFINED = 4  # initial transforms that the local search refines
BIAS_SIGMA = 10  # standard deviation, in 2 mm voxels, of the Gaussian mean that estimates the bias field
SAMPLING = 0.5  # fraction of the 2 mm voxels, regularly spaced, on which ANTs computes its metric


@dataclass(frozen=True, eq=False)
class Registration:
    """Affine registration of a scan to the template.

    Attributes
    ----------
    native_from_template : (4, 4) float64 array
        Affine from RAS mm in template space to RAS mm in native space.
    similarity : float
        Correlation of the registered scan with the template at 2 mm, over the template's brain without a border of
        `DEPTH` voxels.
    """

    native_from_template: Matrix
    similarity: float


def register_to_template(scan: Volume, brain: LabelMap, template: Template) -> Registration:
    """Register the brain of a scan, given its brain mask, to the template by an affine.

    Raises
    ------
    RegistrationError
        If the similarity of the best affine is below `MIN_SIMILARITY`.
    """
    moving, native_from_moving = _centered_brain(scan, brain)
    moving_from_template, similarity = _search(moving, template)
    if similarity < MIN_SIMILARITY:
        moving_from_template, similarity = _search(_bias_corrected(moving), template)
    if similarity < MIN_SIMILARITY:
        raise RegistrationError(
            f"registration to the template failed (similarity {similarity:.2f}, minimum {MIN_SIMILARITY:.2f}); is it a "
            "T1-weighted scan of a whole head, and does its header say correctly which way is up, front and right?"
        )
    return Registration(native_from_moving @ moving_from_template, similarity)


def _centered_brain(scan: Volume, brain: LabelMap) -> tuple[Volume, Matrix]:
    """The brain at 2 mm with its centre at the world origin, and the matrix from there to native space."""
    coordinates = transform_points(scan.grid.ras_from_voxel, np.argwhere(brain.data))
    center = coordinates.mean(axis=0)
    native_from_moving = np.eye(4)
    native_from_moving[:3, 3] = center
    low, high = (coordinates - center).min(axis=0) - 2 * FINE_MM, (coordinates - center).max(axis=0) + 2 * FINE_MM
    nx, ny, nz = (int(n) for n in np.ceil((high - low) / FINE_MM) + 1)
    grid = axis_aligned_grid((nx, ny, nz), FINE_MM, low)
    sigma = [0.4 * FINE_MM / size if exceeds(FINE_MM, size) else 0.0 for size in scan.grid.voxel_size_mm]
    smooth = ndimage.gaussian_filter(scan.masked(brain).data, sigma)
    ceiling = np.percentile(smooth[brain.data != 0], 99.5)
    clipped = Volume(np.clip(smooth, 0, ceiling) / max(float(ceiling), 1e-6), scan.grid)
    return resample(clipped, grid, source_from_target=native_from_moving), native_from_moving


def _bias_corrected(moving: Volume) -> Volume:
    """The brain divided by the Gaussian mean around each voxel."""
    inside = moving.data > 0
    mean, weight = (ndimage.gaussian_filter(part.astype(np.float32), BIAS_SIGMA) for part in (moving.data, inside))
    flat = np.where(inside, moving.data * weight / np.maximum(mean, 1e-6), 0)
    ceiling = np.percentile(flat[inside], 99.5)
    return Volume(np.asarray(np.clip(flat, 0, ceiling) / ceiling, dtype=np.float32), moving.grid)


def _search(moving: Volume, template: Template) -> tuple[Matrix, float]:
    """Moving-from-template affine and its similarity."""
    affine = _ants_affine(moving, template, _initial_transform(moving, template))
    return affine, _similarity(moving, template, affine)


def _initial_transform(moving: Volume, template: Template) -> Matrix:
    """Moving-from-template matrix of the rotation, translation and scale with the highest similarity at 8 mm."""
    score = _CoarseScore.between(moving, template)
    rotations = [Rotation.from_euler("xyz", r, degrees=True).as_rotvec() for r in product(ROTATIONS_DEG, repeat=3)]
    starts = [np.array([*rotation, 0.0, 0.0, 0.0, 0.0]) for rotation in rotations]
    ranked = sorted(starts, key=score)[:N_REFINED]
    steps = np.array([0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05])
    refined = [
        optimize.minimize(
            score,
            start,
            method="Nelder-Mead",
            options={"initial_simplex": np.vstack([start, start + np.diag(steps)]), "maxfev": 400, "fatol": 1e-4},
        )
        for start in ranked
    ]
    return score.matrix(min(refined, key=lambda result: float(result.fun)).x)


@dataclass(frozen=True, eq=False)
class _CoarseScore:
    """Negative correlation with the template at 8 mm, of a rotation (rad), translation (dm) and log scale."""

    coordinates: NDArray[np.float64]  # (N, 3) points in and near the template's brain, in RAS mm
    values: NDArray[np.float64]  # (N,) standardized intensities of the template at these points
    center: NDArray[np.float64]  # (3,) centre of the template's brain, in RAS mm
    moving: NDArray[np.float32]  # (X, Y, Z) smoothed brain of the scan
    voxel_from_ras: Matrix  # (4, 4) world to voxel coordinates of ``moving``
    scale: float  # size of the scan's brain relative to the template's

    @classmethod
    def between(cls, moving: Volume, template: Template) -> _CoarseScore:
        """The score of a scan's brain."""
        smooth = ndimage.gaussian_filter(template.image.data, COARSE_FACTOR / 2)
        points = tuple(slice(COARSE_FACTOR // 2, None, COARSE_FACTOR) for _ in range(3))
        inside = ndimage.binary_dilation(template.brain.data, iterations=COARSE_FACTOR)[points]
        index = np.moveaxis(np.indices(smooth.shape)[:, *points], 0, -1)
        brain = np.argwhere(template.brain.data)
        return cls(
            transform_points(template.image.grid.ras_from_voxel, index[inside]),
            standardized(smooth[points][inside]),
            transform_points(template.image.grid.ras_from_voxel, brain).mean(axis=0),
            ndimage.gaussian_filter(moving.data, COARSE_FACTOR / 2),
            moving.grid.voxel_from_ras,
            (np.count_nonzero(moving.data) / len(brain)) ** (1 / 3),
        )

    def matrix(self, parameters: NDArray[np.float64]) -> Matrix:
        """(4, 4) moving-from-template matrix in RAS mm of (7,) parameters."""
        linear = Rotation.from_rotvec(parameters[:3]).as_matrix() * (self.scale * np.exp(parameters[6]))
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = 100 * parameters[3:6] - linear @ self.center
        return matrix

    def __call__(self, parameters: NDArray[np.float64]) -> float:
        coordinates = transform_points(self.voxel_from_ras @ self.matrix(parameters), self.coordinates)
        values = ndimage.map_coordinates(self.moving, coordinates.T, order=1)
        return -float(np.mean(standardized(values) * self.values))


def standardized(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Values with mean 0 and standard deviation 1, float64; a constant becomes 0."""
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9), dtype=np.float64)


def _ants_affine(moving: Volume, template: Template, moving_from_template: Matrix) -> Matrix:
    """Refine an affine with ANTs; both matrices are moving-from-template in RAS mm."""
    ants = load_ants()
    with temporary_folder() as folder:
        start = folder / "start.mat"
        start.write_bytes(affine_file(moving_from_template))
        result = ants.registration(
            to_ants(template.image),
            to_ants(moving),
            type_of_transform="Affine",
            initial_transform=str(start),
            mask=to_ants(template.brain),
            outprefix=str(folder / "found"),
            aff_random_sampling_rate=SAMPLING,
        )
        (path,) = result["fwdtransforms"]
        return read_affine(Path(path))


def _similarity(moving: Volume, template: Template, moving_from_template: Matrix) -> float:
    resampled = resample(moving, template.image.grid, source_from_target=moving_from_template)
    inside = ndimage.binary_erosion(template.brain.data, iterations=DEPTH)
    return float(np.mean(standardized(resampled.data[inside]) * standardized(template.image.data[inside])))
