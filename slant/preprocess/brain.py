"""The brain mask of a scan: by deepbet, or from the zero background of a skull-stripped scan.

The package of deepbet (Fisch et al. 2024, MIT licence) includes its weights.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from slant.errors import InputError
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_BRAIN_MM3, MAX_BRAIN_MM3 = 0.5e6, 2.4e6
"""Range of plausible volumes of a brain mask, from small children to loose masks of large heads."""

TRUNCATION_MM2 = 400.0
"""Area of brain on a face of the field of view above which the brain counts as truncated there."""

INFERIOR_TRUNCATION_MM2 = 1500.0
"""The same for the inferior face, where the field of view often ends at brain stem and cerebellum without harm."""

LARGE_BRAIN_MM3 = 1.7e6
"""Volume above which a foreground on zero background is compared with the extracted brain: 43 skull-stripped scans of
adults had 1.1 to 1.6 litres, heads without a face and with zero air have 2 litres and more."""

RESIDUAL_DEPTH_MM = 6.0
"""Non-zero voxels of a skull-stripped scan that lie deeper than this outside the extracted brain belong to residual
non-brain tissue: 35 of 43 scans had none deeper than 5.9 mm; in the other 8, they were 7.0 to 15.5 mm deep."""

MAX_RESIDUAL_FRACTION = 0.1
"""Fraction of the foreground above which such tissue counts as brain that brain extraction has missed: it was at most
0.06 in these scans."""

_RESIDUAL_RADIUS_MM = 3.0  # of the balls that make up what is left out, so that the border of the brain stays as it is
_MIN_EXTRACTED_FRACTION = 0.8  # of a skull-stripped foreground; of a head it is 0.5 to 0.6
_MAX_DETACHED_FRACTION = 0.005  # of the non-zero voxels of a skull-stripped scan that are not connected to the brain


def is_skull_stripped(scan: Volume) -> bool:
    """Whether the background is exactly zero and the foreground is one component with the volume of a brain.

    A foreground larger than `LARGE_BRAIN_MM3` may also be a head whose air is zero: it must be as large as the brain
    that brain extraction finds in it.
    """
    foreground = scan.data != 0
    volume_mm3 = foreground.sum() * scan.grid.voxel_volume_mm3
    if not MIN_BRAIN_MM3 <= volume_mm3 <= MAX_BRAIN_MM3:
        return False
    if foreground.sum() - _largest_component(foreground).sum() > _MAX_DETACHED_FRACTION * foreground.sum():
        return False
    if volume_mm3 <= LARGE_BRAIN_MM3:
        return True
    try:
        return bool(extract_brain(scan).data.sum() >= _MIN_EXTRACTED_FRACTION * foreground.sum())
    except InputError:
        return True


def brain_mask(scan: Volume, *, skull_stripped: bool) -> LabelMap:
    """The brain mask of a scan: from its zero background if it is skull-stripped, otherwise by brain extraction.

    Raises
    ------
    InputError
        If no brain is found, or if the volume of the mask is not plausible for a brain.
    """
    return brain_from_zero_background(scan) if skull_stripped else extract_brain(scan)


def brain_from_zero_background(scan: Volume) -> LabelMap:
    """The brain mask of a skull-stripped scan: its largest non-zero component, with holes filled.

    Raises
    ------
    InputError
        If its volume is not plausible for a brain.
    """
    return _plausible(ndimage.binary_fill_holes(_largest_component(scan.data != 0)), scan)


def without_residual_tissue(scan: Volume, foreground: LabelMap) -> tuple[LabelMap, str]:
    """The mask of a skull-stripped scan without thick residual non-brain tissue, and a warning about it.

    Parameters
    ----------
    foreground : LabelMap
        As `brain_from_zero_background` returns it. Where more than `RESIDUAL_DEPTH_MM` of it lie outside the extracted
        brain, the part outside is left out, as far as it is 6 mm wide. Elsewhere the border stays as it is.

    Returns
    -------
    mask : LabelMap
        The same object if there is no such tissue, or more than `MAX_RESIDUAL_FRACTION`, or no brain is extracted.
    warning : str
        Its volume; empty if there is none.
    """
    try:
        excess = (foreground.data != 0) & (extract_brain(scan).data == 0)
    except InputError:
        return foreground, ""
    residual = _thick_parts(excess, scan.grid.voxel_size_mm)
    if not residual.any():
        return foreground, ""
    cm3 = residual.sum() * scan.grid.voxel_volume_mm3 / 1000
    if residual.sum() > MAX_RESIDUAL_FRACTION * np.count_nonzero(foreground.data):
        return foreground, (
            f"{cm3:.0f} cm3 of the skull-stripped scan lie outside the brain found by brain extraction, too many for "
            "residual non-brain tissue; they count as brain; check the mask; if it is wrong, use --no-skull-stripped"
        )
    return LabelMap(foreground.data * ~residual, foreground.grid), (
        f"{cm3:.1f} cm3 of the skull-stripped scan lie outside the brain found by brain extraction and are left out as "
        "residual non-brain tissue; check the border of the brain; to keep them, use --skull-stripped"
    )


def _thick_parts(mask: NDArray[np.bool_], voxel_size_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """The parts deeper than `RESIDUAL_DEPTH_MM`: components of the mask opened by a ball of `_RESIDUAL_RADIUS_MM`."""
    thick = np.zeros_like(mask)
    voxels = max(1, int(RESIDUAL_DEPTH_MM / max(voxel_size_mm)))
    if not ndimage.binary_erosion(mask, iterations=voxels).any():  # faster than distances
        return thick
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    part = np.pad(mask[box], 1)  # outside the field of view is outside the mask
    depth_mm = ndimage.distance_transform_edt(part, sampling=voxel_size_mm)
    core_mm = ndimage.distance_transform_edt(depth_mm <= _RESIDUAL_RADIUS_MM, sampling=voxel_size_mm)
    components, _ = ndimage.label(part & (core_mm <= _RESIDUAL_RADIUS_MM))
    deep = np.unique(components[depth_mm > RESIDUAL_DEPTH_MM])
    thick[box] = np.isin(components, deep[deep > 0])[1:-1, 1:-1, 1:-1]
    return thick


def extract_brain(scan: Volume) -> LabelMap:
    """The brain mask of a full head: 0 and 1 on the scan's grid.

    Raises
    ------
    InputError
        If no brain is found, or if the volume of the mask is not plausible for a brain.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the sums of deepbet depend on the number of threads
    try:
        extraction = _deepbet()
        mask = extraction.run_model(scan.data.copy()) > 0.5
        mask = extraction.postprocess(mask)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"no brain was found in the scan ({error}); is it a T1-weighted scan of a head?") from error
    finally:
        torch.set_num_threads(before)
    return _plausible(np.asarray(mask, dtype=np.bool_), scan)


