"""Preparation of training scans: ids become channels; bad scans are listed and do not stop the others."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from toy import noise, save

from slant.errors import InputError, OutputError, ProtocolError, SettingsError
from slant.files import file_sha256
from slant.grid import Grid
from slant.io.resources import load_protocol
from slant.nets.inputs import Inputs, InputScaling
from slant.segmentation import Prepared
from slant.tiles import TileLayout
from slant.train import prepare
from slant.train.context import run_context
from slant.train.loss import IGNORED
from slant.train.settings import TrainSettings
from slant.train.stage_settings import StageSettings, TileSettings
from slant.volume import LabelMap, Volume

SHAPE = (14, 15, 16)
CORNER = (-14.0, -25.0, -6.0)
TEMPLATE = (32, 36, 40)
"""Size of a template with voxels of 1 mm, of which a scan covers 28 x 30 x 32."""

LAYOUT = TileLayout((172, 220, 156), (96, 128, 88), (3, 3, 3))
PROTOCOL = load_protocol()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """A run whose registration is the identity; scans are prepared in this process."""
    template = SimpleNamespace(name="toy", grid=Grid(TEMPLATE, affine(1.0)))
    monkeypatch.setattr("slant.io.prepared.load_inputs", lambda: Inputs(template, None, InputScaling()))
    monkeypatch.setattr("slant.pipeline.prepare", quick_prepare)
    monkeypatch.setattr(prepare, "Parallel", lambda **_: lambda jobs: (f(*args, **kw) for f, args, kw in jobs))
    settings = TrainSettings("toy", LAYOUT, StageSettings(2), TileSettings(2))
    (tmp_path / "data").mkdir()
    return replace(settings, data=tmp_path / "data", work_dir=tmp_path / "work")


def quick_prepare(volume: Volume, inputs: Inputs) -> Prepared:
    image = Volume(np.ones(TEMPLATE, np.float32), inputs.template.grid)
    return Prepared(image, LabelMap(np.ones(SHAPE, np.uint8), volume.grid), volume.grid, True, np.eye(4), 1.0)


def affine(step: float = 2.0) -> np.ndarray:
    matrix = np.diag([step, step, step, 1.0])
    matrix[:3, 3] = CORNER
    return matrix


def add(settings: TrainSettings, name: str, labels: np.ndarray | None = None, seed: int = 0) -> None:
    labels = block(30) if labels is None else labels
    save(settings.data / f"{name}_T1w.nii.gz", noise(SHAPE, seed), affine())
    save(settings.data / f"{name}_dseg.nii.gz", labels.astype(np.int16), affine())


def block(value: int, rest: int = 0) -> np.ndarray:
    labels = np.full(SHAPE, rest, np.int16)
    labels[3:10, 3:10, 3:10] = value
    return labels


def stored(settings: TrainSettings, name: str) -> np.ndarray:
    with np.load(settings.work_dir / "prepared" / f"{name}.labels.npz") as arrays:
        return arrays["channels"]


def test_labels_become_channels_of_the_template_grid(settings: TrainSettings) -> None:
    add(settings, "a", block(30))
    prepare.prepare_scans(run_context(settings))
    channels = stored(settings, "a")
    assert channels.shape == TEMPLATE
    assert np.unique(channels).tolist() == [0, 4]
    assert (channels == 4).sum() == pytest.approx(7**3 * 2**3, rel=0.1)


def test_unknown_ids_are_an_error_or_background(settings: TrainSettings) -> None:
    labels = block(30)
    labels[0, 0, :5] = 999
    add(settings, "a", labels)
    with pytest.raises(InputError, match=r"1 of 1 scans could not be prepared: a: 5 voxels have ids outside .*999"):
        prepare.prepare_scans(run_context(settings))
    prepare.prepare_scans(run_context(replace(settings, unknown_ids="background")))
    assert np.unique(stored(settings, "a")).tolist() == [0, 4]


def test_the_ignore_label_is_neither_unknown_nor_a_region() -> None:
    grid = Grid((1, 1, 4), np.eye(4))
    labels = LabelMap(np.array([[[0, 30, 999, 30]]]), grid)
    settings = TrainSettings("toy", LAYOUT, StageSettings(2), TileSettings(2), ignore_label=999)
    assert prepare.channels_of(labels, PROTOCOL, settings).tolist() == [[[0, 4, IGNORED, 4]]]
    known = prepare.channels_of(labels, PROTOCOL, replace(settings, ignore_label=30, unknown_ids="background"))
    assert known.tolist() == [[[0, IGNORED, 0, IGNORED]]]
    zero = prepare.channels_of(labels, PROTOCOL, replace(settings, ignore_label=0, unknown_ids="background"))
    assert zero.tolist() == [[[IGNORED, 4, 0, 4]]]
    with pytest.raises(ProtocolError, match="999"):
        prepare.channels_of(labels, PROTOCOL, replace(settings, ignore_label=None))


@pytest.mark.parametrize(("labels", "ignore_label"), [(block(0), None), (block(0), 0), (block(999, rest=999), 999)])
def test_labels_without_any_region_are_refused(settings: TrainSettings, labels: np.ndarray, ignore_label) -> None:
    add(settings, "a", labels)
    with pytest.raises(InputError, match=r"a: .*a_dseg\.nii\.gz contains no region of protocol 'braincolor'"):
        prepare.prepare_scans(run_context(replace(settings, ignore_label=ignore_label)))
    assert not (settings.work_dir / "prepared" / "a.labels.npz").exists()


def test_bad_scans_are_all_listed_and_do_not_stop_the_others(settings: TrainSettings) -> None:
    for seed, name in enumerate("abcde"):
        add(settings, name, seed=seed)
    save(settings.data / "a_dseg.nii.gz", np.zeros((9, 8, 7), np.int16), affine())
    (settings.data / "c_T1w.nii.gz").write_bytes(b"no image")
    add(settings, "e", block(998))
    with pytest.raises(InputError) as caught:
        prepare.prepare_scans(run_context(settings))
    text = str(caught.value)
    assert text.startswith("3 of 5 scans could not be prepared: a: ")
    assert "shape (9, 8, 7), expected the grid of" in text
    assert f"{SHAPE}, with the same affine" in text
    assert "; c: " in text
    assert "; e: 343 voxels have ids outside protocol 'braincolor': 998" in text
    assert [name for name in "abcde" if (settings.work_dir / "prepared" / f"{name}.labels.npz").exists()] == ["b", "d"]
    assert not list((settings.work_dir / "prepared").glob("*.part*"))


def test_a_scan_is_prepared_again_only_if_its_files_changed(settings: TrainSettings, monkeypatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr("slant.pipeline.prepare", lambda *of: (calls.append(of), quick_prepare(*of))[1])
    add(settings, "a")
    add(settings, "b", seed=1)
    prepare.prepare_scans(run_context(settings))
    prepare.prepare_scans(run_context(settings))
    assert len(calls) == 2
    add(settings, "a", block(23))
    prepare.prepare_scans(run_context(settings))
    assert len(calls) == 2
    assert np.unique(stored(settings, "a")).tolist() == [0, 3]
    image = nib.load(settings.data / "b_T1w.nii.gz")
    save(settings.data / "b_T1w.nii.gz", np.asarray(image.dataobj) + 1, affine())
    prepare.prepare_scans(run_context(settings))
    assert len(calls) == 3


def test_an_older_work_folder_is_prepared_again(settings: TrainSettings) -> None:
    """Images were in NAME.npz, and labels did not know the file of their scan."""
    add(settings, "a")
    folder, run = settings.work_dir / "prepared", run_context(settings)
    folder.mkdir(parents=True)
    np.savez(
        folder / "a.npz", image=np.ones(TEMPLATE, np.float16), identity=file_sha256(settings.data / "a_T1w.nii.gz")
    )
    np.savez(folder / "a.labels.npz", channels=np.zeros(TEMPLATE, np.uint8), frequency=np.zeros(1), identity="2 x")
    with pytest.raises(InputError, match=r"a\.labels\.npz is damaged or outdated; run the stage prepare"):
        prepare.load_training(run)
    prepare.prepare_scans(run)
    (scan,) = prepare.load_training(run).manual
    assert scan.channels.max() == 4


def test_a_full_disk_ends_the_preparation(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def full(*_: object, **__: object) -> None:
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    add(settings, "a")
    add(settings, "b", seed=1)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left on device; check free space .* --work-dir"):
        prepare.prepare_scans(run_context(settings))
    assert len(calls) == 1
    assert not list(settings.work_dir.rglob("*.*"))


def test_automatic_labels_are_stored_by_split(settings: TrainSettings, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add(settings, name)
    auxiliary = replace(settings, auxiliary_dir=tmp_path / "aux", folds=2, fold=1)
    (tmp_path / "aux").mkdir()
    add(replace(settings, data=tmp_path / "aux"), "x")
    prepare.prepare_scans(run_context(auxiliary))
    assert (auxiliary.run / "auxiliary" / "x.labels.npz").is_file()
    assert not (settings.work_dir / "prepared" / "x.labels.npz").exists()
    sha256 = file_sha256(tmp_path / "aux" / "x_T1w.nii.gz")
    assert (settings.work_dir / "prepared" / f"{sha256}.npz").is_file()
    scans = prepare.load_training(run_context(replace(auxiliary, data=settings.data)))
    assert [[s.name for s in part] for part in (scans.manual, scans.auxiliary, scans.held_out)] == [["a"], ["x"], ["b"]]


def test_a_missing_table_of_scans_is_an_error(settings: TrainSettings, tmp_path: Path) -> None:
    add(settings, "a")
    with pytest.raises(SettingsError, match="cannot read the table of scans"):
        prepare.load_training(run_context(replace(settings, scans=tmp_path / "none.tsv")))


def test_a_table_of_expected_dice_becomes_weights_and_a_changed_one_prepares_the_labels_again(
    settings: TrainSettings,
) -> None:
    add(settings, "a")
    table = settings.data / "a_expected_dice.tsv"

    def weights() -> np.ndarray | None:
        prepare.prepare_scans(run_context(settings))
        with np.load(settings.work_dir / "prepared" / "a.labels.npz") as arrays:
            return arrays.get("weights")

    assert weights() is None
    for value in (0.5, 0.25):
        table.write_text(f"index\texpected_dice\n30\t{value}\n")
        found = weights()
        assert found is not None
        assert found[PROTOCOL.ids == 30].tolist() == [value]
        assert (found[PROTOCOL.ids != 30] == 1).all()


@pytest.mark.parametrize(
    "text", ["index\tdice\n30\t0.5\n", "index\texpected_dice\n30\t1.5\n", "index\texpected_dice\nx\t1\n"]
)
def test_a_wrong_table_of_expected_dice_is_named(settings: TrainSettings, text: str) -> None:
    add(settings, "a")
    (settings.data / "a_expected_dice.tsv").write_text(text)
    with pytest.raises(InputError, match=r"a_expected_dice\.tsv: found .*expected"):
        prepare.prepare_scans(run_context(settings))
