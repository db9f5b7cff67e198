"""Volumes of regions and their sums, and Dice overlap of label maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slant.errors import GeometryError, InputError, ProtocolError
from slant.grid import Matrix
from slant.labels import Hemisphere, LabelProtocol, Region
from slant.volume import LabelMap

Level = Literal["region", "tissue", "lobe", "brain", "intracranial"]

HEAD_LIMITS_CM3: dict[str, tuple[float, float, float, float]] = {
    "brain with ventricles": (600.0, 750.0, 1750.0, 1900.0),
    "eTIV": (750.0, 1000.0, 2000.0, 2200.0),
}
"""Volumes in cm3 of heads from school age on, by abbreviation of their row: impossible below, unusual below, unusual
above, impossible above. They do not come from scans processed by slant. Adults have an intracranial volume of 1106 to
1656 cm3 and a brain of 791 to 1500 cm3 (58 adults; Ricard et al. 2010), or an eTIV of 1106 to 2004 cm3 (150 adults;
Marcus et al. 2010), children of five years a mean intracranial volume of 1200 cm3 (girls) and 1350 cm3 (boys; Sgouros
et al. 1999)."""

_HEAD_NAMES = {"brain with ventricles": "brain", "eTIV": "eTIV"}
_MIN_DETERMINANT = 1e-6  # of an affine; below, it is singular
_SIDE_PREFIXES: dict[str, tuple[str, str]] = {"L": ("Left ", "L-"), "R": ("Right ", "R-"), "both": ("", "")}


@dataclass(frozen=True)
class VolumeRow:
    """Volume of one region or of a group of regions.

    Attributes
    ----------
    level : {"region", "tissue", "lobe", "brain", "intracranial"}
        What the row measures. The level ``brain`` has two rows for each side: without and with the ventricles.
    index : int or None
        Region id; None for groups.
    name, abbreviation : str
        Unique within a level.
    hemisphere : {"L", "R", "midline", "both"}
        ``both`` for sums over left, right and midline; sums over one side exclude the midline.
    tissue, lobe : str
        Tissue and lobe of the region or of all regions of the group; empty where they differ.
    etiv_fraction : float
        Volume divided by the estimated total intracranial volume (eTIV); nan if the eTIV is not known.
    asymmetry_percent : float
        See the function `asymmetry_percent`; the left and the right row have the same value, sign included. nan if
        there is only one side, or if both are empty.
    """

    level: Level
    index: int | None
    name: str
    abbreviation: str
    hemisphere: Hemisphere | Literal["both"]
    tissue: str
    lobe: str
    volume_mm3: float
    etiv_fraction: float
    asymmetry_percent: float


def region_volumes(
    labels: LabelMap, protocol: LabelProtocol, intracranial_mm3: float | None = None
) -> tuple[VolumeRow, ...]:
    """Measure the volumes of all regions, also of absent ones, of tissues, lobes and the brain, and add the eTIV.

    There is a row for every region except the background in order of ids, then the sums for left, right and both.

    Parameters
    ----------
    labels : LabelMap
        Region ids in native space.
    intracranial_mm3 : float, optional
        Estimated total intracranial volume (eTIV), see `intracranial_volume_mm3`. Without it, fractions are nan and the
        row of the eTIV is left out.

    Raises
    ------
    ProtocolError
        If the map contains an id outside the protocol.
    GeometryError
        If the intracranial volume is not positive and finite.
    """
    if intracranial_mm3 is not None and not 0 < intracranial_mm3 < math.inf:
        raise GeometryError(
            f"the estimated total intracranial volume must be positive and finite, found {intracranial_mm3} mm3"
        )
    mm3 = _mm3_of_ids(labels, protocol)
    etiv_mm3 = math.nan if intracranial_mm3 is None else float(intracranial_mm3)
    rows = [*_region_rows(protocol, mm3, etiv_mm3), *_sum_rows(protocol, mm3, etiv_mm3)]
    if intracranial_mm3 is not None:
        name = "estimated total intracranial volume"
        rows.append(VolumeRow("intracranial", None, name, "eTIV", "both", "", "", etiv_mm3, 1.0, math.nan))
    return tuple(rows)


def asymmetry_percent(left_mm3: float, right_mm3: float) -> float:
    """Asymmetry ``100 * (L - R) / (0.5 * (L + R))``: -200 to 200, positive if the left is larger; nan if both are 0."""
    both = left_mm3 + right_mm3
    return 200 * (left_mm3 - right_mm3) / both if both else math.nan


def intracranial_volume_mm3(template_mm3: float, template_from_native: Matrix) -> float:
    """Estimated total intracranial volume (eTIV) in mm3 from the scaling of the affine registration.

    It is the volume of the template divided by the determinant of the (4, 4) affine: the method of the atlas scaling
    factor of Buckner et al. 2004 (NeuroImage 23:724-738).

    Raises
    ------
    GeometryError
        If the affine is singular or not finite.
    """
    finite = bool(np.isfinite(template_from_native).all())
    scaling = abs(float(np.linalg.det(template_from_native[:3, :3]))) if finite else math.nan
    if not scaling > _MIN_DETERMINANT:
        raise GeometryError(f"the determinant of the affine is {scaling:.3g}; it must be invertible to scale a volume")
    return template_mm3 / scaling


def match_volumes(
    tables: Sequence[Sequence[VolumeRow]],
) -> tuple[tuple[VolumeRow, tuple[float, ...]], ...]:
    """Rows of several tables of volumes by level and name, and their volumes in mm3; nan in tables without the row."""
    by_key = [{(row.level, row.name): row for row in table} for table in tables]
    rows = {key: row for table in reversed(by_key) for key, row in table.items()}
    return tuple((row, tuple(t[key].volume_mm3 if key in t else math.nan for t in by_key)) for key, row in rows.items())


def head_volumes_cm3(volumes: Iterable[VolumeRow]) -> dict[str, float]:
    """The volumes that have `HEAD_LIMITS_CM3`, by abbreviation; absent ones are left out."""
    return {row.abbreviation: row.volume_mm3 / 1000 for row in volumes if row.abbreviation in HEAD_LIMITS_CM3}


def head_size_warning(volumes: Iterable[VolumeRow]) -> tuple[str, ...]:
    """A warning if the volume of the brain or the eTIV is one that no head has; empty otherwise."""
    found, small = [], False
    for name, cm3 in head_volumes_cm3(volumes).items():
        low, _, _, high = HEAD_LIMITS_CM3[name]
        if not low <= cm3 <= high:
            found.append(f"{_HEAD_NAMES[name]} of {cm3:.0f} cm3 (expected {low:.0f} to {high:.0f})")
            small = small or cm3 < low
    if not found:
        return ()
    other_cause = ", or part of the brain is missing" if small else ""
    return (
        f"no head has this size: {', '.join(found)}; the voxel size in the header is likely wrong{other_cause}: "
        "compare it with the protocol of the scanner, correct the header and segment the scan again",
    )


def dice_per_region(prediction: LabelMap, reference: LabelMap, ids: Iterable[int]) -> dict[int, float]:
    """Dice overlap ``2 |P and R| / (|P| + |R|)`` by id (Dice 1945), 0 to 1, in the order of the ids without 0.

    It is nan for a region that the reference does not contain, whatever the prediction contains.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not prediction.grid.same_as(reference.grid):
        raise GeometryError(
            f"prediction on a grid of {prediction.grid.shape} is not on the reference's grid of {reference.grid.shape}"
        )
    predicted, expected = _voxel_counts(prediction.data), _voxel_counts(reference.data)
    shared = _voxel_counts(reference.data[reference.data == prediction.data])
    return {
        int(i): 2 * shared.get(i, 0) / (predicted.get(i, 0) + expected[i]) if i in expected else math.nan
        for i in map(int, ids)
        if i != 0
    }


