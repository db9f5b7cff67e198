"""`slant atlases` makes a library; `--atlases` lets it vote together with the networks."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from fake_task import InlinePool
from toy import (
    quick_networks,
    quick_stages,
    run_slant,
    segment_toy,
    the_line,
    toy_model,
    toy_model_folder,
    toy_prepared,
    toy_scan,
    use_light_found,
)
from toy_atlases import NAMES

from slant.atlas_votes import Atlas, AtlasVotes
from slant.cli.bids import main as bids
from slant.config import SegmentSettings, SynSettings
from slant.errors import InputError, OutputError, ProtocolError, SettingsError
from slant.files import file_sha256
from slant.grid import transform_points
from slant.io.atlas_library import LibraryFile, read_library, write_library
from slant.io.read import read_scan
from slant.multiatlas.atlases import read_atlas_scans
from slant.multiatlas.library import atlas_of
from slant.multiatlas.task import source_of
from slant.nets.inputs import InputScaling
from slant.nets.model import Model
from slant.pipeline import label
from slant.run import Compute, Request, segment_scan
from slant.sparse_votes import KEPT, MOST_VOTES, SparseVotes
from slant.volume import Volume


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    coarse = SynSettings(resolution_mm=5)
    pool = patch("slant.engine.pools.LocalPool", lambda *_: InlinePool())
    with quick_stages(), patch("slant.atlas_votes.SYN", coarse), pool:
        yield


@pytest.fixture(scope="module")
def made(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of the four heads."""
    path = tmp_path_factory.mktemp("made") / "four.npz"
    assert run_slant("atlases", library, path, "--jobs", 1) == 0
    return path


