"""One scan through the whole pipeline, in memory: `segment` is `label` after `prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant import bias, brain, intensity, register
from slant.config import SegmentSettings
from slant.fusion import VoteCounter
from slant.measure import VolumeRow, intracranial_volume_mm3, region_volumes
from slant.resample import labels_to_home, pick_labels, resample
from slant.stages import Stage, StageClock
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from slant.grid import Grid, Matrix
    from slant.nets.groupwise import Deformation
    from slant.nets.model import Inputs, Model
    from slant.template import Template


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan ready for the networks; picklable, so one process may make it and another label it.

    Attributes
    ----------
    image : Volume
        Template grid, network units: 0 outside the brain, about 1 on average inside, unless the model's inputs differ.
    brain : LabelMap
        Brain mask (0 and 1) on the scan's own grid.
    home : Grid
        The scan's own grid.
    home_from_template : (4, 4) float64 array
        RAS mm in template space to RAS mm in the scan's space.
    similarity : float
        How well the registered scan fits the template, see `slant.register`.
    warnings : tuple of str
    stages : tuple of Stage
    intensity_line : tuple of 2 float, optional
        Slope and intercept from intensities of the scan without its bias field to those of ``image``. Together with
        scan and image it gives the field, which is not kept.
    deformation : Deformation, optional
        Registration with the model's groupwise template, if it has one.
    """

    image: Volume
    brain: LabelMap
    home: Grid
    home_from_template: Matrix
    similarity: float
    warnings: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    intensity_line: tuple[float, float] | None = None
    deformation: Deformation | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The regions of one scan.

    Attributes
    ----------
    labels : LabelMap
        Region ids on the scan's own grid.
    confidence : Volume
        On the scan's own grid, 0 to 1: the share of the votes that the label won. Not a probability.
    template_labels : LabelMap
        Region ids on the template grid.
    volumes : tuple of VolumeRow
        Of regions, tissues, lobes, brain and intracranial space in mm3.
    prepared : Prepared
        What the networks saw.
    warnings : tuple of str
    stages : tuple of Stage
        Seconds and memory of all stages.
    """

    labels: LabelMap
    confidence: Volume
    template_labels: LabelMap
    volumes: tuple[VolumeRow, ...]
    prepared: Prepared
    warnings: tuple[str, ...]
    stages: tuple[Stage, ...]


def segment(scan: Volume, model: Model, settings: SegmentSettings | None = None) -> Segmentation:
    """Label a T1-weighted scan.

    Parameters
    ----------
    scan : Volume
        Axes near R, A, S, as `slant.io.read.read_scan` gives it; any voxel size, oblique or not.
    model : Model
        See `slant.io.models.load_model`.
    settings : SegmentSettings, optional

    Raises
    ------
    InputError
        If no brain is found.
    RegistrationError
        If the scan cannot be brought onto the template.
    DeviceError
        If the device asked for is not there.
    """
    settings = settings or SegmentSettings()
    return label(prepare(scan, model.inputs, settings), model, settings)


def prepare(scan: Volume, inputs: Inputs, settings: SegmentSettings | None = None) -> Prepared:
    """Find the brain, register it, correct its bias, harmonize its intensities, and deform the atlas prior to it.

    Parameters
    ----------
    scan : Volume
    inputs : Inputs
        A model's ``inputs``.
    settings : SegmentSettings, optional

    Raises
    ------
    InputError
        If no brain is found.
    RegistrationError
        If the scan cannot be brought onto the template.
    """
    from slant.nets.groupwise import deform

    settings = settings or SegmentSettings()
    clock = StageClock()
    with clock("brain"):
        mask = brain_mask(scan, settings)
    with clock("register"):
        keep_head = inputs.scaling.keep_head
        moved, carried, registration = carry_to_template(scan, mask, inputs.template, keep_head=keep_head)
    with clock("bias"):
        everywhere = LabelMap(np.ones(moved.grid.shape, np.uint8), moved.grid)
        corrected, _ = bias.correct_bias(moved, everywhere if keep_head else carried)
    with clock("harmonize"):
        harmonized = intensity.harmonize(corrected, carried, inputs.reference, keep_head=keep_head)
        image = Volume(inputs.scaling(harmonized.data, carried.data != 0), inputs.template.grid)
        line = intensity.line_between(corrected, image, carried)
    deformation, warnings = None, [brain.fov_cuts_brain(mask)]
    if inputs.groupwise is not None:
        with clock("deform"):
            deformation = deform(image, inputs.groupwise)
        warnings.append(_affine_warning(deformation))
    return Prepared(
        image,
        mask,
        scan.grid,
        registration.home_from_template,
        registration.similarity,
        tuple(warning for warning in warnings if warning),
        clock.stages,
        line,
        deformation,
    )


def _affine_warning(deformation: Deformation) -> str:
    """What is said where the prior is not deformed; empty where it is."""
    from slant.nets.groupwise import LEAST_SIMILARITY

    if deformation.accepted:
        return ""
    return (
        f"the scan could not be deformed to the groupwise template: similarity {deformation.similarity:.2f}, at least "
        f"{LEAST_SIMILARITY:.2f} is wanted and more than the {deformation.affine_similarity:.2f} of the affine; the "
        "atlas prior is aligned by the affine only, which makes regions less certain: look at the picture"
    )


def brain_mask(scan: Volume, settings: SegmentSettings) -> LabelMap:
    """The brain of a scan, by its zeros if it is skull stripped."""
    stripped = settings.skull_stripped
    if stripped is None:
        stripped = brain.is_skull_stripped(scan)
    return brain.brain_from_zero_background(scan) if stripped else brain.extract_brain(scan)


def carry_to_template(
    scan: Volume, mask: LabelMap, template: Template, *, keep_head: bool = False
) -> tuple[Volume, LabelMap, register.Registration]:
    """The brain of a scan, or its whole image, and its mask on the template's working grid, each resampled once."""
    registration = register.register_to_template(scan, mask, template)
    carried = pick_labels(mask, template.grid, registration.home_from_template)
    moved = resample(scan, template.grid, source_from_target=registration.home_from_template)
    return moved if keep_head else moved.masked(carried), carried, registration


