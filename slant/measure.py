"""Numbers read off a label map: volumes of regions with their sums, or its overlap with another map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slant.errors import GeometryError, InputError, ProtocolError
from slant.grid import Matrix
from slant.labels import Hemisphere, LabelProtocol, Region
from slant.volume import LabelMap

Level = Literal["region", "tissue", "lobe", "brain", "intracranial"]

_SINGULAR = 1e-6  # determinant of an affine that squeezes a head flat
_WORDS: dict[str, tuple[str, str]] = {"L": ("Left ", "L-"), "R": ("Right ", "R-"), "both": ("", "")}


@dataclass(frozen=True)
class VolumeRow:
    """The volume of one region or of several together.

    Attributes
    ----------
    level : {"region", "tissue", "lobe", "brain", "intracranial"}
        What the row measures. Of the brain there are two rows a side, without and with the ventricles.
    index : int or None
        Region id; None for sums.
    name, abbreviation : str
        Unique within a level.
    hemisphere : {"L", "R", "midline", "both"}
        ``both`` for sums over left, right and midline; sums over one side leave the midline out.
    tissue, lobe : str
        Of the region or of all summed regions; empty where they differ.
    volume_mm3 : float
    tiv_fraction : float
        Volume divided by the total intracranial volume; nan where that is not known.
    asymmetry_percent : float
        See `asymmetry_percent`; the same number, sign included, in the left and the right row. nan where there are
        no two sides, or both are empty.
    """

    level: Level
    index: int | None
    name: str
    abbreviation: str
    hemisphere: Hemisphere | Literal["both"]
    tissue: str
    lobe: str
    volume_mm3: float
    tiv_fraction: float
    asymmetry_percent: float


def region_volumes(
    labels: LabelMap, protocol: LabelProtocol, intracranial_mm3: float | None = None
) -> tuple[VolumeRow, ...]:
    """Volumes of all regions, found or not, then of tissues, lobes, the brain and the head's inside.

    Parameters
    ----------
    labels : LabelMap
        Region ids on the scan's own grid.
    protocol : LabelProtocol
    intracranial_mm3 : float, optional
        Total intracranial volume, see `intracranial_volume_mm3`; without it there are no fractions and no such row.

    Returns
    -------
    tuple of VolumeRow
        A row for every region but the background in order of ids, then the sums, each as left, right and both.

    Raises
    ------
    ProtocolError
        If the map holds an id that the protocol does not know.
    GeometryError
        If the intracranial volume is not positive.
    """
    if intracranial_mm3 is not None and not 0 < intracranial_mm3 < math.inf:
        raise GeometryError(f"the total intracranial volume must be positive, found {intracranial_mm3} mm3")
    mm3 = _mm3_of_ids(labels, protocol)
    tiv_mm3 = math.nan if intracranial_mm3 is None else float(intracranial_mm3)
    rows = [*_region_rows(protocol, mm3, tiv_mm3), *_sum_rows(protocol, mm3, tiv_mm3)]
    if intracranial_mm3 is not None:
        name = "total intracranial volume"
        rows.append(VolumeRow("intracranial", None, name, "TIV", "both", "", "", tiv_mm3, 1.0, math.nan))
    return tuple(rows)


def asymmetry_percent(left_mm3: float, right_mm3: float) -> float:
    """``100 * (L - R) / (0.5 * (L + R))``, from -200 to 200, positive if the left is larger; nan if both are 0."""
    both = left_mm3 + right_mm3
    return 200 * (left_mm3 - right_mm3) / both if both else math.nan


def intracranial_volume_mm3(template_mm3: float, template_from_home: Matrix) -> float:
    """The head's total intracranial volume from how much the registration had to scale it.

    Parameters
    ----------
    template_mm3 : float
        Intracranial volume of the template.
    template_from_home : (4, 4) float64 array
        Affine from RAS mm in the scan's space to RAS mm in template space.

    Returns
    -------
    float
        Template volume divided by the affine's determinant, the atlas scaling factor of Buckner et al. 2004
        (NeuroImage 23:724-738).

    Raises
    ------
    GeometryError
        If the affine squeezes space flat or holds nan.
    """
    finite = bool(np.isfinite(template_from_home).all())
    scaling = abs(float(np.linalg.det(template_from_home[:3, :3]))) if finite else math.nan
    if not scaling > _SINGULAR:
        raise GeometryError(f"an affine with determinant {scaling:.3g} cannot scale a volume; it must be invertible")
    return template_mm3 / scaling


def dice_per_region(prediction: LabelMap, truth: LabelMap, ids: Iterable[int]) -> dict[int, float]:
    """Overlap ``2 |P and T| / (|P| + |T|)`` of every region with its truth (Dice 1945).

    Parameters
    ----------
    prediction, truth : LabelMap
        On one grid.
    ids : iterable of int
        Regions to compare; the background, 0, is left out if it is among them.

    Returns
    -------
    dict of int to float
        0 to 1 by id, in the order given; nan where the truth has no such region, whatever the prediction holds.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not prediction.grid.same_as(truth.grid):
        raise GeometryError(
            f"prediction on a grid of {prediction.grid.shape} is not on the truth's grid of {truth.grid.shape}"
        )
    predicted, true = _voxels(prediction.data), _voxels(truth.data)
    shared = _voxels(truth.data[truth.data == prediction.data])
    return {
        int(i): 2 * shared.get(i, 0) / (predicted.get(i, 0) + true[i]) if i in true else math.nan
        for i in map(int, ids)
        if i != 0
    }


