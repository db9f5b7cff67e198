"""Scans of the kinds that users report, made from an untouched scan: intensities, headers and masks. See field.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from field_inputs import (
    FULL_HEAD,
    SKULL_STRIPPED,
    Array,
    Base,
    Expected,
    FieldInput,
    Image,
    Made,
    Matrix,
    failed_grade,
    nifti_bytes,
    plain_header,
    refused,
    same,
    segment,
    voxels,
    write_scan,
)
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

VOXELS = r"\b\d+ voxel"
"""A message with a number of voxels."""


def z_scored(base: Base, inside: NDArray[np.bool_], background: float | None = None) -> Image:
    """Intensities with mean 0 and SD 1 in a mask; the others alike or, if given, constant."""
    data = (base.data - base.data[inside].mean()) / base.data[inside].std()
    return (data if background is None else np.where(base.brain, data, background)).astype(np.float32)


def absurd(base: Base, factor: float, count: int = 30) -> Image:
    """Single voxels of the brain at a multiple of the maximum."""
    data = base.data
    data.flat[base.random.choice(np.flatnonzero(base.brain), count, replace=False)] = factor * data.max()
    return data


def background(base: Base, value: float | Image) -> Image:
    """Another background of a skull-stripped scan."""
    return np.where(base.brain, base.data, value).astype(np.float32)


def noisy(base: Base, folder: Path) -> Made:
    """2 mm voxels with Rician noise of 6 % of the brain's intensity."""
    data, affine = resampled(base, base.affine @ np.diag([*(2 / np.linalg.norm(base.affine[:3, :3], axis=0)), 1.0]))
    sigma = 0.06 * float(np.median(base.data[base.brain]))
    real, imaginary = sigma * base.random.standard_normal((2, *data.shape))
    write_scan(folder / "scan.nii.gz", plain_header(affine), np.hypot(data + real, imaginary).astype(np.float32))
    return Made(segment(), "scan.nii.gz", same_voxels=False)


def resampled(base: Base, affine: Matrix) -> tuple[Image, Matrix]:
    """The means over larger voxels of a grid with this rotation and voxel size, that covers the field of view."""
    old, new = (np.linalg.norm(a[:3, :3], axis=0) for a in (base.affine, affine))
    mean = ndimage.uniform_filter(base.data, [2 * round((n / o - 1) / 2) + 1 for n, o in zip(new, old, strict=True)])
    shape = np.ceil(np.array(base.stored.shape) * old / new).astype(int)
    center = base.affine[:3, :3] @ ((np.array(base.stored.shape) - 1) / 2) + base.affine[:3, 3]
    affine = affine.copy()
    affine[:3, 3] = center - affine[:3, :3] @ ((shape - 1) / 2)
    matrix = np.linalg.inv(base.affine) @ affine
    data = ndimage.affine_transform(mean, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=1)
    return data.astype(np.float32), affine


def oblique_thick(base: Base, folder: Path) -> Made:
    """Oblique voxels of 1.5 x 1.5 x 5.0000001 mm, as from slices of 5 mm."""
    rotation = Rotation.from_euler("xyz", (8, 5, -4), degrees=True).as_matrix()
    wanted = np.eye(4)
    wanted[:3, :3] = rotation @ np.diag([1.5, 1.5, 5.0000006])
    data, affine = resampled(base, wanted)
    write_scan(folder / "scan.nii.gz", plain_header(affine), data)
    return Made(segment(), "scan.nii.gz", same_voxels=False)


def header(
    edit: Callable[[nib.Nifti1Header], object], suffix: str = ".nii.gz", *, repaired: bool = False
) -> Callable[[Base, Path], Made]:
    """Makes inputs with an edited header; the labels have the untouched affine if slant must repair it."""

    def make(base: Base, folder: Path) -> Made:
        changed = base.header.copy()
        edit(changed)
        write_scan(folder / f"scan{suffix}", changed, base.stored)
        return Made(segment(f"scan{suffix}"), f"scan{suffix}", affine=base.affine if repaired else None)

    return make


def set_forms(header: nib.Nifti1Header, sform: float | None, qform: float | None = None) -> None:
    """Fill the rows of the sform, or the quaternion, with one value; their codes stay above 0."""
    header.set_qform(header.get_best_affine(), 1)
    header.set_sform(header.get_best_affine(), 1)
    for value, fields in ((sform, ("srow_x", "srow_y", "srow_z")), (qform, ("quatern_b", "quatern_c", "quatern_d"))):
        for field in fields if value is not None else ():
            header[field] = value


def scale_forms(header: nib.Nifti1Header, factor: float, unit: str) -> None:
    """Lengths of both forms times a factor, in that unit."""
    affine = np.diag([factor, factor, factor, 1]) @ header.get_best_affine()
    header.set_xyzt_units(unit, "sec")
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)