@cache
def _deepbet() -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from deepbet.bet import BrainExtraction

        return BrainExtraction(no_gpu=True)


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, count = ndimage.label(mask)
    if count <= 1:
        return mask
    largest: NDArray[np.bool_] = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    return largest


def _plausible(mask: NDArray[np.bool_], scan: Volume) -> LabelMap:
    volume_mm3 = float(mask.sum()) * scan.grid.voxel_volume_mm3
    if not MIN_BRAIN_MM3 <= volume_mm3 <= MAX_BRAIN_MM3:
        raise InputError(
            f"no plausible brain was found: {volume_mm3 / 1000:.0f} cm3, expected {MIN_BRAIN_MM3 / 1000:.0f} to "
            f"{MAX_BRAIN_MM3 / 1000:.0f}; is it a T1-weighted scan of a whole head with the right voxel size?"
        )
    return LabelMap(mask.astype(np.uint8), scan.grid)


def fov_truncation_warning(brain: LabelMap) -> str | None:
    """A warning that names the faces where the field of view truncates the brain; None if there are none.

    The axes of the brain mask's grid must be near R, A, S.
    """
    sizes = brain.grid.voxel_size_mm
    truncated = []
    for axis, names in enumerate((("left", "right"), ("back", "front"), ("bottom", "top"))):
        area_mm2 = float(np.prod(sizes)) / sizes[axis]
        for name, index in zip(names, (0, -1), strict=True):
            touching_mm2 = np.count_nonzero(np.take(brain.data, index, axis=axis)) * area_mm2
            if touching_mm2 > (INFERIOR_TRUNCATION_MM2 if name == "bottom" else TRUNCATION_MM2):
                truncated.append(f"{name} ({touching_mm2 / 100:.0f} cm2)")
    if not truncated:
        return None
    return f"the field of view truncates the brain at the {', '.join(truncated)}; regions there are incomplete"
