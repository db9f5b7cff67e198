"""Two label maps are brought to channels of one protocol on one grid, without interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError, InputError, ProtocolError
from slant.grid import Grid, transform_points
from slant.labels import LabelProtocol
from slant.volume import LabelMap

Align = Literal["header", "shift"]
Offset = NDArray[np.int64]

_TOLERANCE_VOXELS = 0.02  # rounding of float32 headers stays ten times below


@dataclass(frozen=True)
class Shift:
    """How the voxels of a prediction were moved to those of its truth.

    Attributes
    ----------
    voxels : tuple of 3 int
        Added to the prediction's voxel coordinates, on axes closest to RAS+.
    source : {"header", "found"}
    """

    voxels: tuple[int, int, int]
    source: Literal["header", "found"]

    def __str__(self) -> str:
        """The three numbers, as the tables have them."""
        return " ".join(map(str, self.voxels))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two maps of channels on one grid, cropped to their labels.

    Attributes
    ----------
    prediction, truth : LabelMap
        (X, Y, Z) uint8 channels of the protocol.
    shift : Shift
    other_mm3 : float
        Volume of the ids that the truth has outside the protocol; they count as background.
    """

    prediction: LabelMap
    truth: LabelMap
    shift: Shift
    other_mm3: float


def bring_together(prediction: LabelMap, truth: LabelMap, protocol: LabelProtocol, align: Align = "header") -> Pair:
    """Turn ids to channels and put both maps on one grid, which holds all labels of both.

    Parameters
    ----------
    prediction : LabelMap
        Region ids of the protocol.
    truth : LabelMap
        Region ids; others count as background, as in training.
    protocol : LabelProtocol
    align : {"header", "shift"}, optional
        Where the prediction lies: ``"header"`` believes the grids, which must differ by whole voxels at most (one may
        be a crop of the other); ``"shift"`` asks only for the same voxels and finds the shift, see `find_shift`.

    Raises
    ------
    ProtocolError
        If the prediction holds an id outside the protocol.
    InputError
        If one of the maps holds no region of the protocol.
    GeometryError
        If the grids differ by more than whole voxels, or, with ``"shift"``, in size or direction of their voxels.
    """
    predicted = LabelMap(_predicted_channels(prediction, protocol), prediction.grid)
    true = LabelMap(protocol.channels_from_ids(truth.data, unknown="background"), truth.grid)
    for name, labels in (("prediction", predicted), ("true label map", true)):
        if not labels.data.any():
            raise InputError(f"the {name} holds no region of protocol '{protocol.name}'; is it of another protocol?")
    apart = lattice_offset(prediction.grid, truth.grid, shifted=align == "shift")
    if align == "shift":
        apart = find_shift(predicted.data, true.data)
    other = np.count_nonzero(truth.data) - np.count_nonzero(true.data)
    i, j, k = apart.tolist()
    shift = Shift((i, j, k), "found" if align == "shift" else "header")
    return Pair(*_cropped(predicted, true, apart), shift, other * truth.grid.voxel_volume_mm3)


def lattice_offset(grid: Grid, other: Grid, *, shifted: bool = False) -> Offset:
    """(3,) whole numbers that take voxel coordinates of ``grid`` to those of ``other``.

    Parameters
    ----------
    grid, other : Grid
    shifted : bool, optional
        Do not ask that they lie apart by whole voxels, only that the voxels have the same size and direction.

    Raises
    ------
    GeometryError
        If there are no such numbers.
    """
    other_from_grid = other.voxel_from_ras @ grid.ras_from_voxel
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(grid.shape) - 1)
    apart = transform_points(other_from_grid, corners) - corners
    offset = np.rint(apart[0])
    rest = apart - (apart[0] if shifted else offset)
    if np.abs(rest).max() > _TOLERANCE_VOXELS:
        sizes = " and ".join(" x ".join(f"{edge:.4g}" for edge in g.voxel_size_mm) for g in (grid, other))
        wanted = "voxels of one size and direction" if shifted else "one grid, or a crop of it by whole voxels"
        raise GeometryError(
            f"prediction on a grid of {grid.shape} and truth on one of {other.shape} (voxels of {sizes} mm) do not fit "
            f"by their headers: up to {np.abs(rest).max():.2f} voxels apart, wanted {wanted}; resample the prediction "
            "with nearest neighbours" + ("" if shifted else ", or find a shift lost in the headers with --align shift")
        )
    found: Offset = offset.astype(np.int64)
    return found


