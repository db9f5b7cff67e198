"""Losses: their formulas, weights and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slant.errors import SettingsError
from slant.train.loss import LossSettings, merge_unlabelled, region_loss, slant2018_loss


def test_the_slant2018_loss_equals_its_formula() -> None:
    logits, reference = torch.randn(50, 6) / 50, torch.randint(0, 5, (50,))
    p = torch.softmax(100 * logits, dim=1).numpy()
    t = np.eye(6)[reference.numpy()]
    dice = (2 * (p * t).sum(axis=0) + 1e-6) / ((p**2).sum(axis=0) + (t**2).sum(axis=0) + 1e-6)
    assert float(slant2018_loss(logits, reference)) == pytest.approx(1 - dice.mean(), abs=1e-5)
    assert float(LossSettings("slant2018")(logits, reference)) == float(slant2018_loss(logits, reference))


def test_the_dice_part_has_a_weight() -> None:
    logits, reference = torch.randn(50, 6), torch.randint(0, 6, (50,))
    entropy = torch.nn.functional.cross_entropy(logits, reference)
    assert float(LossSettings(dice_weight=0.0)(logits, reference)) == pytest.approx(float(entropy), abs=1e-6)
    p, t = torch.softmax(logits, dim=1), torch.nn.functional.one_hot(reference, 6)
    present = t.sum(dim=0) > 0
    dice = 2 * (p * t).sum(dim=0) / (p.sum(dim=0) + t.sum(dim=0))
    assert float(region_loss(logits, reference)) == pytest.approx(float(entropy + 1 - dice[present].mean()), abs=1e-5)


@pytest.mark.parametrize("kind", ["regions", "slant2018"])
def test_the_loss_of_no_voxels_is_zero(kind: str) -> None:
    logits = torch.randn(0, 6, requires_grad=True)
    loss = LossSettings(kind)(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_merging_adds_the_probabilities_of_uncovered_channels() -> None:
    logits, covered = torch.randn(20, 6), torch.tensor([False, True, False, True, False, False])
    merged = torch.softmax(merge_unlabelled(logits, covered), dim=1)
    probabilities = torch.softmax(logits, dim=1)
    assert torch.allclose(merged[:, [1, 3]], probabilities[:, [1, 3]], atol=1e-6)
    assert torch.allclose(merged[:, 0], probabilities[:, [0, 2, 4, 5]].sum(dim=1), atol=1e-6)
    assert (merged[:, [2, 4, 5]] == 0).all()


def test_merging_complete_labels_changes_nothing() -> None:
    logits = torch.randn(20, 6)
    everything = torch.tensor([False, True, True, True, True, True])
    assert torch.allclose(merge_unlabelled(logits, everything), logits)


# Bias of the Dice part towards small regions


def formula_without_bias(logits: torch.Tensor, channels: torch.Tensor, weight: float) -> torch.Tensor:
    """`region_loss` as it was before there was a bias."""
    log_probability = torch.nn.functional.log_softmax(logits, dim=1)
    probability = log_probability.exp()
    voxels = torch.bincount(channels, minlength=logits.shape[1]).float()
    own = probability.gather(1, channels[:, None])[:, 0]
    overlap = torch.zeros(logits.shape[1]).index_add(0, channels, own)
    dice = 2 * overlap / (probability.sum(dim=0) + voxels).clamp(min=1e-6)
    return torch.nn.functional.nll_loss(log_probability, channels) + weight * (1 - dice[voxels > 0].mean())


@pytest.mark.parametrize("seed", range(5))
def test_without_bias_the_loss_and_its_gradient_are_those_of_before(seed: int) -> None:
    torch.manual_seed(seed)
    logits, reference = torch.randn(300, 9, requires_grad=True), torch.randint(0, 8, (300,)) ** 2 // 8
    found, expected = LossSettings(dice_weight=0.7)(logits, reference), formula_without_bias(logits, reference, 0.7)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, expected)))


@pytest.mark.parametrize("bias", [0.5, 1.0, 2.0])
def test_a_region_counts_with_its_voxels_to_the_power_of_minus_the_bias(bias: float) -> None:
    """One voxel in four of channel 2 is wrong, and one in two of channel 5; channel 0 and the others are absent."""
    reference = torch.tensor([2] * 8 + [5] * 2)
    predicted = torch.tensor([2] * 6 + [4] * 2 + [5, 4])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 6)
    dice, weights = np.array([2 * 6 / (6 + 8), 2 * 1 / (1 + 2)]), np.array([8.0, 2.0]) ** -bias
    expected = 1 - (dice * weights).sum() / weights.sum()
    entropy = region_loss(logits, reference, dice_weight=0.0)
    found = LossSettings(dice_bias=bias)(logits, reference) - entropy
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert float(found) > float(region_loss(logits, reference) - entropy)  # the smaller region is the worse one


def test_a_large_bias_and_no_voxels_are_finite() -> None:
    logits = torch.randn(5000, 6, requires_grad=True)
    settings = LossSettings(dice_bias=3.0)
    for count in (0, 5000):
        loss = settings(logits[:count], torch.zeros(count, dtype=torch.long))
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_the_original_loss_has_no_bias() -> None:
    with pytest.raises(SettingsError, match=r"dice_bias is a setting of kind = 'regions', found kind = 'slant2018'"):
        LossSettings("slant2018", dice_bias=0.5)
