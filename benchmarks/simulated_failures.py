"""Simulated failures: scans that no segmentation should be trusted on, made from good ones. The grade must detect them.

Used by quality.py. Each failure takes a `Volume` and a random generator and returns the changed scan. Scans may show
the whole head or be skull-stripped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from slant.grid import Grid
from slant.preprocess.brain import brain_from_zero_background, extract_brain, is_skull_stripped
from slant.resample import resample
from slant.volume import Volume


def brain_of(scan: Volume) -> np.ndarray:
    """(X, Y, Z) bool brain mask."""
    mask = brain_from_zero_background(scan) if is_skull_stripped(scan) else extract_brain(scan)
    return mask.data != 0


def with_data(scan: Volume, data: np.ndarray) -> Volume:
    """The scan with other intensities, at least 0."""
    return Volume(np.maximum(data, 0).astype(np.float32), scan.grid)


def rotation(degrees: float, axis: int) -> np.ndarray:
    """(4, 4) rotation about an axis of the scanner."""
    a, b = [k for k in range(3) if k != axis]
    matrix = np.eye(4)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix[a, a], matrix[b, b], matrix[a, b], matrix[b, a] = c, c, -s, s
    return matrix


def rotated(scan: Volume, random: Generator) -> Volume:
    """Rotate the head by 60 to 75 degrees about one axis, in the same field of view."""
    matrix = rotation(float(random.uniform(60, 75)) * random.choice([-1, 1]), int(random.integers(3)))
    center = np.array(scan.grid.center_ras_mm)
    matrix[:3, 3] = center - matrix[:3, :3] @ center
    return resample(scan, scan.grid, source_from_target=matrix)


def without_top(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Remove the slices of the upper quarter of the brain, as if they had not been acquired."""
    z = np.nonzero(brain_of(scan))[2]
    stop = int(z.max() - 0.25 * (z.max() - z.min()))
    return Volume(scan.data[:, :, :stop].copy(), Grid((*scan.grid.shape[:2], stop), scan.grid.ras_from_voxel))


