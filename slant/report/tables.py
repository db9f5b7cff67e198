"""The numbers of a page: what to say first, regions, and sums over tissues and lobes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slant.grid import Grid
from slant.io.finished import Finished
from slant.measure import VolumeRow

UNEVEN_PERCENT = 50.0
"""Asymmetry beyond which a region is flagged."""

DIVIDED_SHARE = 0.5
"""Mean share of the votes under which a region is flagged."""

_TURNED = 0.5  # degrees, below which nobody need know

_NAMES = {
    "gray": "Gray matter",
    "white": "White matter",
    "csf": "Ventricles (fluid)",
    "brain without ventricles": "Brain without ventricles",
    "brain with ventricles": "Brain with ventricles",
    "total intracranial volume": "Intracranial volume",
}


@dataclass(frozen=True)
class RegionLine:
    """One region of the table."""

    row: VolumeRow
    color: str
    share: float
    flag: str
    expected_dice: float = math.nan
    usual: tuple[float, float] = (math.nan, math.nan)

    @property
    def tiv_percent(self) -> float:
        """Of the intracranial volume."""
        return 100 * self.row.tiv_fraction


@dataclass(frozen=True)
class SumLine:
    """A sum over regions, or a region with its partner; nan where there is none."""

    level: str
    name: str
    left_cm3: float
    right_cm3: float
    both_cm3: float
    tiv_percent: float
    asymmetry_percent: float
    share: float = math.nan
    flag: str = ""
    usual: tuple[float, float] = (math.nan, math.nan)


def region_lines(finished: Finished, flags: Mapping[int, str] | None = None) -> tuple[RegionLine, ...]:
    """Every region of the protocol with its flag.

    Parameters
    ----------
    finished : Finished
    flags : mapping of int to str, optional
        In a word or two, by region id, what a reader should look at; by default what `simple_flags` finds.
    """
    shares = mean_shares(finished)
    flags = simple_flags(finished, shares) if flags is None else flags
    judged = judged_regions(finished)
    rows = (row for row in finished.volumes if row.level == "region" and row.index is not None)
    return tuple(
        RegionLine(
            row,
            "#" + bytes(finished.protocol.by_id(i).color).hex(),
            shares[i],
            flags.get(i, ""),
            judged.get(str(i), {}).get("expected_dice", math.nan),
            _usual_percent(judged.get(str(i), {})),
        )
        for row in rows
        for i in [int(row.index or 0)]
    )


def mean_shares(finished: Finished) -> dict[int, float]:
    """Mean share of the votes in every region, nan where the region was not found."""
    inside = finished.labels.data != 0
    labels = finished.labels.data[inside]
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=finished.confidence.data[inside])
    return {
        region.id: float(sums[region.id] / counts[region.id])
        if region.id < len(counts) and counts[region.id]
        else math.nan
        for region in finished.protocol.regions[1:]
    }


def judged_regions(finished: Finished) -> dict[str, dict[str, float]]:
    """What the record's quality tells of regions, by id, and of sums, by ``level:name``; nan where nothing is known."""
    judged = finished.record.get("quality")
    if not judged:
        return {}
    rows = judged["regions"] | judged["sums"]
    return {
        key: {
            name: math.nan if value is None else float(value)
            for name, value in zip(judged["columns"], row, strict=True)
        }
        for key, row in rows.items()
    }


def _usual_percent(judged: Mapping[str, float]) -> tuple[float, float]:
    """Percent of the intracranial volume between which good scans lie."""
    return 100 * judged.get("usual_low", math.nan), 100 * judged.get("usual_high", math.nan)


def oblique_degrees(grid: Grid) -> float:
    """Largest angle between an axis of the image and the world's axis that it is closest to."""
    axes = grid.ras_from_voxel[:3, :3] / np.linalg.norm(grid.ras_from_voxel[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0), -1, 1)).max()))


def simple_flags(finished: Finished, shares: Mapping[int, float]) -> dict[int, str]:
    """Flags that need nothing but this scan: not found, sides that differ by half, votes divided."""
    flags = {}
    for row in finished.volumes:
        if row.level == "region" and row.index is not None:
            checks = {
                "not found": row.volume_mm3 == 0,
                "votes divided": shares[row.index] < DIVIDED_SHARE,
                "sides differ": abs(row.asymmetry_percent) > UNEVEN_PERCENT,
            }
            flags[row.index] = ", ".join(text for text, holds in checks.items() if holds)
    return flags


