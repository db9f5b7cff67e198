"""The part of the preparation of a visit that needs no other visit: brain extraction and affine registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slant.config import SegmentSettings
from slant.pipeline import find_brain
from slant.timing import Listener, Timing, TimingLog

if TYPE_CHECKING:
    from slant.grid import Matrix
    from slant.nets.inputs import Inputs
    from slant.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class AlignedVisit:
    """Brain mask and affine of one visit, found without the other visits; picklable.

    Attributes
    ----------
    brain : LabelMap
        Brain mask (0 and 1) in native space.
    skull_stripped : bool
        Whether the mask was made from the zero background of a skull-stripped scan.
    native_from_template : (4, 4) float64 array
        Affine from RAS mm in template space to RAS mm in native space.
    similarity : float
        Correlation of the registered scan with the template, see `slant.preprocess.register.Registration`.
    """

    brain: LabelMap
    skull_stripped: bool
    native_from_template: Matrix
    similarity: float
    warnings: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()


def align_visit(
    scan: Volume, inputs: Inputs, settings: SegmentSettings | None = None, listener: Listener | None = None
) -> AlignedVisit:
    """Extract the brain of a visit and register it to the template.

    Parameters
    ----------
    scan : Volume
        As for `slant.pipeline.segment`.
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
    clock = TimingLog(listener)
    found, warnings = find_brain(scan, inputs, settings or SegmentSettings(), clock)
    return AlignedVisit(
        found.brain,
        found.skull_stripped,
        found.registration.native_from_template,
        found.registration.similarity,
        warnings,
        clock.timings,
    )
