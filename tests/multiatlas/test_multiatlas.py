"""`slant multiatlas` on four small heads with known labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fake_task import InlinePool
from toy import SHAPE, quick_stages, run_slant, the_line
from toy_atlases import NAMES, OPTIONS, write_labels

from slant.io.resources import load_protocol
from slant.train.data import labelled_names


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_stages(), patch("slant.engine.pools.LocalPool", lambda *_: InlinePool()):
        yield


@pytest.mark.slow
def test_every_target_has_labels_agreement_scan_and_record(done: Path, library: Path) -> None:
    assert sorted(p.name for p in done.glob("p1*")) == [
        "p1_T1w.nii.gz",
        "p1_desc-agreement_map.nii.gz",
        "p1_dseg.nii.gz",
        "p1_multiatlas.json",
    ]
    assert (done / "p1_T1w.nii.gz").read_bytes() == (library / "p1_T1w.nii.gz").read_bytes()
    labels, agreement = nib.load(done / "p1_dseg.nii.gz"), read(done / "p1_desc-agreement_map.nii.gz")
    assert np.allclose(labels.affine, nib.load(library / "p1_T1w.nii.gz").affine)
    assert labels.shape == agreement.shape == SHAPE
    assert set(np.unique(read(done / "p1_dseg.nii.gz"))) <= set(load_protocol().ids.tolist())
    assert 0 < agreement.min() < 0.7
    assert agreement.max() == 1
    assert labelled_names(done) == list(NAMES), "training reads the folder as it is"


@pytest.mark.slow
def test_own_subject_is_excluded_and_the_most_similar_atlases_are_used(done: Path) -> None:
    for name in NAMES:
        record = json.loads((done / f"{name}_multiatlas.json").read_text())
        assert len(record["atlases"]) == 2
        assert name not in record["atlases"]
        assert record["subjects"] == sorted(record["atlases"])
        similarities = [chosen["similarity"] for chosen in record["chosen"]]
        assert similarities == sorted(similarities, reverse=True)
        assert record["settings"]["resolution_mm"] == 5
        assert set(record["runtime_s"]) == {"prepare", "register", "resample", "fuse"}


@pytest.mark.slow
def test_leave_one_out_dice_is_that_of_the_files(done: Path, library: Path) -> None:
    table = pd.read_csv(done / "dice.tsv", sep="\t", na_values="n/a", index_col="index")
    assert list(table.columns) == ["name", *NAMES, "mean"]
    assert len(table) == 133
    found, reference = read(done / "p2_dseg.nii.gz"), read(library / "p2_dseg.nii.gz")
    both = 2 * np.count_nonzero((found == 45) & (reference == 45))
    expected = both / (np.count_nonzero(found == 45) + np.count_nonzero(reference == 45))
    assert float(table.loc["45", "p2"]) == pytest.approx(expected, abs=1e-4)
    assert float(table.loc["mean", "mean"]) == pytest.approx(
        table.loc["mean", list(NAMES)].astype(float).mean(), abs=1e-3
    )
    assert float(table.loc["mean", "mean"]) > 0.6


@pytest.mark.slow
def test_registration_improves_the_labels(library: Path, done: Path) -> None:
    """The labels of another subject without deformation are worse."""
    scores = []
    for name in NAMES:
        record = json.loads((done / f"{name}_multiatlas.json").read_text())
        other = read(library / f"{record['atlases'][0]}_dseg.nii.gz")
        reference, found = read(library / f"{name}_dseg.nii.gz"), read(done / f"{name}_dseg.nii.gz")
        inside = reference > 0
        scores.append((found[inside] == reference[inside]).mean() - (other[inside] == reference[inside]).mean())
    assert min(scores) > 0.1


@pytest.mark.slow
def test_the_same_command_again_changes_nothing(
    copied: Path, library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.read_bytes() for p in copied.glob("*") if p.is_file()}
    monkeypatch.setattr("slant.multiatlas.task.label_target", lambda *_: pytest.fail("labelled again"))
    assert run_slant("multiatlas", copied, "--atlases", library, "--leave-one-out", *OPTIONS) == 0
    assert "segmented 0 scan(s), 4 already done" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in copied.glob("*") if p.is_file()} == before


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_the_same_bytes(copied: Path, library: Path, done: Path) -> None:
    """A missing target, a missing and a damaged registration and a missing preprocessed scan are computed again."""
    (copied / "p3_multiatlas.json").unlink()
    pairs = sorted((copied / "work" / "pairs").rglob("*.npz"))
    pairs[0].unlink()
    pairs[1].write_bytes(pairs[1].read_bytes()[:1000])
    next((copied / "work" / "prepared").glob("*.npz")).unlink()
    for name in ("p1", "p2", "p4"):
        (copied / f"{name}_dseg.nii.gz").unlink()
    assert run_slant("multiatlas", copied, "--atlases", library, "--leave-one-out", *OPTIONS) == 0
    for name in NAMES:
        for end in ("dseg.nii.gz", "desc-agreement_map.nii.gz"):
            assert (copied / f"{name}_{end}").read_bytes() == (done / f"{name}_{end}").read_bytes()
    assert not list(copied.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["majority", "joint"])
def test_another_fusion_uses_the_existing_registrations(
    copied: Path, library: Path, monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    monkeypatch.setattr("slant.multiatlas.candidates.register_syn", lambda *_: pytest.fail("registered again"))
    before = (copied / "p1_multiatlas.json").read_bytes()
    command = ("multiatlas", library / "p1_T1w.nii.gz", copied, "--atlases", library, *OPTIONS[:4], "--fusion", fusion)
    assert run_slant(*command) == 0
    record = json.loads((copied / "p1_multiatlas.json").read_text())
    assert record["settings"]["fusion"] == fusion
    assert (copied / "p1_multiatlas.json").read_bytes() != before
    assert np.mean(list(record["dice"].values())) > 0.6


@pytest.mark.slow
def test_excluded_and_same_subjects_are_not_used(library: Path, tmp_path: Path, done: Path) -> None:
    table = tmp_path / "library.tsv"
    rows = [f"{n}\t{library / f'{n}_T1w.nii.gz'}\t{library / f'{n}_dseg.nii.gz'}\t{p}" for n, p in
            zip(NAMES, ("ann", "bob", "ann", "eve"), strict=True)]  # fmt: skip
    table.write_text("name\tT1w\tdseg\tsubject\n" + "\n".join(rows) + "\n")
    targets = tmp_path / "targets.tsv"
    targets.write_text(f"name\tT1w\tsubject\nnew\t{library / 'p1_T1w.nii.gz'}\tann\n")
    command = ("multiatlas", targets, tmp_path / "out", "--atlases", table, "--work-dir", done / "work")
    assert run_slant(*command, *OPTIONS[:2], "--n-atlases", 1, "--fusion", "local", "--exclude", "bob") == 0
    record = json.loads((tmp_path / "out" / "new_multiatlas.json").read_text())
    assert record["atlases"] == ["p4"]
    assert record["subjects"] == ["eve"]


@pytest.mark.slow
def test_a_bad_target_is_listed_and_does_not_stop_others(
    library: Path, tmp_path: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "targets" / "sub-07" / "anat"
    folder.mkdir(parents=True)
    (folder / "sub-07_T1w.nii.gz").write_bytes(b"no image")
    shutil.copy(library / "p1_T1w.nii.gz", folder.parent / "q_T1w.nii.gz")
    command = ("multiatlas", tmp_path / "targets", tmp_path / "out", "--atlases", library, "--work-dir", done / "work")
    assert run_slant(*command, *OPTIONS) == 1
    printed = capsys.readouterr()
    assert "sub-07 failed" in printed.err
    assert "found a text file" in printed.err
    assert "segmented 1 scan(s)" in printed.out
    record = json.loads((tmp_path / "out" / "q_multiatlas.json").read_text())
    assert "p1" not in record["atlases"]  # the same bytes under another name
    assert not list((tmp_path / "out").glob("sub-07*"))
    failures = pd.read_csv(tmp_path / "out" / "failures.tsv", sep="\t", index_col="name")
    assert list(failures.index) == ["sub-07"]
    assert "found a text file" in failures.loc["sub-07", "reason"]
    assert "failed: " in (tmp_path / "out" / failures.loc["sub-07", "log"]).read_text()


def test_more_atlases_than_available(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("multiatlas", tmp_path, "--atlases", library, "--leave-one-out", "--n-atlases", 4) == 2
    assert "--n-atlases 4 is more than the 3 atlases of other subjects for p1" in the_line(capsys)


def test_results_are_not_written_among_the_scans(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(library.rglob("*"))
    assert run_slant("multiatlas", library, "--atlases", library, "--leave-one-out", *OPTIONS) == 2
    assert "give another folder" in the_line(capsys)
    assert sorted(library.rglob("*")) == before
    shutil.copy(library / "p1_dseg.nii.gz", tmp_path)
    assert run_slant("multiatlas", tmp_path, "--atlases", library, "--leave-one-out", *OPTIONS) == 2
    assert "not made by slant multiatlas" in the_line(capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(SHAPE, 2035), "2035"),
        (np.zeros(SHAPE, int), "found no region"),
        (np.ones((5, 6, 7), int), "expected the grid of"),
    ],
)
def test_an_atlas_with_bad_labels_is_named(
    library: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: np.ndarray, message: str
) -> None:
    bad = tmp_path / "library"
    shutil.copytree(library, bad)
    write_labels(bad / "p2_dseg.nii.gz", labels)
    options = ("--leave-one-out", *OPTIONS, "--work-dir", done / "work")
    assert run_slant("multiatlas", tmp_path / "out", "--atlases", bad, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("slant: the atlas p2 cannot be used")
    assert message in error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fusion", "mean"), "fusion"),
        (("--n-atlases", "0"), "n_atlases must be at least 1"),
        (("--patch-radius", "6"), "patch_radius must be 1 to 5 voxels"),
        (("--resolution-mm", "0.1"), "resolution"),
        (("--jobs", "0"), "jobs must be at least 1"),
        (("--exclude", "nobody"), "--exclude nobody"),
        (("--fusion", "joint", "--n-atlases", "1"), "joint fusion"),
    ],
)
def test_bad_options(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    count = () if "--n-atlases" in arguments else ("--n-atlases", 2)
    command = ("multiatlas", tmp_path / "out", "--atlases", library, "--leave-one-out", *count, *arguments)
    assert run_slant(*command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_targets_are_required(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("multiatlas", tmp_path, "--atlases", library) == 2
    assert "expected targets, then the output directory" in the_line(capsys)
    assert run_slant("multiatlas", library, tmp_path, "--atlases", library, "--leave-one-out") == 2
    assert "the atlases themselves" in the_line(capsys)