def sum_lines(finished: Finished) -> tuple[SumLine, ...]:
    """Tissues, lobes, the brain and the intracranial space."""
    lines = []
    judged = judged_regions(finished)
    rows = {(row.level, row.name): row for row in finished.volumes if row.level != "region"}
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
                100 * both.tiv_fraction,
                left.asymmetry_percent if left else math.nan,
                usual=_usual_percent(judged.get(f"{level}:{name}", {})),
            )
        )
    return tuple(lines)


def pair_lines(lines: tuple[RegionLine, ...]) -> tuple[SumLine, ...]:
    """A line for each pair of regions, as they are printed, in the order of their lobes and names."""
    pairs: dict[str, dict[str, RegionLine]] = {}
    for line in lines:
        name = line.row.name.removeprefix("Left ").removeprefix("Right ")
        pairs.setdefault(name, {})[line.row.hemisphere] = line
    found = [_pair(name, sides) for name, sides in pairs.items()]
    return tuple(sorted(found, key=lambda pair: (pair.level, pair.name.lower())))


def _pair(name: str, sides: dict[str, RegionLine]) -> SumLine:
    mm3 = {side: line.row.volume_mm3 for side, line in sides.items()}
    own = list(sides.values())
    short = own[0].row.abbreviation.removeprefix("L-").removeprefix("R-")
    shares = [line.share for line in own if not math.isnan(line.share)]
    flags = [f"{side} {line.flag}" if side != "midline" else line.flag for side, line in sides.items() if line.flag]
    return SumLine(
        own[0].row.lobe,
        name.removeprefix(f"{short} "),
        mm3.get("L", math.nan) / 1000,
        mm3.get("R", math.nan) / 1000,
        sum(mm3.values()) / 1000,
        sum(line.tiv_percent for line in own),
        own[0].row.asymmetry_percent,
        min(shares, default=math.nan),
        "; ".join(flags),
    )


def summary(finished: Finished, lines: tuple[RegionLine, ...]) -> tuple[str, ...]:
    """What a reader should know first, in plain words."""
    sums = {line.name: line for line in sum_lines(finished)}
    found = sum(line.row.volume_mm3 > 0 for line in lines)
    texts = [
        f"All {found} regions were found." if found == len(lines) else f"{found} of {len(lines)} regions were found."
    ]
    brain, head = sums["Brain without ventricles"], sums.get("Intracranial volume")
    part = f", {brain.tiv_percent:.1f} % of the intracranial volume ({head.both_cm3:.0f} cm³)" if head else ""
    texts.append(f"The brain without ventricles has {brain.both_cm3:.0f} cm³{part}.")
    sizes = " x ".join(f"{edge:.3g}" for edge in finished.labels.grid.voxel_size_mm)
    turned = oblique_degrees(finished.labels.grid)
    texts.append(
        f"Voxels have {sizes} mm (right, front, up)"
        + (f"; the image is turned by {turned:.0f}° against the world's axes." if turned >= _TURNED else ".")
    )
    similarity = finished.record.get("registration_similarity")
    if similarity is not None:
        from slant.register import LEAST_SIMILARITY

        texts.append(
            f"The scan fits the template with a similarity of {similarity:.2f} "
            f"(heads that fit have 0.4 to 0.7; under {LEAST_SIMILARITY:.2f} a scan is refused)."
        )
    deformation = finished.record.get("deformation")
    if deformation is not None:
        before, after = deformation["affine_similarity"], deformation["similarity"]
        texts.append(
            f"The model's groupwise template, deformed, fits the scan with a local correlation of {after:.2f} "
            f"({before:.2f} before)."
            + (
                ""
                if deformation["accepted"]
                else " That is too little, so the atlas prior was aligned by the affine only."
            )
        )
    inside = finished.confidence.data[finished.labels.data != 0]
    if inside.size:
        texts.append(
            f"On average {100 * inside.mean(dtype=np.float64):.0f} % of the votes agreed with the label that won."
        )
    flagged = [line for line in lines if line.flag]
    if flagged:
        texts.append(f"{len(flagged)} regions have a flag in the table below: look at them.")
    return tuple(texts)
