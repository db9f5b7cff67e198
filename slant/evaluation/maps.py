"""Align two label maps: channels of one protocol on one grid, without interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slant.errors import GeometryError, InputError, ProtocolError
from slant.grid import Grid, transform_points
from slant.labels import LabelProtocol
from slant.volume import LabelMap

Align = Literal["header", "shift"]
Offset = NDArray[np.int64]

_TOLERANCE_VOXELS = 0.02  # rounding errors of float32 headers are ten times smaller


@dataclass(frozen=True)
class Shift:
    """Numbers that are added to the voxel coordinates of a prediction, on axes closest to RAS+, and their source.

    The headers give them, or they were found by agreement of the labels.
    """

    voxels: tuple[int, int, int]
    source: Literal["header", "found"]

    def __str__(self) -> str:
        """The three numbers, as in the tables."""
        return " ".join(map(str, self.voxels))


@dataclass(frozen=True, eq=False)
class AlignedMaps:
    """Two maps of channels on one grid, cropped to the box of their labels.

    Attributes
    ----------
    prediction, reference : LabelMap
        (X, Y, Z) uint8 channels of the protocol.
    other_mm3 : float
        Volume of the reference with ids outside the protocol; they count as background.
    """

    prediction: LabelMap
    reference: LabelMap
    shift: Shift
    other_mm3: float


def align_maps(
    prediction: LabelMap, reference: LabelMap, protocol: LabelProtocol, align: Align = "header"
) -> AlignedMaps:
    """Convert ids to channels and put both maps on one grid that contains all labels of both.

    Parameters
    ----------
    prediction : LabelMap
        Region ids of the protocol.
    reference : LabelMap
        Region ids; ids outside the protocol count as background, as in training.
    align : {"header", "shift"}, optional
        Position of the prediction: ``"header"`` uses the grids, which may differ by whole voxels (one map may be a crop
        of the other); ``"shift"`` requires only the same voxel size and direction, and finds the shift by
        `find_shift`.

    Raises
    ------
    ProtocolError
        If the prediction has an id outside the protocol.
    InputError
        If one of the maps has no region of the protocol.
    GeometryError
        If the grids differ by more than whole voxels, or, with ``"shift"``, in size or direction of their voxels.
    """
    try:
        predicted = LabelMap(protocol.channels_from_ids(prediction.data), prediction.grid)
    except ProtocolError as error:
        raise ProtocolError(f"the prediction does not fit the protocol: {str(error).rsplit(';', 1)[0]}") from error
    known = LabelMap(protocol.channels_from_ids(reference.data, unknown="background"), reference.grid)
    for name, labels in (("prediction", predicted), ("reference", known)):
        if not labels.data.any():
            raise InputError(
                f"the {name} has no region of protocol '{protocol.name}'; check that it has region ids of this protocol"
            )
    offset = lattice_offset(prediction.grid, reference.grid, shifted=align == "shift")
    if align == "shift":
        offset = find_shift(predicted.data, known.data)
    other = np.count_nonzero(reference.data) - np.count_nonzero(known.data)
    i, j, k = offset.tolist()
    shift = Shift((i, j, k), "found" if align == "shift" else "header")
    return AlignedMaps(*_cropped(predicted, known, offset), shift, other * reference.grid.voxel_volume_mm3)


def lattice_offset(grid: Grid, other: Grid, *, shifted: bool = False) -> Offset:
    """(3,) integers that are added to voxel coordinates of ``grid`` to get those of ``other``.

    Parameters
    ----------
    shifted : bool, optional
        Require only that the voxels have the same size and direction, not that the offset is a whole number of voxels.

    Raises
    ------
    GeometryError
        If the grids do not fit.
    """
    other_from_grid = other.voxel_from_ras @ grid.ras_from_voxel
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(grid.shape) - 1)
    offsets = transform_points(other_from_grid, corners) - corners
    offset = np.rint(offsets[0])
    residual = offsets - (offsets[0] if shifted else offset)
    if np.abs(residual).max() > _TOLERANCE_VOXELS:
        sizes = " and ".join(" x ".join(f"{edge:.4g}" for edge in g.voxel_size_mm) for g in (grid, other))
        expected = "the same voxel size and direction" if shifted else "one grid, or a crop of it by whole voxels"
        raise GeometryError(
            f"prediction on a grid of {grid.shape} and reference on a grid of {other.shape} (voxels of {sizes} mm) "
            f"do not fit by their headers: up to {np.abs(residual).max():.2f} voxels apart, expected {expected}; "
            "resample the prediction with nearest-neighbour interpolation"
            + ("" if shifted else ", or find a shift that the headers lost with --align shift")
        )
    return np.asarray(offset, dtype=np.int64)


def find_shift(moving: NDArray[np.integer], fixed: NDArray[np.integer]) -> Offset:
    """The whole-voxel shift of ``moving`` at which most voxels have the label of ``fixed``, background excluded.

    Every label gets a random phase. The cross-correlation of the two complex maps, by FFT, is then the number of equal
    labels plus noise from unequal ones. Hill climbing on the exact number starts at its peak.

    Returns (3,) int64 numbers that are added to coordinates of ``moving`` to get those of ``fixed``. The shapes of the
    (X, Y, Z) arrays of channels may differ; both must have labels.
    """
    from scipy import fft

    (first_m, a), (first_f, b) = _label_box(moving), _label_box(fixed)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(256)).astype(np.complex64)
    phases[0] = 0
    shape = [fft.next_fast_len(n + m - 1) for n, m in zip(a.shape, b.shape, strict=True)]
    spectrum = fft.fftn(phases[a], shape)
    np.conj(spectrum, out=spectrum)
    spectrum *= fft.fftn(phases[b], shape)
    scores = fft.ifftn(spectrum, overwrite_x=True).real
    peak = np.array(np.unravel_index(int(scores.argmax()), scores.shape))
    peak = np.where(peak >= b.shape, peak - np.array(shape), peak)
    return np.asarray(_hill_climb(a, b, peak) + first_f - first_m, dtype=np.int64)


def _hill_climb(a: NDArray[np.integer], b: NDArray[np.integer], start: Offset) -> Offset:
    """Step to the neighbouring shift with the most equal labels until none has more."""
    steps = np.argwhere(np.ones((3, 3, 3))) - 1
    best, most = start, _equal_voxels(a, b, start)
    while True:
        counts = [_equal_voxels(a, b, best + step) for step in steps]
        if max(counts) <= most:
            return best
        most, best = max(counts), best + steps[int(np.argmax(counts))]


def _equal_voxels(a: NDArray[np.integer], b: NDArray[np.integer], shift: Offset) -> int:
    """Number of voxels with equal labels where the shifted ``a`` overlaps ``b``."""
    low, high = np.maximum(shift, 0), np.minimum(shift + a.shape, b.shape)
    if (high <= low).any():
        return 0
    in_a = a[tuple(slice(i, j) for i, j in zip(low - shift, high - shift, strict=True))]
    in_b = b[tuple(slice(i, j) for i, j in zip(low, high, strict=True))]
    return int(np.count_nonzero((in_a == in_b) & (in_b != 0)))


def _label_box(data: NDArray[np.integer]) -> tuple[Offset, NDArray[np.integer]]:
    """First voxel of the bounding box of all labels, and the map inside it."""
    (part,) = ndimage.find_objects((data != 0).view(np.uint8))
    return np.array([span.start for span in part]), data[part]


def _cropped(prediction: LabelMap, reference: LabelMap, offset: Offset) -> tuple[LabelMap, LabelMap]:
    """Both maps on the smallest part of the lattice of the reference that contains the labels of both."""
    boxes = [_label_box(prediction.data), _label_box(reference.data)]
    corners = [boxes[0][0] + offset, boxes[1][0]]
    first = np.minimum(*corners)
    stop = np.maximum(*(corner + part.shape for corner, (_, part) in zip(corners, boxes, strict=True)))
    grid = reference.grid.cropped(tuple(map(slice, first, stop)))
    maps = []
    for corner, (_, part) in zip(corners, boxes, strict=True):
        data = np.zeros(grid.shape, dtype=np.uint8)
        data[tuple(slice(i, i + n) for i, n in zip((corner - first).tolist(), part.shape, strict=True))] = part
        maps.append(LabelMap(data, grid))
    return maps[0], maps[1]