def mean_dice(prediction: LabelMap, reference: LabelMap, ids: Iterable[int]) -> float:
    """Mean of `dice_per_region` over the regions of the reference: the main accuracy measure of the project.

    Raises
    ------
    GeometryError
        If the grids differ.
    InputError
        If the reference contains none of the regions.
    """
    present = [dice for dice in dice_per_region(prediction, reference, ids).values() if not math.isnan(dice)]
    if not present:
        raise InputError(
            "the reference label map contains none of the regions to compare; does it follow another protocol?"
        )
    return sum(present) / len(present)


def _voxel_counts(data: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> dict[int, int]:
    """Number of voxels of every id in the map."""
    ids, counts = np.unique(data, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _mm3_of_ids(labels: LabelMap, protocol: LabelProtocol) -> dict[int, float]:
    """Volume of every region of the protocol except the background; 0 if the region is absent."""
    voxels = _voxel_counts(labels.data)
    unknown = sorted(set(voxels) - set(protocol.ids.tolist()))
    if unknown:
        raise ProtocolError(
            f"{sum(voxels[i] for i in unknown)} voxels have ids outside protocol '{protocol.name}': {unknown}; "
            "use the protocol of the map, or set these voxels to 0"
        )
    return {r.id: voxels.get(r.id, 0) * labels.grid.voxel_volume_mm3 for r in protocol.regions[1:]}


def _region_rows(protocol: LabelProtocol, mm3: dict[int, float], etiv_mm3: float) -> Iterator[VolumeRow]:
    for region in protocol.regions[1:]:
        own, other = mm3[region.id], mm3[protocol.by_name(region.partner_name).id]
        asymmetry = {"L": asymmetry_percent(own, other), "R": asymmetry_percent(other, own)}
        yield VolumeRow(
            "region",
            region.id,
            region.name,
            region.abbreviation,
            region.hemisphere,
            region.tissue,
            region.lobe,
            own,
            own / etiv_mm3,
            asymmetry.get(region.hemisphere, math.nan),
        )


def _sum_rows(protocol: LabelProtocol, mm3: dict[int, float], etiv_mm3: float) -> Iterator[VolumeRow]:
    """Rows for left, right and both of every tissue, every lobe and the brain; a side without regions has no row."""
    for level, name, members in _groups(protocol):
        sides = {"L": [r for r in members if r.hemisphere == "L"], "R": [r for r in members if r.hemisphere == "R"]}
        left, right = (math.fsum(mm3[r.id] for r in sides[side]) for side in ("L", "R"))
        for side, regions in (*sides.items(), ("both", members)):
            if not regions:
                continue
            name_prefix, abbreviation_prefix = _SIDE_PREFIXES[side]
            volume = math.fsum(mm3[r.id] for r in regions)
            yield VolumeRow(
                level,
                None,
                name_prefix + name,
                abbreviation_prefix + name,
                side,  # type: ignore[arg-type]
                _common({r.tissue for r in members}),
                _common({r.lobe for r in members}),
                volume,
                volume / etiv_mm3,
                math.nan if side == "both" else asymmetry_percent(left, right),
            )


def _common(values: set[str]) -> str:
    """The value if there is exactly one, otherwise an empty string."""
    return next(iter(values)) if len(values) == 1 else ""


def _groups(protocol: LabelProtocol) -> Iterator[tuple[Level, str, list[Region]]]:
    """Level, name and regions of every group."""
    for tissue, ids in protocol.groups("tissue").items():
        yield "tissue", tissue, [protocol.by_id(i) for i in ids]
    for lobe, ids in protocol.groups("lobe").items():
        yield "lobe", lobe, [protocol.by_id(i) for i in ids]
    yield "brain", "brain without ventricles", [r for r in protocol.regions[1:] if r.tissue != "csf"]
    yield "brain", "brain with ventricles", list(protocol.regions[1:])
