"""Check that an image is a T1-weighted scan that can be segmented.

Every check raises an error that says what was found, what was expected and what to do; the reader adds the file name.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slant.errors import InputError
from slant.preprocess.intensity_range import connected_to_faces, faces

NAN_BACKGROUND_FRACTION = 0.5  # of the voxels on the faces of the image
MAX_NONFINITE_FRACTION = 0.001  # of the voxels; more means a damaged image

# Fraction of neighbouring voxels outside the background that have equal values: 0.005-0.30 in 60 T1w scans of 8 to 32
# bit (0.5 at 5 bit), 0.87-0.99 in manual and automatic label maps at 1 mm, 0.69-0.77 in the same maps at 3 mm.
_LABEL_MAP_EQUAL_FRACTION = 0.65

# Hounsfield units: air is -1000, brain 20 to 45, compact bone over 300.
_CT_AIR, _CT_SOFT, _CT_BONE = (-1100.0, -900.0), (-20.0, 100.0), 300.0
_CT_AIR_FRACTION, _CT_SOFT_FRACTION, _CT_BONE_FRACTION = 0.05, 0.05, 0.005


def volume_index(shape: tuple[int, ...], volume: int | None) -> tuple[int, ...]:
    """Index into the axes after the third that selects a 3D volume, counted from 0; None stands for the only one.

    Raises
    ------
    InputError
        If the image is not 3D, has several volumes and none is selected, or does not have the selected volume.
    """
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise InputError(f"found a {'2D' if len(shape) >= 2 else '1D'} image of shape {shape}, expected a 3D scan")
    count = math.prod(shape[3:])
    if count < 1:
        raise InputError(f"found an image without voxels, shape {shape}, expected a 3D scan")
    if volume is None and count > 1:
        raise InputError(
            f"found {count} volumes (shape {shape}), expected one 3D T1w scan; "
            f"if one of them is T1-weighted, pick it with --volume N, N from 0 to {count - 1}"
        )
    index = 0 if volume is None else volume
    if not 0 <= index < count:
        volumes = "1 volume" if count == 1 else f"{count} volumes"
        raise InputError(
            f"volume index {index} is out of range: the file has {volumes}, counted from 0; change --volume"
        )
    return tuple(int(i) for i in np.unravel_index(index, shape[3:], order="F")) if shape[3:] else ()


def check_number_type(dtype: np.dtype[np.generic]) -> None:
    """Reject colour (RGB, RGBA) and complex images with an InputError: each voxel is one real number."""
    if dtype.fields is not None or dtype.kind not in "iuf":
        kind = "colour (RGB)" if dtype.fields is not None else f"{dtype}"
        raise InputError(
            f"found {kind} voxels, expected one real number per voxel; "
            "export the scan in grey values, or take the magnitude of a complex image"
        )


def replace_nonfinite(data: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The array with NaN and infinite values replaced by 0, and a warning if there were any.

    NaN that covers at least half of the faces of the image, and what is connected to it, is the background of a mask.

    Raises
    ------
    InputError
        If more than `MAX_NONFINITE_FRACTION` of the other voxels are not finite.
    """
    bad = ~np.isfinite(data)
    if not bad.any():
        return data, ()
    masked = np.isnan(faces(data)).mean() >= NAN_BACKGROUND_FRACTION
    background = connected_to_faces(np.isnan(data)) if masked else np.zeros_like(bad)
    count = int(np.count_nonzero(bad & ~background))
    fraction = count / data.size
    if fraction > MAX_NONFINITE_FRACTION:
        raise InputError(
            f"found {count} NaN or infinite voxels ({fraction:.2%}), expected at most {MAX_NONFINITE_FRACTION:.1%}; "
            "repair the scan, or replace NaN with 0 (fslmaths SCAN -nan OUT)"
        )
    repaired = (f"{count} NaN or infinite voxels were replaced by 0",) if count else ()
    around = ("NaN around the brain was taken for the background of a mask",) if masked else ()
    return np.where(bad, np.float32(0), data), around + repaired


def check_contrast(data: NDArray[np.float32]) -> None:
    """Reject an (X, Y, Z) image without NaN that is constant, a label map or a CT in Hounsfield units: InputError."""
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise InputError(f"every voxel is {low:g}, expected a T1w scan; check the conversion and the masking")
    if _is_label_map(data):
        count = np.unique(data[::2, ::2, ::2]).size
        raise InputError(
            f"this looks like a label map or mask: about {count} distinct integers ({low:g} to {high:g}) in uniform "
            "patches; expected the T1w scan that it belongs to"
        )
    if low < _CT_AIR[1] and _is_ct(data):
        raise InputError(
            f"this looks like a CT in Hounsfield units ({low:g} to {high:g}, air near -1000, bone over 300); "
            "expected a T1-weighted MRI scan"
        )


def _is_label_map(data: NDArray[np.float32]) -> bool:
    if not np.array_equal(data, np.rint(data)):
        return False
    values, counts = np.unique(data[::3, ::3, ::3], return_counts=True)
    background = values[counts.argmax()]
    equal = pairs = 0
    for axis in range(3):
        first, second = np.swapaxes(data, 0, axis)[:-1], np.swapaxes(data, 0, axis)[1:]
        both = (first != background) & (second != background)
        pairs += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (first == second)))
    return pairs == 0 or equal > _LABEL_MAP_EQUAL_FRACTION * pairs


def _is_ct(data: NDArray[np.float32]) -> bool:
    measured = data[data >= _CT_AIR[0]]  # scanners pad the corners with -2000 or less
    if measured.size == 0:
        return False
    air = np.mean(measured <= _CT_AIR[1])
    soft = np.mean((measured >= _CT_SOFT[0]) & (measured <= _CT_SOFT[1]))
    bone = np.mean(measured > _CT_BONE)
    return bool(air >= _CT_AIR_FRACTION and soft >= _CT_SOFT_FRACTION and bone >= _CT_BONE_FRACTION)
