"""Quality metrics of results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated_metrics import IDS, LEFT
from toy import toy_scan

from slant.grid import Grid
from slant.io.record import IntensityRecord
from slant.io.resources import load_protocol
from slant.io.results import Result
from slant.io.templates import load_template
from slant.quality.intensity_metrics import asymmetric_hypointensity_cm3, intensity_outlier_cm3, native_noise
from slant.quality.iqm import (
    anisotropic_scaling,
    border_fraction,
    fragmentation,
    measure_quality,
    rotation_degrees,
)
from slant.quality.metrics import METRICS
from slant.threads import Threads
from slant.volume import LabelMap, Volume

PROTOCOL = load_protocol()


def test_all_metrics_are_computed_and_have_a_meaning(result: Result) -> None:
    metrics = measure_quality(result, load_template())
    assert {*metrics.scan, "volume_outliers", "asymmetry_outliers", "expected_dice"} == set(METRICS)
    assert metrics.fractions.keys() == metrics.vote_fractions.keys() == metrics.fragmentation.keys() == set(IDS)
    assert metrics.asymmetries.keys() == set(LEFT)
    assert metrics.scan["missing_regions"] == sum(
        row.volume_mm3 == 0 for row in result.volumes if row.level == "region"
    )


def test_the_metrics_do_not_depend_on_the_number_of_threads(result: Result) -> None:
    with Threads(3) as threads:
        metrics = measure_quality(result, load_template(), threads)
    assert repr(metrics) == repr(measure_quality(result, load_template()))


def test_fragmentation_counts_all_but_the_largest_component() -> None:
    data = np.zeros((10, 10, 10), np.uint8)
    data[:5, :5, :5], data[8:, 8:, 8:] = 4, 4
    data[5, 5, 5] = 4  # connected by a corner
    fractions = fragmentation(LabelMap(data, Grid((10, 10, 10), np.eye(4))), [4, 11])
    assert fractions[4] == pytest.approx(8 / (125 + 1 + 8))
    assert math.isnan(fractions[11])


def test_rotation_does_not_depend_on_the_scaling() -> None:
    a = np.deg2rad(25)
    rotation = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag([0.9, 1.1, 1.2])
    assert rotation_degrees(matrix) == pytest.approx(25, abs=1.5)
    assert rotation_degrees(np.diag([0.8, 1.2, 1.0, 1.0])) == pytest.approx(0, abs=1e-6)


def test_anisotropic_scaling_does_not_depend_on_rotation_and_size() -> None:
    a = np.deg2rad(20)
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = 0.9 * rotation @ np.diag([1, 1.3, 1])
    assert anisotropic_scaling(matrix) == pytest.approx(1.3)


def test_a_mask_at_the_image_border_is_detected() -> None:
    data = np.zeros((12, 12, 12), np.uint8)
    data[2:10, 2:10, 2:10] = 1
    grid = Grid((12, 12, 12), np.eye(4))
    assert border_fraction(LabelMap(data, grid)) == 0
    assert border_fraction(LabelMap(data[:, :, 5:], Grid((12, 12, 7), np.eye(4)))) > 0.2


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_added_noise_is_measured(result: Result, sigma: float) -> None:
    shape = (40, 40, 40)
    grid = Grid(shape, np.eye(4))
    white = PROTOCOL.groups("tissue")["white"][0]
    data = 100 + np.linspace(0, 10, 40)[:, None, None] + sigma * np.random.default_rng(3).standard_normal(shape)
    noisy = replace(
        result,
        scan=replace(toy_scan(), volume=Volume(data.astype(np.float32), grid)),
        labels=LabelMap(np.full(shape, white, np.uint8), grid),
        record=replace(result.record, intensity=IntensityRecord(0.5, 0, 0, 1)),
    )
    assert native_noise(noisy) == pytest.approx(0.5 * sigma, rel=0.05)


def test_a_dark_ball_in_white_matter_is_an_intensity_outlier() -> None:
    random, shape = np.random.default_rng(1), (50, 50, 50)
    image = (1 + 0.02 * random.standard_normal(shape)).astype(np.float32)
    tissues = {"white": np.ones(shape, np.bool_), "gray": np.zeros(shape, np.bool_)}
    median, robust_sd = {"white": 1.0, "gray": 0.7}, {"white": 0.02, "gray": 0.05}
    assert intensity_outlier_cm3(image, tissues, median, robust_sd) == 0
    ball = np.linalg.norm(np.indices(shape) - 25, axis=0) < 8
    image[ball] = 0.4
    volume_cm3 = intensity_outlier_cm3(image, tissues, median, robust_sd)  # smoothing adds a border
    assert ball.sum() / 1000 < volume_cm3 < 1.7 * ball.sum() / 1000


def balls(*x_mm: float, radius: float, shape: tuple[int, int, int] = (90, 60, 60)) -> np.ndarray:
    """Balls at these x; the mirror plane x = 0 lies between voxels, not in the centre of the grid."""
    coordinates = np.indices(shape) + 0.5 - np.array([50, 30, 30])[:, None, None, None]
    distances = [np.linalg.norm(coordinates - np.array([x, 0, 0])[:, None, None, None], axis=0) for x in x_mm]
    return np.any([distance < radius for distance in distances], 0)


@pytest.mark.parametrize(
    ("dark", "expected"),
    [
        (balls(20, radius=9), True),
        (balls(-20, radius=9), True),
        (balls(20, -20, radius=9), False),  # like ventricles
        (balls(20, radius=9) | balls(-24, radius=6), False),  # close to the mirror image
        (balls(0, radius=9), False),  # on the midline
        (balls(20, radius=3), False),
        (balls(20, radius=20) & (np.abs(np.arange(60) - 30) < 2), False),  # like a sulcus
    ],
)
def test_a_wide_hypointensity_in_one_hemisphere_counts(dark: np.ndarray, expected: bool) -> None:
    ras_from_voxel = np.eye(4)
    ras_from_voxel[:3, 3] = 0.5 - np.array([50, 30, 30])
    image = np.where(dark, 0.3, 0.9).astype(np.float32)
    grid = Grid(dark.shape, ras_from_voxel)
    for brain in (np.ones(dark.shape, bool), ~dark):  # a lesion with intensity 0 makes a hole in the mask
        volume_cm3 = asymmetric_hypointensity_cm3(Volume(image, grid), brain, 0.6)
        assert volume_cm3 == 0 if not expected else 0.7 * dark.sum() / 1000 < volume_cm3 <= 1.1 * dark.sum() / 1000
