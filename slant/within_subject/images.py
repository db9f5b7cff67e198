"""Images of all visits of a subject on the template grid, with the same position and the same brightness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.preprocess import bias, intensity
from slant.preprocess.intensity_range import robust_intensities
from slant.preprocess.register import standardized
from slant.resample import resample, resample_brain
from slant.volume import LabelMap, Volume
from slant.within_subject.differential_bias import equalize, mean_image
from slant.within_subject.rigid import align_rigidly

if TYPE_CHECKING:
    from slant.grid import Matrix
    from slant.nets.inputs import Inputs
    from slant.preprocess.intensity import LinearMap
    from slant.timing import TimingLog
    from slant.within_subject.visit import AlignedVisit


@dataclass(frozen=True, eq=False)
class VisitImages:
    """The visits in network units on the template grid.

    Attributes
    ----------
    images : tuple of Volume
    lines : tuple of LinearMap
        The map of each visit from intensities after bias field correction to those of its image.
    brain : LabelMap
        Brain mask of the subject: voxels that are in the masks of at least half of the visits.
    native_from_template : tuple of (4, 4) float64 arrays
        Affines of the visits, which differ by rigid motions only.
    """

    images: tuple[Volume, ...]
    lines: tuple[LinearMap, ...]
    brain: LabelMap
    native_from_template: tuple[Matrix, ...]

    @property
    def similarities(self) -> tuple[float, ...]:
        """Correlation of each visit with the mean of the others inside the brain."""
        inside = self.brain.data != 0
        values = np.stack([image.data[inside] for image in self.images]).astype(np.float64)
        others = values.sum(axis=0) - values
        pairs = zip(map(standardized, values), map(standardized, others), strict=True)
        return tuple(float(np.mean(own * other)) for own, other in pairs)


def visit_images(
    scans: Sequence[Volume], aligned: Sequence[AlignedVisit], inputs: Inputs, clock: TimingLog
) -> VisitImages:
    """Sample all visits on the template grid, and correct bias field and intensities of all by those of their mean.

    Parameters
    ----------
    scans : sequence of Volume
        In native space.
    """
    grid, scaling = inputs.template.grid, inputs.scaling
    with clock("rigid alignment"):
        robust = [robust_intensities(scan)[0] for scan in scans]
        affines = align_rigidly(
            robust, [own.brain for own in aligned], [own.native_from_template for own in aligned], grid
        ).native_from_template
        masks = [
            resample(Volume(own.brain.data.astype(np.float32), own.brain.grid), grid, source_from_target=affine).data
            for own, affine in zip(aligned, affines, strict=True)
        ]
        brain = LabelMap(np.asarray(np.mean(masks, axis=0, dtype=np.float32) >= 0.5, dtype=np.uint8), grid)
        sampled = [
            resample_brain(scan, own.brain, grid, source_from_target=affine)
            if scaling.mask_brain
            else resample(scan, grid, source_from_target=affine)
            for scan, own, affine in zip(robust, aligned, affines, strict=True)
        ]
    with clock("bias"):
        mask = brain if scaling.mask_brain else LabelMap(np.ones(grid.shape, np.uint8), grid)
        equal = equalize([image.masked(mask) for image in sampled], brain)
        corrected, field = bias.correct_bias(mean_image(equal.images), mask)
    with clock("intensity"):
        _, line = intensity.normalize_intensity(corrected, brain, inputs.reference, mask_brain=scaling.mask_brain)
        inside = brain.data != 0
        images = tuple(
            Volume(scaling(image.data / field.data * np.float32(line.slope) + np.float32(line.intercept), inside), grid)
            for image in equal.images
        )
        to_units = line.then(intensity.LinearMap(scaling.scale, scaling.offset * scaling.scale))
        lines = tuple(intensity.LinearMap(1 / median, 0.0).then(to_units) for median in equal.medians)
    return VisitImages(images, lines, brain, affines)
