"""The segmentation pipeline for one scan, in memory: `segment` runs `prepare` and then `label`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slant.config import SegmentSettings
from slant.preprocess import bias, intensity
from slant.preprocess.alignment import AlignedBrain, align_brain
from slant.preprocess.ants import load_ants
from slant.preprocess.brain import fov_truncation_warning
from slant.preprocess.intensity_range import robust_intensities
from slant.resample_votes import resample_votes
from slant.threads import Threads
from slant.timing import Listener, Timing, TimingLog
from slant.volume import LabelMap, Volume
from slant.volumes import VolumeRow, head_size_warning, intracranial_volume_mm3, region_volumes

if TYPE_CHECKING:
    from slant.grid import Grid, Matrix
    from slant.nets.groupwise import Deformation
    from slant.nets.inputs import Inputs
    from slant.nets.model import Model
    from slant.preprocess.intensity import LinearMap
    from slant.vote import Channels


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
    """

    labels: LabelMap
    confidence: Volume
    template_labels: LabelMap
    volumes: tuple[VolumeRow, ...]
    prepared: Prepared
    warnings: tuple[str, ...]
    timings: tuple[Timing, ...]


def segment(
    scan: Volume, model: Model, settings: SegmentSettings | None = None, listener: Listener | None = None
) -> Segmentation:
    """Segment a T1-weighted scan.

    Parameters
    ----------
    scan : Volume
        Scan with axes near R, A, S, as `slant.io.read.read_scan` returns it; any voxel size, oblique or not.
    model : Model
        See `slant.io.models.load_model`.
    listener : callable, optional
        Told of every step, see `slant.timing.TimingLog`.

    Raises
    ------
    InputError
        If no brain is found.
    RegistrationError
        If the registration to the template fails.
    DeviceError
        If the requested device is not available.
    SettingsError
        If the mirror image is to be labelled and the model cannot do that.
    """
    settings = settings or SegmentSettings()
    if settings.mirror:
        model.check_mirror()
    return label(prepare(scan, model.inputs, settings, listener), model, settings, listener)


def prepare(
    scan: Volume, inputs: Inputs, settings: SegmentSettings | None = None, listener: Listener | None = None
) -> Prepared:
    """Extract and register the brain, correct the bias field, normalize intensities, and deform the atlas prior.

    Parameters
    ----------
    inputs : Inputs
        The ``inputs`` of a model.
    listener : callable, optional
        Told of every step, see `slant.timing.TimingLog`.

    Raises
    ------
    InputError
        If no brain is found.
    RegistrationError
        If the registration to the template fails.
    """
    from slant.nets.groupwise import deform

    settings = settings or SegmentSettings()
    clock = TimingLog(listener)
    scaling, mask_brain, template = inputs.scaling, inputs.scaling.mask_brain, inputs.template
    found, found_warnings = find_brain(scan, inputs, settings, clock)
    mask = found.template_mask
    with clock("bias"):
        everywhere = LabelMap(np.ones(mask.grid.shape, np.uint8), mask.grid)
        corrected, _ = bias.correct_bias(found.image, mask if mask_brain else everywhere)
    with clock("intensity"):
        normalized, line = intensity.normalize_intensity(corrected, mask, inputs.reference, mask_brain=mask_brain)
        image = Volume(scaling(normalized.data, mask.data != 0), template.grid)
        line = line.then(intensity.LinearMap(scaling.scale, scaling.offset * scaling.scale))
    deformation, warnings = None, list(found_warnings)
    if inputs.groupwise is not None:
        with clock("deform"):
            deformation = deform(image, inputs.groupwise)
        warnings.append(deformation_warning(deformation))
    return Prepared(
        image,
        found.brain,
        scan.grid,
        found.skull_stripped,
        found.registration.native_from_template,
        found.registration.similarity,
        tuple(warning for warning in warnings if warning),
        clock.timings,
        line,
        deformation,
    )


