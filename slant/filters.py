"""Separable filters and interpolation along the axes of tensors, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_TRUNCATE = 3.0  # standard deviations at which Gaussians end


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean of (..., X, Y, Z) values over the cube of some radius around each voxel; outside, 0."""
    return _filtered(values, [1 / (2 * radius + 1)] * (radius + 1), zero_outside=True)


def gaussian(values: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of (..., X, Y, Z) values with a standard deviation in voxels; outside, the nearest value."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(int(_TRUNCATE * sigma + 0.5) + 1)]
    total = 2 * sum(weights) - weights[0]
    return _filtered(values, [weight / total for weight in weights], zero_outside=False)


def _filtered(values: Tensor, weights: list[float], *, zero_outside: bool) -> Tensor:
    """Filter (..., X, Y, Z) values along each axis, with weights for distances of 0, 1, 2 ... voxels."""
    for axis in (-3, -2, -1):
        size = values.shape[axis]
        filtered = values * weights[0]
        for step, weight in enumerate(weights[1:], 1):
            near, far = min(step, size), max(size - step, 0)
            filtered.narrow(axis, near, size - near).add_(values.narrow(axis, 0, far), alpha=weight)
            filtered.narrow(axis, 0, far).add_(values.narrow(axis, near, size - near), alpha=weight)
            if not zero_outside:
                filtered.narrow(axis, 0, near).add_(values.narrow(axis, 0, 1), alpha=weight)
                filtered.narrow(axis, far, near).add_(values.narrow(axis, size - 1, 1), alpha=weight)
        values = filtered
    return values


def sampled(values: Tensor, coordinates: Sequence[NDArray[np.floating]], sigma: float = 0.0) -> Tensor:
    """(..., X, Y, Z) values smoothed, then interpolated at coordinates along each axis; outside, the nearest value."""
    x, y, z = (
        torch.tensor(_sampling_matrix(size, axis_coordinates, sigma), device=values.device)
        for size, axis_coordinates in zip(values.shape[-3:], coordinates, strict=True)
    )
    sampled_yz = y @ (values @ z.T)
    return (x @ sampled_yz.flatten(-2)).reshape((*sampled_yz.shape[:-3], len(x), *sampled_yz.shape[-2:]))


def _sampling_matrix(size: int, coordinates: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """(N, size) weights of the voxels along an axis for (N,) coordinates."""
    smooth = np.eye(size)
    if sigma > 0:
        smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=0, truncate=_TRUNCATE, mode="nearest")
    inside = np.clip(coordinates, 0, size - 1)
    low = np.minimum(inside.astype(np.intp), max(size - 2, 0))
    fraction = (inside - low)[:, None]
    high = np.minimum(low + 1, size - 1)
    return np.asarray((1 - fraction) * smooth[low] + fraction * smooth[high], dtype=np.float32)
