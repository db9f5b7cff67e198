"""Changes that labels tell how to make: wider ventricles and sulci, lesions of the white matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import STILL
from torch import Tensor

from slant.train import anatomy, augment
from slant.train.data import LabelledScan

SHAPE = (48, 56, 40)
FLUID = torch.tensor([False, True, False, False])
WHITE = torch.tensor([False, False, True, False])
AGED = replace(STILL, ventricles_mm=5.0, sulci_mm=0.0)


def ball(radius: float) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    return sum(axis**2 for axis in axes) < radius**2


@pytest.fixture
def scan() -> LabelledScan:
    """A ball of fluid in white matter under a shell of gray matter, with a rim of unlabelled fluid in the mask."""
    channels = torch.zeros(SHAPE, dtype=torch.uint8)
    channels[ball(17)] = 3
    channels[ball(14)] = 2
    channels[ball(6)] = 1
    image = torch.where(ball(19), torch.tensor(0.3), torch.tensor(0.0))
    image = image + 0.5 * ball(17) + 0.5 * ball(14) - 1.0 * ball(6)
    return LabelledScan("ball", image, channels, torch.zeros(12, 14, 10, 4))


def still_places() -> Tensor:
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in SHAPE], indexing="ij"), dim=-1)


def certainly(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy, "chance", lambda _: value)


def count(scan: LabelledScan, places: Tensor, channel: int) -> int:
    return int((augment.pick_labels(scan.channels, places) == channel).sum())


def test_old_brains_have_wider_ventricles_and_all_of_their_shell(
    scan: LabelledScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    certainly(1.0, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    moved = anatomy.aged_places(still_places(), scan, FLUID, AGED, generator)
    assert count(scan, moved, 1) > 2 * count(scan, still_places(), 1)
    assert count(scan, moved, 3) == pytest.approx(count(scan, still_places(), 3), rel=0.1)
    assert (moved - still_places()).norm(dim=-1).max() < 12


def test_the_image_moves_with_the_labels(scan: LabelledScan, monkeypatch: pytest.MonkeyPatch) -> None:
    certainly(1.0, monkeypatch)
    moved = anatomy.aged_places(still_places(), scan, FLUID, AGED, torch.Generator().manual_seed(0))
    image, channels = augment.sample_image(scan.image, moved), augment.pick_labels(scan.channels, moved)
    assert image[channels == 1].median() == pytest.approx(0.3, abs=0.02)
    assert image[channels == 2].median() == pytest.approx(1.3, abs=0.02)


def test_sulci_open_at_the_expense_of_what_lies_beside_them(
    scan: LabelledScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    certainly(1.0, monkeypatch)
    settings = replace(STILL, ventricles_mm=0.0, sulci_mm=2.0)
    moved = anatomy.aged_places(still_places(), scan, FLUID, settings, torch.Generator().manual_seed(0))
    labelled = [int((augment.pick_labels(scan.channels, p) > 0).sum()) for p in (moved, still_places())]
    assert labelled[0] < 0.95 * labelled[1]


def test_atrophy_draws_the_brain_away_from_its_mask_and_fluid_fills_the_gap(scan: LabelledScan) -> None:
    tight = replace(scan, image=torch.where(ball(17), scan.image, torch.tensor(0.0)))  # no fluid around the brain
    before, generator = still_places(), torch.Generator().manual_seed(0)
    after = anatomy.widened_places(before, tight, FLUID, (0.0, 2.0), generator, beyond=True)
    assert count(tight, after, 3) < 0.9 * count(tight, before, 3)
    image = anatomy.with_fluid(augment.sample_image(tight.image, after), tight, (before, after), FLUID)
    mask = augment.pick_labels((tight.image > 0).to(torch.uint8), before) > 0
    assert (image[mask] > 0).all()
    gap = mask & (augment.sample_image(tight.image, after) == 0)
    assert gap.sum() > 500
    assert image[gap].mean() == pytest.approx(0.3, abs=0.02)
    assert (augment.pick_labels(tight.channels, after)[gap] == 0).float().mean() > 0.95
    kept = augment.sample_image(tight.image, before)
    assert anatomy.with_fluid(kept, tight, (before, before), FLUID) is kept


@pytest.mark.parametrize("settings", [STILL, replace(AGED, ventricles_mm=0.0)])
def test_nothing_ages_that_is_not_to(scan: LabelledScan, settings: augment.AugmentSettings) -> None:
    places = still_places()
    for seed in range(4):
        moved = anatomy.aged_places(places, scan, FLUID, settings, torch.Generator().manual_seed(seed))
        assert torch.equal(moved, places)


def test_a_scan_without_fluid_can_age(scan: LabelledScan, monkeypatch: pytest.MonkeyPatch) -> None:
    certainly(1.0, monkeypatch)
    none = torch.zeros(4, dtype=torch.bool)
    moved = anatomy.aged_places(still_places(), scan, none, AGED, torch.Generator().manual_seed(0))
    assert torch.isfinite(moved).all()
    assert torch.equal(moved, still_places())


def test_lesions_darken_white_matter_only(scan: LabelledScan) -> None:
    settings = replace(STILL, lesions=1.0)
    labels, places = (scan.channels, WHITE), still_places()
    lost = torch.zeros(SHAPE)
    for seed in range(4):
        after = anatomy.with_lesions(scan.image, labels, places, settings, torch.Generator().manual_seed(seed))
        lost = torch.maximum(lost, scan.image - after)
    deep = ball(11) & ~ball(8)
    assert lost[deep].max() > 0.1
    assert lost[~ball(17)].max() == 0
    assert (lost >= 0).all()


def test_unlabelled_voxels_are_no_white_matter(scan: LabelledScan) -> None:
    unknown = torch.full(SHAPE, 255, dtype=torch.uint8)
    settings = replace(STILL, lesions=1.0)
    after = anatomy.with_lesions(scan.image, (unknown, WHITE), still_places(), settings, torch.Generator())
    assert torch.equal(after, scan.image)


def test_curves_keep_the_order_of_intensities() -> None:
    settings = replace(STILL, contrast=0.1)
    ramp = torch.linspace(0, 1.5, 301).reshape(301, 1, 1)
    for seed in range(20):
        curved = augment.vary_intensity(ramp, settings, torch.Generator().manual_seed(seed)).flatten()[1:]
        assert (curved.diff() > 0).all()


def test_ghosts_repeat_the_brain_within_it() -> None:
    settings = replace(STILL, ghost=0.5)
    image = torch.from_numpy(np.random.default_rng(0).random(SHAPE, dtype=np.float32)) * ball(15)
    changed = [
        augment.vary_intensity(image, settings, torch.Generator().manual_seed(seed)) - image for seed in range(12)
    ]
    assert sum(bool(change.abs().max() > 0.1) for change in changed) >= 1
    assert not any(change[~ball(15)].any() for change in changed)
