"""Incomplete labels: only a few slices, no labels in a tile, or only some regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom_runs import started
from phantoms import (
    GENTLE,
    LEFT,
    MIDDLE,
    OUTPUTS,
    RIGHT,
    SHAPE,
    STAGE,
    STILL,
    Intensities,
    context_of,
    dice,
    loss_of,
    loss_tensor,
    phantom,
    phantom_arrays,
    scan_of,
    toy_settings,
    trained,
    write_prepared,
)

from slant.errors import InputError
from slant.io.resources import load_protocol
from slant.nets.predict import Predictor, tile_votes
from slant.tiles import TileLayout
from slant.train import data, patches
from slant.train.checkpoint import State
from slant.train.loss import IGNORED
from slant.train.settings import TrainSettings
from slant.train.stage_settings import StageSettings

SLICES = (12, 17, 22)
LONG_STAGE = StageSettings(45, learning_rate=2e-2, patches=10, ema_decay=0.9)
CONTEXT = context_of(STAGE, augment=STILL)


def sparse_arrays(seed: int, slices: tuple[int, ...] = SLICES) -> tuple[np.ndarray, np.ndarray]:
    """A phantom with labels on a few slices only."""
    image, channels = phantom_arrays(seed)
    unlabelled = np.ones(SHAPE, bool)
    unlabelled[:, :, slices] = False
    return image, np.where(unlabelled, np.uint8(IGNORED), channels)


def sparse(seed: int, slices: tuple[int, ...] = SLICES) -> data.LabelledScan:
    return scan_of(f"s{seed}", *sparse_arrays(seed, slices))


def predict(state: State, trained_on: list[data.LabelledScan], image: torch.Tensor) -> np.ndarray:
    network = state.average.requires_grad_(False)
    predictor = Predictor(TileLayout(SHAPE, SHAPE, (1, 1, 1)), data.build_prior(trained_on), lambda _: network)
    ((_, (predicted,)),) = tile_votes(predictor, image.numpy(), torch.device("cpu"), 1)
    return predicted


def test_unlabelled_voxels_have_no_gradient() -> None:
    scan = sparse(0)
    image = scan.image.clone().requires_grad_()
    loss_tensor(Intensities(), replace(scan, image=image), CONTEXT, 0).backward()
    gradient = image.grad.abs()
    assert gradient[scan.channels == IGNORED].max() < 1e-4 * gradient.max()
    assert (gradient[scan.channels != IGNORED] > 1e-4 * gradient.max()).sum() > 100


def test_the_image_in_unlabelled_voxels_does_not_change_the_loss() -> None:
    scan = sparse(0)
    other = torch.where((scan.channels == IGNORED) & (scan.image > 0), scan.image + 0.7, scan.image)
    plain = loss_of(Intensities(), scan, CONTEXT, 0)
    assert loss_of(Intensities(), replace(scan, image=other), CONTEXT, 0) == pytest.approx(plain, abs=1e-4)
    known = torch.where((scan.channels != IGNORED) & (scan.image > 0), scan.image + 0.7, scan.image)
    assert loss_of(Intensities(), replace(scan, image=known), CONTEXT, 0) > 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_patches_are_drawn_near_labels(fraction: float) -> None:
    candidates = patches.candidate_starts((60, 60, 60))
    labels = torch.full(candidates.shape[:3], IGNORED, dtype=torch.uint8)
    labels[:, :, 5] = 0
    labels[2:5, 2:5, 5] = 9
    generator = torch.Generator().manual_seed(0)
    drawn = patches.draw_patches(candidates, labels, torch.ones_like(labels, dtype=torch.bool), 30, fraction, generator)
    assert (drawn[:, 2] == candidates[0, 0, 5, 2]).all()


def test_the_nearest_label_extends_by_half_a_patch() -> None:
    channels = np.full((1, 1, 20), IGNORED, np.uint8)
    channels[0, 0, 10] = 3
    near = data.nearest_labels(channels)[0, 0].tolist()
    assert near == [IGNORED] * 6 + [3] * 9 + [IGNORED] * 5


def test_unlabelled_voxels_do_not_count_in_the_frequencies() -> None:
    frequency = sparse(0).frequency.float()
    dense = phantom(0).frequency.float()
    assert frequency.sum(dim=-1).max() < 0.5
    fractions = frequency / frequency.sum(dim=-1, keepdim=True).clamp(min=1e-3)
    assert (fractions[2, 5, 4] - dense[2, 5, 4]).abs().max() < 0.15


def test_a_few_labelled_slices_suffice_for_dense_labels() -> None:
    scans = [sparse(seed) for seed in range(3)]
    labelled = float(np.mean([(scan.channels != IGNORED).float().mean() for scan in scans]))
    assert labelled < 0.09
    state = trained(scans, context_of(LONG_STAGE, augment=GENTLE))
    image, reference = phantom_arrays(3)
    assert min(dice(predict(state, scans, torch.from_numpy(image)), reference)) > 0.7


def test_a_scan_without_labels_in_a_tile_has_a_loss_of_zero() -> None:
    unlabelled = scan_of("none", phantom_arrays(1)[0], np.full(SHAPE, IGNORED, np.uint8))
    for fraction in (0.0, 0.5, 1.0):
        context = replace(CONTEXT, stage=replace(STAGE, class_balanced_fraction=fraction))
        assert loss_of(Intensities(), unlabelled, context, 0) == 0
    state = trained([unlabelled, unlabelled], context_of(replace(STAGE, steps=2)))
    assert state.losses == [0.0, 0.0]
    assert all(torch.isfinite(p).all() for p in state.net.parameters())
    mixed = trained([unlabelled, phantom(0)], context_of(replace(STAGE, steps=4)))
    assert np.isfinite(mixed.losses).all()
    assert max(mixed.losses) > 0


# Labels of some regions only


def partial_arrays(seed: int, channels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    image, reference = phantom_arrays(seed)
    return image, np.where(np.isin(reference, channels), reference, 0).astype(np.uint8)


def write_partial(folder: Path, covers: dict[str, tuple[int, ...]]) -> TrainSettings:
    """A run whose scans cover these channels, according to its table of scans."""
    ids = load_protocol().ids
    lines = [f"{name}\t{','.join(str(ids[c]) for c in channels)}" for name, channels in covers.items()]
    (folder / "scans.tsv").write_text("\n".join(["name\tregions", *lines]) + "\n")
    settings = toy_settings(folder, subjects=len(covers), scans=folder / "scans.tsv")
    prepared = settings.work_dir / "prepared"
    for seed, (name, channels) in enumerate(covers.items()):
        if channels:
            write_prepared(prepared, prepared, name, partial_arrays(seed, channels))
    return settings


def test_the_labels_of_uncovered_regions_have_no_influence() -> None:
    context = context_of(replace(STAGE, class_balanced_fraction=0.0), augment=STILL)
    image, reference = phantom_arrays(0)
    full, partial = (scan_of("a", image, channels, (LEFT,)) for channels in (reference, partial_arrays(0, (LEFT,))[1]))
    for net in (Intensities(), Intensities({LEFT: 1.0, MIDDLE: 2.2, RIGHT: 1.5})):
        assert loss_of(net, full, context, 0) == loss_of(net, partial, context, 0) < 0.05
    wrong = Intensities({LEFT: 1.5, MIDDLE: 1.0, RIGHT: 2.2})
    assert loss_of(wrong, full, context, 0) > 0.5


@pytest.mark.slow  # a hundred steps
def test_one_network_learns_all_regions_from_scans_that_cover_different_ones(tmp_path: Path) -> None:
    covers = {f"p{i}": (LEFT,) if i < 3 else (MIDDLE, RIGHT) for i in range(6)}
    scans = started(write_partial(tmp_path, covers))[1].manual
    assert [np.flatnonzero(s.covered).tolist() for s in scans] == [[LEFT]] * 3 + [[RIGHT, MIDDLE]] * 3
    state = trained(scans, context_of(replace(LONG_STAGE, steps=100), augment=GENTLE))
    image, reference = phantom_arrays(9)
    assert min(dice(predict(state, scans, torch.from_numpy(image)), reference)) > 0.65


def test_regions_that_few_scans_cover_have_the_frequency_of_the_others(tmp_path: Path) -> None:
    scans = started(write_partial(tmp_path, {"p0": (), "p1": (LEFT,), "p2": (LEFT,)}))[1].manual
    total = data.total_frequency(scans)
    middle = total[..., MIDDLE].sum() / phantom(0).frequency[..., MIDDLE].float().sum()
    assert float(middle) == pytest.approx(3, rel=0.02)
    left = torch.stack([phantom(seed).frequency[..., LEFT].float() for seed in range(3)]).sum()
    assert float(total[..., LEFT].sum() / left) == pytest.approx(1, rel=0.02)
    assert total.shape[-1] == OUTPUTS


@pytest.mark.parametrize(("regions", "unknown"), [("0", 0), ("30,9999", 9999)])
def test_unknown_covered_regions_are_refused(tmp_path: Path, regions: str, unknown: int) -> None:
    (tmp_path / "scans.tsv").write_text(f"name\tregions\np0\t{regions}\n")
    settings = toy_settings(tmp_path, scans=tmp_path / "scans.tsv")
    with pytest.raises(InputError, match=rf"p0 covers \[{unknown}\], which are not regions of"):
        started(settings)
