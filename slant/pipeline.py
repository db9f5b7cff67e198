"""The segmentation pipeline for one scan, in memory: `segment` runs `prepare` and then `label`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from slant.config import SegmentSettings
from slant.decision import decide
from slant.preprocess import bias, intensity
from slant.preprocess.alignment import AlignedBrain, align_brain
from slant.preprocess.ants import load_ants
from slant.preprocess.brain import fov_truncation_warning
from slant.preprocess.intensity_range import robust_intensities
from slant.resample_votes import resample_votes
from slant.segmentation import Prepared, Segmentation
from slant.threads import Threads
from slant.timing import Listener, TimingLog
from slant.volume import LabelMap, Volume
from slant.volumes import VolumeRow, head_size_warning, intracranial_volume_mm3, region_volumes

if TYPE_CHECKING:
    from slant.atlas_votes import Atlas, AtlasVotes
    from slant.grid import Grid
    from slant.nets.groupwise import Deformation
    from slant.nets.inputs import Inputs
    from slant.nets.model import Model
    from slant.vote import Channels


def segment(
    scan: Volume,
    model: Model,
    settings: SegmentSettings | None = None,
    listener: Listener | None = None,
    atlases: Sequence[Atlas] = (),
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
    atlases : sequence of Atlas, optional
        Atlases that vote together with the networks, see `prepare`.

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
    return label(prepare(scan, model.inputs, settings, listener, atlases), model, settings, listener)


def prepare(
    scan: Volume,
    inputs: Inputs,
    settings: SegmentSettings | None = None,
    listener: Listener | None = None,
    atlases: Sequence[Atlas] = (),
) -> Prepared:
    """Extract and register the brain, correct the bias field, normalize intensities, and deform the atlas prior.

    Parameters
    ----------
    inputs : Inputs
        The ``inputs`` of a model.
    listener : callable, optional
        Told of every step, see `slant.timing.TimingLog`.
    atlases : sequence of Atlas, optional
        Labelled scans, prepared for the same inputs, which are registered, see `slant.atlas_votes.votes_of_atlases`;
        `label` gives them half of the votes. Either none or at least two, and none of the subject of the scan.

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
    votes = _atlas_votes(image, atlases, settings, clock) if atlases else None
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
        votes,
    )


def _atlas_votes(image: Volume, atlases: Sequence[Atlas], settings: SegmentSettings, clock: TimingLog) -> AtlasVotes:
    from slant.atlas_votes import votes_of_atlases

    with clock("atlases") as advance:
        return votes_of_atlases(image, atlases, settings.thread_count, advance)


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

    If atlases vote, half of all votes at each voxel are theirs.

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
        grid, native_grid, of_networks = prepared.image.grid, prepared.native_grid, None
        template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
        if prepared.atlases is not None:
            _, fraction = resample_votes(votes, grid, native_grid, template_from_native, settings.interpolation)
            of_networks = Volume(fraction, native_grid)
            votes = decide([decide([votes], grid.shape), prepared.atlases.votes], grid.shape)  # as many votes for both
        template_labels = labels_of(votes.winners, grid, model)
        channels, fraction = resample_votes(votes, grid, native_grid, template_from_native, settings.interpolation)
        labels, confidence = labels_of(channels, native_grid, model), Volume(fraction, native_grid)
    segmentation = segmentation_of(prepared, template_labels, labels, confidence, model, clock)
    return replace(segmentation, network_confidence=of_networks)


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
