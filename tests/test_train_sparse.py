"""Labels that are not complete: a few slices, nothing at all in a tile, or only some regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
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
    dice,
    lesson_of,
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
from slant.train import boxes, data
from slant.train.checkpoint import State
from slant.train.loss import IGNORED
from slant.train.prepare import load_training
from slant.train.settings import StageSettings, TrainSettings

SLICES = (12, 17, 22)
TAUGHT = StageSettings(45, learning_rate=2e-2, boxes=10, average=0.9)
LESSON = lesson_of(STAGE, augmentation=STILL)


def sparse_arrays(seed: int, slices: tuple[int, ...] = SLICES) -> tuple[np.ndarray, np.ndarray]:
    """A phantom annotated on a few planes only."""
    image, channels = phantom_arrays(seed)
    left_out = np.ones(SHAPE, bool)
    left_out[:, :, slices] = False
    return image, np.where(left_out, np.uint8(IGNORED), channels)


def sparse(seed: int, slices: tuple[int, ...] = SLICES) -> data.LabelledScan:
    return scan_of(f"s{seed}", *sparse_arrays(seed, slices))


def found_by(state: State, trained_on: list[data.LabelledScan], image: torch.Tensor) -> np.ndarray:
    network = state.average.requires_grad_(False)
    predictor = Predictor(TileLayout(SHAPE, SHAPE, (1, 1, 1)), data.build_prior(trained_on), lambda _: network)
    ((_, found),) = tile_votes(predictor, image.numpy(), torch.device("cpu"), 1)
    return found


def test_voxels_nobody_labelled_train_nothing() -> None:
    scan = sparse(0)
    image = scan.image.clone().requires_grad_()
    loss_tensor(Intensities(), replace(scan, image=image), LESSON, 0).backward()
    slope = image.grad.abs()
    assert slope[scan.channels == IGNORED].max() < 1e-4 * slope.max()
    assert (slope[scan.channels != IGNORED] > 1e-4 * slope.max()).sum() > 100


def test_what_lies_in_voxels_nobody_labelled_does_not_matter() -> None:
    scan = sparse(0)
    other = torch.where((scan.channels == IGNORED) & (scan.image > 0), scan.image + 0.7, scan.image)
    plain = loss_of(Intensities(), scan, LESSON, 0)
    assert loss_of(Intensities(), replace(scan, image=other), LESSON, 0) == pytest.approx(plain, abs=1e-4)
    known = torch.where((scan.channels != IGNORED) & (scan.image > 0), scan.image + 0.7, scan.image)
    assert loss_of(Intensities(), replace(scan, image=known), LESSON, 0) > 0.5


@pytest.mark.parametrize("balanced", [0.0, 0.5, 1.0])
def test_boxes_are_drawn_where_labels_are(balanced: float) -> None:
    candidates = boxes.candidate_starts((60, 60, 60))
    labels = torch.full(candidates.shape[:3], IGNORED, dtype=torch.uint8)
    labels[:, :, 5] = 0
    labels[2:5, 2:5, 5] = 9
    generator = torch.Generator().manual_seed(0)
    drawn = boxes.draw_boxes(candidates, labels, torch.ones_like(labels, dtype=torch.bool), 30, balanced, generator)
    assert (drawn[:, 2] == candidates[0, 0, 5, 2]).all()


def test_the_nearest_label_reaches_half_a_box() -> None:
    channels = np.full((1, 1, 20), IGNORED, np.uint8)
    channels[0, 0, 10] = 3
    near = data.nearest_labels(channels)[0, 0].tolist()
    assert near == [IGNORED] * 6 + [3] * 9 + [IGNORED] * 5


def test_unlabelled_voxels_count_for_no_region_in_the_frequencies() -> None:
    frequency = sparse(0).frequency.float()
    dense = phantom(0).frequency.float()
    assert frequency.sum(dim=-1).max() < 0.5
    shares = frequency / frequency.sum(dim=-1, keepdim=True).clamp(min=1e-3)
    assert (shares[2, 5, 4] - dense[2, 5, 4]).abs().max() < 0.15


def test_a_few_annotated_slices_teach_dense_labels() -> None:
    scans = [sparse(seed) for seed in range(3)]
    share = float(np.mean([(scan.channels != IGNORED).float().mean() for scan in scans]))
    assert share < 0.09
    state = trained(scans, lesson_of(TAUGHT, augmentation=GENTLE))
    image, truth = phantom_arrays(3)
    assert min(dice(found_by(state, scans, torch.from_numpy(image)), truth)) > 0.7


def test_a_scan_without_labels_in_a_tile_does_no_harm() -> None:
    nothing = scan_of("none", phantom_arrays(1)[0], np.full(SHAPE, IGNORED, np.uint8))
    for balanced in (0.0, 0.5, 1.0):
        lesson = replace(LESSON, stage=replace(STAGE, balanced=balanced))
        assert loss_of(Intensities(), nothing, lesson, 0) == 0
    state = trained([nothing, nothing], lesson_of(replace(STAGE, steps=2)))
    assert state.losses == [0.0, 0.0]
    assert all(torch.isfinite(p).all() for p in state.net.parameters())
    mixed = trained([nothing, phantom(0)], lesson_of(replace(STAGE, steps=4)))
    assert np.isfinite(mixed.losses).all()
    assert max(mixed.losses) > 0


# Labels of some regions only


def partly(seed: int, channels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    image, truth = phantom_arrays(seed)
    return image, np.where(np.isin(truth, channels), truth, 0).astype(np.uint8)


def write_partial(folder: Path, covers: dict[str, tuple[int, ...]]) -> TrainSettings:
    """A run whose scans cover these channels, as its table of scans says."""
    ids = load_protocol().ids
    lines = [f"{name}\t{','.join(str(ids[c]) for c in of)}" for name, of in covers.items()]
    (folder / "scans.tsv").write_text("\n".join(["name\tregions", *lines]) + "\n")
    settings = toy_settings(folder, people=len(covers), scans=folder / "scans.tsv")
    prepared = settings.work / "prepared"
    for seed, (name, of) in enumerate(covers.items()):
        if of:
            write_prepared(prepared, prepared, name, partly(seed, of))
    return settings


def test_uncovered_truth_has_no_influence() -> None:
    lesson = lesson_of(replace(STAGE, balanced=0.0), augmentation=STILL)
    image, truth = phantom_arrays(0)
    full, rest = (scan_of("a", image, channels, (LEFT,)) for channels in (truth, partly(0, (LEFT,))[1]))
    for net in (Intensities(), Intensities({LEFT: 1.0, MIDDLE: 2.2, RIGHT: 1.5})):
        assert loss_of(net, full, lesson, 0) == loss_of(net, rest, lesson, 0) < 0.05
    wrong = Intensities({LEFT: 1.5, MIDDLE: 1.0, RIGHT: 2.2})
    assert loss_of(wrong, full, lesson, 0) > 0.5


@pytest.mark.slow  # a hundred steps
def test_scans_of_different_regions_teach_one_network_all_of_them(tmp_path: Path) -> None:
    covers = {f"p{i}": (LEFT,) if i < 3 else (MIDDLE, RIGHT) for i in range(6)}
    scans = load_training(write_partial(tmp_path, covers)).manual
    assert [np.flatnonzero(s.covered).tolist() for s in scans] == [[LEFT]] * 3 + [[RIGHT, MIDDLE]] * 3
    state = trained(scans, lesson_of(replace(TAUGHT, steps=100), augmentation=GENTLE))
    image, truth = phantom_arrays(9)
    assert min(dice(found_by(state, scans, torch.from_numpy(image)), truth)) > 0.65


def test_regions_that_few_scans_cover_are_as_likely_as_the_others(tmp_path: Path) -> None:
    scans = load_training(write_partial(tmp_path, {"p0": (), "p1": (LEFT,), "p2": (LEFT,)})).manual
    total = data.total_frequency(scans)
    middle = total[..., MIDDLE].sum() / phantom(0).frequency[..., MIDDLE].float().sum()
    assert float(middle) == pytest.approx(3, rel=0.02)
    left = torch.stack([phantom(seed).frequency[..., LEFT].float() for seed in range(3)]).sum()
    assert float(total[..., LEFT].sum() / left) == pytest.approx(1, rel=0.02)
    assert total.shape[-1] == OUTPUTS


@pytest.mark.parametrize(("regions", "strange"), [("0", 0), ("30,9999", 9999)])
def test_covered_regions_that_are_none_are_refused(tmp_path: Path, regions: str, strange: int) -> None:
    (tmp_path / "scans.tsv").write_text(f"name\tregions\np0\t{regions}\n")
    settings = toy_settings(tmp_path, scans=tmp_path / "scans.tsv")
    with pytest.raises(InputError, match=rf"p0 covers \[{strange}\], which are no regions of"):
        load_training(settings)