def find_shift(moving: NDArray[np.integer], fixed: NDArray[np.integer]) -> Offset:
    """The whole-voxel shift of ``moving`` at which most voxels have the label of ``fixed``, background apart.

    Every label is given a random phase; the cross-correlation of the two complex maps, by FFT, then sums to the
    number of equal labels plus what unequal ones leave. From its peak the exact number is climbed.

    Parameters
    ----------
    moving, fixed : (X, Y, Z) arrays of channels
        Shapes may differ; neither without labels.

    Returns
    -------
    (3,) int64 array
        Added to coordinates of ``moving`` to give those of ``fixed``.
    """
    from scipy import fft

    (low_m, a), (low_f, b) = _labelled(moving), _labelled(fixed)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(256)).astype(np.complex64)
    phases[0] = 0
    shape = [fft.next_fast_len(n + m - 1) for n, m in zip(a.shape, b.shape, strict=True)]
    spectrum = fft.fftn(phases[a], shape)
    np.conj(spectrum, out=spectrum)
    spectrum *= fft.fftn(phases[b], shape)
    scores = fft.ifftn(spectrum, overwrite_x=True).real
    peak = np.array(np.unravel_index(int(scores.argmax()), scores.shape))
    peak = np.where(peak >= b.shape, peak - np.array(shape), peak)
    return np.asarray(_climbed(a, b, peak) + low_f - low_m, dtype=np.int64)


def _climbed(a: NDArray[np.integer], b: NDArray[np.integer], start: Offset) -> Offset:
    """Step to the neighbouring shift with more equal labels until there is none."""
    steps = np.argwhere(np.ones((3, 3, 3))) - 1
    best, most = start, _equal(a, b, start)
    while True:
        counts = [_equal(a, b, best + step) for step in steps]
        if max(counts) <= most:
            return best
        most, best = max(counts), best + steps[int(np.argmax(counts))]


def _equal(a: NDArray[np.integer], b: NDArray[np.integer], shift: Offset) -> int:
    """Voxels with equal labels where ``a``, shifted, meets ``b``."""
    low, high = np.maximum(shift, 0), np.minimum(shift + a.shape, b.shape)
    if (high <= low).any():
        return 0
    in_a = a[tuple(slice(i, j) for i, j in zip(low - shift, high - shift, strict=True))]
    in_b = b[tuple(slice(i, j) for i, j in zip(low, high, strict=True))]
    return int(np.count_nonzero((in_a == in_b) & (in_b != 0)))


def _predicted_channels(prediction: LabelMap, protocol: LabelProtocol) -> NDArray[np.uint8]:
    try:
        return protocol.channels_from_ids(prediction.data)
    except ProtocolError as error:
        raise ProtocolError(f"the prediction does not fit: {str(error).rsplit(';', 1)[0]}") from error


def _labelled(data: NDArray[np.integer]) -> tuple[Offset, NDArray[np.integer]]:
    """Lowest corner of the box around all labels, and the map inside it."""
    filled = data != 0
    ranges = [np.flatnonzero(filled.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    part = tuple(slice(int(r[0]), int(r[-1]) + 1) for r in ranges)
    return np.array([int(r[0]) for r in ranges]), data[part]


def _cropped(prediction: LabelMap, truth: LabelMap, offset: Offset) -> tuple[LabelMap, LabelMap]:
    """Both on the smallest part of the truth's lattice that holds the labels of both."""
    parts = [_labelled(prediction.data), _labelled(truth.data)]
    lows = [parts[0][0] + offset, parts[1][0]]
    low = np.minimum(*lows)
    high = np.maximum(*(corner + part.shape for corner, (_, part) in zip(lows, parts, strict=True)))
    matrix = truth.grid.ras_from_voxel.copy()
    matrix[:3, 3] = transform_points(matrix, low[None])[0]
    x, y, z = (high - low).tolist()
    maps = []
    for corner, (_, part) in zip(lows, parts, strict=True):
        data = np.zeros((x, y, z), dtype=np.uint8)
        data[tuple(slice(i, i + n) for i, n in zip((corner - low).tolist(), part.shape, strict=True))] = part
        maps.append(LabelMap(data, Grid((x, y, z), matrix)))
    return maps[0], maps[1]
