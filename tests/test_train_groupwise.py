"""A groupwise template lies in the middle of its scans, and no scan's prior knows its own labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from phantoms import (
    OUTPUTS,
    SHAPE,
    STILL,
    lesson_of,
    phantom,
    phantom_arrays,
    phantom_field,
    scan_of,
    toy_settings,
    train_whole,
    write_pairs,
)

from slant.config import SynSettings
from slant.errors import InputError, SettingsError, TrainingError
from slant.grid import axis_aligned_grid
from slant.nets.weights import GROUPWISE, read_model
from slant.train import prepare, run
from slant.train.atlas import Atlas
from slant.train.boxes import Boxes, box_places
from slant.train.data import Groupwise, LabelledScan
from slant.train.export import export
from slant.train.groupwise import blocks, count_votes, inverted, template_of
from slant.train.loss import IGNORED
from slant.train.settings import GroupwiseSettings, NetworkChoice, StageSettings
from slant.train.step import view_of
from slant.train.validate import deformed_prior
from slant.volume import Volume
from slant.warp import Warp

COARSE = tuple(n // 2 for n in SHAPE)
EXACT = GroupwiseSettings(error_mm=0, affine=0)
SHIFT = (4, -2, 2)
"""Voxels from a place in the scan to that in the template, in the tests of places."""


@pytest.fixture(autouse=True)
def field(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Phantoms lie on their own grid."""
    grid = axis_aligned_grid(SHAPE, 1.0, (0, 0, 0))
    monkeypatch.setattr(prepare, "load_template", lambda: SimpleNamespace(grid=grid))
    with phantom_field():
        yield


def run_of(scans: list[LabelledScan], displacements: dict[str, torch.Tensor] | None = None) -> Groupwise:
    """A template in which every scan's labels vote where they are, or where its displacement says."""
    mean = Volume(np.ones(COARSE, np.float32), axis_aligned_grid(COARSE, 2.0, (0.5, 0.5, 0.5)))
    labels = {s.name: torch.from_numpy(blocks(s.channels.numpy())) for s in scans}
    still = {s.name: torch.zeros(3, *COARSE) for s in scans}
    own = {name: (found,) for name, found in labels.items()}
    return Groupwise(mean, count_votes(list(labels.values()), OUTPUTS), displacements or still, own, EXACT)


