"""Finds the brain in a scan, with deepbet or by the zeros that an earlier brain extraction left.

deepbet (Fisch et al. 2024, MIT licence) brings its weights in its package.
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

LEAST_BRAIN_MM3, LARGEST_BRAIN_MM3 = 0.5e6, 2.4e6
"""Volumes a brain mask may have, from small children to loose masks of large heads."""

CUT_MM2 = 400.0
"""Area of brain on a face of the field of view from which it counts as cut."""

CUT_BELOW_MM2 = 1500.0
"""The same on the lower face, where brain stem and cerebellum are often cut harmlessly."""

_LEFT_OVER = 0.005  # share of a stripped scan's non-zero voxels that may lie apart from the brain


def is_skull_stripped(scan: Volume) -> bool:
    """Whether the background is exactly zero and what is left is one piece of the size of a brain.

    Parameters
    ----------
    scan : Volume
    """
    filled = scan.data != 0
    if not LEAST_BRAIN_MM3 <= filled.sum() * scan.grid.voxel_volume_mm3 <= LARGEST_BRAIN_MM3:
        return False
    return bool(filled.sum() - _largest_piece(filled).sum() <= _LEFT_OVER * filled.sum())


def brain_from_zero_background(scan: Volume) -> LabelMap:
    """The brain mask of a skull-stripped scan: the largest piece that is not zero, its holes filled.

    Raises
    ------
    InputError
        If it has not the size of a brain.
    """
    return _plausible(ndimage.binary_fill_holes(_largest_piece(scan.data != 0)), scan)


def extract_brain(scan: Volume) -> LabelMap:
    """The brain mask of a full head.

    Parameters
    ----------
    scan : Volume

    Returns
    -------
    LabelMap
        0 and 1 on the scan's grid.

    Raises
    ------
    InputError
        If no brain is found, or what is found has not the size of one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # its sums depend on the number of threads
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


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    largest: NDArray[np.bool_] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return largest


def _plausible(mask: NDArray[np.bool_], scan: Volume) -> LabelMap:
    volume_mm3 = float(mask.sum()) * scan.grid.voxel_volume_mm3
    if not LEAST_BRAIN_MM3 <= volume_mm3 <= LARGEST_BRAIN_MM3:
        raise InputError(
            f"no plausible brain was found: {volume_mm3 / 1000:.0f} cm3, wanted {LEAST_BRAIN_MM3 / 1000:.0f} to "
            f"{LARGEST_BRAIN_MM3 / 1000:.0f}; is it a T1-weighted scan of a whole head with the right voxel size?"
        )
    return LabelMap(mask.astype(np.uint8), scan.grid)


def fov_cuts_brain(brain: LabelMap) -> str | None:
    """A warning if the brain reaches the edge of the field of view, naming the faces; None if it does not.

    Parameters
    ----------
    brain : LabelMap
        On a grid with axes near R, A, S.
    """
    sizes = brain.grid.voxel_size_mm
    cut = []
    for axis, names in enumerate((("left", "right"), ("back", "front"), ("bottom", "top"))):
        area_mm2 = float(np.prod(sizes)) / sizes[axis]
        for name, index in zip(names, (0, -1), strict=True):
            touching_mm2 = np.count_nonzero(np.take(brain.data, index, axis=axis)) * area_mm2
            if touching_mm2 > (CUT_BELOW_MM2 if name == "bottom" else CUT_MM2):
                cut.append(f"{name} ({touching_mm2 / 100:.0f} cm2)")
    if not cut:
        return None
    return f"the field of view cuts the brain at the {', '.join(cut)}; regions there are incomplete"