def write_small(path: Path, library: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A library of the four heads with small arrays in place of their images and labels."""
    grid = toy_model().inputs.template.grid.cropped((slice(60, 65), slice(80, 86), slice(50, 57)))
    image, channels = np.ones(grid.shape, np.float16), np.full(grid.shape, 7, np.uint8)
    sha256 = {name: file_sha256(library / f"{name}_T1w.nii.gz") for name in names}
    write_library(path, [Atlas(n, n, sha256[n], image, grid, channels, grid.voxel_from_ras) for n in names])
    return path


@pytest.fixture(scope="module")
def file(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "four.npz", library)


def loaded(file: Path) -> list[str]:
    return [atlas.name for atlas in read_library(LibraryFile.of(file)).atlases]


@pytest.mark.slow
def test_a_library_has_all_atlases_and_the_same_bytes_again(
    library: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loaded(made) == list(NAMES)
    again = tmp_path / "sub" / "again.npz"
    assert run_slant("atlases", library, again, "--jobs", 1, "--work-dir", tmp_path / "work") == 0
    assert f"4 atlases of 4 subjects, {again.stat().st_size / 2**20:.1f} MiB" in capsys.readouterr().out
    assert again.read_bytes() == made.read_bytes()
    assert len(list((tmp_path / "work" / "prepared").glob("*.npz"))) == 4


@pytest.mark.slow
def test_the_labels_of_a_library_are_those_of_the_files_at_the_same_places(library: Path, made: Path) -> None:
    atlas = read_library(LibraryFile.of(made)).atlases[1]
    scan = read_scan(library / "p2_T1w.nii.gz")
    assert (atlas.sha256, atlas.subject) == (scan.sha256, "p2")
    ids = toy_model().protocol.ids_from_channels(atlas.channels)
    reference = np.asarray(nib.load(library / "p2_dseg.nii.gz").dataobj)
    counts, expected = (np.bincount(labels.ravel(), minlength=256)[1:] for labels in (ids, reference))
    assert np.array_equal(counts, expected)
    brain = np.argwhere(atlas.intensities > 0.5)
    labelled = np.rint(transform_points(atlas.voxel_from_template @ atlas.grid.ras_from_voxel, brain)).astype(int)
    inside = ((labelled >= 0) & (labelled < atlas.channels.shape)).all(axis=1)
    assert inside.mean() > 0.99
    assert (atlas.channels[tuple(labelled[inside].T)] > 0).mean() > 0.97


@pytest.mark.slow
def test_an_existing_library_is_kept_without_force(
    library: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(made, tmp_path / "copy.npz"))
    assert run_slant("atlases", library, copy) == 2
    assert "already exists; use --force" in the_line(capsys)
    assert loaded(copy) == list(NAMES)
    assert run_slant("atlases", library, copy, "--exclude", "p1", "--exclude", "p3", "--force", "--jobs", 1) == 0
    assert loaded(copy) == ["p2", "p4"]


@pytest.mark.slow
def test_scans_that_cannot_be_atlases_are_errors(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_slant("atlases", library, tmp_path / "lib.nii") == 2
    assert "must end in .npz" in the_line(capsys)
    assert run_slant("atlases", library, tmp_path / "lib.npz", *(f"--exclude={name}" for name in NAMES[1:])) == 2
    assert "found 1 labelled scan, expected at least 2" in the_line(capsys)
    bad = Path(shutil.copytree(library, tmp_path / "bad"))
    shutil.copy(library / "p1_T1w.nii.gz", bad / "p3_dseg.nii.gz")
    assert run_slant("atlases", bad, tmp_path / "lib.npz", "--jobs", 1) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "the atlas p3 cannot be used" in message
    assert "leave it out with --exclude" in message
    assert not (tmp_path / "lib.npz").exists()


def test_a_scan_that_is_only_partly_labelled_is_no_atlas(library: Path, tmp_path: Path) -> None:
    shutil.copy(library / "p1_T1w.nii.gz", tmp_path)
    reference = nib.load(library / "p1_dseg.nii.gz")
    few = np.where(np.isin(reference.dataobj, (47, 48)), reference.dataobj, 0).astype(np.int16)
    nib.save(nib.Nifti1Image(few, reference.affine), tmp_path / "p1_dseg.nii.gz")
    (scan,) = read_atlas_scans([tmp_path], labelled=True)
    with pytest.raises(ProtocolError, match=r"p1_dseg\.nii\.gz has 2 of the regions, expected at least 100"):
        atlas_of(source_of(scan), tmp_path / "work")


@pytest.mark.slow
def test_atlases_vote_and_the_record_says_which(library: Path, made: Path, tmp_path: Path) -> None:
    with quick_networks():
        for name, options in (("alone", ()), ("together", ("--atlases", made))):
            assert segment_toy(library / "p1_T1w.nii.gz", tmp_path / name, *options) == 0
    reference = np.asarray(nib.load(library / "p1_dseg.nii.gz").dataobj)
    right = {
        name: (np.asarray(nib.load(tmp_path / name / "p1_seg-BrainCOLOR_dseg.nii.gz").dataobj) == reference)
        for name in ("alone", "together")
    }
    brain = reference > 0
    assert right["together"][brain].mean() > right["alone"][brain].mean()
    record = json.loads((tmp_path / "together" / "p1_record.json").read_text())
    assert set(record["atlases"]) == {"p2", "p3", "p4"}
    assert all(0 < similarity <= 1 for similarity in record["atlases"].values())
    assert record["requested"]["atlases"] == LibraryFile.of(made).plain()
    assert "atlases" in [timing["name"] for timing in record["timings"]]
    page = (tmp_path / "together" / "p1_report.html").read_text()
    assert LibraryFile.of(made).sha256 in page
    alone = json.loads((tmp_path / "alone" / "p1_record.json").read_text())
    assert alone["atlases"] is None
    assert "library of atlases" not in (tmp_path / "alone" / "p1_report.html").read_text()


def constant_votes(channel: int, count: int) -> SparseVotes:
    """The same votes at all voxels of the template: some for a channel, the rest for background."""
    shape = toy_prepared().image.grid.shape
    channels, counts = np.zeros((*shape, KEPT), np.uint8), np.zeros((*shape, KEPT), np.uint8)
    channels[..., 0], counts[..., 0], counts[..., 1] = channel, count, MOST_VOTES - count
    return SparseVotes(channels, counts, np.full(shape, MOST_VOTES, np.uint8))


def test_half_of_the_votes_are_those_of_the_atlases() -> None:
    atlases = AtlasVotes(constant_votes(77, 200), {})
    settings = SegmentSettings(threads=1)
    with quick_networks():
        alone = label(toy_prepared(), toy_model(), settings)
        both = label(replace(toy_prepared(), atlases=atlases), toy_model(), settings)
    assert both.network_confidence is not None
    assert np.array_equal(both.network_confidence.data, alone.confidence.data)
    assert alone.network_confidence is None
    certain = (alone.confidence.data == 1) & ~np.isin(alone.labels.data, (0, toy_model().protocol.ids[77]))
    assert certain.sum() > 1000
    assert np.array_equal(both.labels.data[certain], alone.labels.data[certain]), "1/2 is more than 200/510"
    np.testing.assert_allclose(both.confidence.data[certain], 0.5, atol=0.01)


class Elsewhere:
    """Runs the networks as another process would: it gets what can be pickled."""

    device = "cpu"

    def run(self, work: Callable[[Model, SegmentSettings], Any], model: str, settings: SegmentSettings) -> Any:  # noqa: D102
        assert model == "toy"
        return pickle.loads(pickle.dumps(work))(toy_model(), settings)  # noqa: S301


def test_the_votes_of_atlases_reach_networks_that_run_elsewhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def votes(image: Volume, atlases: Sequence[Atlas], *_: object) -> AtlasVotes:
        return AtlasVotes(constant_votes(77, MOST_VOTES), {atlas.name: 0.5 for atlas in atlases})

    monkeypatch.setattr("slant.atlas_votes.votes_of_atlases", votes)
    monkeypatch.setattr("slant.quality.grade.grade", lambda *_: None)
    request = Request(SegmentSettings("toy", device="cpu", threads=1), atlases=LibraryFile.of(file))
    with quick_networks():
        result = segment_scan(replace(toy_scan(), name="p3"), toy_model(), request, Compute(networks=Elsewhere()))
    assert result.record.atlases == {"p1": 0.5, "p2": 0.5, "p4": 0.5}
    assert 0.49 < np.median(result.confidence.data[result.labels.data > 0]) < 0.51


def test_a_cohort_is_made_again_for_another_library_and_not_for_another_path(
    library: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_light_found(monkeypatch)
    scans, moved = tmp_path / "in", Path(shutil.copy(file, tmp_path / "moved.npz"))
    scans.mkdir()
    shutil.copy(library / "p1_T1w.nii.gz", scans / "a_T1w.nii.gz")

    def told(*options: object) -> str:
        assert run_slant("cohort", scans, tmp_path / "out", "--model", toy_model_folder(), *options) == 0
        return capsys.readouterr().out

    assert "1 scan(s) segmented" in told()
    monkeypatch.chdir(tmp_path)
    assert f"--atlases {moved}" in told("--print-jobs", "--atlases", "moved.npz")
    assert "1 scan(s) segmented" in told("--atlases", file)
    assert "0 scan(s) segmented, 1 already done" in told("--atlases", moved)
    assert told("--print-jobs", "--atlases", moved) == ""
    other = write_small(tmp_path / "three.npz", library, NAMES[:3])
    assert "1 scan(s) segmented" in told("--atlases", other)
    assert "1 scan(s) segmented" in told()


def test_atlases_of_the_same_subject_are_left_out(library: Path, file: Path) -> None:
    atlases = read_library(LibraryFile.of(file))
    scan = read_scan(library / "p1_T1w.nii.gz")
    assert [a.name for a in atlases.atlases_for(scan)] == ["p2", "p3", "p4"]
    assert [a.name for a in atlases.atlases_for(replace(scan, name="other"))] == ["p2", "p3", "p4"], "the same file"
    assert [a.name for a in atlases.atlases_for(replace(toy_scan(), name="p2"))] == ["p1", "p3", "p4"]
    at_home = replace(toy_scan(), name="T1", path=Path("study/sub-p2/ses-1/T1.nii.gz"))
    named = replace(atlases, atlases=tuple(replace(a, subject=f"sub-{a.name}") for a in atlases.atlases))
    assert [a.name for a in named.atlases_for(at_home)] == ["p1", "p3", "p4"], "the subject in the path"
    assert [a.name for a in named.atlases_for(replace(toy_scan(), name="p4"))] == ["p1", "p2", "p3"], "the same name"
    few = replace(atlases, atlases=atlases.atlases[:2])
    with pytest.raises(InputError, match=r"found 1 atlas\(es\) of other subjects than p1, expected at least 2"):
        few.atlases_for(scan)


def test_a_model_with_other_inputs_or_labels_is_refused(file: Path) -> None:
    atlases, model = read_library(LibraryFile.of(file)), toy_model()
    atlases.check(model)
    heads = replace(model, inputs=replace(model.inputs, scaling=InputScaling(mask_brain=False)))
    with pytest.raises(SettingsError, match="that of toy differs; leave --atlases out"):
        atlases.check(heads)
    with pytest.raises(SettingsError, match="labels of the protocol 'own'"):
        replace(atlases, protocol="own").check(model)


@pytest.mark.parametrize("damage", ["folder", "missing", "text", "truncated", "format", "lacking"])
def test_a_file_that_is_no_library_is_one_line(
    damage: str, file: Path, scan: Path, tmp_path: Path, no_pipeline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lib.npz"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("no library")
    elif damage == "truncated":
        path.write_bytes(file.read_bytes()[:500])
    elif damage in ("format", "lacking"):
        arrays = dict(np.load(file))
        about = json.loads(str(arrays["about"]))
        arrays["about"] = np.array(json.dumps(about | ({"format": 99} if damage == "format" else {})))
        if damage == "lacking":
            del arrays["channels_2"]
        np.savez(path, **arrays)
    assert segment_toy(scan, tmp_path / "out", "--atlases", path) == 2
    line = the_line(capsys)
    assert os.fspath(path) in line
    expected = {"missing": "No such file", "format": "format is 99, expected 1", "lacking": "it lacks 'channels_2'"}
    assert expected.get(damage, "slant atlases" if damage == "folder" else "make it with slant atlases") in line
    assert not (tmp_path / "out").exists()


def test_a_library_that_cannot_be_written_is_an_error(library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot write .*lib\.npz"):
        write_small(tmp_path / "file" / "lib.npz", library)


def test_a_library_that_changed_is_an_error(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path / "copy.npz"))
    before = LibraryFile.of(copy)
    copy.write_bytes(b"other")
    with pytest.raises(InputError, match="has changed since the run began"):
        read_library(before)


def test_bids_refuses_atlases_for_visits_together_and_describes_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bids([str(a) for a in (tmp_path, tmp_path / "out", "participant", "--atlases", file, "--longitudinal")])
    assert ended.value.code
    assert "--atlases is for scans one by one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bids(["--boilerplate", "--atlases", str(file)])
    text = capsys.readouterr().out
    assert "joint label fusion [8]" in text
    assert "8. Wang et al." in text
