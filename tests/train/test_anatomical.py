"""Anatomical augmentation: atrophy and lesions of the white matter; contrast curves and ghosting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import STILL
from torch import Tensor

from slant.train import anatomical, augment, draws, intensity
from slant.train.data import LabelledScan

SHAPE = (48, 56, 40)
CSF = torch.tensor([False, True, False, False])
WHITE_MATTER = torch.tensor([False, False, True, False])
ATROPHY = replace(STILL, ventricle_dilation_mm=5.0, sulcal_widening_mm=0.0)


def ball(radius: float) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    return sum(axis**2 for axis in axes) < radius**2


@pytest.fixture
def scan() -> LabelledScan:
    """A ball of CSF in white matter with a shell of gray matter, and a border of unlabelled CSF inside the mask."""
    channels = torch.zeros(SHAPE, dtype=torch.uint8)
    channels[ball(17)] = 3
    channels[ball(14)] = 2
    channels[ball(6)] = 1
    image = torch.where(ball(19), torch.tensor(0.3), torch.tensor(0.0))
    image = image + 0.5 * ball(17) + 0.5 * ball(14) - 1.0 * ball(6)
    return LabelledScan("ball", image, channels, torch.zeros(12, 14, 10, 4))


def identity() -> Tensor:
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in SHAPE], indexing="ij"), dim=-1)


def fix_random_number(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "uniform", lambda _: value)


def count(scan: LabelledScan, coordinates: Tensor, channel: int) -> int:
    return int((augment.pick_labels(scan.channels, coordinates) == channel).sum())


def test_atrophy_widens_ventricles_and_keeps_the_volume_of_gray_matter(
    scan: LabelledScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_random_number(1.0, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    deformed = anatomical.simulate_atrophy(identity(), scan, CSF, ATROPHY, generator)
    assert count(scan, deformed, 1) > 2 * count(scan, identity(), 1)
    assert count(scan, deformed, 3) == pytest.approx(count(scan, identity(), 3), rel=0.1)
    assert (deformed - identity()).norm(dim=-1).max() < 12


def test_the_image_moves_with_the_labels(scan: LabelledScan, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_random_number(1.0, monkeypatch)
    deformed = anatomical.simulate_atrophy(identity(), scan, CSF, ATROPHY, torch.Generator().manual_seed(0))
    image, channels = augment.sample_image(scan.image, deformed), augment.pick_labels(scan.channels, deformed)
    assert image[channels == 1].median() == pytest.approx(0.3, abs=0.02)
    assert image[channels == 2].median() == pytest.approx(1.3, abs=0.02)


def test_wider_sulci_reduce_the_labelled_volume(scan: LabelledScan, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_random_number(1.0, monkeypatch)
    settings = replace(STILL, ventricle_dilation_mm=0.0, sulcal_widening_mm=2.0)
    deformed = anatomical.simulate_atrophy(identity(), scan, CSF, settings, torch.Generator().manual_seed(0))
    labelled = [int((augment.pick_labels(scan.channels, p) > 0).sum()) for p in (deformed, identity())]
    assert labelled[0] < 0.95 * labelled[1]


def test_the_brain_shrinks_from_its_mask_and_csf_fills_the_gap(scan: LabelledScan) -> None:
    tight = replace(scan, image=torch.where(ball(17), scan.image, torch.tensor(0.0)))  # no CSF around the brain
    before, generator = identity(), torch.Generator().manual_seed(0)
    after = anatomical.dilate_csf(before, tight, CSF, anatomical.Widening(0.0, 2.0, shrink_brain=True), generator)
    assert count(tight, after, 3) < 0.9 * count(tight, before, 3)
    image = anatomical.fill_with_csf(augment.sample_image(tight.image, after), tight, before, after, CSF)
    mask = augment.pick_labels((tight.image > 0).to(torch.uint8), before) > 0
    assert (image[mask] > 0).all()
    gap = mask & (augment.sample_image(tight.image, after) == 0)
    assert gap.sum() > 500
    assert image[gap].mean() == pytest.approx(0.3, abs=0.02)
    assert (augment.pick_labels(tight.channels, after)[gap] == 0).float().mean() > 0.95
    kept = augment.sample_image(tight.image, before)
    assert anatomical.fill_with_csf(kept, tight, before, before, CSF) is kept


@pytest.mark.parametrize("settings", [STILL, replace(ATROPHY, ventricle_dilation_mm=0.0)])
def test_no_atrophy_without_strength(scan: LabelledScan, settings: augment.AugmentSettings) -> None:
    coordinates = identity()
    for seed in range(4):
        deformed = anatomical.simulate_atrophy(coordinates, scan, CSF, settings, torch.Generator().manual_seed(seed))
        assert torch.equal(deformed, coordinates)


def test_a_scan_without_csf_stays_as_it_is(scan: LabelledScan, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_random_number(1.0, monkeypatch)
    none = torch.zeros(4, dtype=torch.bool)
    deformed = anatomical.simulate_atrophy(identity(), scan, none, ATROPHY, torch.Generator().manual_seed(0))
    assert torch.isfinite(deformed).all()
    assert torch.equal(deformed, identity())


def test_lesions_darken_white_matter_only(scan: LabelledScan) -> None:
    settings = replace(STILL, lesion_probability=1.0)
    coordinates, darkening = identity(), torch.zeros(SHAPE)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        after = anatomical.add_lesions(scan.image, scan, coordinates, WHITE_MATTER, settings, generator)
        darkening = torch.maximum(darkening, scan.image - after)
    deep = ball(11) & ~ball(8)
    assert darkening[deep].max() > 0.1
    assert darkening[~ball(17)].max() == 0
    assert (darkening >= 0).all()


def test_unlabelled_voxels_get_no_lesions(scan: LabelledScan) -> None:
    unknown = replace(scan, channels=torch.full(SHAPE, 255, dtype=torch.uint8))
    settings = replace(STILL, lesion_probability=1.0)
    after = anatomical.add_lesions(scan.image, unknown, identity(), WHITE_MATTER, settings, torch.Generator())
    assert torch.equal(after, scan.image)


def test_curves_keep_the_order_of_intensities() -> None:
    settings = replace(STILL, contrast=0.1)
    ramp = torch.linspace(0, 1.5, 301).reshape(301, 1, 1)
    for seed in range(20):
        curved = intensity.vary_intensity(ramp, settings, torch.Generator().manual_seed(seed)).flatten()[1:]
        assert (curved.diff() > 0).all()


def test_ghosting_stays_within_the_brain() -> None:
    settings = replace(STILL, ghosting=0.5)
    image = torch.from_numpy(np.random.default_rng(0).random(SHAPE, dtype=np.float32)) * ball(15)
    changed = [
        intensity.vary_intensity(image, settings, torch.Generator().manual_seed(seed)) - image for seed in range(12)
    ]
    assert sum(bool(change.abs().max() > 0.1) for change in changed) >= 1
    assert not any(change[~ball(15)].any() for change in changed)