def find_brain(
    scan: Volume, inputs: Inputs, settings: SegmentSettings, clock: TimingLog
) -> tuple[AlignedBrain, tuple[str, ...]]:
    """Make the intensities of a scan robust, and extract and register its brain; with all warnings.

    Errors as `prepare`. The clock gets the steps ``robust intensities``, ``brain`` and ``register``.
    """
    mask_brain = inputs.scaling.mask_brain
    with clock("robust intensities"):
        robust, intensities = robust_intensities(scan)
    with Threads(settings.thread_count) as threads:
        threads.start(load_ants)  # while the networks of brain extraction run, which need one thread
        found = align_brain(
            robust, inputs.template, clock, skull_stripped=settings.skull_stripped, mask_brain=mask_brain
        )
    warnings = (*intensities.warnings, *found.warnings, fov_truncation_warning(found.brain))
    return found, tuple(warning for warning in warnings if warning)


def deformation_warning(deformation: Deformation) -> str:
    """A warning if the deformation is not accepted, so that the prior stays affine; otherwise an empty string."""
    from slant.nets.groupwise import MIN_SIMILARITY

    if deformation.accepted:
        return ""
    return (
        f"the scan could not be deformed to the groupwise template: similarity {deformation.similarity:.2f}, expected "
        f"at least {MIN_SIMILARITY:.2f} and more than the {deformation.affine_similarity:.2f} of the affine; the atlas "
        "prior is aligned by the affine only, which makes the labels less certain; check the overlay"
    )


def label(
    prepared: Prepared, model: Model, settings: SegmentSettings | None = None, listener: Listener | None = None
) -> Segmentation:
    """Run the networks, count the votes of the tiles, decide the labels in native space and measure the volumes.

    Parameters
    ----------
    model : Model
        The model whose inputs the scan was prepared with.
    listener : callable, optional
        Told of every step, and of every tile; see `slant.timing.TimingLog`.

    Raises
    ------
    DeviceError
        If the requested device, or the precision on it, is not available.
    ModelError
        If the scan was prepared for a model with a different groupwise template.
    SettingsError
        If the mirror image is to be labelled and the model cannot do that.
    """
    from slant.nets.device import choose_device, inference_dtype

    settings = settings or SegmentSettings()
    clock = TimingLog(listener)
    with clock("networks and vote") as advance:
        device = choose_device(settings.device)
        dtype = inference_dtype(settings.precision, device)
        cascade = model.cascade(prepared.image.data, prepared.deformation, dtype, mirror=settings.mirror)
        votes = cascade.vote(prepared.image.data, device, settings.thread_count, advance)
    with clock("resample labels"):
        grid, native_grid = prepared.image.grid, prepared.native_grid
        template_labels = labels_of(votes.winners, grid, model)
        template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
        channels, fraction = resample_votes(votes, grid, native_grid, template_from_native, settings.interpolation)
        labels, confidence = labels_of(channels, native_grid, model), Volume(fraction, native_grid)
    return segmentation_of(prepared, template_labels, labels, confidence, model, clock)


def labels_of(channels: Channels, grid: Grid, model: Model) -> LabelMap:
    """Region ids of (X, Y, Z) channels of a model, in the smallest unsigned dtype."""
    ids = model.protocol.ids_from_channels(channels)
    return LabelMap(ids.astype(np.min_scalar_type(int(ids.max()))), grid)


def segmentation_of(
    prepared: Prepared, template_labels: LabelMap, labels: LabelMap, confidence: Volume, model: Model, clock: TimingLog
) -> Segmentation:
    """Measure the volumes of labels in native space.

    Parameters
    ----------
    clock : TimingLog
        Gets the step ``volumes``; its timings follow those of the preparation.
    """
    with clock("volumes"):
        template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
        intracranial_mm3 = intracranial_volume_mm3(model.inputs.template.intracranial_mm3, template_from_native)
        volumes = region_volumes(labels, model.protocol, intracranial_mm3)
    warnings = prepared.warnings + head_size_warning(volumes) + _missing_regions(volumes)
    return Segmentation(
        labels, confidence, template_labels, volumes, prepared, warnings, prepared.timings + clock.timings
    )


def _missing_regions(volumes: tuple[VolumeRow, ...]) -> tuple[str, ...]:
    missing = [row.name for row in volumes if row.level == "region" and row.volume_mm3 == 0]
    return (f"no voxels were labelled as {len(missing)} regions: {', '.join(missing)}",) if missing else ()
