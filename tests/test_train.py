"""Training: boxes, priors, augmentation, and a loop that resumes to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from slant.errors import InputError, LayoutError, ModelError, TrainingError
from slant.nets.predict import Predictor, tile_votes
from slant.nets.prior import FLOOR
from slant.nets.unet import CompactUNet, UNetSettings, place_channels
from slant.tiles import TileLayout
from slant.train import augment, boxes, data, loop, run
from slant.train.loss import region_loss
from slant.train.settings import TrainSettings

SHAPE = (32, 40, 36)
NETWORK = UNetSettings(4, (6, 8, 10), detail=2, mixed=6)
STAGE = loop.StageSettings(6, learning_rate=1e-2, boxes=8, average=0.5)
SEEN = loop.Field((0, 0, 0), SHAPE, SHAPE, np.arange(4))


def phantom(seed: int) -> data.LabelledScan:
    """Three bright blocks on a dark brain, shifted a little from scan to scan."""
    rng = np.random.default_rng(seed)
    channels = np.zeros(SHAPE, np.uint8)
    image = np.zeros(SHAPE, np.float32)
    image[4:28, 4:36, 4:32] = 0.5
    dx, dy, dz = rng.integers(-2, 3, 3)
    for channel, x in ((1, 6), (2, 13), (3, 20)):
        box = (slice(x + dx, x + dx + 6), slice(12 + dy, 28 + dy), slice(10 + dz, 24 + dz))
        channels[box] = channel
        image[box] = 0.7 + 0.3 * channel
    image += rng.normal(0, 0.02, SHAPE).astype(np.float32) * (image > 0)
    frequency = torch.from_numpy(data.label_frequency(channels, 4))
    return data.LabelledScan(f"p{seed}", torch.from_numpy(image), torch.from_numpy(channels), frequency)


@pytest.fixture(scope="module")
def scans() -> list[data.LabelledScan]:
    return [phantom(seed) for seed in range(4)]


def trained(scans, stage, stop_at=None, state=None) -> loop.State:
    state = state or loop.new_state(NETWORK, stage, None)
    return loop.train_stage(state, scans, SEEN, stage, augment.AugmentSettings(), lambda s: s.step != stop_at)


def same_weights(a: CompactUNet, b: CompactUNet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_that_stops_and_resumes_ends_with_the_same_bytes(scans, tmp_path: Path) -> None:
    whole = trained(scans, STAGE)
    half = trained(scans, STAGE, stop_at=3)
    assert half.step == 3
    loop.save_checkpoint(tmp_path / "half.pt", half)
    resumed = loop.new_state(NETWORK, replace(STAGE, seed=9), None)
    loop.load_checkpoint(tmp_path / "half.pt", resumed)
    trained(scans, STAGE, state=resumed)
    assert resumed.losses == whole.losses
    assert same_weights(resumed.net, whole.net)
    assert same_weights(resumed.average, whole.average)
    assert not same_weights(whole.net, whole.average)


def test_training_teaches_a_phantom(scans) -> None:
    stage = loop.StageSettings(60, learning_rate=2e-2, boxes=12, average=0.9)
    state = trained(scans[:3], stage)
    assert np.mean(state.losses[-10:]) < 0.6 * np.mean(state.losses[:5])
    held_out = scans[3]
    network = state.average.requires_grad_(False)
    predictor = Predictor(TileLayout(SHAPE, SHAPE, (1, 1, 1)), data.build_prior(scans[:3]), lambda _: network)
    ((_, found),) = tile_votes(predictor, held_out.image.numpy(), torch.device("cpu"), 1)
    truth = held_out.channels.numpy()
    dice = [2 * ((found == c) & (truth == c)).sum() / ((found == c).sum() + (truth == c).sum()) for c in (1, 2, 3)]
    assert min(dice) > 0.7


def test_a_loss_that_is_not_a_number_stops_with_the_state_untouched(scans) -> None:
    state = loop.new_state(NETWORK, STAGE, None)
    with torch.no_grad():
        state.net.head.bias[0] = torch.nan
    before = [p.clone() for p in state.net.encoders.parameters()]
    with pytest.raises(TrainingError, match="step 0"):
        loop.train_stage(state, scans, SEEN, STAGE, augment.AugmentSettings(), lambda _: True)
    assert all(torch.equal(a, b) for a, b in zip(before, state.net.encoders.parameters(), strict=True))


def test_boxes_gather_what_slicing_gives() -> None:
    array = torch.randn(1, 3, 9, 10, 11)
    first = torch.tensor([[1, 2, 3], [4, 0, 5]])
    cubes = boxes.gather(array, first, 4)
    for i, (x, y, z) in enumerate(first.tolist()):
        assert torch.equal(cubes[i], array[0, :, x : x + 4, y : y + 4, z : z + 4])


def test_the_tail_on_boxes_equals_the_tail_on_the_whole() -> None:
    torch.manual_seed(0)
    network = CompactUNet(NETWORK).requires_grad_(False)
    image, starts = torch.rand(1, 1, *SHAPE), torch.tensor([[4, 8, 12], [20, 4, 4]])
    features = network.trunk(image, place_channels(SHAPE, (0, 0, 0), SHAPE))
    whole = network.tail(features, image)
    m, edge = boxes.MARGIN, boxes.EDGE
    near = boxes.gather(features, starts // 2 - m // 2, (edge + 2 * m) // 2)
    part = network.tail(near, boxes.gather(image, starts - m, edge + 2 * m))[:, :, m:-m, m:-m, m:-m]
    for i, (x, y, z) in enumerate(starts.tolist()):
        assert torch.allclose(part[i], whole[0, :, x : x + edge, y : y + edge, z : z + edge], atol=1e-5)


@pytest.mark.parametrize("crop_start", [(0, 0, 0), (2, 6, 0)])
def test_prior_of_boxes_is_the_interpolated_log_frequency(scans, crop_start) -> None:
    total = torch.stack([s.frequency.float() for s in scans]).sum(dim=0)
    drawn = boxes.Boxes(torch.tensor([[8, 12, 8]]), crop_start, (24, 28, 28))
    found = boxes.prior_logits(total, None, drawn, FLOOR).reshape(8, 8, 8, 4)
    logs = torch.log((total / total.sum(dim=-1, keepdim=True)).clamp(min=FLOOR))
    first = [s + c for s, c in zip((8, 12, 8), crop_start, strict=True)]
    x, y, z = (boxes.interpolation_matrix(f, 8, n) for f, n in zip(first, logs.shape[:3], strict=True))
    assert torch.allclose(found, torch.einsum("ijkc,xi,yj,zk->xyzc", logs, x, y, z), atol=1e-4)


def test_prior_leaves_the_scans_own_labels_out(scans) -> None:
    total = scans[0].frequency.float() + scans[1].frequency.float()
    drawn = boxes.Boxes(torch.tensor([[8, 12, 8]]), (0, 0, 0), SHAPE)
    without = boxes.prior_logits(total, scans[0].frequency, drawn, FLOOR)
    alone = boxes.prior_logits(scans[1].frequency.float(), None, drawn, FLOOR)
    assert torch.allclose(without, alone, atol=2e-2)


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
    assert frequency.shape == (8, 10, 9, 4)
    assert torch.allclose(frequency.sum(dim=-1), torch.ones(8, 10, 9), atol=2e-2)
    assert frequency[2, 5, 4].argmax() == 1


def test_prior_is_built_from_the_scans_given(scans) -> None:
    prior = data.build_prior(scans[:1])
    logs = prior.log_frequency_at((slice(None),) * 3, np.arange(4)).numpy()
    expected = np.log(np.clip(scans[0].frequency.float().numpy(), FLOOR, 1))
    assert np.abs(logs - expected).max() < 0.02


def test_places_without_strength_are_the_voxels_themselves() -> None:
    still = augment.AugmentSettings(rotate_deg=0, scale=0, shift_mm=0, elastic_mm=0)
    places = augment.random_places(((10, 20, 30), (4, 5, 6)), (40, 50, 60), still, torch.Generator().manual_seed(0))
    assert torch.allclose(places[1, 2, 3], torch.tensor([11.0, 22.0, 33.0]), atol=1e-4)


def test_labels_follow_the_image_through_a_warp(scans) -> None:
    scan = scans[0]
    generator = torch.Generator().manual_seed(3)
    places = augment.random_places(((0, 0, 0), SHAPE), SHAPE, augment.AugmentSettings(), generator)
    image, labels = augment.sample_image(scan.image, places), augment.pick_labels(scan.channels, places)
    for channel in (1, 2, 3):
        inside = labels == channel
        assert abs(float(image[inside].mean()) - (0.7 + 0.3 * channel)) < 0.15


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
    stage = loop.StageSettings(100, decay=0.4)
    assert loop.schedule(0, stage) == pytest.approx(0.05)
    assert loop.schedule(40, stage) == 1
    assert loop.schedule(80, stage) == pytest.approx(0.5)


SETTINGS = TrainSettings("toy", TileLayout(SHAPE, (20, 24, 20), (2, 2, 2)), STAGE, STAGE)


def test_scans_without_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted pairs"):
        data.labelled_names(tmp_path)
    (tmp_path / "a_T1w.nii.gz").touch()
    with pytest.raises(InputError, match="no labels for a"):
        data.labelled_names(tmp_path)


def test_stages_in_the_wrong_order_say_what_to_do_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train the stage that makes it first"):
        run.averaged_weights(tmp_path / "whole.pt")
    with pytest.raises(InputError, match="run the preparation"):
        data.load_scans(tmp_path, ["a"], 4)


def test_checkpoints_that_are_none_or_unfinished_or_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="not a checkpoint"):
        run.averaged_weights(path)
    loop.save_checkpoint(path, loop.new_state(NETWORK, STAGE, None))
    with pytest.raises(ModelError, match="0 of 6 steps"):
        run.averaged_weights(path, 6)
    with pytest.raises(TrainingError, match=r"another network than widths = \[4, 6\]"):
        loop.new_state(replace(NETWORK, widths=(4, 6)), STAGE, run.averaged_weights(path))


def test_unknown_tiles_are_named() -> None:
    with pytest.raises(LayoutError, match="no tile 9_9_9"):
        run.train_tiles(SETTINGS, ("9_9_9",))


def test_tiles_train_and_export_as_a_model_that_reads_back(tmp_path: Path, scans) -> None:
    from slant.nets.weights import read_model

    folder = tmp_path / "work" / "prepared"
    folder.mkdir(parents=True)
    affine = np.eye(4)
    for scan in scans:
        np.savez_compressed(folder / f"{scan.name}.npz", image=scan.image.numpy(), channels=scan.channels.numpy())
        for kind in ("T1w", "dseg"):
            nib.save(nib.Nifti1Image(scan.channels.numpy(), affine), tmp_path / f"{scan.name}_{kind}.nii.gz")
    stage = loop.StageSettings(2, boxes=4)
    settings = replace(
        SETTINGS, whole=stage, tile=stage, widths=(4, 6), data=tmp_path, work=tmp_path / "work", fold=0, folds=2
    )
    assert run.train_whole(settings, seen=((0, 0, 0), SHAPE))
    assert not run.train_tiles(settings, until=0.0)
    assert run.train_tiles(settings)
    whole, tiled = run.export(settings)
    assert len(read_model(whole).layout) == 1
    model = read_model(tiled)
    assert model.manifest["training"]["people"] == ["p1", "p3"]
    assert len({float(model.network(t.name).head.weight.abs().sum()) for t in model.layout}) == 8
