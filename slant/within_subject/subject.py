"""The visits of a subject together: within-subject template, inputs of the networks, and labels.

The result does not depend on the order of the visits: they are computed in the order of a hash of their intensities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy import ndimage

from slant.config import SegmentSettings
from slant.errors import InputError
from slant.pipeline import deformation_warning, labels_of, segmentation_of
from slant.resample import pick_labels, pick_values
from slant.segmentation import Prepared, Segmentation
from slant.timing import Listener, Timing, TimingLog
from slant.volume import Volume
from slant.within_subject import MIN_VISITS
from slant.within_subject.deformation import VisitField, deform_visits, through_template
from slant.within_subject.differential_bias import mean_image
from slant.within_subject.images import visit_images
from slant.within_subject.native import decide_native
from slant.within_subject.share import shared_evidence
from slant.within_subject.visit import align_visit

if TYPE_CHECKING:
    from slant.grid import Matrix
    from slant.nets.groupwise import Deformation
    from slant.nets.inputs import Inputs
    from slant.nets.model import Model
    from slant.sparse_votes import SparseVotes
    from slant.within_subject.images import VisitImages
    from slant.within_subject.visit import AlignedVisit

MIN_SIMILARITY = 0.8
"""Similarity below which visits are not of one subject; docs/explanation/registration.md says how it was chosen."""

MAX_SCALING = 0.04
"""Difference of the volume of the head from the mean of the visits above which there is a warning."""

MARGIN = 3
"""Voxels (1 mm) around the brain in which labels are decided; everything beyond is background."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """The visits of a subject, aligned and ready for the networks; picklable.

    Attributes
    ----------
    prepared : tuple of Prepared
        Each visit in template space; their affines differ by rigid motions only.
    fields : tuple of VisitField
        Registration of each visit to the within-subject template.
    similarities : tuple of float
        Correlation of each visit with the mean of the others inside the brain.
    template : Volume
        Within-subject template: the mean of the visits, on the template grid, in network units.
    order : tuple of int
        The visits in the order in which they are computed.
    """

    prepared: tuple[Prepared, ...]
    fields: tuple[VisitField, ...]
    similarities: tuple[float, ...]
    template: Volume
    order: tuple[int, ...]
    timings: tuple[Timing, ...]


def segment_visits(
    scans: Sequence[Volume], model: Model, settings: SegmentSettings | None = None, listener: Listener | None = None
) -> tuple[Segmentation, ...]:
    """Segment several visits of one subject together.

    Parameters
    ----------
    scans : sequence of Volume
        At least two scans of the subject, as for `slant.pipeline.segment`.
    model : Model
        See `slant.io.models.load_model`.
    listener : callable, optional
        Told of every step, see `slant.timing.TimingLog`.

    Returns
    -------
    tuple of Segmentation
        One for each scan; they do not depend on the order of the scans.

    Raises
    ------
    InputError
        If there are fewer than two scans, no brain is found in one, or they are not of one subject.
    RegistrationError
        If the registration of a scan to the template fails.
    DeviceError
        If the requested device is not available.
    SettingsError
        If the mirror image is to be labelled and the model cannot do that.
    """
    if settings is not None and settings.mirror:
        model.check_mirror()
    if len(scans) < MIN_VISITS:
        raise InputError(f"found {len(scans)} scan(s), expected at least {MIN_VISITS} visits; use segment for one scan")
    names = [f"visit {i + 1}" for i in range(len(scans))]
    aligned = [align_visit(scan, model.inputs, settings, listener) for scan in scans]
    subject = align_subject(names, scans, aligned, model.inputs, listener)
    votes = [visit_votes(subject, i, model, settings, listener) for i in range(len(scans))]
    return tuple(label_visit(subject, i, votes, model, settings, listener) for i in range(len(scans)))


def align_subject(
    names: Sequence[str],
    scans: Sequence[Volume],
    aligned: Sequence[AlignedVisit],
    inputs: Inputs,
    listener: Listener | None = None,
) -> Subject:
    """Align the visits of a subject with each other and with the atlas prior.

    Parameters
    ----------
    names : sequence of str
        Names of the visits for messages.
    scans : sequence of Volume
        At least two, as for `slant.pipeline.segment`.
    aligned : sequence of AlignedVisit
        Results of `slant.within_subject.visit.align_visit`.
    inputs : Inputs
        The ``inputs`` of a model.
    listener : callable, optional
        Told of every step, see `slant.timing.TimingLog`.

    Raises
    ------
    InputError
        If the visits are not of one subject.
    """
    clock = TimingLog(listener)
    order = tuple(sorted(range(len(scans)), key=lambda i: _digest(scans[i])))
    together = visit_images([scans[i] for i in order], [aligned[i] for i in order], inputs, clock)
    _check_similarities([names[i] for i in order], together.similarities)
    with clock("deform"):
        template = mean_image(together.images)
        fields = deform_visits(together.images, template)
        deformations = _deformations(fields, template, inputs)
    prepared = [_prepared(scans[i], aligned[i], together, k, deformations[k]) for k, i in enumerate(order)]
    return Subject(
        _as_given(prepared, order),
        _as_given(fields, order),
        _as_given(together.similarities, order),
        template,
        order,
        clock.timings,
    )


def _digest(scan: Volume) -> str:
    """SHA-256 of the intensities and the affine of a scan."""
    return hashlib.sha256(np.ascontiguousarray(scan.data).tobytes() + scan.grid.ras_from_voxel.tobytes()).hexdigest()


def _as_given(values: Sequence[T], order: Sequence[int]) -> tuple[T, ...]:
    """Values in the order of computation in the order in which the visits were given."""
    return tuple(value for _, value in sorted(zip(order, values, strict=True), key=lambda pair: pair[0]))


def _check_similarities(names: Sequence[str], similarities: Sequence[float]) -> None:
    lowest = int(np.argmin(similarities))
    if similarities[lowest] >= MIN_SIMILARITY:
        return
    others = [name for i, name in enumerate(names) if i != lowest]
    raise InputError(
        f"{names[lowest]} does not fit {_listed(others)}: similarity {similarities[lowest]:.2f}, expected at least "
        f"{MIN_SIMILARITY:.2f}; expected T1-weighted scans of the whole brain of one subject; leave out the wrong one"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"the mean of {', '.join(sorted(names))}"


def _deformations(fields: Sequence[VisitField], template: Volume, inputs: Inputs) -> list[Deformation | None]:
    """Deformation of each visit to the groupwise template, through the within-subject template."""
    if inputs.groupwise is None:
        return [None] * len(fields)
    from slant.nets.groupwise import deform

    deformation = deform(template, inputs.groupwise)
    return [through_template(field, deformation) for field in fields]


def _prepared(
    scan: Volume, aligned: AlignedVisit, together: VisitImages, k: int, deformation: Deformation | None
) -> Prepared:
    affine = together.native_from_template[k]
    warnings = (*aligned.warnings, _scaling_warning(aligned.native_from_template, affine))
    if deformation is not None:
        warnings += (deformation_warning(deformation),)
    return Prepared(
        together.images[k],
        pick_labels(together.brain, scan.grid, np.asarray(np.linalg.inv(affine), dtype=np.float64)),
        scan.grid,
        aligned.skull_stripped,
        affine,
        aligned.similarity,
        tuple(warning for warning in warnings if warning),
        aligned.timings,
        together.lines[k],
        deformation,
    )


def _scaling_warning(own: Matrix, common: Matrix) -> str:
    """A warning if the affine of a visit by itself has another scaling than that of all visits; otherwise empty."""
    ratio = float(np.linalg.det(own[:3, :3]) / np.linalg.det(common[:3, :3]))
    if abs(ratio - 1) <= MAX_SCALING:
        return ""
    return (
        f"the head is {100 * abs(ratio - 1):.1f} % {'larger' if ratio > 1 else 'smaller'} in volume than at all visits "
        f"on average, expected at most {100 * MAX_SCALING:.0f} %; the volumes of this visit change as much; check the "
        "voxel size in its header"
    )


def visit_votes(
    subject: Subject,
    index: int,
    model: Model,
    settings: SegmentSettings | None = None,
    listener: Listener | None = None,
) -> SparseVotes:
    """Run the networks on one visit.

    Parameters
    ----------
    index : int
        The visit, in the order in which they were given to `align_subject`.
    model : Model
        The model whose inputs the visits were prepared with.

    Raises
    ------
    DeviceError, SettingsError
        If the requested device, the precision on it, or the mirror image with this model is not possible.
    ModelError
        If the visits were prepared for a model with a different groupwise template.
    """
    from slant.nets.device import choose_device, inference_dtype

    settings, clock, prepared = settings or SegmentSettings(), TimingLog(listener), subject.prepared[index]
    with clock("networks and vote") as advance:
        device = choose_device(settings.device)
        dtype = inference_dtype(settings.precision, device)
        cascade = model.cascade(prepared.image.data, prepared.deformation, dtype, mirror=settings.mirror)
        return cascade.last_votes(prepared.image.data, device, settings.thread_count, advance)


def label_visit(
    subject: Subject,
    index: int,
    votes: Sequence[SparseVotes],
    model: Model,
    settings: SegmentSettings | None = None,
    listener: Listener | None = None,
) -> Segmentation:
    """Decide the labels of one visit by the votes of all visits, in native space, and measure the volumes.

    Parameters
    ----------
    index : int
        The visit, in the order in which they were given to `align_subject`.
    votes : sequence of SparseVotes
        Results of `visit_votes` of all visits.
    """
    settings, clock, prepared = settings or SegmentSettings(), TimingLog(listener), subject.prepared[index]
    order = subject.order
    with clock("shared votes"):
        near = ndimage.binary_dilation(prepared.image.data != 0, iterations=MARGIN)
        fields = [subject.fields[i] for i in order]
        evidence = shared_evidence(order.index(index), [votes[i] for i in order], fields, near)
    with clock("resample labels"):
        grid, native_grid = prepared.image.grid, prepared.native_grid
        template_labels = labels_of(evidence.channels[..., 0], grid, model)
        template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
        if settings.interpolation == "multilabel":
            channels, fraction = decide_native(evidence, grid, native_grid, template_from_native)
            labels, confidence = labels_of(channels, native_grid, model), Volume(fraction, native_grid)
        else:
            fraction = pick_values(evidence.fractions[..., 0], grid, native_grid, template_from_native, outside=1)
            labels = pick_labels(template_labels, native_grid, template_from_native)
            confidence = Volume(fraction, native_grid)
    return segmentation_of(prepared, template_labels, labels, confidence, model, clock)
