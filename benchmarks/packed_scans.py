"""Prepared scans in little space: 8-bit images and labels, cropped to the brain and compressed.

For `pack_training.py` and `unpack_training.py`. Labels, brain masks and matrices stay exact. Images are rounded to 255
levels, or fewer, between their lowest and highest value; 0, which marks everything outside the brain, stays exact.
bzip2 makes the residuals of images as small as LZMA does, in a tenth of the time; label maps are smaller with LZMA.
"""

from __future__ import annotations

import bz2
import io
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slant.errors import InputError
from slant.io.prepared import digest, load_arrays
from slant.train.data import label_frequency

LEVELS = 255
"""Largest number of levels of an image, besides 0."""

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]  # bytes without alignment
_IMAGE, _LABELS, _BRAIN, _WEIGHTS, _KNOWN = "image", "channels", "brain", "weights", ("scan_sha256", "identity")


@dataclass(frozen=True, eq=False)
class Levels:
    """An image as levels: 0 stands for 0, and 1 to ``count`` for values from ``low`` to ``high``."""

    levels: NDArray[np.uint8]
    low: float
    high: float
    count: int = LEVELS

    @property
    def step(self) -> float:
        """Difference of two levels; the largest error is half of it."""
        return (self.high - self.low) / (self.count - 1)

    def image(self) -> NDArray[np.float16]:
        """The values of the levels, as prepared scans store them."""
        values = self.low + (self.levels.astype(np.float32) - 1) * self.step
        return np.where(self.levels > 0, values, 0).astype(np.float16)


def levels_of(image: NDArray[np.floating], count: int = LEVELS) -> Levels:
    """Round an image of any shape to levels, 2 to `LEVELS`."""
    values = image.astype(np.float32)
    inside = values != 0
    if not inside.any():
        return Levels(np.zeros(image.shape, np.uint8), 0.0, 0.0, count)
    low, high = float(values[inside].min()), float(values[inside].max())
    scaled = (values - low) * ((count - 1) / max(high - low, 1e-9))
    return Levels(np.where(inside, 1 + np.rint(scaled.clip(0, count - 1)), 0).astype(np.uint8), low, high, count)


def residuals(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a linear prediction of each voxel from its neighbours along all three axes leaves, modulo 256."""
    for axis in range(3):
        levels = np.diff(levels, axis=axis, prepend=np.zeros((), np.uint8))
    return levels


def from_residuals(left: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `residuals`."""
    for axis in range(3):
        left = np.cumsum(left, axis=axis, dtype=np.uint8)
    return left


@dataclass(frozen=True)
class ScanError:
    """Error of a packed image in the brain, in network units (mean about 1): largest, and root mean square."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Source:
    """A prepared scan: its name and its files, without labels if it has none."""

    name: str
    image: Path
    labels: Path | None


def pack_scan(image: Path, labels: Path | None, levels: int = LEVELS) -> tuple[bytes, ScanError]:
    """Pack the two files of a prepared scan, ``SHA256.npz`` and ``NAME.labels.npz``, or only the first.

    Raises
    ------
    InputError
        If one of them is missing or damaged, so that the scan must be prepared first.
    """
    scan = _arrays(image, (_IMAGE,))
    out: dict[str, Any] = {}
    if labels is not None:
        reference = _arrays(labels, (_LABELS, *_KNOWN))
        out |= {f"labels.{name}": reference[name] for name in (*_KNOWN, _WEIGHTS) if name in reference}
        out |= _boxed(_LABELS, reference[_LABELS])
    original = scan.pop(_IMAGE)
    rounded = levels_of(original, levels)
    out |= {f"scan.{name}": value for name, value in scan.items() if name != _BRAIN}
    out |= _boxed(_IMAGE, rounded.levels)
    if _BRAIN in scan:
        out["scan.brain"] = _lzma(scan[_BRAIN])
    out["range"] = np.array([rounded.low, rounded.high, rounded.count])
    inside = original != 0
    error = (rounded.image().astype(np.float32) - original.astype(np.float32))[inside]
    error = error if error.size else np.zeros(1, np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **out)
    return buffer.getvalue(), ScanError(float(np.abs(error).max()), float(np.sqrt(np.mean(error**2))))


def unpack_scan(packed: Path, images: Path, labels: Path, name: str, channel_count: int) -> None:
    """Write the two files of a packed scan again, uncompressed; the label frequencies are computed."""
    stored = _arrays(packed, ("labels.scan_sha256",))
    known = {key.removeprefix("labels."): value for key, value in stored.items() if key.startswith("labels.")}
    unpack_image(stored, images, str(known["scan_sha256"]))
    channels = _unboxed(_LABELS, stored)
    labels.mkdir(parents=True, exist_ok=True)
    frequency = label_frequency(channels, channel_count)
    np.savez(labels / f"{name}.labels.npz", **{_LABELS: channels, "frequency": frequency, **known})


def unpack_image(packed: Path | dict[str, Any], images: Path, sha256: str) -> None:
    """Write the image of a packed scan, given as file or by its arrays, as ``SHA256.npz``, uncompressed.

    Its identity is another one than that of the original, because it is not what the preparation makes.
    """
    stored = _arrays(packed, ("range",)) if isinstance(packed, Path) else packed
    low, high, count = (float(v) for v in stored["range"])
    image = Levels(_unboxed(_IMAGE, stored), low, high, int(count)).image()
    scan = {key.removeprefix("scan."): value for key, value in stored.items() if key.startswith("scan.")}
    if _BRAIN in scan:
        scan[_BRAIN] = np.frombuffer(lzma.decompress(scan[_BRAIN].tobytes()), np.uint8)
    scan["identity"] = np.array(digest("packed", str(scan.get("identity", ""))))
    images.mkdir(parents=True, exist_ok=True)
    np.savez(images / f"{sha256}.npz", **{**scan, _IMAGE: image})


def _arrays(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    arrays = load_arrays(path)
    if arrays is None or set(required) - set(arrays):
        problem = "is damaged" if path.exists() else "does not exist"
        raise InputError(f"prepared scan {path} {problem}; run `slant train CONFIG --stages prepare` first")
    return arrays


def _boxed(name: str, array: NDArray[np.uint8]) -> dict[str, Any]:
    """A (X, Y, Z) array cropped to what differs from its first voxel, compressed, with the box and the shape."""
    fill = array.flat[0]
    found = np.argwhere(array != fill)
    start, stop = (found.min(axis=0), found.max(axis=0) + 1) if len(found) else (np.zeros(3, int), np.ones(3, int))
    box = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    data = _bzip2(residuals(box)) if name == _IMAGE else _lzma(box)
    return {f"{name}.data": data, f"{name}.box": np.array([start, stop, array.shape]), f"{name}.fill": np.array(fill)}


def _unboxed(name: str, stored: dict[str, Any]) -> NDArray[np.uint8]:
    start, stop, shape = (tuple(int(n) for n in row) for row in stored[f"{name}.box"])
    size, is_image = tuple(b - a for a, b in zip(start, stop, strict=True)), name == _IMAGE
    data = stored[f"{name}.data"].tobytes()
    box = np.frombuffer(bz2.decompress(data) if is_image else lzma.decompress(data), np.uint8).reshape(size)
    array = np.full(shape, stored[f"{name}.fill"], np.uint8)
    array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = from_residuals(box) if is_image else box
    return array


def _bzip2(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(bz2.compress(array.tobytes()), np.uint8)


def _lzma(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(lzma.compress(array.tobytes(), lzma.FORMAT_XZ, filters=_FILTERS), np.uint8)
