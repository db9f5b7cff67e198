"""Synthetic people for the tutorial: the same for a seed, plausible, and written whole or not at all."""

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


def made(folder: Path, *options: object) -> Path:
    assert run_slant("phantoms", folder, "--count", 2, "--voxel-mm", 4, *options) == 0
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("phantoms"))


def test_a_seed_gives_the_same_bytes_and_another_one_other_people(people: Path, tmp_path: Path) -> None:
    assert content(made(tmp_path / "again")) == content(people)
    image, _ = make_phantom(0, PhantomSettings(voxel_mm=4, seed=1))
    assert not np.array_equal(image.data, nib.load(people / "sub-s0p01_T1w.nii.gz").get_fdata())


def test_labels_lie_in_the_brain_and_left_is_left(people: Path) -> None:
    protocol = load_protocol()
    for name in ("sub-s0p01", "sub-s0p02"):
        image, dseg = (nib.load(people / f"{name}_{kind}.nii.gz") for kind in ("T1w", "dseg"))
        scan, labels = image.get_fdata(), np.asarray(dseg.dataobj)
        assert np.array_equal(image.affine, dseg.affine)
        assert set(np.unique(labels)) <= set(protocol.ids.tolist())
        assert len(np.unique(labels)) > 120
        assert (scan[labels != 0] > 0).all()
        x = {side: [] for side in ("Left", "Right")}
        for region in protocol.regions[1:]:
            places = np.argwhere(labels == region.id)
            if len(places) and region.name.split()[0] in x:
                x[region.name.split()[0]].append((places @ image.affine[:3, :3].T + image.affine[:3, 3])[:, 0].mean())
        assert np.mean(x["Left"]) < -10 < 10 < np.mean(x["Right"])


def test_white_matter_is_brighter_than_the_ventricles(people: Path) -> None:
    scan, labels = (np.asarray(nib.load(people / f"sub-s0p01_{kind}.nii.gz").dataobj) for kind in ("T1w", "dseg"))
    assert scan[np.isin(labels, [44, 45])].mean() > 1.3 * scan[np.isin(labels, [51, 52])].mean()


def test_slices_leave_all_other_voxels_to_the_ignore_id(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse = made(tmp_path / "sparse", "--slices", 2)
    assert f"ignore = {UNLABELLED}" in capsys.readouterr().out
    dense, few = (np.asarray(nib.load(f / "sub-s0p01_dseg.nii.gz").dataobj) for f in (people, sparse))
    kept = few != UNLABELLED
    assert 0.02 < kept.mean() < 0.5
    assert np.array_equal(few[kept], dense[kept])
    assert json.loads((sparse / "phantoms.json").read_text("utf-8"))["UnlabelledId"] == UNLABELLED


def test_existing_files_stay_unless_told(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(people)
    assert run_slant("phantoms", people, "--count", 2, "--voxel-mm", 4, "--seed", 0) == 2
    assert "--force" in capsys.readouterr().err
    assert content(people) == before
    (tmp_path / "real_T1w.nii.gz").touch()
    assert run_slant("phantoms", tmp_path, "--count", 1) == 2
    assert "real_T1w.nii.gz" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"voxel_mm": 9.0}, {"slices": 0}])
def test_impossible_phantoms_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        PhantomSettings(**wrong)
