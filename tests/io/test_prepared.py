"""What is computed from scans is kept in files, and shared by multi-atlas segmentation and training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_task import InlinePool
from toy import quick_stages, run_slant, toy_prepared, write_toy_scan
from toy_atlases import write_subject

from slant import pipeline
from slant.errors import InputError, OutputError
from slant.files import file_sha256
from slant.io import prepared
from slant.io.prepared import digest, kept, load_arrays, prepared_scan

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train" / "phantom.toml"


def test_arrays_are_computed_only_for_another_identity(tmp_path: Path) -> None:
    path, calls = tmp_path / "new" / "stored.npz", []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3)}

    for identity, count in (("x", 1), ("x", 1), ("y", 2), ("x", 3)):
        assert kept(path, identity, compute)["a"].tolist() == [0, 1, 2]
        assert len(calls) == count
    assert [p.name for p in path.parent.iterdir()] == ["stored.npz"]
    np.savez(path, a=np.zeros(1))  # of a version without an identity
    assert kept(path, "x", compute)["a"].tolist() == [0, 1, 2]
    assert digest(1, "a") != digest("a", 1)


def test_arrays_are_read_only_if_all_of_them_are_there(tmp_path: Path) -> None:
    path = tmp_path / "stored.npz"
    assert load_arrays(path) is None
    np.savez(path, a=np.arange(3), b=np.zeros(1))
    read = load_arrays(path, ("a",))
    assert read is not None
    assert {name: values.tolist() for name, values in read.items()} == {"a": [0, 1, 2]}
    assert load_arrays(path, ("a", "c")) is None


def test_no_damage_is_an_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "stored.npz", np.random.default_rng(0)
    np.savez_compressed(path, a=np.arange(500), identity=np.array("x"))
    content = path.read_bytes()
    arrays = load_arrays(path)
    assert arrays is not None
    damaged = [content[:length] for length in range(0, len(content), 7)] + [b"", b"text", b"\x93NUMPY"]
    for _ in range(400):
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    for data in damaged:
        path.write_bytes(data)
        read = load_arrays(path, ("a",))
        assert read is None or np.array_equal(read["a"], arrays["a"])


def test_a_folder_that_cannot_be_written_to_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"cannot write .*stored\.npz: File exists; .* with --work-dir; run the"):
        kept(tmp_path / "file" / "stored.npz", "x", lambda: {"a": np.zeros(1)})
    with pytest.raises(InputError, match="cannot be read: No such file"):
        prepared_scan(tmp_path / "none.nii.gz", tmp_path)


def test_a_prepared_scan_is_that_of_the_pipeline_in_half_precision(tmp_path: Path, monkeypatch) -> None:
    path, calls = write_toy_scan(tmp_path / "a_T1w.nii.gz"), []
    monkeypatch.setattr(pipeline, "prepare", lambda *_: (calls.append(1), toy_prepared())[1])
    first, second = prepared_scan(path, tmp_path / "kept"), prepared_scan(path, tmp_path / "kept", file_sha256(path))
    assert len(calls) == 1
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [f"{file_sha256(path)}.npz"]
    expected = toy_prepared()
    for scan in (first, second):
        assert scan.sha256 == file_sha256(path)
        np.testing.assert_array_equal(scan.image.data, expected.image.data.astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(scan.brain.data, expected.brain.data)
        np.testing.assert_array_equal(scan.native_from_template, expected.native_from_template)
        assert scan.image.grid.same_as(expected.image.grid)
        assert scan.brain.grid.same_as(expected.native_grid)
    monkeypatch.setattr(prepared, "__version__", "0.0.0")
    prepared_scan(path, tmp_path / "kept")
    assert len(calls) == 2


@pytest.mark.slow
def test_multiatlas_and_training_prepare_each_scan_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, targets, work = tmp_path / "library", tmp_path / "targets", tmp_path / "work"
    for i, name in enumerate(("p1", "p2", "t1")):
        folder = targets if name == "t1" else library
        folder.mkdir(exist_ok=True)
        write_subject(folder, name, i)
    (targets / "t1_dseg.nii.gz").unlink()
    (work / "scans").mkdir(parents=True)  # of older versions
    shutil.copy(library / "p1_T1w.nii.gz", work / "scans" / f"{file_sha256(library / 'p1_T1w.nii.gz')}.npz")
    calls, real = [], pipeline.prepare
    monkeypatch.setattr(pipeline, "prepare", lambda scan, inputs: (calls.append(scan), real(scan, inputs))[1])
    monkeypatch.setattr("slant.engine.pools.LocalPool", lambda *_: InlinePool())
    monkeypatch.setattr("slant.train.prepare.Parallel", lambda **_: lambda jobs: (f(*args) for f, args, _ in jobs))
    options = ("--resolution-mm", 8, "--n-atlases", 1, "--fusion", "majority")
    with quick_stages():
        done = run_slant("multiatlas", targets, tmp_path / "out", "--atlases", library, "--work-dir", work, *options)
        assert done == 0
        assert len(calls) == 3
        folders = ("--data", library, "--auxiliary-dir", tmp_path / "out", "--work-dir", work)
        assert run_slant("train", CONFIG, *folders, "--stages", "prepare") == 0
    assert len(calls) == 3
    names = [path.name for path in (work / "prepared").iterdir()]
    assert len(names) == 3 + 2
    assert [path.name for path in (work / "all" / "auxiliary").iterdir()] == ["t1.labels.npz"]
