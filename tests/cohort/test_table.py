"""The table of a cohort: warnings and reasons reach it, and reasons that most scans share are found."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from slant.cohort.dashboard import write_dashboard
from slant.cohort.table import CohortResults, CohortRow, common_reasons, format_table, read_cohort
from slant.engine.job import Job
from slant.engine.layout import OutputLayout
from slant.io.quality import Check, Quality
from slant.io.results import Result, write_results
from slant.report.group_page import DATA, PAGE

NOISE = Check("Noise", "0.2", "review", "the scan is noisy")
SMALL = Check("eTIV", "900 cm³", "review", "small for a head")


def results_of(*problems: tuple[Check, ...] | None) -> CohortResults:
    """Scans with these problems; None for a scan that is not graded."""
    rows = [
        CohortRow(f"s{i}", Path("s"), "" if p is None else "review" if p else "pass", p or (), (), 0.7, 0.5, 0, 1.0, {})
        for i, p in enumerate(problems)
    ]
    return CohortResults(tuple(rows), {})


def test_a_reason_of_most_scans_is_told_once_whatever_its_values() -> None:
    other = replace(NOISE, value="0.9", grade="fail")
    results = results_of((NOISE,), (other, SMALL), (NOISE, SMALL), (SMALL,), ())
    assert common_reasons(results) == (
        "3 of 5 scans: Noise: the scan is noisy",
        "3 of 5 scans: eTIV: small for a head",
    )


@pytest.mark.parametrize(
    "problems",
    [
        ((NOISE,), (NOISE,), ()),  # too few scans
        ((NOISE,), (NOISE,), (), ()),  # not more than half
        ((NOISE,), (NOISE,), (NOISE,), None, None),  # three graded scans
        (),
    ],
)
def test_reasons_of_few_scans_are_not_common(problems: tuple[tuple[Check, ...] | None, ...]) -> None:
    assert common_reasons(results_of(*problems)) == ()


def test_warnings_and_reasons_reach_the_table_and_the_dashboard(tmp_path: Path, result: Result) -> None:
    warning = "the sform and the qform\tdisagree"
    quality = Quality("review", (NOISE,), {}, {}, {}, {}, "")
    for i in range(4):
        named = replace(result, record=replace(result.record, warnings=(warning,), quality=quality), name=f"s{i}")
        write_results(named, tmp_path / f"s{i}", {"overlay": b"a picture"})
    jobs = [Job(f"s{i}", tmp_path / "scan.nii.gz", tmp_path / f"s{i}", f"s{i}") for i in range(4)]
    results = read_cohort(OutputLayout(tmp_path), jobs)
    table = list(csv.DictReader(format_table(results).splitlines(), delimiter="\t"))
    assert [row["warnings"] for row in table] == ["the sform and the qform disagree"] * 4
    assert table[0]["reasons"] == "Noise 0.2: the scan is noisy"
    write_dashboard(tmp_path, results, [])
    assert "the sform and the qform disagree" in (tmp_path / DATA).read_text("utf-8")
    assert "4 of 4 scans: Noise: the scan is noisy" in (tmp_path / PAGE).read_text("utf-8")
    assert math.isnan(results.rows[0].expected_dice)
