"""The grade of a scan: measures that see what they are for, limits, flags, and the Dice to expect."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import voted_run

from slant.config import PageSettings
from slant.errors import ModelError
from slant.grid import Grid
from slant.io.finished import Finished, finished_of, read_finished
from slant.io.resources import load_protocol
from slant.io.results import ResultNames, write_results
from slant.io.templates import load_template
from slant.quality.files import FILE, grade, load_reference
from slant.quality.fit import Truth, fit_dice, fit_reference, reliability
from slant.quality.grade import Quality, evidence, expected_dice, judge, plain_quality
from slant.quality.measures import (
    Measures,
    border_share,
    dark_cm3,
    fragments,
    measure,
    native_noise,
    strange_cm3,
    stretch,
    tilt_degrees,
)
from slant.quality.reference import MEASURES, Limits, Reference, plain_reference, reference_of
from slant.report.page import contents, draw_page
from slant.report.pdf import draw_pdf
from slant.report.tables import region_lines
from slant.volume import LabelMap, Volume

PROTOCOL = load_protocol()
IDS = [region.id for region in PROTOCOL.regions[1:]]
LEFT = [region.id for region in PROTOCOL.regions[1:] if region.hemisphere == "L"]
HIPPOCAMPUS = PROTOCOL.by_name("Left Hippocampus").id


@pytest.fixture(scope="module")
def finished() -> Finished:
    return finished_of(voted_run())


def good(seed: int) -> Measures:
    """Measures as a good scan has them."""
    random = np.random.default_rng(seed)
    middles = {
        "similarity": 0.55, "tilt": 10, "head": -0.2, "stretch": 1.15, "votes": 0.93, "missing": 0, "fragments": 0.4,
        "cut": 0, "brain": 8, "overlap": 0.93, "contrast": 0.35, "joint variation": 0.62, "fluid": 0.34, "noise": 0.05,
        "rim": 1.2, "lesion": 0.3, "dark": 0.1,
    }  # fmt: skip
    scan = {name: float(value * (1 + 0.05 * random.standard_normal())) for name, value in middles.items()}
    fractions = {i: float(0.004 * np.exp(0.1 * random.standard_normal())) for i in IDS}
    sides = {i: float(5 * random.standard_normal()) for i in LEFT}
    shares = {i: float(0.9 + 0.01 * random.standard_normal()) for i in IDS}
    return Measures(scan, fractions, sides, shares, dict.fromkeys(IDS, 0.01))


def spoilt(seed: int, strength: float) -> Measures:
    """The same with less agreement and fit."""
    fine = good(seed)
    scan = {**fine.scan, "similarity": fine.scan["similarity"] - 0.1 * strength}
    shares = {i: share - 0.04 * strength for i, share in fine.shares.items()}
    return replace(fine, scan=scan, shares=shares)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return fit_reference([good(seed) for seed in range(24)], "24 invented scans")


@pytest.fixture(scope="module")
def truths() -> list[Truth]:
    """Three people whose Dice falls with agreement, at four strengths."""
    found = []
    for person in range(3):
        for strength in (0.0, 0.5, 1.0, 2.0):
            random = np.random.default_rng(person * 10 + int(2 * strength))
            base = {i: 0.5 + 0.4 * (i % 7) / 7 for i in IDS}
            dice = {i: b - 0.15 * strength + 0.02 * random.standard_normal() for i, b in base.items()}
            found.append((spoilt(100 + person, strength), dice, f"person {person}"))
    return found


@pytest.fixture(scope="module")
def ruled(reference: Reference, truths: list[Truth]) -> Reference:
    return fit_dice(reference, truths, [i % 4 == 0 for i in range(len(truths))])


# Measures


def test_all_measures_are_made_and_have_their_words(finished: Finished) -> None:
    found = measure(finished, load_template())
    assert {*found.scan, "volumes", "sides", "expected dice"} == set(MEASURES)
    assert found.fractions.keys() == found.shares.keys() == found.pieces.keys() == set(IDS)
    assert found.asymmetries.keys() == set(LEFT)
    assert found.scan["missing"] == sum(row.volume_mm3 == 0 for row in finished.volumes if row.level == "region")


def test_pieces_apart_from_the_largest_count() -> None:
    data = np.zeros((10, 10, 10), np.uint8)
    data[:5, :5, :5], data[8:, 8:, 8:] = 4, 4
    data[5, 5, 5] = 4  # touches by a corner
    found = fragments(LabelMap(data, Grid((10, 10, 10), np.eye(4))), [4, 11])
    assert found[4] == pytest.approx(8 / (125 + 1 + 8))
    assert math.isnan(found[11])


def test_tilt_is_the_angle_of_the_rotation_whatever_the_scale() -> None:
    a = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([0.9, 1.1, 1.2])
    assert tilt_degrees(matrix) == pytest.approx(25, abs=1.5)
    assert tilt_degrees(np.diag([0.8, 1.2, 1.0, 1.0])) == pytest.approx(0, abs=1e-6)


def test_a_stretched_head_is_measured_whatever_its_turn_and_size() -> None:
    a = np.deg2rad(20)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = 0.9 * turn @ np.diag([1, 1.3, 1])
    assert stretch(matrix) == pytest.approx(1.3)


def test_a_mask_on_the_edge_is_cut() -> None:
    data = np.zeros((12, 12, 12), np.uint8)
    data[2:10, 2:10, 2:10] = 1
    grid = Grid((12, 12, 12), np.eye(4))
    assert border_share(LabelMap(data, grid)) == 0
    assert border_share(LabelMap(data[:, :, 5:], Grid((12, 12, 7), np.eye(4)))) > 0.2


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_noise_is_found_as_it_was_added(finished: Finished, sigma: float) -> None:
    shape = (40, 40, 40)
    grid = Grid(shape, np.eye(4))
    white = PROTOCOL.groups("tissue")["white"][0]
    data = 100 + np.linspace(0, 10, 40)[:, None, None] + sigma * np.random.default_rng(3).standard_normal(shape)
    made = replace(
        finished,
        scan=Volume(data.astype(np.float32), grid),
        labels=LabelMap(np.full(shape, white, np.uint8), grid),
        record={**finished.record, "intensity": {"slope": 0.5}},
    )
    assert native_noise(made) == pytest.approx(0.5 * sigma, rel=0.05)


def test_a_dark_ball_in_white_matter_is_strange() -> None:
    random, shape = np.random.default_rng(1), (50, 50, 50)
    image = (1 + 0.02 * random.standard_normal(shape)).astype(np.float32)
    tissues = {"white": np.ones(shape, np.bool_), "gray": np.zeros(shape, np.bool_)}
    middle, spread = {"white": 1.0, "gray": 0.7}, {"white": 0.02, "gray": 0.05}
    assert strange_cm3(image, tissues, middle, spread) == 0
    ball = np.linalg.norm(np.indices(shape) - 25, axis=0) < 8
    image[ball] = 0.4
    found = strange_cm3(image, tissues, middle, spread)  # smoothing adds a rim
    assert ball.sum() / 1000 < found < 1.7 * ball.sum() / 1000


def at(*x_mm: float, radius: float, shape: tuple[int, int, int] = (90, 60, 60)) -> np.ndarray:
    """Balls at those x, whose mirror plane x = 0 lies off the middle of the grid, between voxels."""
    places = np.indices(shape) + 0.5 - np.array([50, 30, 30])[:, None, None, None]
    return np.any([np.linalg.norm(places - np.array([x, 0, 0])[:, None, None, None], axis=0) < radius for x in x_mm], 0)


@pytest.mark.parametrize(
    ("dark", "wanted"),
    [
        (at(20, radius=9), True),
        (at(-20, radius=9), True),
        (at(20, -20, radius=9), False),  # as ventricles
        (at(20, radius=9) | at(-24, radius=6), False),  # not quite where the mirror image is
        (at(0, radius=9), False),  # in the middle
        (at(20, radius=3), False),
        (at(20, radius=20) & (np.abs(np.arange(60) - 30) < 2), False),  # a sulcus
    ],
)
def test_a_wide_dark_place_on_one_side_counts(dark: np.ndarray, wanted: bool) -> None:
    ras_from_voxel = np.eye(4)
    ras_from_voxel[:3, 3] = 0.5 - np.array([50, 30, 30])
    image = np.where(dark, 0.3, 0.9).astype(np.float32)
    grid = Grid(dark.shape, ras_from_voxel)
    for brain in (np.ones(dark.shape, bool), ~dark):  # as where a lesion of 0 makes a hole in the mask
        found = dark_cm3(Volume(image, grid), brain, 0.6)
        assert found == 0 if not wanted else 0.7 * dark.sum() / 1000 < found <= 1.1 * dark.sum() / 1000


# Limits and grades


def test_good_scans_pass_their_own_limits(reference: Reference) -> None:
    assert {judge(good(seed), reference, PROTOCOL).grade for seed in range(24)} == {"pass"}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("similarity", 0.30, "look"), ("similarity", 0.05, "fail"), ("similarity", 0.9, "pass"), ("missing", 2, "look"),
     ("missing", 40, "fail"), ("contrast", -0.3, "fail"), ("noise", 0.5, "fail"), ("cut", 30.0, "fail"),
     ("dark", 24.0, "fail"),
     ("similarity", math.nan, "look")],
)  # fmt: skip
def test_one_bad_measure_decides_with_its_reason(reference: Reference, name: str, value: float, wanted: str) -> None:
    scan = {**good(5).scan, name: value}
    quality = judge(replace(good(5), scan=scan), reference, PROTOCOL)
    assert quality.grade == wanted
    if wanted != "pass":
        assert [j.label for j in quality.judgements if j.grade != "pass"] == [MEASURES[name].label]
        assert quality.reasons[0].startswith(MEASURES[name].label)
        assert quality.judgements[0].reason


def test_a_region_is_flagged_for_size_side_pieces_and_absence(reference: Reference) -> None:
    fine = good(5)
    changed = replace(
        fine,
        fractions={**fine.fractions, 4: 0.04, 11: 0.0, HIPPOCAMPUS: 0.0004},
        asymmetries={**fine.asymmetries, HIPPOCAMPUS: -120.0},
        pieces={**fine.pieces, 35: 0.4},
    )
    flags = {i: entry.flag for i, entry in judge(changed, reference, PROTOCOL).regions.items() if entry.flag}
    partner = PROTOCOL.by_name("Right Hippocampus").id
    assert flags == {
        4: "large", 11: "not found", HIPPOCAMPUS: "small, sides differ", partner: "sides differ", 35: "in pieces"
    }  # fmt: skip


def test_limits_without_an_end_are_open() -> None:
    assert Limits(1.0, low_look=0.5).grade(99) == "pass"
    assert Limits(1.0, low_look=0.5).grade(0.4) == "look"
    assert Limits(1.0, 0.2, 0.5).grade(0.1) == "fail"


def test_a_reference_survives_json(ruled: Reference) -> None:
    plain = json.loads(json.dumps(plain_reference(ruled)))
    again = reference_of(plain, "here")
    assert judge(spoilt(3, 1), again, PROTOCOL).grade == judge(spoilt(3, 1), ruled, PROTOCOL).grade
    assert plain_reference(again) == plain


@pytest.mark.parametrize("spoil", ["about", "limits", "volumes"])
def test_a_damaged_reference_is_named(tmp_path: Path, ruled: Reference, spoil: str) -> None:
    plain = plain_reference(ruled)
    del plain[spoil]
    (tmp_path / FILE).write_text(json.dumps(plain), "utf-8")
    with pytest.raises(ModelError, match=r"quality.json cannot be used"):
        load_reference(str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"quality.json cannot be read"):
        load_reference(str(tmp_path / "other"))


# Expected Dice


def test_expected_dice_follows_what_was_found(ruled: Reference, truths: list[Truth]) -> None:
    for measures, dice, _ in truths:
        guess = expected_dice(measures, ruled)
        assert np.mean([abs(guess[i] - dice[i]) for i in IDS]) < 0.06


def test_nothing_that_speaks_against_a_region_raises_its_dice(ruled: Reference) -> None:
    assert ruled.dice is not None
    assert all(weight <= 0 for weight in ruled.dice.weights.values())
    fine = np.mean(list(expected_dice(spoilt(4, 0), ruled).values()))
    assert np.mean(list(expected_dice(spoilt(4, 2), ruled).values())) < fine - 0.1


def test_regions_that_are_absent_are_expected_to_be_wrong(ruled: Reference) -> None:
    fine = good(5)
    assert expected_dice(replace(fine, fractions={**fine.fractions, 4: 0.0}), ruled)[4] == 0


def test_reliability_is_judged_on_people_left_out(reference: Reference, truths: list[Truth]) -> None:
    rows, error = reliability(reference, truths, [i % 4 == 0 for i in range(len(truths))])
    assert sum(count for _, count, _, _ in rows) == len(truths) * len(IDS)
    assert error["calibration"] < 0.06
    assert error["absolute"] < 0.08
    odd = [(m, {i: 1 - d for i, d in dice.items()} if who == "person 0" else dice, who) for m, dice, who in truths]
    assert reliability(reference, odd, [i % 4 == 0 for i in range(len(odd))])[1]["absolute"] > 2 * error["absolute"]


def test_without_a_rule_nothing_is_expected(reference: Reference) -> None:
    quality = judge(good(5), reference, PROTOCOL)
    assert expected_dice(good(5), reference) == {}
    assert all(math.isnan(entry.expected_dice) for entry in quality.regions.values())
    assert plain_quality(quality)["regions"]["4"][0] is None


def test_evidence_only_counts_in_the_bad_direction(reference: Reference) -> None:
    fine = good(5)
    better = replace(fine, scan={**fine.scan, "similarity": 0.9, "noise": 0.0})
    row = evidence(4, better, reference)
    assert row["scan:similarity"] == row["scan:noise"] == 0
    worse = replace(fine, scan={**fine.scan, "similarity": 0.2, "noise": 0.9})
    row = evidence(4, worse, reference)
    assert row["scan:similarity"] == row["scan:noise"] == 8


# What a run leaves


@pytest.fixture
def judged(finished: Finished, ruled: Reference) -> Quality:
    return judge(measure(finished, load_template()), ruled, finished.protocol)


def test_a_run_is_graded_in_its_record_table_and_page(
    tmp_path: Path, judged: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_quality(judged)
    run = replace(voted_run(), quality=plain)
    write_results(run, tmp_path)
    names = ResultNames(run.scan.name)
    record = json.loads((tmp_path / names.record).read_text("utf-8"))
    assert record["quality"] == plain
    header, *lines = (tmp_path / names.volumes).read_text("utf-8").splitlines()
    assert header.split("\t")[-4:] == ["expected_dice", "volume_z", "usual_low", "usual_high"]
    regions = [line.split("\t") for line in lines if line.startswith("region")]
    wanted = plain["regions"][regions[0][1]][0]
    assert float(regions[0][-4]) == pytest.approx(wanted, abs=1e-4)
    assert lines[-1].split("\t")[-1] == "n/a"
    finished = read_finished(tmp_path / names.record)
    expected = {r.row.index: r.expected_dice for r in region_lines(finished)}
    assert expected[4] == plain["regions"]["4"][0]
    monkeypatch.setattr("slant.report.page.viewer", lambda _: _Empty())
    shown = replace(contents(finished, PageSettings()), home=(), mni=(), registration=(), votes=(), bias=None)
    assert shown.grade == judged.grade == "fail"  # a toy head is none
    html = draw_page(shown).decode()
    assert "Grade: fail" in html
    assert "Expected Dice" in html
    assert draw_pdf(shown).startswith(b"%PDF")


class _Empty:
    image = labels = niivue = ""


def test_a_model_without_a_reference_grades_nothing(tmp_path: Path, finished: Finished) -> None:
    assert grade(finished, str(tmp_path)) is None
    html = draw_page(contents(finished, PageSettings())).decode()
    assert "Grade: " not in html
    assert "Expected Dice" not in html