def mean_dice(prediction: LabelMap, truth: LabelMap, ids: Iterable[int]) -> float:
    """The yardstick of the project: mean of `dice_per_region` over the regions that the truth has, without background.

    Raises
    ------
    GeometryError
        If the grids differ.
    InputError
        If the truth has none of the regions.
    """
    present = [dice for dice in dice_per_region(prediction, truth, ids).values() if not math.isnan(dice)]
    if not present:
        raise InputError("the true label map holds none of the regions to compare; is it of another protocol?")
    return sum(present) / len(present)


def _voxels(data: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> dict[int, int]:
    """Number of voxels of every id that occurs."""
    ids, counts = np.unique(data, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _mm3_of_ids(labels: LabelMap, protocol: LabelProtocol) -> dict[int, float]:
    """Volume of every region of the protocol but the background, 0 where it does not occur."""
    voxels = _voxels(labels.data)
    unknown = sorted(set(voxels) - set(protocol.ids.tolist()))
    if unknown:
        raise ProtocolError(
            f"{sum(voxels[i] for i in unknown)} voxels have ids outside protocol '{protocol.name}': {unknown}; "
            "measure with the protocol that the map was made with, or set them to 0"
        )
    return {r.id: voxels.get(r.id, 0) * labels.grid.voxel_volume_mm3 for r in protocol.regions[1:]}


def _region_rows(protocol: LabelProtocol, mm3: dict[int, float], tiv_mm3: float) -> Iterator[VolumeRow]:
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
            own / tiv_mm3,
            asymmetry.get(region.hemisphere, math.nan),
        )


def _sum_rows(protocol: LabelProtocol, mm3: dict[int, float], tiv_mm3: float) -> Iterator[VolumeRow]:
    """Left, right and both of every tissue, every lobe and the brain; a side without regions has no row."""
    for level, name, members in _sums(protocol):
        sides = {"L": [r for r in members if r.hemisphere == "L"], "R": [r for r in members if r.hemisphere == "R"]}
        left, right = (math.fsum(mm3[r.id] for r in sides[side]) for side in ("L", "R"))
        for side, regions in (*sides.items(), ("both", members)):
            if not regions:
                continue
            long, short = _WORDS[side]
            volume = math.fsum(mm3[r.id] for r in regions)
            yield VolumeRow(
                level,
                None,
                long + name,
                short + name,
                side,  # type: ignore[arg-type]
                _only({r.tissue for r in members}),
                _only({r.lobe for r in members}),
                volume,
                volume / tiv_mm3,
                math.nan if side == "both" else asymmetry_percent(left, right),
            )


def _only(values: set[str]) -> str:
    """The value if there is just one, else nothing."""
    return next(iter(values)) if len(values) == 1 else ""


def _sums(protocol: LabelProtocol) -> Iterator[tuple[Level, str, list[Region]]]:
    """Level, name and regions of every sum."""
    for tissue, ids in protocol.groups("tissue").items():
        yield "tissue", tissue, [protocol.by_id(i) for i in ids]
    for lobe, ids in protocol.groups("lobe").items():
        yield "lobe", lobe, [protocol.by_id(i) for i in ids]
    yield "brain", "brain without ventricles", [r for r in protocol.regions[1:] if r.tissue != "csf"]
    yield "brain", "brain with ventricles", list(protocol.regions[1:])
