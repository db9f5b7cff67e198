"""One training step: flips, losses, additional tasks, kinds of networks, memory settings and MixUp."""

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
    atlas_on_cpu,
    context_of,
    field_of,
    fresh_network,
    loss_of,
    network_of_kind,
    phantom,
    same_weights,
    scans_of,
    trained,
)

from slant.io.resources import load_protocol
from slant.nets.network import MemorySettings
from slant.nets.slant2018 import Slant2018Settings
from slant.nets.unet import ResidualSettings
from slant.train import augment, intensity, loop
from slant.train.checkpoint import new_state
from slant.train.data import LabelledScan
from slant.train.loop import train_stage
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice, NetworkSpec, task_classes
from slant.train.stage_settings import StageSettings
from slant.train.step import step_loss

SWAPPED = {RIGHT: BLOCKS[LEFT][1], MIDDLE: BLOCKS[MIDDLE][1], LEFT: BLOCKS[RIGHT][1]}
"""Intensity of each region after a flip."""


@pytest.mark.parametrize("seed", range(3))
def test_a_flip_exchanges_the_image_and_its_labels_together(seed: int) -> None:
    flipped = context_of(replace(STAGE, class_balanced_fraction=1.0), augment=replace(STILL, flip_probability=1.0))
    assert loss_of(Intensities(SWAPPED), phantom(0), flipped, seed) < 0.05
    assert loss_of(Intensities(), phantom(0), flipped, seed) > 2


def test_no_flips_with_probability_zero() -> None:
    context = context_of(replace(STAGE, class_balanced_fraction=1.0), augment=STILL)
    assert max(loss_of(Intensities(), phantom(0), context, seed) for seed in range(8)) < 0.05


def test_about_half_of_the_scans_are_flipped_with_probability_one_half() -> None:
    context = context_of(
        replace(STAGE, class_balanced_fraction=1.0, patches=4), augment=replace(STILL, flip_probability=0.5)
    )
    flipped = sum(loss_of(Intensities(SWAPPED), phantom(0), context, seed) < 0.05 for seed in range(12))
    assert 2 <= flipped <= 10


def test_a_flip_moves_a_voxel_to_the_other_side() -> None:
    image = torch.zeros(SHAPE)
    image[5, 10, 12] = 1
    coordinates = augment.random_coordinates(field_of(), STILL, torch.Generator().manual_seed(0))
    flipped = augment.sample_image(image, augment.flip_coordinates(coordinates, 31.0))
    assert torch.nonzero(flipped > 0.5).tolist() == [[26, 10, 12]]


def test_flipped_labels_are_those_of_the_other_side_and_others_stay() -> None:
    mirrored = torch.from_numpy(load_protocol().mirrored_channels.copy())
    channels = torch.tensor([0, LEFT, RIGHT, MIDDLE, 1, 255], dtype=torch.uint8)
    assert augment.flip_labels(channels, mirrored).tolist() == [0, RIGHT, LEFT, MIDDLE, 1, 255]
    assert torch.equal(augment.flip_labels(augment.flip_labels(channels, mirrored), mirrored), channels)


def test_a_flip_exchanges_the_covered_regions_of_partial_labels() -> None:
    scan = phantom(0)
    left_only = torch.zeros(OUTPUTS, dtype=torch.bool)
    left_only[LEFT] = True
    reference = torch.where(scan.channels == LEFT, scan.channels, torch.zeros_like(scan.channels))
    scan = replace(scan, channels=reference, covered=left_only)
    flipped = context_of(replace(STAGE, class_balanced_fraction=1.0), augment=replace(STILL, flip_probability=1.0))
    assert loss_of(Intensities(SWAPPED), scan, flipped, 0) < 0.05


# Tasks


def test_additional_tasks_are_learned() -> None:
    protocol = load_protocol()
    tasks = task_classes(protocol, ("tissue", "lobe", "brain"))
    assert tasks["brain"].tolist() == [0] + [1] * (OUTPUTS - 1)
    assert tasks["tissue"][LEFT] == tasks["tissue"][RIGHT] != tasks["tissue"][MIDDLE]
    classes = {task: int(labels.max()) + 1 for task, labels in tasks.items()}
    stage = StageSettings(20, learning_rate=2e-2, patches=4, ema_decay=0.5)
    choice = NetworkChoice(tasks=tuple(tasks))
    context = context_of(stage, scans_of(phantom(0), phantom(1)), network=choice)
    state = new_state(replace(NETWORK, settings=replace(NETWORK.settings, tasks=classes)), stage, None)

    def loss_of_tasks() -> float:
        with_, without = (
            context_of(stage, network=choice, loss=LossSettings(task_weight=weight)) for weight in (1.0, 0.0)
        )
        return loss_of(state.net, phantom(0), with_, 0) - loss_of(state.net, phantom(0), without, 0)

    before = loss_of_tasks()
    train_stage(state, context, lambda _: True)
    assert before > 0.8
    assert loss_of_tasks() < 0.75 * before


