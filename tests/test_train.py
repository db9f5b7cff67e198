"""Training: boxes, priors, augmentation, and a loop that resumes to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import (
    BLOCKS,
    GENTLE,
    LEFT,
    NETWORK,
    OUTPUTS,
    SHAPE,
    STAGE,
    dice,
    fresh_network,
    identity_of,
    lesson_of,
    phantom,
    same_weights,
    trained,
)

from slant.errors import InputError
from slant.nets.predict import Predictor, tile_votes
from slant.nets.prior import FLOOR
from slant.nets.unet import place_channels
from slant.tiles import TileLayout
from slant.train import augment, boxes, data, loop
from slant.train.checkpoint import load_checkpoint, new_state, save_checkpoint
from slant.train.loss import region_loss
from slant.train.settings import StageSettings


@pytest.fixture(scope="module")
def scans() -> list[data.LabelledScan]:
    return [phantom(seed) for seed in range(4)]


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_that_stops_and_resumes_ends_with_the_same_bytes(scans, tmp_path: Path, stop_at: int) -> None:
    lesson = lesson_of(replace(STAGE, auxiliary=0.5), augmentation=augment.AugmentSettings(flip=0.5))
    groups = {"manual": scans[:2], "auxiliary": scans[2:]}
    whole = trained(**groups, lesson=lesson)
    half = trained(**groups, lesson=lesson, stop_at=stop_at)
    assert half.step == stop_at
    save_checkpoint(tmp_path / "half.pt", half, identity_of())
    resumed = new_state(NETWORK, replace(STAGE, seed=9), None)
    load_checkpoint(tmp_path / "half.pt", resumed, identity_of())
    trained(**groups, lesson=lesson, state=resumed)
    assert resumed.losses == whole.losses
    assert same_weights(resumed.net, whole.net)
    assert same_weights(resumed.average, whole.average)
    assert not same_weights(whole.net, whole.average)


def test_training_teaches_a_phantom(scans) -> None:
    stage = StageSettings(45, learning_rate=2e-2, boxes=10, average=0.9)
    state = trained(scans[:3], lesson_of(stage, augmentation=GENTLE))
    assert np.mean(state.losses[-10:]) < 0.8 * np.mean(state.losses[:5])
    network = state.average.requires_grad_(False)
    predictor = Predictor(TileLayout(SHAPE, SHAPE, (1, 1, 1)), data.build_prior(scans[:3]), lambda _: network)
    ((_, found),) = tile_votes(predictor, scans[3].image.numpy(), torch.device("cpu"), 1)
    assert min(dice(found, scans[3].channels.numpy())) > 0.8


def test_steps_take_auxiliary_scans_as_often_as_asked(scans) -> None:
    manual, other, machine = scans[0], scans[1], scans[2]

    def losses(share: float, by_hand: data.LabelledScan) -> list[float]:
        return trained([by_hand], lesson_of(replace(STAGE, steps=2, auxiliary=share)), auxiliary=[machine]).losses

    assert losses(0.0, manual) != losses(0.0, other)
    assert losses(0.0, manual) != losses(1.0, manual)


def test_pretraining_never_looks_at_the_images_labelled_by_hand(scans) -> None:
    lesson = lesson_of(replace(STAGE, steps=3, auxiliary=1.0))
    blank = replace(scans[0], image=torch.zeros(SHAPE))
    first = trained([scans[0]], lesson, auxiliary=[scans[2]])
    second = trained([blank], lesson, auxiliary=[scans[2]])
    assert same_weights(first.net, second.net)


def test_boxes_gather_what_slicing_gives() -> None:
    array = torch.randn(1, 3, 9, 10, 11)
    first = torch.tensor([[1, 2, 3], [4, 0, 5]])
    cubes = boxes.gather(array, first, 4)
    for i, (x, y, z) in enumerate(first.tolist()):
        assert torch.equal(cubes[i], array[0, :, x : x + 4, y : y + 4, z : z + 4])


@pytest.mark.parametrize("kind", ["compact", "residual"])
def test_the_tail_on_boxes_equals_the_tail_on_the_whole(kind: str) -> None:
    network = fresh_network(kind, NETWORK[1]).requires_grad_(False)
    image, starts = torch.rand(1, 1, *SHAPE), torch.tensor([[4, 8, 12], [20, 4, 4]])
    features = network.trunk(image, place_channels(SHAPE, (0, 0, 0), SHAPE))
    whole = network.tail(features, image)
    m, edge = network.reach, boxes.EDGE
    near = boxes.gather(features, (starts - m) // network.stride, (edge + 2 * m) // network.stride)
    part = network.tail(near, boxes.gather(image, starts - m, edge + 2 * m))[:, :, m:-m, m:-m, m:-m]
    for i, (x, y, z) in enumerate(starts.tolist()):
        assert torch.allclose(part[i], whole[0, :, x : x + edge, y : y + edge, z : z + edge], atol=1e-5)


@pytest.mark.parametrize("crop_start", [(0, 0, 0), (2, 6, 0)])
def test_prior_of_boxes_is_the_interpolated_log_frequency(scans, crop_start) -> None:
    total = torch.stack([s.frequency.float() for s in scans]).sum(dim=0)
    drawn = boxes.Boxes(torch.tensor([[8, 12, 8]]), crop_start, (24, 28, 28))
    found = boxes.prior_logits(total, None, drawn, FLOOR).reshape(8, 8, 8, OUTPUTS)
    logs = torch.log((total / total.sum(dim=-1, keepdim=True)).clamp(min=FLOOR))
    first = [s + c for s, c in zip((8, 12, 8), crop_start, strict=True)]
    x, y, z = (boxes.interpolation_matrix(f, 8, n) for f, n in zip(first, logs.shape[:3], strict=True))
    assert torch.allclose(found, torch.einsum("ijkc,xi,yj,zk->xyzc", logs, x, y, z), atol=1e-4)


def test_prior_leaves_the_scans_own_labels_out(scans) -> None:
    total = data.total_frequency(scans[:2])
    drawn = boxes.Boxes(torch.tensor([[8, 12, 8]]), (0, 0, 0), SHAPE)
    without = boxes.prior_logits(total, data.own_frequency(scans[0], scans[:2]), drawn, FLOOR)
    alone = boxes.prior_logits(scans[1].frequency.float(), None, drawn, FLOOR)
    assert torch.allclose(without, alone, atol=2e-2)


def test_one_scan_alone_tells_which_regions_there_are_but_not_where(scans) -> None:
    total = data.total_frequency(scans[:1])
    assert data.own_frequency(scans[0], scans[:1]) is None
    assert torch.equal(total, total[:1, :1, :1].expand_as(total))
    assert np.flatnonzero(total[0, 0, 0].numpy()).tolist() == sorted([0, *BLOCKS])


@pytest.mark.parametrize(("balanced", "least", "most"), [(0.0, 0, 12), (1.0, 20, 20)])
def test_balanced_boxes_reach_the_smallest_region(balanced: float, least: int, most: int) -> None:
    candidates = boxes.candidate_starts((60, 60, 60))
    labels = torch.ones(candidates.shape[:3], dtype=torch.uint8)
    labels[0, 0, 0] = 2
    hits = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        drawn = boxes.draw_boxes(candidates, labels, labels > 0, 40, balanced, generator)
        hits += int((drawn == candidates[0, 0, 0]).all(dim=1).any())
    assert least <= hits <= most


def test_frequencies_sum_to_one_and_lie_where_the_labels_are(scans) -> None:
    frequency = scans[0].frequency.float()
    assert frequency.shape == (8, 10, 9, OUTPUTS)
    assert torch.allclose(frequency.sum(dim=-1), torch.ones(8, 10, 9), atol=2e-2)
    assert frequency[2, 5, 4].argmax() == LEFT


def test_prior_is_built_from_the_scans_given(scans) -> None:
    prior = data.build_prior(scans[:2])
    logs = prior.log_frequency_at((slice(None),) * 3, np.arange(OUTPUTS)).numpy()
    mean = (scans[0].frequency.float() + scans[1].frequency.float()).numpy() / 2
    assert np.abs(logs - np.log(np.clip(mean, FLOOR, 1))).max() < 0.05


def test_places_without_strength_are_the_voxels_themselves() -> None:
    still = augment.AugmentSettings(rotate_deg=0, scale=0, shift_mm=0, elastic_mm=0)
    places = augment.random_places(((10, 20, 30), (4, 5, 6)), (40, 50, 60), still, torch.Generator().manual_seed(0))
    assert torch.allclose(places[1, 2, 3], torch.tensor([11.0, 22.0, 33.0]), atol=1e-4)


def test_labels_follow_the_image_through_a_warp(scans) -> None:
    scan = scans[0]
    generator = torch.Generator().manual_seed(3)
    places = augment.random_places(((0, 0, 0), SHAPE), SHAPE, augment.AugmentSettings(), generator)
    image, labels = augment.sample_image(scan.image, places), augment.pick_labels(scan.channels, places)
    for channel, (_, value) in BLOCKS.items():
        assert abs(float(image[labels == channel].mean()) - value) < 0.2


def test_warps_do_not_mirror() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        places = augment.random_places(((0, 0, 0), SHAPE), SHAPE, augment.AugmentSettings(), generator)
        assert (places[-1, :, :, 0].mean() > places[0, :, :, 0].mean()).item()


def test_intensities_vary_by_seed_only_and_stay_zero_outside_a_kept_mask(scans) -> None:
    settings = augment.AugmentSettings(rough_mask=0)
    varied = [augment.vary_intensity(scans[0].image, settings, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(varied[0], varied[1])
    assert not torch.equal(varied[0], varied[2])
    assert (varied[2][scans[0].image == 0] == 0).all()
    assert torch.isfinite(varied[2]).all()


def test_loss_is_small_for_the_truth_and_large_for_its_opposite() -> None:
    truth = torch.tensor([0, 1, 2, 2])
    right = torch.nn.functional.one_hot(truth, 4) * 20.0
    assert region_loss(right, truth) < 1e-3
    assert region_loss(-right, truth) > 2
    gradient = right.clone().requires_grad_()
    region_loss(gradient * 0.1, truth).backward()
    assert torch.isfinite(gradient.grad).all()


def test_schedule_warms_up_stays_and_falls_to_zero() -> None:
    stage = StageSettings(100, decay=0.4)
    assert loop.schedule(0, stage) == pytest.approx(0.05)
    assert loop.schedule(40, stage) == 1
    assert loop.schedule(80, stage) == pytest.approx(0.5)


def test_scans_without_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted pairs"):
        data.labelled_names(tmp_path)
    (tmp_path / "a_T1w.nii.gz").touch()
    with pytest.raises(InputError, match="no labels for a"):
        data.labelled_names(tmp_path)


def test_scans_that_were_not_prepared_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz; run the preparation"):
        data.load_scans(tmp_path, tmp_path, ["a"], {})
