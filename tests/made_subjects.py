"""Made results of longitudinal studies: subjects whose regions shrink by a known fraction each year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from slant.grid import axis_aligned_grid
from slant.io.record import ModelRecord
from slant.io.resources import load_protocol
from slant.io.subject_record import SubjectRecord, VisitRecord
from slant.io.subject_result import SubjectResult
from slant.io.visit_times import VisitTime
from slant.timing import Timing
from slant.volume import LabelMap, Volume
from slant.volumes import VolumeRow, region_volumes

MODEL = ModelRecord("made", "0" * 64, "CC0")
ETIV_MM3 = 1.5e6


@cache
def region_sizes() -> np.ndarray:
    """Voxels of 1 mm3 of each region except the background."""
    return np.random.default_rng(1).integers(900, 9000, len(load_protocol()) - 1)


def volume_rows(mm3: np.ndarray, etiv_mm3: float | None = ETIV_MM3) -> tuple[VolumeRow, ...]:
    """A table of volumes with these volumes of the regions, rounded to mm3."""
    ids = np.repeat(load_protocol().ids, np.rint([1, *mm3]).astype(int)).astype(np.uint8)
    grid = axis_aligned_grid((len(ids), 1, 1), 1.0, (0, 0, 0))
    return region_volumes(LabelMap(ids.reshape(-1, 1, 1), grid), load_protocol(), etiv_mm3)


def made_subject(
    name: str,
    times: Sequence[VisitTime],
    changes: Mapping[int, float] | None = None,
    *,
    noise_percent: float = 0.0,
    size: float = 1.0,
    seed: int = 0,
    left_out: Sequence[VisitRecord] = (),
    template: Volume | None = None,
) -> SubjectResult:
    """A subject whose regions have ``size`` times the `region_sizes`, and change over the years since the first age.

    Parameters
    ----------
    changes : mapping of int to float, optional
        Change in percent per year by region id; that of the id 0 is for all other regions.
    """
    random = np.random.default_rng(seed)
    percent = np.array([(changes or {}).get(int(i), (changes or {}).get(0, 0.0)) for i in load_protocol().ids[1:]])
    first = min((t.age for t in times if t.age is not None), default=0.0)
    years = [0.0 if t.age is None else t.age - first for t in times]
    noise = [1 + noise_percent / 100 * random.standard_normal(len(percent)) for _ in times]
    tables = [
        volume_rows(size * region_sizes() * (1 + percent / 100 * y) * n) for y, n in zip(years, noise, strict=True)
    ]
    visits = [
        VisitRecord(
            f"{name}_ses-{i}", f"ses-{i}", f"/data/{name}_ses-{i}_T1w.nii.gz", "1" * 64, f"ses-{i}/anat", time, 0.98
        )
        for i, time in enumerate(times, 1)
    ]
    record = SubjectRecord(
        name, (*visits, *left_out), MODEL, {"slant": "0"}, {"model": "made"}, {}, (), (Timing("align", 1.0, 1000.0),)
    )
    grades = tuple(("pass", "review", "fail", "")[i % 4] for i in range(len(times)))
    return SubjectResult(record, tuple(tables), grades, template)
