"""Quality of a scan: metrics that detect what they are made for, limits, grades, flags, and the expected Dice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_metrics import IDS, degraded, good

from slant.config import ReportSettings
from slant.errors import ModelError
from slant.io.names import ResultNames
from slant.io.quality import Quality
from slant.io.read_results import read_result
from slant.io.resources import load_protocol
from slant.io.results import Result, write_results
from slant.io.templates import load_template
from slant.quality.fit import LabelledScan, fit_quality, fit_reference, reliability
from slant.quality.grade import evidence, expected_dice, grade, grade_scan
from slant.quality.iqm import (
    measure_quality,
)
from slant.quality.metrics import METRICS, Limits
from slant.quality.reference import (
    FILE,
    NormativeReference,
    load_reference,
    plain_reference,
    reference_of,
)
from slant.report.contents import contents
from slant.report.page import draw_page
from slant.report.pdf import draw_pdf
from slant.report.tables import region_lines

PROTOCOL = load_protocol()
HIPPOCAMPUS = PROTOCOL.by_name("Left Hippocampus").id


@pytest.fixture(scope="module")
def reference() -> NormativeReference:
    return fit_reference([good(seed) for seed in range(24)], "24 simulated scans")


@pytest.fixture(scope="module")
def labelled() -> list[LabelledScan]:
    """Three subjects at four strengths of degradation, whose Dice decreases with the vote fraction."""
    scans = []
    for subject in range(3):
        for strength in (0.0, 0.5, 1.0, 2.0):
            random = np.random.default_rng(subject * 10 + int(2 * strength))
            base = {i: 0.5 + 0.4 * (i % 7) / 7 for i in IDS}
            dice = {i: b - 0.15 * strength + 0.02 * random.standard_normal() for i, b in base.items()}
            scans.append(LabelledScan(degraded(100 + subject, strength), dice, f"subject {subject}", not strength))
    return scans


@pytest.fixture(scope="module")
def with_rule(labelled: list[LabelledScan]) -> NormativeReference:
    return fit_quality([good(seed) for seed in range(24)], labelled, "24 simulated scans").reference


# Metrics


# Limits and grades


def test_good_scans_pass_their_own_limits(reference: NormativeReference) -> None:
    assert {grade_scan(good(seed), reference, PROTOCOL).grade for seed in range(24)} == {"pass"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("registration_similarity", 0.30, "review"),
        ("registration_similarity", 0.05, "fail"),
        ("registration_similarity", 0.9, "pass"),
        ("missing_regions", 2, "review"),
        ("missing_regions", 40, "fail"),
        ("wm_gm_contrast", -0.3, "fail"),
        ("noise", 0.5, "review"),
        ("cjv", 5.0, "review"),
        ("brain_volume", 1543.0, "pass"),
        ("brain_volume", 1800.0, "review"),
        ("brain_volume", 2006.0, "fail"),
        ("etiv", 2313.0, "fail"),
        ("etiv", 600.0, "fail"),
        ("mask_at_image_border", 30.0, "fail"),
        ("asymmetric_hypointensity", 24.0, "review"),
        ("registration_similarity", math.nan, "review"),
    ],
)
def test_one_bad_metric_determines_the_grade_and_gives_its_reason(
    reference: NormativeReference, name: str, value: float, expected: str
) -> None:
    scan = {**good(5).scan, name: value}
    quality = grade_scan(replace(good(5), scan=scan), reference, PROTOCOL)
    assert quality.grade == expected
    if expected != "pass":
        assert [check.label for check in quality.checks if check.grade != "pass"] == [METRICS[name].label]
        assert quality.reasons[0].startswith(METRICS[name].label)
        assert quality.checks[0].reason


def test_regions_are_flagged_for_volume_asymmetry_fragmentation_and_absence(reference: NormativeReference) -> None:
    metrics = good(5)
    changed = replace(
        metrics,
        fractions={**metrics.fractions, 4: 0.04, 11: 0.0, HIPPOCAMPUS: 0.0004},
        asymmetries={**metrics.asymmetries, HIPPOCAMPUS: -120.0},
        fragmentation={**metrics.fragmentation, 35: 0.4},
    )
    flags = grade_scan(changed, reference, PROTOCOL).flags
    partner = PROTOCOL.by_name("Right Hippocampus").id
    assert flags == {
        4: "large", 11: "not found", HIPPOCAMPUS: "small, asymmetric", partner: "asymmetric", 35: "fragmented"
    }  # fmt: skip


def test_limits_can_be_one_sided() -> None:
    assert Limits(1.0, low_review=0.5).grade(99) == "pass"
    assert Limits(1.0, low_review=0.5).grade(0.4) == "review"
    assert Limits(1.0, 0.2, 0.5).grade(0.1) == "fail"


def test_a_reference_survives_a_round_trip_through_json(with_rule: NormativeReference) -> None:
    plain = json.loads(json.dumps(plain_reference(with_rule)))
    again = reference_of(plain, "here")
    assert grade_scan(degraded(3, 1), again, PROTOCOL).grade == grade_scan(degraded(3, 1), with_rule, PROTOCOL).grade
    assert plain_reference(again) == plain


@pytest.mark.parametrize("missing", ["about", "limits", "volumes"])
def test_the_error_names_a_damaged_reference_file(tmp_path: Path, with_rule: NormativeReference, missing: str) -> None:
    plain = plain_reference(with_rule)
    del plain[missing]
    (tmp_path / FILE).write_text(json.dumps(plain), "utf-8")
    with pytest.raises(ModelError, match=r"quality.json cannot be used"):
        load_reference(str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"quality.json cannot be read"):
        load_reference(str(tmp_path / "other"))


# Expected Dice


def test_expected_dice_is_close_to_the_measured_dice(
    with_rule: NormativeReference, labelled: list[LabelledScan]
) -> None:
    for scan in labelled:
        expected = expected_dice(scan.metrics, with_rule)
        assert np.mean([abs(expected[i] - scan.dice[i]) for i in IDS]) < 0.06


def test_no_evidence_raises_the_expected_dice(with_rule: NormativeReference) -> None:
    assert with_rule.dice is not None
    assert all(weight <= 0 for weight in with_rule.dice.weights.values())
    metrics = np.mean(list(expected_dice(degraded(4, 0), with_rule).values()))
    assert np.mean(list(expected_dice(degraded(4, 2), with_rule).values())) < metrics - 0.1


def test_the_expected_dice_of_an_absent_region_is_zero(with_rule: NormativeReference) -> None:
    metrics = good(5)
    assert expected_dice(replace(metrics, fractions={**metrics.fractions, 4: 0.0}), with_rule)[4] == 0


def test_reliability_is_computed_on_subjects_left_out_of_the_fit(
    reference: NormativeReference, labelled: list[LabelledScan]
) -> None:
    found = reliability(reference, labelled)
    assert sum(one.regions for one in found.bins) == len(labelled) * len(IDS)
    assert found.calibration < 0.06
    assert found.absolute < 0.08
    different = [
        replace(scan, dice={i: 1 - d for i, d in scan.dice.items()}) if scan.subject == "subject 0" else scan
        for scan in labelled
    ]
    assert reliability(reference, different).absolute > 2 * found.absolute


def test_without_a_dice_rule_no_dice_is_expected(reference: NormativeReference) -> None:
    quality = grade_scan(good(5), reference, PROTOCOL)
    assert expected_dice(good(5), reference) == {}
    assert all(math.isnan(entry.expected_dice) for entry in quality.regions.values())
    assert quality.plain()["regions"]["4"][0] is None


def test_evidence_only_counts_on_the_adverse_side(reference: NormativeReference) -> None:
    metrics = good(5)
    better = replace(metrics, scan={**metrics.scan, "registration_similarity": 0.9, "noise": 0.0})
    row = evidence(4, better, reference)
    assert row["scan:registration_similarity"] == row["scan:noise"] == 0
    worse = replace(metrics, scan={**metrics.scan, "registration_similarity": 0.2, "noise": 0.9})
    row = evidence(4, worse, reference)
    assert row["scan:registration_similarity"] == row["scan:noise"] == 8


# Results of a run


@pytest.fixture
def quality(result: Result, with_rule: NormativeReference) -> Quality:
    return grade_scan(measure_quality(result, load_template()), with_rule, result.protocol)


def test_the_grade_is_in_the_record_the_table_and_the_report(
    tmp_path: Path, result: Result, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded = replace(result, record=replace(result.record, quality=quality))
    write_results(graded, tmp_path, {"overlay": b"a picture"})
    names = ResultNames(result.name)
    record = json.loads((tmp_path / names.record).read_text("utf-8"))
    assert record["quality"] == quality.plain()
    header, *lines = (tmp_path / names.volumes).read_text("utf-8").splitlines()
    assert header.split("\t")[-4:] == ["expected_dice", "volume_z", "reference_low", "reference_high"]
    regions = [line.split("\t") for line in lines if line.startswith("region")]
    assert float(regions[0][-4]) == quality.regions[int(regions[0][1])].expected_dice
    assert lines[-1].split("\t")[-1] == "n/a"
    again = read_result(tmp_path / names.record)
    assert again.quality is not None
    assert again.quality.regions[4] == quality.regions[4]
    expected = {r.row.index: r.expected_dice for r in region_lines(again)}
    assert expected[4] == quality.regions[4].expected_dice
    monkeypatch.setattr("slant.report.page.viewer", lambda _: _Empty())
    shown = replace(contents(again, ReportSettings()), native=(), mni=(), registration=(), votes=(), bias=None)
    assert shown.grade == quality.grade == "fail"  # the toy head is not a real head
    html = draw_page(shown).decode()
    assert "Grade: fail" in html
    assert "Expected Dice" in html
    assert draw_pdf(shown).startswith(b"%PDF")


class _Empty:
    image = labels = niivue = ""


@pytest.mark.slow
def test_a_model_without_a_reference_gives_no_grade(tmp_path: Path, result: Result) -> None:
    assert grade(result, str(tmp_path)) is None
    html = draw_page(contents(result, ReportSettings())).decode()
    assert "Grade: " not in html
    assert "Expected Dice" not in html