# Networks and memory


@pytest.mark.parametrize(
    ("kind", "settings", "loss"),
    [
        ("residual", ResidualSettings(OUTPUTS, (4, 6), image_channels=2, head_channels=4), "regions"),
        ("slant2018", Slant2018Settings(8, (2, 2, 3, 3, 4)), "slant2018"),
    ],
)
def test_every_kind_of_network_trains(kind: str, settings: ResidualSettings | Slant2018Settings, loss: str) -> None:
    stage = StageSettings(3, learning_rate=1e-2, patches=4)
    seen = field_of()
    if kind == "slant2018":
        seen = replace(field_of((0, 0, -2), (32, 40, 40)), channels=np.arange(8))
    network = NetworkSpec(kind, settings)
    state = new_state(network, stage, None)
    start = fresh_network(network)
    assert same_weights(state.net, start)
    trained([phantom(0)], context_of(stage, seen=seen, loss=LossSettings(loss)), state=state)
    assert state.step == 3
    assert np.isfinite(state.losses).all()
    assert not same_weights(state.net, start)


@pytest.mark.parametrize(
    ("kind", "memory"),
    [
        ("compact", MemorySettings(gradient_checkpointing=True)),
        ("compact", MemorySettings(offload_activations=True)),
        ("residual", MemorySettings(gradient_checkpointing=True, offload_activations=True)),
    ],
)
def test_memory_settings_do_not_change_the_weights(kind: str, memory: MemorySettings) -> None:
    context = context_of(replace(STAGE, steps=2, patches=4))
    states = []
    for settings in (MemorySettings(), memory):
        state = new_state(network_of_kind(kind), context.stage, None)
        state.net.memory = settings
        states.append(trained([phantom(0)], context, state=state))
    assert states[0].losses == states[1].losses
    assert same_weights(states[0].net, states[1].net)


# MixUp


MIXED = replace(STILL, mixup_alpha=0.4)


def mixed_loss(scans: tuple[LabelledScan, ...], weight: float) -> float:
    """Loss of one step on a MixUp of two scans, with the weight of the second."""
    net, context = fresh_network(NETWORK), context_of(augment=MIXED)
    atlas = atlas_on_cpu(phantom(0), phantom(1))
    same_intensities = patch.object(intensity, "vary_intensity", lambda image, *_: image)
    with same_intensities, patch.object(augment, "mixup_weight", lambda *_: weight):
        return float(step_loss(net, scans, atlas, context, torch.Generator().manual_seed(3)).detach())


def test_mixup_with_weight_zero_is_the_first_scan() -> None:
    alone = mixed_loss((phantom(0),), 0.0)
    assert mixed_loss((phantom(0), phantom(1)), 0.0) == pytest.approx(alone, abs=1e-6)


def test_images_and_losses_are_mixed_with_the_same_weight() -> None:
    """With equal images the output is the same for any weight, so only the losses of both labels are mixed."""
    first, second = phantom(0), replace(phantom(1), image=phantom(0).image)
    same = [mixed_loss((first, second), weight) for weight in (0.0, 0.25, 0.5)]
    assert same[0] != pytest.approx(same[2], abs=1e-4)
    assert same[1] == pytest.approx((same[0] + same[2]) / 2, abs=1e-5)
    other = mixed_loss((first, phantom(1)), 0.5)
    assert other != pytest.approx(same[2], abs=1e-5)


def test_mixup_weights_are_at_most_one_half_and_mostly_small() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [augment.mixup_weight(MIXED, generator) for _ in range(400)]
    assert all(0 <= weight <= 0.5 for weight in weights)
    assert np.median(weights) < 0.2
    assert max(weights) > 0.4
    even = [augment.mixup_weight(replace(MIXED, mixup_alpha=50.0), generator) for _ in range(20)]
    assert min(even) > 0.3


@pytest.mark.parametrize(("mixup_alpha", "pairs"), [(0.0, 0), (0.4, 4)])
def test_a_second_scan_is_drawn_only_for_mixup(mixup_alpha: float, pairs: int) -> None:
    counts = []

    def recorded(net: object, scans: tuple[LabelledScan, ...], *arguments: object) -> torch.Tensor:
        counts.append(len(scans))
        return step_loss(net, scans, *arguments)

    context = context_of(replace(STAGE, steps=4), augment=replace(STILL, mixup_alpha=mixup_alpha))
    with patch.object(loop, "step_loss", recorded):
        trained([phantom(0), phantom(1)], context)
    assert counts.count(2) == pairs
