"""The numbers of a report: summary, volumes of regions, and sums over tissues and lobes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slant.grid import Grid
from slant.io.quality import RegionQuality
from slant.io.results import Result
from slant.volumes import VolumeRow

MAX_ASYMMETRY_PERCENT = 50.0
"""Absolute asymmetry above which `simple_flags` flags a region."""

LOW_VOTE_FRACTION = 0.5
"""Mean vote fraction below which `simple_flags` flags a region."""

_MIN_OBLIQUE_DEGREES = 0.5  # smaller angles are not reported

_UNKNOWN = RegionQuality()
_INTRACRANIAL = "Intracranial volume (eTIV)"
_NAMES = {
    "gray": "Gray matter",
    "white": "White matter",
    "csf": "Ventricles (CSF)",
    "brain without ventricles": "Brain without ventricles",
    "brain with ventricles": "Brain with ventricles",
    "estimated total intracranial volume": _INTRACRANIAL,
}


@dataclass(frozen=True)
class RegionLine:
    """One region of the table; numbers that are not known are nan.

    Attributes
    ----------
    color : str
        Colour of the look-up table as ``#rrggbb``.
    vote_fraction : float
        Mean vote fraction.
    flag : str
        Flags joined by commas.
    reference_range : tuple of 2 float
        95 % reference range in percent of the intracranial volume.
    """

    row: VolumeRow
    color: str
    vote_fraction: float
    flag: str
    expected_dice: float = math.nan
    reference_range: tuple[float, float] = (math.nan, math.nan)

    @property
    def etiv_percent(self) -> float:
        """Volume in percent of the estimated total intracranial volume."""
        return 100 * self.row.etiv_fraction


@dataclass(frozen=True)
class SumLine:
    """A sum over regions, or a pair of left and right region; nan where a value does not exist.

    Attributes
    ----------
    level, name : str
        Level and name of a sum; lobe and name of a pair.
    etiv_percent : float
        Volume in percent of the estimated total intracranial volume.
    vote_fraction : float
        Lowest mean vote fraction of a pair.
    reference_range : tuple of 2 float
        95 % reference range in percent of the intracranial volume.
    """

    level: str
    name: str
    left_cm3: float
    right_cm3: float
    both_cm3: float
    etiv_percent: float
    asymmetry_percent: float
    vote_fraction: float = math.nan
    flag: str = ""
    reference_range: tuple[float, float] = (math.nan, math.nan)


def region_lines(result: Result, flags: Mapping[int, str] | None = None) -> tuple[RegionLine, ...]:
    """Every region of the protocol with its flag.

    Parameters
    ----------
    flags : mapping of int to str, optional
        Flags by region id; by default those of `simple_flags`.
    """
    vote_fractions = mean_vote_fractions(result)
    flags = simple_flags(result, vote_fractions) if flags is None else flags
    quality = result.quality.regions if result.quality else {}
    rows = (row for row in result.volumes if row.level == "region" and row.index is not None)
    lines = []
    for row in rows:
        i = int(row.index or 0)
        color, own = "#" + bytes(result.protocol.by_id(i).color).hex(), quality.get(i, _UNKNOWN)
        flag, reference_range = flags.get(i, ""), _reference_percent(own)
        lines.append(RegionLine(row, color, vote_fractions[i], flag, own.expected_dice, reference_range))
    return tuple(lines)


def mean_vote_fractions(result: Result) -> dict[int, float]:
    """Mean vote fraction of every region by id; nan for regions that were not found."""
    inside = result.labels.data != 0
    labels = result.labels.data[inside]
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=result.confidence.data[inside])
    found = {int(i): float(sums[i] / counts[i]) for i in np.flatnonzero(counts)}
    return {region.id: found.get(region.id, math.nan) for region in result.protocol.regions[1:]}


def _reference_percent(quality: RegionQuality) -> tuple[float, float]:
    """95 % reference range in percent of the intracranial volume."""
    return 100 * quality.reference_low, 100 * quality.reference_high


def oblique_degrees(grid: Grid) -> float:
    """Largest angle between an axis of the image and the closest scanner axis, in degrees."""
    axes = grid.ras_from_voxel[:3, :3] / np.linalg.norm(grid.ras_from_voxel[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0), -1, 1)).max()))


def simple_flags(result: Result, vote_fractions: Mapping[int, float]) -> dict[int, str]:
    """Flags that need no normative reference: not found, low agreement, asymmetric."""
    flags = {}
    for row in result.volumes:
        if row.level == "region" and row.index is not None:
            conditions = {
                "not found": row.volume_mm3 == 0,
                "low agreement": vote_fractions[row.index] < LOW_VOTE_FRACTION,
                "asymmetric": abs(row.asymmetry_percent) > MAX_ASYMMETRY_PERCENT,
            }
            flags[row.index] = ", ".join(flag for flag, holds in conditions.items() if holds)
    return flags


def sum_lines(result: Result) -> tuple[SumLine, ...]:
    """Volumes of tissues, lobes, the brain and the intracranial volume."""
    lines = []
    quality = result.quality.aggregates if result.quality else {}
    rows = {(row.level, row.name): row for row in result.volumes if row.level != "region"}
    for (level, name), both in rows.items():
        if both.hemisphere != "both":
            continue
        left, right = rows.get((level, f"Left {name}")), rows.get((level, f"Right {name}"))
        lines.append(
            SumLine(
                level,
                _NAMES.get(name, name.capitalize()),
                left.volume_mm3 / 1000 if left else math.nan,
                right.volume_mm3 / 1000 if right else math.nan,
                both.volume_mm3 / 1000,
                100 * both.etiv_fraction,
                left.asymmetry_percent if left else math.nan,
                reference_range=_reference_percent(quality.get(f"{level}:{name}", _UNKNOWN)),
            )
        )
    return tuple(lines)


def pair_lines(lines: tuple[RegionLine, ...]) -> tuple[SumLine, ...]:
    """One line per pair of left and right region, in the order of lobes and names."""
    pairs: dict[str, dict[str, RegionLine]] = {}
    for line in lines:
        name = line.row.name.removeprefix("Left ").removeprefix("Right ")
        pairs.setdefault(name, {})[line.row.hemisphere] = line
    merged = [_pair(name, sides) for name, sides in pairs.items()]
    return tuple(sorted(merged, key=lambda pair: (pair.level, pair.name.lower())))


def _pair(name: str, sides: dict[str, RegionLine]) -> SumLine:
    mm3 = {side: line.row.volume_mm3 for side, line in sides.items()}
    members = list(sides.values())
    short = members[0].row.abbreviation.removeprefix("L-").removeprefix("R-")
    vote_fractions = [line.vote_fraction for line in members if not math.isnan(line.vote_fraction)]
    flags = [f"{side} {line.flag}" if side != "midline" else line.flag for side, line in sides.items() if line.flag]
    return SumLine(
        members[0].row.lobe,
        name.removeprefix(f"{short} "),
        mm3.get("L", math.nan) / 1000,
        mm3.get("R", math.nan) / 1000,
        sum(mm3.values()) / 1000,
        sum(line.etiv_percent for line in members),
        members[0].row.asymmetry_percent,
        min(vote_fractions, default=math.nan),
        "; ".join(flags),
    )


def summary(result: Result, lines: tuple[RegionLine, ...]) -> tuple[str, ...]:
    """Sentences that summarize the results of a scan."""
    sums = {line.name: line for line in sum_lines(result)}
    found = sum(line.row.volume_mm3 > 0 for line in lines)
    all_found = found == len(lines)
    texts = [f"All {found} regions were found." if all_found else f"{found} of {len(lines)} regions were found."]
    brain, intracranial = sums["Brain without ventricles"], sums.get(_INTRACRANIAL)
    percent = f", {brain.etiv_percent:.1f} % of the estimated intracranial volume" if intracranial else ""
    etiv = f" ({intracranial.both_cm3:.0f} cm³)" if intracranial else ""
    texts.append(f"Volume of the brain without ventricles: {brain.both_cm3:.0f} cm³{percent}{etiv}.")
    sizes = " x ".join(f"{edge:.3g}" for edge in result.labels.grid.voxel_size_mm)
    oblique = oblique_degrees(result.labels.grid)
    texts.append(
        f"Voxel size (right, anterior, superior): {sizes} mm"
        + (f", oblique by {oblique:.0f}° to the scanner axes." if oblique >= _MIN_OBLIQUE_DEGREES else ".")
    )
    similarity = result.record.registration_similarity
    if similarity is not None:
        from slant.preprocess.register import MIN_SIMILARITY

        texts.append(
            f"Similarity of the registered scan to the template: {similarity:.2f} "
            f"(typical: 0.4 to 0.7; below {MIN_SIMILARITY:.2f} the scan is rejected)."
        )
    deformation = result.record.deformation
    if deformation is not None:
        before, after = deformation.affine_similarity, deformation.similarity
        low = " This is too low, so the atlas prior was aligned by the affine registration only."
        texts.append(
            f"Local correlation of the scan with the deformed groupwise template: {after:.2f} "
            f"({before:.2f} before deformation)." + ("" if deformation.accepted else low)
        )
    inside = result.confidence.data[result.labels.data != 0]
    if inside.size:
        texts.append(f"Mean vote fraction: {100 * inside.mean(dtype=np.float64):.0f} %.")
    flagged = sum(bool(line.flag) for line in lines)
    if flagged:
        what, them = ("region is", "it") if flagged == 1 else ("regions are", "them")
        texts.append(f"{flagged} {what} flagged; review {them} below.")
    return tuple(texts)
