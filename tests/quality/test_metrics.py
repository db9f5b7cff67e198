"""Which metrics can fail a scan, and the limits of the size of a head."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_metrics import good

from slant.io.resources import load_protocol
from slant.quality.fit import fit_reference
from slant.quality.grade import grade_scan
from slant.quality.metrics import METRICS, Limits
from slant.quality.reference import load_reference, plain_reference

PROTOCOL = load_protocol()
FAIL = {
    "registration_similarity",
    "template_overlap",
    "brain_volume",
    "etiv",
    "anisotropic_scaling",
    "mask_at_image_border",
    "wm_gm_contrast",
    "gm_csf_contrast",
    "missing_regions",
    "asymmetry_outliers",
    "expected_dice",
}
COUNTED = {"volume_outliers", "asymmetry_outliers", "expected_dice"}
NOISY_2MM = {  # a scan whose labels were as good as expected: only its image quality was far from the reference
    "noise": 1.09,
    "cjv": 1.3,
    "bright_mask_border": 12.4,
}


def test_only_what_shows_that_labels_cannot_be_used_can_fail_a_scan() -> None:
    assert {name for name, meaning in METRICS.items() if meaning.decisive} == FAIL


def test_the_docs_say_of_every_metric_whether_it_can_fail_a_scan() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/quality.md").read_text("utf-8")
    table = page.split("### Which metrics can fail a scan")[1].split("###")[0]
    told = {}
    for names, worst in re.findall(r"^\| (`.*?) \| (fail|review) \|", table, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), worst)
    assert told == {name: "fail" if meaning.decisive else "review" for name, meaning in METRICS.items()}


@pytest.mark.parametrize("model", ["whole", "slant27", "slant8"])
def test_an_extreme_value_fails_only_with_a_decisive_metric(model: str) -> None:
    reference = load_reference(model)
    assert reference is not None
    for name, meaning in METRICS.items():
        limits = meaning.fixed or reference.limits.get(name, Limits(0.0))
        beyond = [limits.low_fail is not None and limits.low_fail - 1, limits.high_fail and limits.high_fail + 1]
        for value in filter(None, beyond):
            assert meaning.grade(value, limits) == ("fail" if meaning.decisive else "review"), name


@pytest.mark.parametrize("model", ["whole", "slant27", "slant8"])
def test_image_quality_alone_never_fails_a_scan(model: str) -> None:
    reference, metrics = load_reference(model), good(1)
    assert reference is not None
    limits = {name: limit for name, limit in reference.limits.items() if name not in COUNTED}
    quality = grade_scan(
        replace(metrics, scan={**metrics.scan, **NOISY_2MM}), replace(reference, limits=limits), PROTOCOL
    )
    assert quality.grade == "review"


@pytest.mark.parametrize(
    ("name", "cm3", "text"),
    [("brain_volume", 2006, "Brain with ventricles 2006 cm³"), ("etiv", 2313, "(eTIV) 2313 cm³")],
)
def test_a_head_of_an_impossible_size_fails_and_the_voxel_size_is_named(name: str, cm3: float, text: str) -> None:
    reference = fit_reference([good(seed) for seed in range(8)], "8 simulated scans")
    quality = grade_scan(replace(good(9), scan={**good(9).scan, name: float(cm3)}), reference, PROTOCOL)
    assert quality.grade == "fail"
    assert len(quality.problems) == 1
    assert text in quality.reasons[0]
    assert "the voxel size in the header is likely wrong" in quality.reasons[0]


def test_limits_of_the_size_of_a_head_do_not_come_from_the_reference_scans() -> None:
    large = [replace(good(seed), scan={**good(seed).scan, "brain_volume": 3000.0, "etiv": 4000.0}) for seed in range(8)]
    reference = fit_reference(large, "8 impossible heads")
    assert not {"brain_volume", "etiv"} & {
        *plain_reference(reference)["limits"],
        *plain_reference(reference)["metrics"],
    }
    assert grade_scan(large[0], reference, PROTOCOL).grade == "fail"