def label(prepared: Prepared, model: Model, settings: SegmentSettings | None = None) -> Segmentation:
    """Run the networks, let the tiles vote, carry the labels home and measure them.

    Raises
    ------
    DeviceError
        If the device asked for is not there.
    ModelError
        If the scan was prepared for a model with another groupwise template.
    """
    from slant.nets.predict import choose_device, tile_votes

    settings = settings or SegmentSettings()
    clock = StageClock()
    with clock("networks and vote"):
        device = choose_device(settings.device)
        counter = VoteCounter(model.layout)
        predictor = model.predictor(prepared.image.data, prepared.deformation)
        for tile, channels in tile_votes(predictor, prepared.image.data, device, settings.thread_count):
            counter.aggregate(channels, tile)
        vote = counter.finalize()
    with clock("inverse warp"):
        grid, ids = prepared.image.grid, model.protocol.ids_from_channels(vote.channels)
        template_labels = LabelMap(_smallest(ids), grid)
        template_from_home = np.asarray(np.linalg.inv(prepared.home_from_template), dtype=np.float64)
        labels, confidence = labels_to_home(
            template_labels, Volume(vote.share, grid), prepared.home, template_from_home, settings.warp
        )
    with clock("measure"):
        intracranial_mm3 = intracranial_volume_mm3(model.inputs.template.intracranial_mm3, template_from_home)
        volumes = region_volumes(labels, model.protocol, intracranial_mm3)
    warnings = prepared.warnings + _missing_regions(volumes)
    return Segmentation(
        labels, confidence, template_labels, volumes, prepared, warnings, prepared.stages + clock.stages
    )


def _smallest(ids: np.ndarray) -> np.ndarray:
    """The ids in the smallest unsigned type that holds them."""
    return ids.astype(np.min_scalar_type(int(ids.max())))


def _missing_regions(volumes: tuple[VolumeRow, ...]) -> tuple[str, ...]:
    missing = [row.name for row in volumes if row.level == "region" and row.volume_mm3 == 0]
    if not missing:
        return ()
    return (f"{len(missing)} regions were found nowhere in the scan: {', '.join(missing)}",)
