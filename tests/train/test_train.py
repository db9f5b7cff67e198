"""Training: patches, priors, augmentation, and a loop that resumes to the same bytes."""

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
    context_of,
    dice,
    field_of,
    fresh_network,
    identity_of,
    network_of_kind,
    phantom,
    same_weights,
    trained,
)

from slant.errors import InputError
from slant.nets.predict import Predictor, tile_votes
from slant.nets.prior import FLOOR
from slant.nets.unet import box_coordinate_channels
from slant.tiles import TileLayout
from slant.train import augment, data, intensity, loop, patches
from slant.train.checkpoint import load_checkpoint, new_state, save_checkpoint
from slant.train.loss import region_loss
from slant.train.stage_settings import StageSettings


@pytest.fixture(scope="module")
def scans() -> list[data.LabelledScan]:
    return [phantom(seed) for seed in range(4)]


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_that_stops_and_resumes_ends_with_the_same_weights(scans, tmp_path: Path, stop_at: int) -> None:
    context = context_of(
        replace(STAGE, auxiliary_probability=0.5), augment=augment.AugmentSettings(flip_probability=0.5)
    )
    groups = {"manual": scans[:2], "auxiliary": scans[2:]}
    whole = trained(**groups, context=context)
    half = trained(**groups, context=context, stop_at=stop_at)
    assert half.step == stop_at
    save_checkpoint(tmp_path / "half.pt", half, identity_of())
    resumed = new_state(NETWORK, replace(STAGE, seed=9), None)
    load_checkpoint(tmp_path / "half.pt", resumed, identity_of())
    trained(**groups, context=context, state=resumed)
    assert resumed.losses == whole.losses
    assert same_weights(resumed.net, whole.net)
    assert same_weights(resumed.average, whole.average)
    assert not same_weights(whole.net, whole.average)


def test_training_learns_the_regions_of_phantoms(scans) -> None:
    stage = StageSettings(45, learning_rate=2e-2, patches=10, ema_decay=0.9)
    state = trained(scans[:3], context_of(stage, augment=GENTLE))
    assert np.mean(state.losses[-10:]) < 0.8 * np.mean(state.losses[:5])
    network = state.average.requires_grad_(False)
    predictor = Predictor(TileLayout(SHAPE, SHAPE, (1, 1, 1)), data.build_prior(scans[:3]), lambda _: network)
    ((_, (found,)),) = tile_votes(predictor, scans[3].image.numpy(), torch.device("cpu"), 1)
    assert min(dice(found, scans[3].channels.numpy())) > 0.8


def test_auxiliary_scans_are_drawn_with_the_given_probability(scans) -> None:
    manual, other, automatic = scans[0], scans[1], scans[2]

    def losses(probability: float, scan: data.LabelledScan) -> list[float]:
        context = context_of(replace(STAGE, steps=2, auxiliary_probability=probability))
        return trained([scan], context, auxiliary=[automatic]).losses

    assert losses(0.0, manual) != losses(0.0, other)
    assert losses(0.0, manual) != losses(1.0, manual)


def test_pretraining_does_not_use_images_with_manual_labels(scans) -> None:
    context = context_of(replace(STAGE, steps=3, auxiliary_probability=1.0))
    blank = replace(scans[0], image=torch.zeros(SHAPE))
    first = trained([scans[0]], context, auxiliary=[scans[2]])
    second = trained([blank], context, auxiliary=[scans[2]])
    assert same_weights(first.net, second.net)


def test_gather_equals_slicing() -> None:
    array = torch.randn(1, 3, 9, 10, 11)
    first = torch.tensor([[1, 2, 3], [4, 0, 5]])
    cubes = patches.gather(array, first, 4)
    for i, (x, y, z) in enumerate(first.tolist()):
        assert torch.equal(cubes[i], array[0, :, x : x + 4, y : y + 4, z : z + 4])


