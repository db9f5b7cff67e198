"""Make the geometry of an image file trustworthy: its grid in mm, the header for results, and warnings.

Terms: a NIfTI header holds up to two *forms*, affines from voxel to RAS+ coordinates: the *sform* as a matrix, the
*qform* as a rotation with the voxel sizes in ``pixdim``. A form with code 0 is not set. The sform is used if it is set
and usable, and otherwise the qform. A form that is set but not usable is damaged; results do not contain it.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slant.errors import GeometryError
from slant.grid import Grid, Matrix, exceeds

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MIN_VOXEL_MM, MAX_VOXEL_MM = 0.05, 5.0
FORMS_AGREE_MM = 0.1  # rounding errors of a float32 quaternion are a hundred times smaller
SIZES_AGREE = 0.01
"""Largest relative difference of two voxel sizes that counts as rounding."""

NO_ORIENTATION = (
    "so left and right are unknown; convert the scan again from DICOM (dcm2niix), copy the geometry of an intact file "
    "(fslcpgeom INTACT SCAN) or, if you are sure of the orientation, set it (fslorient -setsform and -setsformcode 1)"
)

_SFORM = ("srow_x", "srow_y", "srow_z")
_QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_MAX_CODE = 5
_MIN_VOLUME_FRACTION = 1e-3  # volume of a voxel, of the product of its edges; 1 without shear
_MAX_QUATERNION = 1.001  # longer ones are not rounded but damaged
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
_WITHOUT_GEOMETRY = (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0]))  # of NumPy, and of ITK, whose axes are L, P, S


@dataclass(frozen=True, eq=False)
class Geometry:
    """Geometry of an image.

    Attributes
    ----------
    grid : Grid
        In mm, on the axes of the file.
    header : Nifti1Header or Nifti2Header
        Shape, usable forms, their codes and the units of the file, and no other fields.
    warnings : tuple of str
        What was repaired, and what in the header contradicts itself.
    """

    grid: Grid
    header: Nifti1Header
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Form:
    """A form in the units of the file; ``damage`` says why it cannot be used although it is set."""

    name: str
    code: int
    matrix: Matrix
    damage: str

    @property
    def usable(self) -> bool:
        """Whether it is set and not damaged."""
        return self.code > 0 and not self.damage

    @property
    def state(self) -> str:
        """Why it cannot be used."""
        return f"the {self.name} is damaged: {self.damage}" if self.damage else f"the {self.name} is not set"


def geometry_of(header: Nifti1Header) -> Geometry:
    """Grid, header for results, and warnings from the header of a 3D image as it is in the file.

    Lengths are converted to mm from the units in the header.

    Raises
    ------
    GeometryError
        If neither form is usable, or an edge of the voxels is not from `MIN_VOXEL_MM` to `MAX_VOXEL_MM`.
    """
    header = _normalized(header)
    sform, qform = _sform(header), _qform(header)
    used, other = (sform, qform) if sform.usable else (qform, sform)
    if not used.usable:
        raise GeometryError(_no_form(sform, qform))
    mm_per_unit, unit_warnings = _mm_per_unit(header, _sizes(used.matrix))
    ras_from_voxel = np.diag([*[mm_per_unit] * 3, 1.0]) @ used.matrix
    x, y, z = (int(n) for n in header.get_data_shape()[:3])
    grid = usable_grid((x, y, z), ras_from_voxel)
    warnings = (
        *((f"{other.state}; the {used.name} (code {used.code}) is used",) if other.damage else ()),
        *unit_warnings,
        *_contradictions(header, used, other, mm_per_unit),
    )
    return Geometry(grid, _repaired(header, sform, qform), warnings)


def usable_grid(shape: tuple[int, int, int], ras_from_voxel: NDArray[np.float64]) -> Grid:
    """Grid of a scan from the shape of its first three axes and its affine in mm.

    Raises
    ------
    GeometryError
        If the affine is singular or not finite, or an edge is not from `MIN_VOXEL_MM` to `MAX_VOXEL_MM`.
    """
    damage = _damage(ras_from_voxel)
    if damage:
        raise GeometryError(
            f"the affine of the header is damaged: {damage}; convert the scan again from DICOM (dcm2niix) or copy the "
            "header of an intact version (fslcpgeom INTACT SCAN)"
        )
    sizes = _sizes(ras_from_voxel)
    check = "and check that the voxel sizes in the header are right, and in the unit that it gives"
    if exceeds(sizes.max(), MAX_VOXEL_MM):
        raise GeometryError(
            f"voxels of {_text(sizes)} mm are too coarse for these regions, expected at most {MAX_VOXEL_MM:g} mm, "
            f"best 1 mm; use the 3D T1w acquisition, {check}"
        )
    if exceeds(MIN_VOXEL_MM, sizes.min()):
        raise GeometryError(
            f"voxels of {_text(sizes)} mm are too small for a scan of a head, expected at least {MIN_VOXEL_MM:g} mm, "
            f"best 1 mm; use the original scan, {check}"
        )
    return Grid(shape, ras_from_voxel)


def plain_header(shape: tuple[int, ...], ras_from_voxel: NDArray[np.float64], code: int) -> Nifti1Header:
    """A header with this shape and affine in mm, in both forms with the same code."""
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(ras_from_voxel, code)
    header.set_sform(ras_from_voxel, code)
    return header


def _sform(header: Nifti1Header) -> _Form:
    code = int(header["sform_code"])
    matrix = np.asarray(header.get_sform(), dtype=np.float64)
    return _form("sform", code, matrix, _damage(matrix))


def _qform(header: Nifti1Header) -> _Form:
    code, length = int(header["qform_code"]), float(np.linalg.norm(_quaternion(header)))
    if not length <= _MAX_QUATERNION:
        damage = "its quaternion is longer than 1" if length > 1 else "it has values that are not finite"
        return _form("qform", code, np.eye(4), damage)
    matrix = header.get_qform()
    zero = np.min(header["pixdim"][1:4]) == 0
    return _form("qform", code, matrix, "a voxel size in pixdim is 0" if zero else _damage(matrix))


def _normalized(header: Nifti1Header) -> Nifti1Header:
    """A copy with positive ``pixdim``, -1 or 1 as its first value, and no quaternion that is too long by rounding."""
    result: Nifti1Header = header.copy()
    result["pixdim"][:4] = -1.0 if header["pixdim"][0] < 0 else 1.0, *np.abs(header["pixdim"][1:4])
    quaternion = _quaternion(header)
    length, rounding = float(np.linalg.norm(quaternion)), float(np.finfo(header["quatern_b"].dtype).eps)
    if quaternion @ quaternion > 1 + 2 * rounding and length <= _MAX_QUATERNION:  # nibabel allows 3
        for name, value in zip(_QFORM[:3], quaternion / length * (1 - rounding), strict=True):
            result[name] = value
    return result


def _quaternion(header: Nifti1Header) -> NDArray[np.float64]:
    """(3,) the values of the quaternion that are in the header."""
    return np.array([header[name] for name in _QFORM[:3]], dtype=np.float64)


def _form(name: str, code: int, matrix: NDArray[np.float64], damage: str) -> _Form:
    if code > _MAX_CODE:
        damage = f"its code is {code}, expected 0 to {_MAX_CODE}"
    return _Form(name, max(code, 0), np.asarray(matrix, dtype=np.float64), damage if code > 0 else "")


def _damage(matrix: NDArray[np.float64]) -> str:
    """Why a matrix is not the affine of an image; empty if it may be."""
    if not np.isfinite(matrix).all():
        return "it has values that are not finite"
    if not matrix[:3].any():
        return "all of its values are 0"
    edges = float(np.prod(_sizes(matrix)))
    if abs(np.linalg.det(matrix[:3, :3])) <= _MIN_VOLUME_FRACTION * edges:
        return "it is not invertible"
    return ""


def _no_form(sform: _Form, qform: _Form) -> str:
    if not sform.damage and not qform.damage:
        return f"the header has neither sform nor qform (both codes are 0), {NO_ORIENTATION}"
    return f"the header has no usable affine ({sform.state}; {qform.state}), {NO_ORIENTATION}"


def _mm_per_unit(header: Nifti1Header, sizes: NDArray[np.float64]) -> tuple[float, tuple[str, ...]]:
    """Factor from the unit of the header to mm. A unit in which the voxels cannot be is taken for a mistake."""
    name, factor = _UNITS.get(int(header["xyzt_units"]) % 8, ("", 1.0))
    if not name:
        return 1.0, ()
    if _plausible(sizes) and not _plausible(sizes * factor):
        return 1.0, (f"the header gives lengths in {name}, but voxels of {_text(sizes)} can only be mm; mm are used",)
    return factor, (f"the header gives lengths in {name}; they were converted to mm",)


def _plausible(sizes_mm: NDArray[np.float64]) -> bool:
    return not exceeds(sizes_mm.max(), MAX_VOXEL_MM) and not exceeds(MIN_VOXEL_MM, sizes_mm.min())


def _contradictions(header: Nifti1Header, used: _Form, other: _Form, mm_per_unit: float) -> tuple[str, ...]:
    """What the header says twice and differently, or says as a program does that does not know the geometry."""
    warnings = []
    if other.usable:
        distance_mm = mm_per_unit * _corner_distance(used.matrix, other.matrix, header.get_data_shape()[:3])
        if distance_mm > FORMS_AGREE_MM:
            warnings.append(
                f"sform and qform disagree by up to {distance_mm:.1f} mm; the {used.name} (code {used.code}) is used"
            )
    sizes, pixdim = mm_per_unit * _sizes(used.matrix), mm_per_unit * header["pixdim"][1:4].astype(np.float64)
    check = "check the voxel size: all volumes depend on it"
    if not (np.isfinite(pixdim).all() and pixdim.min() > 0):
        if not other.damage:
            warnings.append(f"pixdim has no voxel size; that of the {used.name}, {_text(sizes)} mm, is used; {check}")
    elif np.abs(pixdim / sizes - 1).max() > SIZES_AGREE:
        source = "pixdim and the qform" if other.usable else "pixdim"
        warnings.append(
            f"the header contradicts itself: voxels of {_text(sizes)} mm by the {used.name}, of {_text(pixdim)} mm by "
            f"{source}; the {used.name} is used; {check}"
        )
    if any(np.array_equal(used.matrix, matrix) for matrix in _WITHOUT_GEOMETRY):
        warnings.append(
            "the affine is the identity, as programs write it that do not know the geometry (np.eye(4)): voxels of "
            "1 mm and the orientation are likely wrong, and all volumes depend on them; use the original file"
        )
    return tuple(warnings)


def _repaired(header: Nifti1Header, sform: _Form, qform: _Form) -> Nifti1Header:
    """The geometry of the header without damaged forms and values."""
    result = type(header)()
    result.set_data_shape(header.get_data_shape()[:3])
    result["xyzt_units"] = header["xyzt_units"]
    for form, fields in ((sform, _SFORM), (qform, _QFORM)):
        result[f"{form.name}_code"] = form.code if form.usable else 0
        values = [header[name] for name in fields]
        if not form.damage and all(np.isfinite(value).all() for value in values):
            for name, value in zip(fields, values, strict=True):
                result[name] = value
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        sizes = _sizes(sform.matrix if sform.usable else qform.matrix)
    result["pixdim"][:4] = header["pixdim"][0], *sizes
    return result


def _sizes(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) distances between neighbouring voxel centres."""
    return np.asarray(np.linalg.norm(matrix[:3, :3], axis=0), dtype=np.float64)


def _text(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in sizes)


def _corner_distance(a: Matrix, b: Matrix, shape: tuple[int, ...]) -> float:
    """Largest distance of a corner of the image under two affines."""
    corners = np.indices((2, 2, 2)).reshape(3, 8) * (np.array(shape)[:, None] - 1)
    difference = (a - b) @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(difference[:3], axis=0).max())
