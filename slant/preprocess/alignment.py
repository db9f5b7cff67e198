"""Finds the brain of a scan and aligns it with the template; a mask that cannot be aligned is made another way."""

from __future__ import annotations

from dataclasses import dataclass

from slant.errors import InputError, RegistrationError, SlantError
from slant.preprocess import brain, register
from slant.resample import pick_labels, resample, resample_brain
from slant.template import Template
from slant.timing import TimingLog
from slant.volume import LabelMap, Volume

_MADE = {True: "the zero background of a skull-stripped scan", False: "brain extraction"}
_OPTIONS = {True: "--skull-stripped", False: "--no-skull-stripped"}


@dataclass(frozen=True, eq=False)
class AlignedBrain:
    """A scan and its brain mask in template space.

    Attributes
    ----------
    image, template_mask : Volume, LabelMap
        Scan and brain mask on the working grid of the template.
    brain : LabelMap
        Brain mask (0 and 1) in native space.
    skull_stripped : bool
        Whether the mask was made from the zero background.
    warnings : tuple of str
        A warning if the mask was first made another way, and one about residual non-brain tissue.
    """

    image: Volume
    template_mask: LabelMap
    brain: LabelMap
    registration: register.Registration
    skull_stripped: bool
    warnings: tuple[str, ...] = ()


def align_brain(
    scan: Volume, template: Template, clock: TimingLog, *, skull_stripped: bool | None = None, mask_brain: bool = True
) -> AlignedBrain:
    """Make the brain mask of a scan, register it, and resample image and mask to the working grid, each once.

    Parameters
    ----------
    scan : Volume
        With robust intensities, see `slant.preprocess.intensity_range`.
    clock : TimingLog
        Gets the steps ``brain`` and ``register``.
    skull_stripped : bool, optional
        Whether the scan is skull-stripped. By default this is detected, and if no mask is found or it cannot be
        registered, the other way is tried; and thick residual non-brain tissue is not part of the mask.
    mask_brain : bool
        Set the image to 0 outside the mask.

    Raises
    ------
    InputError
        If no brain is found.
    RegistrationError
        If the registration fails.
    """
    ways = (skull_stripped,) if skull_stripped is not None else _ways(scan)
    errors: list[SlantError] = []
    for way in ways:
        try:
            with clock("brain"):
                native, residual = brain.brain_mask(scan, skull_stripped=way), ""
                if way and skull_stripped is None:
                    native, residual = brain.without_residual_tissue(scan, native)
            with clock("register"):
                image, mask, registration = resample_to_template(scan, native, template, mask_brain=mask_brain)
        except (InputError, RegistrationError) as error:
            errors.append(error)
        else:
            return AlignedBrain(image, mask, native, registration, way, _warnings(errors, way, residual))
    other = _OPTIONS[not ways[0]]
    advice = f"choose {_MADE[not ways[0]]} with {other}" if len(ways) == 1 else f"{_MADE[ways[1]]} failed as well"
    raise type(errors[0])(f"{errors[0]}; the brain mask was made by {_MADE[ways[0]]}; {advice}") from errors[0]


def _ways(scan: Volume) -> tuple[bool, ...]:
    """How to make the mask of a scan of which nothing is known: the more likely way first."""
    detected = brain.is_skull_stripped(scan)
    return (detected, not detected) if (scan.data == 0).any() else (detected,)


def _warnings(errors: list[SlantError], way: bool, residual: str) -> tuple[str, ...]:
    about_tissue = (residual,) if residual else ()
    if not errors:
        return about_tissue
    return (
        f"the brain mask was made by {_MADE[way]}, because {_MADE[not way]} failed ({errors[0]}); check the mask, and "
        f"choose with {_OPTIONS[True]} or {_OPTIONS[False]}",
        *about_tissue,
    )


def resample_to_template(
    scan: Volume, mask: LabelMap, template: Template, *, mask_brain: bool = True
) -> tuple[Volume, LabelMap, register.Registration]:
    """Register a scan, and resample its image and brain mask to the working grid of the template, each once.

    Parameters
    ----------
    mask : LabelMap
        Brain mask on the grid of the scan.
    mask_brain : bool
        Interpolate by cubic splines, and set the image to 0 outside the mask. Otherwise the interpolation is trilinear.

    Raises
    ------
    RegistrationError
        If the registration fails.
    """
    registration = register.register_to_template(scan, mask, template)
    template_mask = pick_labels(mask, template.grid, registration.native_from_template)
    if mask_brain:
        image = resample_brain(scan, mask, template.grid, source_from_target=registration.native_from_template)
        return image.masked(template_mask), template_mask, registration
    image = resample(scan, template.grid, source_from_target=registration.native_from_template)
    return image, template_mask, registration