def log_prior(atlas: Atlas, scan: LabelledScan, flip: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C) log-prior in boxes over the whole phantom, warped, and the (N,) labels there."""
    warped = replace(STILL, rotate_deg=4, scale=0.03, shift_mm=2, elastic_mm=1.5, flip=flip)
    lesson = lesson_of(augmentation=warped)
    view = view_of(scan, atlas, lesson, torch.Generator().manual_seed(seed))
    assert view.flip == (flip == 1)
    starts = torch.tensor([[x, y, z] for x in (4, 12, 20) for y in (12, 20) for z in (8, 16, 24)])
    drawn = Boxes(starts, (0, 0, 0), SHAPE)
    logs = atlas.logits(view.prior, scan, drawn, lesson, view.flip)
    return logs, view.labels(box_places(drawn), lesson.regions.mirrored)


def test_votes_count_the_voxels_of_a_cell_and_leave_out_those_nobody_labelled() -> None:
    channels = np.zeros((2, 4, 2), np.uint8)
    channels[0, 0, 0], channels[1, 0, 0], channels[0, 3, 1] = 5, IGNORED, 7
    votes = count_votes([torch.from_numpy(blocks(channels))] * 2, 9)
    assert votes.shape == (1, 2, 1, 9)
    assert votes[0, 0, 0].tolist() == [12, 0, 0, 0, 0, 2, 0, 0, 0]
    assert votes[0, 1, 0].tolist() == [14, 0, 0, 0, 0, 0, 0, 2, 0]


def test_many_votes_are_scaled_into_bytes() -> None:
    votes = torch.zeros(1, 1, 1, 3, dtype=torch.int16)
    votes[..., 1], votes[..., 2] = 300, 100
    mean = Volume(np.ones((1, 1, 1), np.float32), axis_aligned_grid((1, 1, 1), 2.0, (0, 0, 0)))
    assert template_of(mean, votes).votes.ravel().tolist() == [0, 191, 64]


def test_a_scans_prior_is_the_votes_of_the_others_to_the_last_one() -> None:
    scans = [phantom(i) for i in range(4)]
    everyone = Atlas(scans, run_of(scans), None, torch.device("cpu"))
    others = Atlas(scans, replace(run_of(scans[1:]), own={"p0": ()}, displacements=run_of(scans).displacements), None,
                   torch.device("cpu"))  # fmt: skip
    with_own = replace(run_of(scans), own={"p0": ()})
    for flip in (0.0, 1.0):
        found, _ = log_prior(everyone, scans[0], flip)
        torch.testing.assert_close(found, log_prior(others, scans[0], flip)[0], atol=1e-5, rtol=0)
        assert not torch.allclose(
            found, log_prior(Atlas(scans, with_own, None, torch.device("cpu")), scans[0], flip)[0]
        )


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_prior_follows_the_places_of_the_augmentation_exactly(flip: float) -> None:
    scan = phantom(0)
    there = np.roll(scan.channels.numpy(), SHIFT, axis=(0, 1, 2))
    others = [replace(scan_of(f"q{i}", scan.image.numpy(), there), name=f"q{i}") for i in range(3)]

    def agreement(wrong: tuple[int, ...]) -> list[float]:
        """Share of voxels whose likeliest channel is the true one, where places are wrong by so many voxels."""
        moved = torch.tensor(np.add(SHIFT, wrong), dtype=torch.float32)[:, None, None, None].expand(3, *COARSE)
        template = replace(run_of(others, {"p0": moved.contiguous()}), own={"p0": ()})
        found = [log_prior(Atlas(others, template, None, torch.device("cpu")), scan, flip, seed) for seed in range(2)]
        return [float((logs.argmax(dim=1) == truth).float().mean()) for logs, truth in found]

    exact = agreement((0, 0, 0))
    for axis in range(3):
        for step in (-1, 1):
            wrong = agreement(tuple(step * (a == axis) for a in range(3)))
            assert all(a > b + 0.001 for a, b in zip(exact, wrong, strict=True))


def test_the_place_of_the_prior_is_disturbed_or_affine_as_the_settings_say() -> None:
    scans = [phantom(i) for i in range(3)]
    template = run_of(scans)
    lesson = lesson_of(augmentation=STILL)

    def steps(settings: GroupwiseSettings) -> list[torch.Tensor | None]:
        atlas = Atlas(scans, replace(template, settings=settings), None, torch.device("cpu"))
        return [view_of(scans[0], atlas, lesson, torch.Generator().manual_seed(seed)).prior.cells for seed in range(12)]

    exact = steps(EXACT)[0]
    assert exact is not None
    errors = [float((cells - exact).norm(dim=-1).mean()) for cells in steps(replace(EXACT, error_mm=2.0))]
    assert min(errors) < 1 < max(errors) < 4
    assert all(cells is None for cells in steps(replace(EXACT, affine=1.0)))
    half = [cells is None for cells in steps(replace(EXACT, affine=0.5))]
    assert any(half)
    assert not all(half)


def test_the_inverse_of_a_warp_brings_places_back() -> None:
    grid = axis_aligned_grid(SHAPE, 2.0, (-10, 4, 7))
    x, y, z = np.indices(SHAPE, dtype=np.float32)
    bump = np.exp(-((x - 16) ** 2 + (y - 20) ** 2 + (z - 18) ** 2) / 60)
    warp = Warp(np.stack([3 * bump, -2 * bump, bump]), grid)
    back = inverted(warp)
    places = np.array([[22.0, 44, 43], [20, 40, 40], [26, 46, 47]])
    np.testing.assert_allclose(back.at(warp.at(places)), places, atol=0.1)


def settings_with(tmp_path: Path, people: int = 5, **changes: object):
    how = GroupwiseSettings(rounds=2, syn=SynSettings(iterations=(4, 4, 4)))
    return toy_settings(tmp_path, people=people, groupwise=how, fold=0, **changes)


def test_a_run_makes_a_template_of_those_trained_on_that_its_model_carries(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, whole=StageSettings(4, learning_rate=1e-2, boxes=4, average=0.5, validate=2))
    prepare.prepare_groupwise(settings)
    folder = settings.run / "groupwise"
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(path.name for path in made) == [*(f"p{i}.npz" for i in range(5)), "template.npz"]
    with np.load(folder / "p0.npz") as held_out, np.load(folder / "p1.npz") as voting:
        assert "labels" not in held_out
        assert voting["labels"].shape == (*COARSE, 8)
    prepare.prepare_groupwise(settings)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == made

    scans = prepare.load_training(settings)
    assert scans.groupwise is not None
    assert int(scans.groupwise.votes.sum(dim=-1).max()) == 8 * len(scans.manual)
    assert scans.groupwise.own["p0"] == ()
    prior, _ = deformed_prior(scans, scans.held_out[0])
    assert prior.spacing == 2
    assert train_whole(settings)
    (model,) = export(settings)
    loaded = read_model(model)
    assert loaded.groupwise is not None
    image, votes = loaded.groupwise
    np.testing.assert_array_equal(votes, scans.groupwise.votes.numpy())
    np.testing.assert_allclose(image, scans.groupwise.mean.data, atol=1e-3)
    assert GROUPWISE in loaded.manifest["files"]
    assert loaded.manifest["mirror"] is False
    mirrored = replace(settings, mirror=True, augment=replace(settings.augment, flip=0.5))
    assert read_model(export(mirrored)[0]).manifest["mirror"] is True


def test_changed_scans_are_deformed_again_and_missing_ones_named(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    with pytest.raises(InputError, match="run the stage groupwise"):
        prepare.load_training(settings)
    prepare.prepare_groupwise(settings)
    path = settings.run / "groupwise" / "p0.npz"
    before = path.stat().st_mtime_ns
    image, _ = phantom_arrays(9)
    np.savez(settings.work / "prepared" / "p0.npz", image=image.astype(np.float16), identity=np.array("y"))
    prepare.prepare_groupwise(settings)
    assert path.stat().st_mtime_ns != before
    path.unlink()
    with pytest.raises(InputError, match=r"no deformation .*p0\.npz"):
        prepare.load_training(settings)


def test_scans_of_one_subject_are_left_out_together(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("name\tperson\np0\ttwice\np2\ttwice\n", "utf-8")
    settings = settings_with(tmp_path, scans=table)
    prepare.prepare_groupwise(settings)
    scans = prepare.load_training(settings)
    assert sorted(scan.name for scan in scans.held_out) == ["p1", "p4"]
    own = {name: len(votes) for name, votes in scans.groupwise.own.items()}
    assert own == {"p0": 2, "p1": 0, "p2": 2, "p3": 1, "p4": 0}


def test_a_template_of_one_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 2 scans whose labels are complete, found 1"):
        prepare.prepare_groupwise(settings_with(tmp_path, people=2))


def test_incomplete_labels_do_not_vote(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("name\tregions\np1\t36\n", "utf-8")
    settings = settings_with(tmp_path, scans=table)
    assert "p1" not in prepare.template_scans(settings)
    assert prepare.template_scans(replace(settings, ignore=7)) == []


def test_without_the_setting_nothing_is_made(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path)
    write_pairs(settings.data, ("p0",))
    prepare.prepare_groupwise(settings)
    assert not (settings.run / "groupwise").exists()
    assert prepare.load_training(settings).groupwise is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"error_mm": -1.0}, "error_mm must be at least 0"),
        ({"affine": 1.5}, "affine from 0 to 1"),
        ({"syn": SynSettings(resolution_mm=3.0)}, "resolution_mm must be 2"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        GroupwiseSettings(**wrong)


def test_the_stage_has_its_place() -> None:
    assert run.STAGES.index("prepare") < run.STAGES.index("groupwise") < run.STAGES.index("whole")


def test_networks_without_a_prior_are_refused(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, network=NetworkChoice("slant2018"))
    with pytest.raises(SettingsError, match=r"\[groupwise\] .* 'slant2018' takes no prior"):
        run.run_stages(settings, ("groupwise",), (), None)
