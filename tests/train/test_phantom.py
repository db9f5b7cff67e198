"""Synthetic subjects: reproducible from their seed, plausible, and written atomically."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy import content, run_slant

from slant.errors import SettingsError
from slant.io.resources import load_protocol
from slant.train.phantom import UNLABELLED, PhantomSettings, make_phantom


def make_phantoms(folder: Path, *options: object) -> Path:
    assert run_slant("phantoms", folder, "--count", 2, "--voxel-mm", 4, *options) == 0
    return folder


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_subjects(subjects: Path, tmp_path: Path) -> None:
    assert content(make_phantoms(tmp_path / "again")) == content(subjects)
    image, _ = make_phantom(0, PhantomSettings(voxel_mm=4, seed=1))
    assert not np.array_equal(image.data, nib.load(subjects / "sub-s0p01_T1w.nii.gz").get_fdata())


def test_labels_are_in_the_brain_and_left_regions_on_the_left(subjects: Path) -> None:
    protocol = load_protocol()
    for name in ("sub-s0p01", "sub-s0p02"):
        image, dseg = (nib.load(subjects / f"{name}_{kind}.nii.gz") for kind in ("T1w", "dseg"))
        scan, labels = image.get_fdata(), np.asarray(dseg.dataobj)
        assert np.array_equal(image.affine, dseg.affine)
        assert set(np.unique(labels)) <= set(protocol.ids.tolist())
        assert len(np.unique(labels)) > 120
        assert (scan[labels != 0] > 0).all()
        x = {side: [] for side in ("Left", "Right")}
        for region in protocol.regions[1:]:
            voxels, side = np.argwhere(labels == region.id), region.name.split()[0]
            if len(voxels) and side in x:
                x[side].append((voxels @ image.affine[:3, :3].T + image.affine[:3, 3])[:, 0].mean())
        assert np.mean(x["Left"]) < -10 < 10 < np.mean(x["Right"])


def test_white_matter_is_brighter_than_the_ventricles(subjects: Path) -> None:
    scan, labels = (np.asarray(nib.load(subjects / f"sub-s0p01_{kind}.nii.gz").dataobj) for kind in ("T1w", "dseg"))
    assert scan[np.isin(labels, [44, 45])].mean() > 1.3 * scan[np.isin(labels, [51, 52])].mean()


def test_voxels_outside_the_slices_have_the_ignore_label(
    subjects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse = make_phantoms(tmp_path / "sparse", "--slices", 2)
    assert f"ignore_label = {UNLABELLED}" in capsys.readouterr().out
    dense, labels = (np.asarray(nib.load(f / "sub-s0p01_dseg.nii.gz").dataobj) for f in (subjects, sparse))
    kept = labels != UNLABELLED
    assert 0.02 < kept.mean() < 0.5
    assert np.array_equal(labels[kept], dense[kept])
    assert json.loads((sparse / "phantoms.json").read_text("utf-8"))["UnlabelledId"] == UNLABELLED


def test_existing_files_are_kept_without_force(
    subjects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(subjects)
    assert run_slant("phantoms", subjects, "--count", 2, "--voxel-mm", 4, "--seed", 0) == 2
    assert "--force" in capsys.readouterr().err
    assert content(subjects) == before
    (tmp_path / "real_T1w.nii.gz").touch()
    assert run_slant("phantoms", tmp_path, "--count", 1) == 2
    assert "real_T1w.nii.gz" in capsys.readouterr().err


@pytest.mark.parametrize("values", [{"count": 0}, {"seed": -1}, {"voxel_mm": 9.0}, {"slices": 0}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        PhantomSettings(**values)
