"""Groupwise template and deformable atlas prior, which leaves out the labels of the scan itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from phantom_runs import export_models, phantom_field, train_whole
from phantoms import (
    OUTPUTS,
    SHAPE,
    STILL,
    atlas_on_cpu,
    context_of,
    phantom,
    phantom_arrays,
    scan_of,
    toy_settings,
    write_pairs,
    write_prepared,
)

from slant.config import SynSettings
from slant.displacement import DisplacementField
from slant.errors import InputError, SettingsError, TrainingError
from slant.grid import axis_aligned_grid
from slant.nets.weights import GROUPWISE, read_model
from slant.train import prepare, run
from slant.train.atlas import Atlas
from slant.train.context import run_context
from slant.train.data import Groupwise, LabelledScan
from slant.train.groupwise import blocks, count_votes, deformed_prior, inverted, template_of
from slant.train.loss import IGNORED
from slant.train.network import NetworkChoice
from slant.train.patches import Patches, patch_coordinates
from slant.train.stage_settings import GroupwiseSettings, StageSettings
from slant.train.step import view_of
from slant.volume import Volume

COARSE = tuple(n // 2 for n in SHAPE)
EXACT = GroupwiseSettings(prior_error_mm=0, affine_probability=0)
SHIFT = (4, -2, 2)
"""Displacement in voxels from the scan to the template, in the tests of coordinates."""


@pytest.fixture(autouse=True)
def field(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the grid of the phantoms as that of the template."""
    grid = axis_aligned_grid(SHAPE, 1.0, (0, 0, 0))
    monkeypatch.setattr(prepare, "load_template", lambda: SimpleNamespace(grid=grid))
    with phantom_field():
        yield


def run_of(scans: list[LabelledScan], displacements: dict[str, torch.Tensor] | None = None) -> Groupwise:
    """A template with the votes of all scans; their displacements are 0 by default."""
    mean = Volume(np.ones(COARSE, np.float32), axis_aligned_grid(COARSE, 2.0, (0.5, 0.5, 0.5)))
    labels = {s.name: torch.from_numpy(blocks(s.channels.numpy())) for s in scans}
    zero = {s.name: torch.zeros(3, *COARSE) for s in scans}
    own = {name: (votes,) for name, votes in labels.items()}
    return Groupwise(mean, count_votes(list(labels.values()), OUTPUTS), displacements or zero, own, EXACT)