def set_affine(header: nib.Nifti1Header, voxel_mm: float, pixdim_mm: float) -> None:
    """An sform with other voxel sizes than pixdim, and no qform."""
    affine = header.get_best_affine()
    header.set_sform(affine @ np.diag([*(voxel_mm / np.linalg.norm(affine[:3, :3], axis=0)), 1]), 1)
    header["qform_code"], header["pixdim"][1:4] = 0, pixdim_mm


def identity(header: nib.Nifti1Header) -> None:
    """What nibabel writes for ``np.eye(4)``."""
    header.set_sform(np.eye(4), 2)
    header["qform_code"], header["pixdim"][1:4] = 0, 1


def without_forms(header: nib.Nifti1Header) -> None:
    """The codes of both forms 0."""
    header["qform_code"] = header["sform_code"] = 0


def without_offset(base: Base, folder: Path) -> Made:
    """An uncompressed file whose header says that the voxels begin at byte 0."""
    content = bytearray(nifti_bytes(base.header, base.stored))
    content[108:112] = bytes(4)
    (folder / "scan.nii").write_bytes(content)
    return Made(segment("scan.nii"), "scan.nii", affine=base.affine)


def nifti2(base: Base, folder: Path) -> Made:
    """Big-endian NIfTI-2 of 16-bit integers with slope and intercept, on axes P, S, R."""
    turn = ornt_transform(io_orientation(base.affine), axcodes2ornt("PSR"))
    affine = base.affine @ inv_ornt_aff(turn, base.stored.shape)
    changed = nib.Nifti2Header(endianness=">")
    changed.set_xyzt_units("mm")
    changed.set_sform(affine, 1)
    changed.set_qform(affine, 1)
    changed["scl_slope"], changed["scl_inter"] = 0.05, -300
    stored = np.rint((apply_orientation(base.data, turn) * 255 / base.data.max() + 300) / 0.05)
    write_scan(folder / "scan.nii.gz", changed, stored.astype(np.uint16))
    return Made(segment(), "scan.nii.gz", same_voxels=False)


def head(base: Base) -> NDArray[np.bool_]:
    """The head in the air of a full head."""
    bright = ndimage.binary_opening(base.data > 0.1 * np.median(base.data[base.brain]))
    components, _ = ndimage.label(bright)
    largest = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(largest, iterations=3)) | base.brain)


def defaced(base: Base, most_cm3: float) -> Image:
    """A full head (axes R, A, S) without face and neck, air exactly 0, cropped near the brain to that volume."""
    voxel_mm = np.linalg.norm(base.affine[:3, :3], axis=0)
    distance_mm = ndimage.distance_transform_edt(~base.brain, sampling=voxel_mm)
    low, high = (np.argwhere(base.brain).min(0), np.argwhere(base.brain).max(0))
    _, y, z = np.indices(base.stored.shape, sparse=True)
    face = (z < (low[2] + high[2]) / 2) & (y > low[1] + 0.6 * (high[1] - low[1])) & (distance_mm > 5)
    kept = head(base) & ~face & (z > low[2] - 10 / voxel_mm[2])
    inside = np.sort(distance_mm[kept])
    count = min(inside.size - 1, int(most_cm3 * 1000 / np.prod(voxel_mm)))
    return np.where(kept & (distance_mm <= inside[count]), np.maximum(base.data, 1), 0).astype(np.float32)


def specks(base: Base, count: int, size: int) -> Image:
    """Specks of tissue left outside the brain of a skull-stripped scan."""
    outside = np.argwhere(ndimage.distance_transform_edt(~base.brain) > 8 + size)
    data = base.data
    for x, y, z in base.random.choice(outside, count, replace=False):
        data[x : x + size, y : y + size, z : z + size] = np.median(base.data[base.brain])
    return data


def far_voxel(base: Base) -> Image:
    """A skull-stripped scan with one bright voxel in the corner."""
    data = base.data
    data[1, 1, 1] = data.max()
    return data


