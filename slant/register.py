"""Brings a scan onto the template by a 12-parameter affine, however the head was turned.

Three steps, each on the brain alone: a grid of turns of up to 50 degrees about the brain's middle is scored on 8 mm
voxels; the best few are refined there by a local search over turn, shift and size; ANTs then finds the affine at 2 mm
by mutual information (Mattes), on a regular half of the voxels. A scan that fails is tried again without its
slow shading.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from slant._ants import load_ants, matrix_of_transform, to_ants, write_affine
from slant.errors import RegistrationError
from slant.grid import Matrix, axis_aligned_grid, transform_points
from slant.resample import resample
from slant.template import Template
from slant.volume import LabelMap, Volume

LEAST_SIMILARITY = 0.30
"""Correlation under which a registration counts as failed; see docs/registration.md for how it was measured."""

DEPTH = 3
"""2 mm voxels under the brain's surface where the correlation begins: an outline filled with noise must not score."""

FINE_MM = 2.0
COARSE = 4  # 2 mm voxels in an 8 mm one
TURNS_DEG = (-50.0, -25.0, 0.0, 25.0, 50.0)
REFINED = 4  # starts that the local search follows
SHADING = 10  # standard deviation, in 2 mm voxels, of the mean that counts as shading
SAMPLING = 0.5  # share of the 2 mm voxels, regularly spaced, that the metric looks at


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a scan lies in the template.

    Attributes
    ----------
    home_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the scan's space.
    similarity : float
        Correlation of the registered scan with the template at 2 mm, over the template's brain from `DEPTH` inwards.
    """

    home_from_template: Matrix
    similarity: float


def register_to_template(scan: Volume, brain: LabelMap, template: Template) -> Registration:
    """Affine registration of the brain of a scan.

    Parameters
    ----------
    scan : Volume
    brain : LabelMap
        Its brain mask.
    template : Template

    Raises
    ------
    RegistrationError
        If the best affine found is less similar to the template than `LEAST_SIMILARITY`.
    """
    moving, home_from_moving = _centered_brain(scan, brain)
    moving_from_template, similarity = _search(moving, template)
    if similarity < LEAST_SIMILARITY:
        moving_from_template, similarity = _search(_without_shading(moving), template)
    if similarity < LEAST_SIMILARITY:
        raise RegistrationError(
            f"the scan could not be brought onto the template: similarity {similarity:.2f}, at least "
            f"{LEAST_SIMILARITY} is wanted; is it a T1-weighted scan of a whole head, and does its header say "
            "correctly which way is up, front and right?"
        )
    return Registration(home_from_moving @ moving_from_template, similarity)


def write_transform(path: Path, home_from_template: Matrix) -> None:
    """Write the affine as ANTs reads it: ``antsApplyTransforms -t`` with it resamples the scan onto MNI305.

    Parameters
    ----------
    path : Path
        Ends in ``.mat``.
    home_from_template : (4, 4) float64 array
        RAS mm; the file holds it in ITK's LPS mm.
    """
    write_affine(path, home_from_template)


def _centered_brain(scan: Volume, brain: LabelMap) -> tuple[Volume, Matrix]:
    """The brain at 2 mm with its middle at world zero, and the matrix home from there."""
    voxels = np.argwhere(brain.data)
    places = transform_points(scan.grid.ras_from_voxel, voxels)
    middle = places.mean(axis=0)
    home_from_moving = np.eye(4)
    home_from_moving[:3, 3] = middle
    low, high = (places - middle).min(axis=0) - 2 * FINE_MM, (places - middle).max(axis=0) + 2 * FINE_MM
    nx, ny, nz = (int(n) for n in np.ceil((high - low) / FINE_MM) + 1)
    grid = axis_aligned_grid((nx, ny, nz), FINE_MM, low)
    sigma = [0.4 * FINE_MM / size if size < FINE_MM else 0.0 for size in scan.grid.voxel_size_mm]
    smooth = ndimage.gaussian_filter(scan.masked(brain).data, sigma)
    ceiling = np.percentile(smooth[brain.data != 0], 99.5)
    clipped = Volume(np.clip(smooth, 0, ceiling) / max(float(ceiling), 1e-6), scan.grid)
    return resample(clipped, grid, source_from_target=home_from_moving), home_from_moving


def _without_shading(moving: Volume) -> Volume:
    """The brain divided by the mean around each place."""
    inside = moving.data > 0
    mean, share = (ndimage.gaussian_filter(part.astype(np.float32), SHADING) for part in (moving.data, inside))
    flat = np.where(inside, moving.data * share / np.maximum(mean, 1e-6), 0)
    ceiling = np.percentile(flat[inside], 99.5)
    return Volume(np.asarray(np.clip(flat, 0, ceiling) / ceiling, dtype=np.float32), moving.grid)


def _search(moving: Volume, template: Template) -> tuple[Matrix, float]:
    """Moving-from-template affine and its similarity."""
    found = _ants_affine(moving, template, _best_start(moving, template))
    return found, _similarity(moving, template, found)


def _best_start(moving: Volume, template: Template) -> Matrix:
    """Moving-from-template matrix of the most similar turn, shift and size at 8 mm."""
    score = _CoarseScore(moving, template)
    turns = [Rotation.from_euler("xyz", t, degrees=True).as_rotvec() for t in product(TURNS_DEG, repeat=3)]
    starts = [np.array([*turn, 0.0, 0.0, 0.0, 0.0]) for turn in turns]
    ranked = sorted(starts, key=score)[:REFINED]
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
    return score.matrix(min(refined, key=lambda found: float(found.fun)).x)


class _CoarseScore:
    """Minus the correlation of the moved brain with the template at 8 mm, of a turn (rad), shift (dm), log size."""

    def __init__(self, moving: Volume, template: Template) -> None:
        smooth = ndimage.gaussian_filter(template.image.data, COARSE / 2)
        points = tuple(slice(COARSE // 2, None, COARSE) for _ in range(3))
        inside = ndimage.binary_dilation(template.brain.data, iterations=COARSE)[points]
        index = np.stack(
            np.meshgrid(*(np.arange(n)[p] for n, p in zip(smooth.shape, points, strict=True)), indexing="ij"), -1
        )
        self._places = transform_points(template.image.grid.ras_from_voxel, index[inside])
        self._values = _standard(smooth[points][inside])
        brain = np.argwhere(template.brain.data)
        self._middle = transform_points(template.image.grid.ras_from_voxel, brain).mean(axis=0)
        self._moving = ndimage.gaussian_filter(moving.data, COARSE / 2)
        self._voxel_from_ras = moving.grid.voxel_from_ras
        self._size = (np.count_nonzero(moving.data) / len(brain)) ** (1 / 3)

    def matrix(self, parameters: NDArray[np.float64]) -> Matrix:
        """(4, 4) RAS mm, moving from template."""
        linear = Rotation.from_rotvec(parameters[:3]).as_matrix() * (self._size * np.exp(parameters[6]))
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = 100 * parameters[3:6] - linear @ self._middle
        return matrix

    def __call__(self, parameters: NDArray[np.float64]) -> float:
        places = transform_points(self._voxel_from_ras @ self.matrix(parameters), self._places)
        found = ndimage.map_coordinates(self._moving, places.T, order=1)
        return -float(np.mean(_standard(found) * self._values))


def _standard(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9), dtype=np.float64)


def _ants_affine(moving: Volume, template: Template, moving_from_template: Matrix) -> Matrix:
    """The affine that ANTs finds from a start; both are RAS mm, moving from template."""
    ants = load_ants()
    with tempfile.TemporaryDirectory(prefix="slant-") as folder:
        start = Path(folder) / "start.mat"
        write_affine(start, moving_from_template)
        found = ants.registration(
            to_ants(template.image),
            to_ants(moving),
            type_of_transform="Affine",
            initial_transform=str(start),
            mask=to_ants(template.brain),
            outprefix=str(Path(folder) / "found"),
            aff_random_sampling_rate=SAMPLING,
        )
        (path,) = found["fwdtransforms"]
        return matrix_of_transform(ants.read_transform(path))


def _similarity(moving: Volume, template: Template, moving_from_template: Matrix) -> float:
    carried = resample(moving, template.image.grid, source_from_target=moving_from_template)
    inside = ndimage.binary_erosion(template.brain.data, iterations=DEPTH)
    return float(np.mean(_standard(carried.data[inside]) * _standard(template.image.data[inside])))