def log_prior(atlas: Atlas, scan: LabelledScan, flip: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C) log-prior in patches of the deformed phantom, and their (N,) labels."""
    deforming = replace(STILL, rotation_deg=4, scaling=0.03, translation_mm=2, elastic_mm=1.5, flip_probability=flip)
    context = context_of(augment=deforming)
    view = view_of(scan, atlas, context, torch.Generator().manual_seed(seed))
    assert view.flip == (flip == 1)
    starts = torch.tensor([[x, y, z] for x in (4, 12, 20) for y in (12, 20) for z in (8, 16, 24)])
    drawn = Patches(starts, (0, 0, 0))
    logs = atlas.logits(view, drawn, context.run.regions.mirrored)
    return logs, view.labels(patch_coordinates(drawn), context.run.regions.mirrored)


def test_votes_count_the_labelled_voxels_of_a_cell() -> None:
    channels = np.zeros((2, 4, 2), np.uint8)
    channels[0, 0, 0], channels[1, 0, 0], channels[0, 3, 1] = 5, IGNORED, 7
    votes = count_votes([torch.from_numpy(blocks(channels))] * 2, 9)
    assert votes.shape == (1, 2, 1, 9)
    assert votes[0, 0, 0].tolist() == [12, 0, 0, 0, 0, 2, 0, 0, 0]
    assert votes[0, 1, 0].tolist() == [14, 0, 0, 0, 0, 0, 0, 2, 0]


def test_many_votes_are_scaled_to_bytes() -> None:
    votes = torch.zeros(1, 1, 1, 3, dtype=torch.int16)
    votes[..., 1], votes[..., 2] = 300, 100
    mean = Volume(np.ones((1, 1, 1), np.float32), axis_aligned_grid((1, 1, 1), 2.0, (0, 0, 0)))
    assert template_of(mean, votes).votes.ravel().tolist() == [0, 191, 64]


def test_the_prior_of_a_scan_equals_the_votes_of_the_other_scans() -> None:
    scans = [phantom(i) for i in range(4)]
    all_scans = atlas_on_cpu(*scans, groupwise=run_of(scans))
    without_first = replace(run_of(scans[1:]), own={"p0": ()}, displacements=run_of(scans).displacements)
    others = atlas_on_cpu(*scans, groupwise=without_first)
    with_own = replace(run_of(scans), own={"p0": ()})
    for flip in (0.0, 1.0):
        found, _ = log_prior(all_scans, scans[0], flip)
        torch.testing.assert_close(found, log_prior(others, scans[0], flip)[0], atol=1e-5, rtol=0)
        assert not torch.allclose(found, log_prior(atlas_on_cpu(*scans, groupwise=with_own), scans[0], flip)[0])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_prior_follows_the_coordinates_of_the_augmentation_exactly(flip: float) -> None:
    scan = phantom(0)
    shifted = np.roll(scan.channels.numpy(), SHIFT, axis=(0, 1, 2))
    others = [replace(scan_of(f"q{i}", scan.image.numpy(), shifted), name=f"q{i}") for i in range(3)]

    def agreement(error: tuple[int, ...]) -> list[float]:
        """Fraction of voxels whose most likely channel is the reference, with an error of the coordinates."""
        displacement = torch.tensor(np.add(SHIFT, error), dtype=torch.float32)[:, None, None, None].expand(3, *COARSE)
        template = replace(run_of(others, {"p0": displacement.contiguous()}), own={"p0": ()})
        found = [log_prior(atlas_on_cpu(*others, groupwise=template), scan, flip, seed) for seed in range(2)]
        return [float((logs.argmax(dim=1) == reference).float().mean()) for logs, reference in found]

    exact = agreement((0, 0, 0))
    for axis in range(3):
        for step in (-1, 1):
            wrong = agreement(tuple(step * (a == axis) for a in range(3)))
            assert all(a > b + 0.001 for a, b in zip(exact, wrong, strict=True))


def test_the_prior_has_an_error_or_is_affine_as_set() -> None:
    scans = [phantom(i) for i in range(3)]
    template = run_of(scans)
    context = context_of(augment=STILL)

    def steps(settings: GroupwiseSettings) -> list[torch.Tensor | None]:
        atlas = atlas_on_cpu(*scans, groupwise=replace(template, settings=settings))
        return [
            view_of(scans[0], atlas, context, torch.Generator().manual_seed(seed)).prior.cells for seed in range(12)
        ]

    exact = steps(EXACT)[0]
    assert exact is not None
    errors = [float((cells - exact).norm(dim=-1).mean()) for cells in steps(replace(EXACT, prior_error_mm=2.0))]
    assert min(errors) < 1 < max(errors) < 4
    assert all(cells is None for cells in steps(replace(EXACT, affine_probability=1.0)))
    half = [cells is None for cells in steps(replace(EXACT, affine_probability=0.5))]
    assert any(half)
    assert not all(half)


def test_the_inverse_of_a_displacement_field_undoes_it() -> None:
    grid = axis_aligned_grid(SHAPE, 2.0, (-10, 4, 7))
    x, y, z = np.indices(SHAPE, dtype=np.float32)
    bump = np.exp(-((x - 16) ** 2 + (y - 20) ** 2 + (z - 18) ** 2) / 60)
    field = DisplacementField(np.stack([3 * bump, -2 * bump, bump]), grid)
    inverse = inverted(field)
    coordinates = np.array([[22.0, 44, 43], [20, 40, 40], [26, 46, 47]])
    np.testing.assert_allclose(inverse.at(field.at(coordinates)), coordinates, atol=0.1)


def settings_with(tmp_path: Path, subjects: int = 5, **changes: object):
    groupwise = GroupwiseSettings(rounds=2, syn=SynSettings(iterations=(4, 4, 4)))
    return toy_settings(tmp_path, subjects=subjects, groupwise=groupwise, fold=0, **changes)


@pytest.mark.slow
def test_the_template_is_made_of_training_scans_and_stored_in_the_model(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path, whole=StageSettings(4, learning_rate=1e-2, patches=4, ema_decay=0.5, validate_every=2)
    )
    prepare.prepare_groupwise(settings)
    folder = settings.run / "groupwise"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(path.name for path in written) == [*(f"p{i}.npz" for i in range(5)), "template.npz"]
    with np.load(folder / "p0.npz") as held_out, np.load(folder / "p1.npz") as voting:
        assert "labels" not in held_out
        assert voting["labels"].shape == (*COARSE, 8)
    prepare.prepare_groupwise(settings)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written

    scans = prepare.load_training(run_context(settings))
    assert scans.groupwise is not None
    assert int(scans.groupwise.votes.sum(dim=-1).max()) == 8 * len(scans.manual)
    assert scans.groupwise.own["p0"] == ()
    assert deformed_prior(scans.groupwise, scans.held_out[0]).spacing == 2
    assert train_whole(settings)
    (model,) = export_models(settings)
    loaded = read_model(model)
    assert loaded.groupwise is not None
    image, votes = loaded.groupwise
    np.testing.assert_array_equal(votes, scans.groupwise.votes.numpy())
    np.testing.assert_allclose(image, scans.groupwise.mean.data, atol=1e-3)
    assert GROUPWISE in loaded.manifest["files"]
    assert loaded.manifest["mirror"] is False
    mirrored = replace(settings, mirror="alternate", augment=replace(settings.augment, flip_probability=0.5))
    assert read_model(export_models(mirrored)[0]).manifest["mirror"] is True


@pytest.mark.slow
def test_changed_scans_are_registered_again_and_missing_ones_reported(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    with pytest.raises(InputError, match="run the stage groupwise"):
        prepare.load_training(run_context(settings))
    prepare.prepare_groupwise(settings)
    folder, labels = settings.run / "groupwise", settings.work_dir / "prepared" / "p0.labels.npz"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_prepared(labels.parent, tmp_path, "changed", phantom_arrays(9))
    (tmp_path / "changed.labels.npz").replace(labels)
    prepare.prepare_groupwise(settings)
    assert [path.name for path in before if path.stat().st_mtime_ns != before[path]] == ["p0.npz"]
    path = folder / "p0.npz"
    path.unlink()
    with pytest.raises(InputError, match=r"displacement .*p0\.npz does not exist"):
        prepare.load_training(run_context(settings))


@pytest.mark.slow
def test_scans_of_one_subject_are_left_out_together(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("name\tsubject\np0\ttwice\np2\ttwice\n", "utf-8")
    settings = settings_with(tmp_path, scans=table)
    prepare.prepare_groupwise(settings)
    scans = prepare.load_training(run_context(settings))
    assert sorted(scan.name for scan in scans.held_out) == ["p1", "p4"]
    own = {name: len(votes) for name, votes in scans.groupwise.own.items()}
    assert own == {"p0": 2, "p1": 0, "p2": 2, "p3": 1, "p4": 0}


def test_a_template_of_one_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 2 scans whose labels are complete, found 1"):
        prepare.prepare_groupwise(settings_with(tmp_path, subjects=2))


def test_incomplete_labels_do_not_vote(tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text("name\tregions\np1\t36\n", "utf-8")
    settings = settings_with(tmp_path, scans=table)
    assert "p1" not in prepare.template_scans(settings)
    assert prepare.template_scans(replace(settings, ignore_label=7)) == []


def test_no_template_without_the_setting(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path)
    write_pairs(settings.data, ("p0",))
    prepare.prepare_groupwise(settings)
    assert not (settings.run / "groupwise").exists()
    assert prepare.load_training(run_context(settings)).groupwise is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"prior_error_mm": -1.0}, "prior_error_mm must be at least 0"),
        ({"affine_probability": 1.5}, "affine_probability from 0 to 1"),
        ({"syn": SynSettings(resolution_mm=3.0)}, "resolution_mm must be 2"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        GroupwiseSettings(**values)


def test_the_stage_is_between_prepare_and_whole() -> None:
    assert run.STAGES.index("prepare") < run.STAGES.index("groupwise") < run.STAGES.index("whole")


def test_networks_without_a_prior_are_refused(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, network=NetworkChoice("slant2018"))
    with pytest.raises(SettingsError, match=r"\[groupwise\] .* 'slant2018' uses no prior"):
        run.run_stages(settings, ("groupwise",), (), None)