_SAME = same(0.95)
_INTENSITIES: dict[str, tuple[str, Callable[[Base], Array], *tuple[Expected, ...]]] = {
    "z-scored-brain": (SKULL_STRIPPED, lambda b: z_scored(b, b.brain, 0.0), _SAME),
    "z-scored-all": (SKULL_STRIPPED, lambda b: z_scored(b, np.ones_like(b.brain)), _SAME),
    "minus-1024": (SKULL_STRIPPED, lambda b: b.data - 1024, _SAME),
    "minus-1024-head": (FULL_HEAD, lambda b: b.data - 1024, _SAME),
    "z-scored-head": (FULL_HEAD, lambda b: z_scored(b, np.ones_like(b.brain)), _SAME),
    "plus-100": (FULL_HEAD, lambda b: b.data + 100, _SAME),
    "plus-1000": (FULL_HEAD, lambda b: b.data + 1000, _SAME),
    "minus-1-to-1": (FULL_HEAD, lambda b: 2 * b.data / b.data.max() - 1, _SAME),
    "absurd-39x": (FULL_HEAD, lambda b: absurd(b, 39), same(0.95, VOXELS)),
    "absurd-392x": (FULL_HEAD, lambda b: absurd(b, 392), same(0.95, VOXELS)),
    "absurd-39x-stripped": (SKULL_STRIPPED, lambda b: absurd(b, 39), same(0.95, VOXELS)),
    "negative-spikes": (SKULL_STRIPPED, lambda b: absurd(b, -20), same(0.95, VOXELS)),
    "background-minus-1000": (SKULL_STRIPPED, lambda b: background(b, -1000), _SAME),
    "background-nan": (SKULL_STRIPPED, lambda b: background(b, np.nan), same(0.95, "NaN")),
    "background-near-0": (
        SKULL_STRIPPED,
        lambda b: background(b, 1e-3 * b.random.standard_normal(b.brain.shape).astype(np.float32)),
        _SAME,
    ),
    "padding-minus-2000": (
        FULL_HEAD,
        lambda b: np.where(np.indices(b.brain.shape, sparse=True)[0] < 12, -2000, b.data).astype(np.float32),
        _SAME,
    ),
    "times-1e-4": (SKULL_STRIPPED, lambda b: b.data * np.float32(1e-4), _SAME),
    "times-1e6": (FULL_HEAD, lambda b: b.data * np.float32(1e6), _SAME),
    "8-bit": (SKULL_STRIPPED, lambda b: np.rint(b.data * (255 / b.data.max())).astype(np.uint8), _SAME),
}

_HEADERS: dict[str, tuple[str, Callable[[Base, Path], Made], Expected]] = {
    "sform-1-mm": (FULL_HEAD, header(lambda h: set_affine(h, 1.0, 0.88)), failed_grade("pixdim|voxel size")),
    "identity-affine": (FULL_HEAD, header(identity), failed_grade("identity")),
    "oblique-5.0000001-mm": (FULL_HEAD, oblique_thick, same(0.75, etiv=0.04)),
    "sform-zero": (FULL_HEAD, header(lambda h: set_forms(h, 0.0), repaired=True), same(0.99, "sform")),
    "sform-nan": (FULL_HEAD, header(lambda h: set_forms(h, np.nan), repaired=True), same(0.99, "sform")),
    "metres": (FULL_HEAD, header(lambda h: scale_forms(h, 1e-3, "meter")), same(0.95)),
    "no-offset": (FULL_HEAD, without_offset, same(0.99, "offset")),
    "qform-nan": (FULL_HEAD, header(lambda h: set_forms(h, None, np.nan), repaired=True), same(0.99, "qform")),
    "micrometres": (FULL_HEAD, header(lambda h: scale_forms(h, 1e3, "micron")), same(0.95)),
    "pixdim-2-mm": (FULL_HEAD, header(lambda h: set_affine(h, 0.88, 2.0)), same(0.99, "pixdim|voxel size")),
    "nifti2-big-endian-psr": (FULL_HEAD, nifti2, same(0.95)),
    "both-forms-bad": (FULL_HEAD, header(lambda h: set_forms(h, 0.0, np.nan)), refused("sform|qform")),
    "no-forms": (FULL_HEAD, header(without_forms), refused("sform", "qform")),
    "centimetres-as-mm": (FULL_HEAD, header(lambda h: scale_forms(h, 0.1, "mm")), refused("mm|cm3")),
    "metres-as-mm": (FULL_HEAD, header(lambda h: scale_forms(h, 1e-3, "mm")), refused("mm|cm3")),
    "ten-times": (FULL_HEAD, header(lambda h: scale_forms(h, 10.0, "mm")), refused("mm")),
}

_MASKS: dict[str, tuple[str, Callable[[Base, Path], Made], Expected]] = {
    "defaced": (FULL_HEAD, voxels(lambda b: defaced(b, 10_000)), same(0.93)),
    "defaced-tight": (FULL_HEAD, voxels(lambda b: defaced(b, 2200)), same(0.93)),
    "speckles": (SKULL_STRIPPED, voxels(lambda b: specks(b, 800, 3)), same(0.90)),
    "far-voxel": (SKULL_STRIPPED, voxels(far_voxel), same(0.95)),
    "noise-voxels": (SKULL_STRIPPED, voxels(lambda b: specks(b, 5000, 1)), same(0.90)),
    "wrong-option-stripped": (FULL_HEAD, voxels(lambda b: b.stored, "--skull-stripped"), refused("skull-stripped")),
    "wrong-option-head": (SKULL_STRIPPED, voxels(lambda b: b.stored, "--no-skull-stripped"), same(0.90, etiv=0.05)),
}

INPUTS: tuple[FieldInput, ...] = (
    *(FieldInput("intensities", n, base, voxels(change), tuple(e)) for n, (base, change, *e) in _INTENSITIES.items()),
    FieldInput("intensities", "noisy-2-mm", FULL_HEAD, noisy, (same(0.6, etiv=0.05),)),
    *(FieldInput("headers", n, base, make, (e,)) for n, (base, make, e) in _HEADERS.items()),
    *(FieldInput("masks", n, base, make, (e,)) for n, (base, make, e) in _MASKS.items()),
)
