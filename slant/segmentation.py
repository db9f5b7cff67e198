"""What the pipeline returns: a scan ready for the networks, and its segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.timing import Timing
from slant.volume import LabelMap, Volume
from slant.volumes import VolumeRow

if TYPE_CHECKING:
    from slant.atlas_votes import AtlasVotes
    from slant.grid import Grid, Matrix
    from slant.nets.groupwise import Deformation
    from slant.preprocess.intensity import LinearMap


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan ready for the networks; picklable, so that one process can prepare it and another can label it.

    Attributes
    ----------
    image : Volume
        Image on the template grid in network units. For the default inputs it is 0 outside the brain, and about 1 on
        average inside.
    brain : LabelMap
        Brain mask (0 and 1) on the grid of the scan, ``native_grid``.
    skull_stripped : bool
        Whether the brain mask was made from the zero background of a skull-stripped scan.
    native_from_template : (4, 4) float64 array
        Affine from RAS mm in template space to RAS mm in native space.
    similarity : float
        Correlation of the registered scan with the template, see `slant.preprocess.register.Registration`.
    intensity_line : LinearMap, optional
        The map from intensities after bias field correction to those of ``image``. The bias field, which is not stored,
        follows from the scan with robust intensities, the image and this map.
    deformation : Deformation, optional
        Registration to the model's groupwise template, if the model has one.
    atlases : AtlasVotes, optional
        Votes of atlases, if any are used.
    """

    image: Volume
    brain: LabelMap
    native_grid: Grid
    skull_stripped: bool
    native_from_template: Matrix
    similarity: float
    warnings: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()
    intensity_line: LinearMap | None = None
    deformation: Deformation | None = None
    atlases: AtlasVotes | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segmentation of one scan.

    Attributes
    ----------
    labels : LabelMap
        Region ids in native space, on the grid of the scan.
    confidence : Volume
        Vote fraction of each label, interpolated in native space, 0 to 1; nearly its mean probability over the tiles.
    template_labels : LabelMap
        Region ids on the template grid.
    volumes : tuple of VolumeRow
        Volumes of regions, tissues, lobes and brain, and the estimated total intracranial volume, in mm3.
    prepared : Prepared
        The scan as it entered the networks.
    network_confidence : Volume, optional
        Vote fraction of the networks alone, if atlases voted, too; otherwise it is ``confidence``.
    """

    labels: LabelMap
    confidence: Volume
    template_labels: LabelMap
    volumes: tuple[VolumeRow, ...]
    prepared: Prepared
    warnings: tuple[str, ...]
    timings: tuple[Timing, ...]
    network_confidence: Volume | None = None