@pytest.mark.parametrize("kind", ["compact", "residual"])
def test_the_inner_head_on_patches_equals_the_decoder_head_on_the_whole_image(kind: str) -> None:
    network = fresh_network(network_of_kind(kind)).requires_grad_(False)
    image, starts = torch.rand(1, 1, *SHAPE), torch.tensor([[4, 8, 12], [20, 4, 4]])
    features = network.backbone(image, box_coordinate_channels(SHAPE, (0, 0, 0), SHAPE))
    whole = network.decoder_head(features, image)
    m, edge = network.halo, patches.EDGE
    near = patches.gather(features, (starts - m) // network.stride, (edge + 2 * m) // network.stride)
    part = network.inner_head(near, patches.gather(image, starts - m, edge + 2 * m))
    for i, (x, y, z) in enumerate(starts.tolist()):
        assert torch.allclose(part[i], whole[0, :, x : x + edge, y : y + edge, z : z + edge], atol=1e-5)


@pytest.mark.parametrize("crop_start", [(0, 0, 0), (2, 6, 0)])
def test_the_prior_of_patches_is_the_interpolated_log_frequency(scans, crop_start) -> None:
    total = torch.stack([s.frequency.float() for s in scans]).sum(dim=0)
    drawn = patches.Patches(torch.tensor([[8, 12, 8]]), crop_start)
    found = patches.prior_logits(total, None, drawn, FLOOR).reshape(8, 8, 8, OUTPUTS)
    logs = torch.log((total / total.sum(dim=-1, keepdim=True)).clamp(min=FLOOR))
    first = [s + c for s, c in zip((8, 12, 8), crop_start, strict=True)]
    x, y, z = (patches.interpolation_matrix(f, 8, n) for f, n in zip(first, logs.shape[:3], strict=True))
    assert torch.allclose(found, torch.einsum("ijkc,xi,yj,zk->xyzc", logs, x, y, z), atol=1e-4)


def test_the_prior_leaves_out_the_labels_of_the_scan_itself(scans) -> None:
    total = data.total_frequency(scans[:2])
    drawn = patches.Patches(torch.tensor([[8, 12, 8]]), (0, 0, 0))
    without = patches.prior_logits(total, data.own_frequency(scans[0], scans[:2]), drawn, FLOOR)
    alone = patches.prior_logits(scans[1].frequency.float(), None, drawn, FLOOR)
    assert torch.allclose(without, alone, atol=2e-2)


def test_a_single_scan_gives_a_prior_without_positions(scans) -> None:
    total = data.total_frequency(scans[:1])
    assert data.own_frequency(scans[0], scans[:1]) is None
    assert torch.equal(total, total[:1, :1, :1].expand_as(total))
    assert np.flatnonzero(total[0, 0, 0].numpy()).tolist() == sorted([0, *BLOCKS])


@pytest.mark.parametrize(("fraction", "minimum", "maximum"), [(0.0, 0, 12), (1.0, 20, 20)])
def test_class_balanced_patches_include_the_smallest_region(fraction: float, minimum: int, maximum: int) -> None:
    candidates = patches.candidate_starts((60, 60, 60))
    labels = torch.ones(candidates.shape[:3], dtype=torch.uint8)
    labels[0, 0, 0] = 2
    hits = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        drawn = patches.draw_patches(candidates, labels, labels > 0, 40, fraction, generator)
        hits += int((drawn == candidates[0, 0, 0]).all(dim=1).any())
    assert minimum <= hits <= maximum


def test_frequencies_sum_to_one_and_are_highest_in_their_region(scans) -> None:
    frequency = scans[0].frequency.float()
    assert frequency.shape == (8, 10, 9, OUTPUTS)
    assert torch.allclose(frequency.sum(dim=-1), torch.ones(8, 10, 9), atol=2e-2)
    assert frequency[2, 5, 4].argmax() == LEFT


def test_the_prior_is_the_mean_frequency_of_the_given_scans(scans) -> None:
    prior = data.build_prior(scans[:2])
    logs = prior.log_frequency_at((slice(None),) * 3, np.arange(OUTPUTS)).numpy()
    mean = (scans[0].frequency.float() + scans[1].frequency.float()).numpy() / 2
    assert np.abs(logs - np.log(np.clip(mean, FLOOR, 1))).max() < 0.05


def test_coordinates_without_augmentation_are_the_voxels_themselves() -> None:
    still = augment.AugmentSettings(rotation_deg=0, scaling=0, translation_mm=0, elastic_mm=0)
    seen = field_of((10, 20, 30), (4, 5, 6), (40, 50, 60))
    coordinates = augment.random_coordinates(seen, still, torch.Generator().manual_seed(0))
    assert torch.allclose(coordinates[1, 2, 3], torch.tensor([11.0, 22.0, 33.0]), atol=1e-4)


def test_labels_follow_the_image_through_a_deformation(scans) -> None:
    scan = scans[0]
    generator = torch.Generator().manual_seed(3)
    coordinates = augment.random_coordinates(field_of(), augment.AugmentSettings(), generator)
    image, labels = augment.sample_image(scan.image, coordinates), augment.pick_labels(scan.channels, coordinates)
    for channel, (_, value) in BLOCKS.items():
        assert abs(float(image[labels == channel].mean()) - value) < 0.2


def test_deformations_do_not_flip() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        coordinates = augment.random_coordinates(field_of(), augment.AugmentSettings(), generator)
        assert (coordinates[-1, :, :, 0].mean() > coordinates[0, :, :, 0].mean()).item()


def test_intensities_depend_on_the_seed_only_and_stay_zero_outside_the_mask(scans) -> None:
    settings = augment.AugmentSettings(mask_perturbation=0)
    varied = [intensity.vary_intensity(scans[0].image, settings, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(varied[0], varied[1])
    assert not torch.equal(varied[0], varied[2])
    assert (varied[2][scans[0].image == 0] == 0).all()
    assert torch.isfinite(varied[2]).all()


def test_the_loss_is_small_for_the_reference_and_large_for_its_opposite() -> None:
    reference = torch.tensor([0, 1, 2, 2])
    right = torch.nn.functional.one_hot(reference, 4) * 20.0
    assert region_loss(right, reference) < 1e-3
    assert region_loss(-right, reference) > 2
    gradient = right.clone().requires_grad_()
    region_loss(gradient * 0.1, reference).backward()
    assert torch.isfinite(gradient.grad).all()


def test_the_schedule_has_warm_up_plateau_and_decay() -> None:
    stage = StageSettings(100, lr_decay_fraction=0.4)
    assert loop.learning_rate(0, stage) == pytest.approx(0.05 * stage.learning_rate)
    assert loop.learning_rate(40, stage) == stage.learning_rate
    assert loop.learning_rate(80, stage) == pytest.approx(0.5 * stage.learning_rate)


def test_scans_without_labels_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no \*_T1w\.nii\.gz, expected pairs"):
        data.labelled_names(tmp_path)
    (tmp_path / "a_T1w.nii.gz").touch()
    with pytest.raises(InputError, match="no labels for a"):
        data.labelled_names(tmp_path)


def test_scans_that_were_not_prepared_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.labels\.npz does not exist; run the stage prepare"):
        data.load_scans(tmp_path, tmp_path, ["a"], {})
