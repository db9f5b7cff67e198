"""Removes the smooth differences of brightness between the visits of a subject.

They are estimated between each visit and the mean of all visits as a local gain (differential bias, Lewis and Fox 2004,
NeuroImage 23:75), from voxels where both are similar, so that tissue that has changed does not count. What all visits
have in common is the bias field of their mean. A correction of each visit by itself would bring an error of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.preprocess.bias import strided_grid
from slant.resample import resample
from slant.robust import robust_sd
from slant.volume import LabelMap, Volume

STRIDE = 4
"""Voxels (1 mm) from one sampled voxel to the next along each axis."""

SIGMA_MM = 16.0
"""Standard deviation (mm) of the Gaussian over which the gain is estimated."""

ROUNDS = 3
"""Rounds over the visits."""

TOLERANCE = 3.0
"""Difference from the mean image from which a voxel does not count, in robust standard deviations."""


@dataclass(frozen=True, eq=False)
class Equalized:
    """Visits with equal brightness, and the factor by which each was divided at first to have a median of 1."""

    images: tuple[Volume, ...]
    medians: tuple[float, ...]


def equalize(images: Sequence[Volume], brain: LabelMap) -> Equalized:
    """Divide the visits by their median in the brain, and then by their gain relative to the mean image.

    Parameters
    ----------
    images : sequence of Volume
        Visits on one grid of 1 mm.
    brain : LabelMap
        Brain mask (0 and 1) of the subject on this grid.
    """
    inside = brain.data != 0
    medians = [max(float(np.median(image.data[inside])), 1e-6) for image in images]
    equal = [Volume(image.data / median, image.grid) for image, median in zip(images, medians, strict=True)]
    for _ in range(ROUNDS):
        mean = mean_image(equal)
        equal = [Volume(image.data / _gain(image, mean, inside), image.grid) for image in equal]
    return Equalized(tuple(equal), tuple(medians))


def mean_image(images: Sequence[Volume]) -> Volume:
    """The mean of images on one grid."""
    return Volume(np.mean([image.data for image in images], axis=0, dtype=np.float32), images[0].grid)


def _gain(image: Volume, mean: Volume, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Root mean square of an image around each voxel, relative to that of the mean image, (X, Y, Z)."""
    sampled = (slice(STRIDE // 2, None, STRIDE),) * 3
    own, other, brain = image.data[sampled], mean.data[sampled], inside[sampled]
    difference = own - other
    differences = difference[brain]
    similar = np.abs(difference - np.median(differences)) <= TOLERANCE * robust_sd(differences) + 1e-6
    own_square, other_square = (_local_sum(np.where(brain & similar, part * part, 0)) for part in (own, other))
    enough = (own_square > 0) & (other_square > 1e-3 * other_square.max())
    ratio = np.sqrt(np.divide(own_square, other_square, out=np.ones_like(own_square), where=enough))
    padded = np.pad(ratio, 1, mode="edge")
    coarse = Volume(padded, strided_grid(image.grid, padded.shape, STRIDE, margin=1))
    return resample(coarse, image.grid).data


def _local_sum(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(values, SIGMA_MM / STRIDE, mode="constant"), dtype=np.float32)