def without_right_side(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Remove the slices of the right sixth of the brain, as if they had not been acquired."""
    x = np.nonzero(brain_of(scan))[0]
    stop = int(x.max() - (x.max() - x.min()) / 6)
    return Volume(scan.data[:stop].copy(), Grid((stop, *scan.grid.shape[1:]), scan.grid.ras_from_voxel))


def noisy(scan: Volume, random: Generator) -> Volume:
    """Add Rician noise with a standard deviation of 0.25 of the intensity of white matter."""
    top = np.percentile(scan.data[scan.data > 0], 98) if is_skull_stripped(scan) else np.percentile(scan.data, 97)
    real, imaginary = 0.25 * top * random.standard_normal((2, *scan.data.shape))
    noise = np.hypot(scan.data + real, imaginary)
    return with_data(scan, np.where(scan.data > 0, noise, 0) if is_skull_stripped(scan) else noise)


def inverted(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Invert the contrast, as in a T2-weighted scan: CSF is brightest, white matter darkest."""
    brain = brain_of(scan)
    top = np.percentile(scan.data[brain], 99.5)
    return with_data(scan, np.where(scan.data > 0.1 * top, np.maximum(1.15 * top - scan.data, 0.02 * top), scan.data))


def low_contrast(scan: Volume, random: Generator) -> Volume:
    """Remove most of the contrast of gray and white matter and add some noise, as in proton density or gadolinium."""
    brain = brain_of(scan)
    top = np.percentile(scan.data[brain], 98)
    data = np.where(brain, 0.75 * top + 0.08 * (scan.data - 0.75 * top), scan.data)
    return with_data(scan, np.where(scan.data > 0, data + 0.02 * top * random.standard_normal(data.shape), 0))


def ct(scan: Volume, random: Generator) -> Volume:
    """Imitate a CT in Hounsfield units: the skull is by far the brightest, the brain nearly uniform and noisy."""
    brain = brain_of(scan)
    median = np.percentile(scan.data[brain], 50)
    tissue = np.clip(34 - 6 * (scan.data - median) / median, 5, 45)  # gray matter is a little denser than white
    head = np.where(brain, tissue, -1000.0)
    skull = ndimage.binary_dilation(brain, iterations=7) & ~ndimage.binary_dilation(brain, iterations=2)
    skin = ndimage.binary_dilation(brain, iterations=12) & ~brain & ~skull
    head[skin], head[skull] = 20.0, 1100.0
    return Volume((head + 5 * random.standard_normal(head.shape)).astype(np.float32), scan.grid)


def wrong_mask(scan: Volume, random: Generator) -> Volume:
    """Strip the skull with a wrong mask: rotated by 8 degrees, translated by 12 mm, a tenth smaller."""
    mask = Volume(brain_of(scan).astype(np.float32), scan.grid)
    matrix = rotation(8.0, 0) @ np.diag([1.1, 1.1, 1.1, 1.0])
    center = np.array(scan.grid.center_ras_mm)
    direction = random.standard_normal(3)
    matrix[:3, 3] = center - matrix[:3, :3] @ center + 12 * direction / np.linalg.norm(direction)
    wrong = resample(mask, scan.grid, source_from_target=matrix)
    return Volume(np.where(wrong.data > 0.5, np.maximum(scan.data, 1e-3), 0).astype(np.float32), scan.grid)


def lesion(scan: Volume, random: Generator) -> Volume:
    """Paint a ball of 18 mm radius, as dark as CSF, into the white matter of one hemisphere."""
    brain = brain_of(scan)
    voxels = np.argwhere(brain)
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    side = random.choice([0.28, 0.72])
    center = low + (high - low) * np.array([side, random.uniform(0.35, 0.65), random.uniform(0.6, 0.7)])
    offsets = (np.indices(scan.grid.shape).T - center) * np.array(scan.grid.voxel_size_mm)
    ball = (np.linalg.norm(offsets, axis=-1).T < 18) & brain
    dark = np.percentile(scan.data[brain], 5)
    soft = ndimage.gaussian_filter(ball.astype(np.float32), 1)
    return with_data(scan, scan.data * (1 - soft) + dark * soft)


def ghosting(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Add three copies of the head with 0.35 of its intensity, a quarter or half of the field of view away."""
    data = scan.data.copy()
    for fraction in (0.25, 0.5, -0.25):
        data += 0.35 * np.roll(scan.data, round(fraction * scan.data.shape[1]), axis=1)
    return with_data(scan, np.where(scan.data > 0, data, 0) if is_skull_stripped(scan) else data)


def stretched(scan: Volume, random: Generator) -> Volume:  # noqa: ARG001
    """Change the header so that the head is a third longer."""
    return Volume(scan.data, Grid(scan.grid.shape, np.diag([1, 1.35, 1, 1.0]) @ scan.grid.ras_from_voxel))


@dataclass(frozen=True)
class SimulatedFailure:
    """A failure that can be simulated.

    Attributes
    ----------
    apply : callable
        The changed scan from the scan and a generator.
    seed_name : str
        Part of the seed of the generator. The published figures depend on it, so it must not change.
    """

    apply: Callable[[Volume, Generator], Volume]
    seed_name: str


FAILURES = {
    "rotation by 60 to 75 degrees": SimulatedFailure(rotated, "tilted"),
    "upper quarter not acquired": SimulatedFailure(without_top, "cut above"),
    "right sixth not acquired": SimulatedFailure(without_right_side, "cut on the right"),
    "noise": SimulatedFailure(noisy, "noisy"),
    "inverted contrast": SimulatedFailure(inverted, "inverted"),
    "low contrast": SimulatedFailure(low_contrast, "flat"),
    "CT": SimulatedFailure(ct, "CT"),
    "wrong brain mask": SimulatedFailure(wrong_mask, "mask of another"),
    "lesion": SimulatedFailure(lesion, "lesion"),
    "ghosting": SimulatedFailure(ghosting, "ghosts"),
    "stretched header": SimulatedFailure(stretched, "stretched"),
}
