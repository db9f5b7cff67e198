"""Nonlinear registration of each visit to the within-subject template, which carries change from visit to visit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.config import SynSettings
from slant.nets.groupwise import SPACING
from slant.resample import coarsened
from slant.syn import WITHIN_SUBJECT, register_syn

if TYPE_CHECKING:
    from slant.nets.groupwise import Deformation
    from slant.volume import Volume

SETTINGS = SynSettings(float(SPACING), (0, 20, 10))
"""The visits are aligned already, so that the coarsest level is not needed."""

Coordinates = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VisitField:
    """Displacements between a visit and the within-subject template, both on the template grid.

    Attributes
    ----------
    to_template, from_template : (3, X/2, Y/2, Z/2) float16 arrays
        Vectors from each cell of the visit to the corresponding point of the within-subject template, and back, in
        template voxels (1 mm).
    """

    to_template: NDArray[np.float16]
    from_template: NDArray[np.float16]


def deform_visits(images: Sequence[Volume], template: Volume) -> tuple[VisitField, ...]:
    """Register each visit to the within-subject template (SyN at 2 mm).

    Parameters
    ----------
    images : sequence of Volume
        Visits on the template grid (1 mm) in network units.
    template : Volume
        Their mean.
    """
    mean = coarsened(template, float(SPACING))
    fields = []
    for image in images:
        warps = register_syn(coarsened(image, float(SPACING)), mean, SETTINGS, regularization=WITHIN_SUBJECT)
        fields.append(VisitField(*(warp.displacement_mm.astype(np.float16) for warp in warps)))
    return tuple(fields)


def displaced(displacement: NDArray[np.floating], voxels: Coordinates) -> Coordinates:
    """(3, ...) template voxel coordinates moved by a (3, X/2, Y/2, Z/2) displacement in template voxels."""
    cells = (voxels - (SPACING - 1) / 2) / SPACING
    shift = [ndimage.map_coordinates(part.astype(np.float32), cells, order=1, mode="nearest") for part in displacement]
    return np.asarray(voxels + np.stack(shift), dtype=np.float32)


def through_template(field: VisitField, deformation: Deformation) -> Deformation:
    """The deformation of a visit to the groupwise template: its field, then the deformation of the template."""
    cells = np.indices(field.to_template.shape[1:], dtype=np.float32) * SPACING + np.float32((SPACING - 1) / 2)
    at_template = cells + field.to_template.astype(np.float32)
    composed = displaced(deformation.displacement, at_template) - cells
    return replace(deformation, displacement=composed.astype(np.float16))
