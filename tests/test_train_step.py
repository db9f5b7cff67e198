"""One step of training: flips, losses, tasks beside the regions, kinds of networks, memory settings."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from phantoms import (
    BLOCKS,
    LEFT,
    MIDDLE,
    NETWORK,
    OUTPUTS,
    RIGHT,
    SHAPE,
    STAGE,
    STILL,
    Intensities,
    fresh_network,
    lesson_of,
    loss_of,
    phantom,
    same_weights,
    trained,
)

from slant.io.resources import load_protocol
from slant.nets.memory import MemorySettings
from slant.nets.slant2018 import Slant2018Settings
from slant.nets.unet import UNetSettings
from slant.train import augment, loop
from slant.train.atlas import Atlas
from slant.train.checkpoint import new_state
from slant.train.data import LabelledScan
from slant.train.loop import train_stage
from slant.train.loss import LossSettings, merge_unlabelled, region_loss, slant2018_loss
from slant.train.settings import StageSettings
from slant.train.step import step_loss, task_classes

SWAPPED = {RIGHT: BLOCKS[LEFT][1], MIDDLE: BLOCKS[MIDDLE][1], LEFT: BLOCKS[RIGHT][1]}
"""Intensities of the regions after a flip."""


@pytest.mark.parametrize("seed", range(3))
def test_a_flip_exchanges_the_image_and_its_labels_alike(seed: int) -> None:
    flipped = lesson_of(replace(STAGE, balanced=1.0), augmentation=replace(STILL, flip=1.0))
    assert loss_of(Intensities(SWAPPED), phantom(0), flipped, seed) < 0.05
    assert loss_of(Intensities(), phantom(0), flipped, seed) > 2


def test_nothing_is_mirrored_without_flips() -> None:
    lesson = lesson_of(replace(STAGE, balanced=1.0), augmentation=STILL)
    assert max(loss_of(Intensities(), phantom(0), lesson, seed) for seed in range(8)) < 0.05


def test_half_of_the_scans_are_mirrored_when_asked() -> None:
    lesson = lesson_of(replace(STAGE, balanced=1.0, boxes=4), augmentation=replace(STILL, flip=0.5))
    mirrored = sum(loss_of(Intensities(SWAPPED), phantom(0), lesson, seed) < 0.05 for seed in range(12))
    assert 2 <= mirrored <= 10


def test_a_flip_moves_what_lies_beside_the_middle_to_the_other_side() -> None:
    image = torch.zeros(SHAPE)
    image[5, 10, 12] = 1
    places = augment.random_places(((0, 0, 0), SHAPE), SHAPE, STILL, torch.Generator().manual_seed(0))
    seen = augment.sample_image(image, augment.flip_places(places, 31.0))
    assert torch.nonzero(seen > 0.5).tolist() == [[26, 10, 12]]


def test_flipped_labels_are_the_partners_and_the_rest_stays() -> None:
    mirrored = torch.from_numpy(load_protocol().mirrored_channels.copy())
    channels = torch.tensor([0, LEFT, RIGHT, MIDDLE, 1, 255], dtype=torch.uint8)
    assert augment.flip_labels(channels, mirrored).tolist() == [0, RIGHT, LEFT, MIDDLE, 1, 255]
    assert torch.equal(augment.flip_labels(augment.flip_labels(channels, mirrored), mirrored), channels)


def test_a_flip_exchanges_the_regions_that_partial_labels_cover() -> None:
    scan = phantom(0)
    left_only = torch.zeros(OUTPUTS, dtype=torch.bool)
    left_only[LEFT] = True
    truth = torch.where(scan.channels == LEFT, scan.channels, torch.zeros_like(scan.channels))
    scan = replace(scan, channels=truth, covered=left_only)
    flipped = lesson_of(replace(STAGE, balanced=1.0), augmentation=replace(STILL, flip=1.0))
    assert loss_of(Intensities(SWAPPED), scan, flipped, 0) < 0.05


# Losses


def test_the_loss_of_the_original_is_its_formula() -> None:
    logits, truth = torch.randn(50, 6) / 50, torch.randint(0, 5, (50,))
    p = torch.softmax(100 * logits, dim=1).numpy()
    t = np.eye(6)[truth.numpy()]
    dice = (2 * (p * t).sum(axis=0) + 1e-6) / ((p**2).sum(axis=0) + (t**2).sum(axis=0) + 1e-6)
    assert float(slant2018_loss(logits, truth)) == pytest.approx(1 - dice.mean(), abs=1e-5)
    assert float(LossSettings("slant2018")(logits, truth)) == float(slant2018_loss(logits, truth))


def test_the_dice_part_can_be_left_out() -> None:
    logits, truth = torch.randn(50, 6), torch.randint(0, 6, (50,))
    entropy = torch.nn.functional.cross_entropy(logits, truth)
    assert float(LossSettings(dice=0.0)(logits, truth)) == pytest.approx(float(entropy), abs=1e-6)
    p, t = torch.softmax(logits, dim=1), torch.nn.functional.one_hot(truth, 6)
    found = t.sum(dim=0) > 0
    dice = 2 * (p * t).sum(dim=0) / (p.sum(dim=0) + t.sum(dim=0))
    assert float(region_loss(logits, truth)) == pytest.approx(float(entropy + 1 - dice[found].mean()), abs=1e-5)


@pytest.mark.parametrize("kind", ["regions", "slant2018"])
def test_no_voxels_at_all_give_a_loss_of_zero_and_no_gradient(kind: str) -> None:
    logits = torch.randn(0, 6, requires_grad=True)
    loss = LossSettings(kind)(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_merging_adds_the_shares_of_what_is_not_told_apart() -> None:
    logits, covered = torch.randn(20, 6), torch.tensor([False, True, False, True, False, False])
    merged = torch.softmax(merge_unlabelled(logits, covered), dim=1)
    shares = torch.softmax(logits, dim=1)
    assert torch.allclose(merged[:, [1, 3]], shares[:, [1, 3]], atol=1e-6)
    assert torch.allclose(merged[:, 0], shares[:, [0, 2, 4, 5]].sum(dim=1), atol=1e-6)
    assert (merged[:, [2, 4, 5]] == 0).all()


def test_merging_nothing_changes_nothing() -> None:
    logits = torch.randn(20, 6)
    everything = torch.tensor([False, True, True, True, True, True])
    assert torch.allclose(merge_unlabelled(logits, everything), logits)


def test_a_task_beside_the_regions_is_learned_too() -> None:
    protocol = load_protocol()
    tasks = task_classes(protocol, ("tissue", "lobe", "brain"))
    assert tasks["brain"].tolist() == [0] + [1] * (OUTPUTS - 1)
    assert tasks["tissue"][LEFT] == tasks["tissue"][RIGHT] != tasks["tissue"][MIDDLE]
    classes = {task: int(of.max()) + 1 for task, of in tasks.items()}
    stage = StageSettings(20, learning_rate=2e-2, boxes=4, average=0.5)
    lesson = lesson_of(stage, regions=replace(lesson_of().regions, tasks=tasks))
    state = new_state(("compact", replace(NETWORK[1], tasks=classes)), stage, None)

    def entropy_of_tasks() -> float:
        with_, without = (replace(lesson, loss=LossSettings(tasks=weight)) for weight in (1.0, 0.0))
        return loss_of(state.net, phantom(0), with_, 0) - loss_of(state.net, phantom(0), without, 0)

    before = entropy_of_tasks()
    train_stage(state, ([phantom(0), phantom(1)], []), lesson, lambda _: True)
    assert before > 0.8
    assert entropy_of_tasks() < 0.75 * before


# Networks and memory


@pytest.mark.parametrize(
    ("kind", "settings", "loss"),
    [
        ("residual", UNetSettings(OUTPUTS, (4, 6), detail=2, mixed=4), "regions"),
        ("slant2018", Slant2018Settings(8, (2, 2, 3, 3, 4)), "slant2018"),
    ],
)
def test_every_kind_of_network_trains(kind: str, settings: UNetSettings | Slant2018Settings, loss: str) -> None:
    stage = StageSettings(3, learning_rate=1e-2, boxes=4)
    seen = lesson_of().seen
    if kind == "slant2018":
        seen = replace(seen, start=(0, 0, -2), shape=(32, 40, 40), channels=np.arange(8))
    state = new_state((kind, settings), stage, None)
    start = fresh_network(kind, settings)
    assert same_weights(state.net, start)
    train_stage(state, ([phantom(0)], []), lesson_of(stage, seen=seen, loss=LossSettings(loss)), lambda _: True)
    assert state.step == 3
    assert np.isfinite(state.losses).all()
    assert not same_weights(state.net, start)


@pytest.mark.parametrize(
    ("kind", "memory"),
    [
        ("compact", MemorySettings(checkpoint=True)),
        ("compact", MemorySettings(offload=True)),
        ("residual", MemorySettings(checkpoint=True, offload=True)),
    ],
)
def test_memory_settings_change_no_bit(kind: str, memory: MemorySettings) -> None:
    lesson = lesson_of(replace(STAGE, steps=2, boxes=4))
    states = []
    for how in (MemorySettings(), memory):
        state = new_state((kind, NETWORK[1]), lesson.stage, None)
        state.net.memory = how
        states.append(trained([phantom(0)], lesson, state=state))
    assert states[0].losses == states[1].losses
    assert same_weights(states[0].net, states[1].net)


# MixUp


MIXED = replace(STILL, mixup=0.4)


def mixed_loss(scans: tuple[LabelledScan, LabelledScan | None], share: float) -> float:
    """Loss of one step on two scans mixed by a share of the second."""
    net, lesson = fresh_network(*NETWORK), lesson_of(augmentation=MIXED)
    atlas = Atlas([phantom(0), phantom(1)], None, None, torch.device("cpu"))
    kept = patch.object(augment, "vary_intensity", lambda image, *_: image)
    with kept, patch.object(augment, "mixup_share", lambda *_: share):
        return float(step_loss(net, scans, atlas, (lesson, torch.Generator().manual_seed(3))).detach())


def test_a_mixture_with_none_of_the_second_scan_is_the_first() -> None:
    alone = mixed_loss((phantom(0), None), 0.0)
    assert mixed_loss((phantom(0), phantom(1)), 0.0) == pytest.approx(alone, abs=1e-6)


def test_images_and_losses_are_mixed_by_one_share() -> None:
    """With images that are alike the network's answer is one, and its losses for both labels are averaged."""
    first, second = phantom(0), replace(phantom(1), image=phantom(0).image)
    same = [mixed_loss((first, second), share) for share in (0.0, 0.25, 0.5)]
    assert same[0] != pytest.approx(same[2], abs=1e-4)
    assert same[1] == pytest.approx((same[0] + same[2]) / 2, abs=1e-5)
    other = mixed_loss((first, phantom(1)), 0.5)
    assert other != pytest.approx(same[2], abs=1e-5)


def test_shares_of_mixtures_are_at_most_a_half_and_mostly_small() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = [augment.mixup_share(MIXED, generator) for _ in range(400)]
    assert all(0 <= share <= 0.5 for share in shares)
    assert np.median(shares) < 0.2
    assert max(shares) > 0.4
    even = [augment.mixup_share(replace(MIXED, mixup=50.0), generator) for _ in range(20)]
    assert min(even) > 0.3


@pytest.mark.parametrize(("mixup", "pairs"), [(0.0, 0), (0.4, 4)])
def test_a_second_scan_is_drawn_only_for_mixtures(mixup: float, pairs: int) -> None:
    seen = []

    def noted(net: object, scans: tuple[object, object], *how: object) -> torch.Tensor:
        seen.append(scans[1])
        return step_loss(net, scans, *how)

    lesson = lesson_of(replace(STAGE, steps=4), augmentation=replace(STILL, mixup=mixup))
    with patch.object(loop, "step_loss", noted):
        trained([phantom(0), phantom(1)], lesson)
    assert sum(second is not None for second in seen) == pairs
