"""Splits by subject: folds, the table of scans, and auxiliary labels made from held-out subjects."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from phantoms import write_pairs

from slant.errors import InputError, SettingsError
from slant.tiles import TileLayout
from slant.train.settings import TrainSettings
from slant.train.splits import ScanTable, auxiliary_names, read_table, split
from slant.train.stage_settings import StageSettings, TileSettings

LAYOUT = TileLayout((32, 40, 36), (20, 24, 20), (2, 2, 2))
SETTINGS = TrainSettings("toy", LAYOUT, StageSettings(6), TileSettings(6))


def table(folder: Path, *lines: str) -> Path:
    path = folder / "scans.tsv"
    path.write_text("\n".join(line.replace("|", "\t") for line in lines) + "\n")
    return path


def test_folds_take_every_fifth_subject_and_cover_all_subjects_once() -> None:
    names = [str(i) for i in range(1000, 1015)]
    held_out = [split(replace(SETTINGS, fold=fold), names[::-1])[1] for fold in range(5)]
    assert held_out[0] == ["1000", "1005", "1010"]
    assert sorted(itertools.chain(*held_out)) == names
    for fold in range(5):
        trained, left = split(replace(SETTINGS, fold=fold), names)
        assert sorted(trained + left) == names
    assert split(SETTINGS, names[::-1]) == (names, [])


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("site1_sub-01_ses-2", "sub-01"),
        ("1000", "1000"),
        ("presub-01", "presub-01"),
    ],
)
def test_a_subject_is_the_bids_part_of_the_name_or_the_whole_name(name: str, subject: str) -> None:
    assert ScanTable().subject(name) == subject


def test_sessions_of_one_subject_stay_together() -> None:
    names = [f"sub-{i:02d}_ses-{k}" for i in range(7) for k in (1, 2)]
    for fold in range(5):
        trained, held_out = split(replace(SETTINGS, fold=fold), names)
        assert not {n[:6] for n in trained} & {n[:6] for n in held_out}
        assert len(held_out) % 2 == 0


def test_the_table_assigns_scans_to_subjects(tmp_path: Path) -> None:
    scans = table(tmp_path, "name|subject", "a|x", "b|y", "c|x", "d|")
    settings = replace(SETTINGS, scans=scans, folds=3, fold=1)
    assert split(settings, ["a", "b", "c", "d"]) == (["b", "d"], ["a", "c"])
    assert read_table(scans).subject("d") == "d"


def test_the_table_assigns_subjects_to_folds(tmp_path: Path) -> None:
    scans = table(tmp_path, "name|fold", "sub-1_ses-1|1", "sub-2_ses-1|0", "sub-3_ses-1|")
    settings = replace(SETTINGS, scans=scans)
    names = ["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-3_ses-1"]
    assert split(replace(settings, fold=1), names)[1] == ["sub-1_ses-1", "sub-1_ses-2"]
    assert split(replace(settings, fold=0), names)[1] == ["sub-2_ses-1"]
    with pytest.raises(SettingsError, match="assigns none or all of them to fold 3"):
        split(replace(settings, fold=3), names)


@pytest.mark.parametrize(("fold", "names"), [(3, ["a", "b"]), (0, ["a"]), (0, ["sub-1_ses-1", "sub-1_ses-2"])])
def test_an_empty_fold_is_refused(fold: int, names: list[str]) -> None:
    subjects = len({ScanTable().subject(name) for name in names})
    with pytest.raises(SettingsError, match=f"cannot be split into 5 folds: there are {subjects} subjects"):
        split(replace(SETTINGS, fold=fold), names)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("name|subject|fold", "a|x|0", "b|x|1"), "x is in fold 0 and in fold 1, expected one fold"),
        (("name|fold", "sub-1_ses-1|0", "sub-1_ses-2|1"), "sub-1 is in fold 0 and in fold 1"),
        (("name|subject", "a|x", "b|y", "a|z"), "found several lines of a, expected one line per scan"),
        (("name|sex", "a|f"), "found columns name, sex, expected name and any of subject, fold, regions"),
        (("subject|fold", "a|1"), "found columns subject, fold"),
        (("name|fold", "a|one"), "fold of a: found 'one', expected an integer"),
        (("name|fold", "a|1.5"), "fold of a: found '1.5', expected an integer"),
        (("name|regions", "a|4,x"), "regions of a: found 'x', expected an integer"),
        (("name|subject", "a|x|y"), "cannot read the table of scans .*: some lines have more columns"),
    ],
)
def test_tables_with_errors_are_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = table(tmp_path, *lines)
    with pytest.raises(SettingsError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00name"])
def test_files_that_are_not_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scans.tsv"
    with pytest.raises(SettingsError, match="cannot read the table of scans"):
        read_table(path)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="cannot read the table of scans"):
        read_table(path)


def test_regions_are_ids_separated_by_commas(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "name|regions", "a|4, 11", "b|")).regions == {"a": (4, 11)}


# Automatically labelled scans


MANUAL = ["m0", "m1", "m2"]


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    write_pairs(tmp_path / "manual", tuple(MANUAL))
    write_pairs(tmp_path / "aux", ("a0", "a1"))
    return replace(SETTINGS, data=tmp_path / "manual", auxiliary_dir=tmp_path / "aux", folds=3, fold=0)


def record(settings: TrainSettings, name: str, content: str) -> None:
    assert settings.auxiliary_dir is not None
    (settings.auxiliary_dir / f"{name}_multiatlas.json").write_text(content)


def test_auxiliary_scans_are_those_of_the_folder(settings: TrainSettings) -> None:
    assert auxiliary_names(settings, MANUAL) == ["a0", "a1"]
    assert auxiliary_names(replace(settings, auxiliary_dir=None), MANUAL) == []


def test_a_scan_in_both_folders_is_refused(settings: TrainSettings) -> None:
    write_pairs(settings.auxiliary_dir, ("m1",))
    with pytest.raises(SettingsError, match=r"found m1 in both .*manual and .*aux; keep each scan in one folder"):
        auxiliary_names(settings, MANUAL)


def test_labels_made_with_a_held_out_atlas_are_refused(settings: TrainSettings) -> None:
    record(settings, "a0", json.dumps({"atlases": ["m1", "m2"]}))
    record(settings, "a1", json.dumps({"atlases": ["m2", "m0"]}))
    with pytest.raises(SettingsError, match=r"labels of a1 were made with the atlases m0, .*fold 0.*--exclude m0"):
        auxiliary_names(settings, MANUAL)
    assert auxiliary_names(replace(settings, fold=None), MANUAL) == ["a0", "a1"]
    with pytest.raises(SettingsError, match=r"labels of a0 .* m1"):
        auxiliary_names(replace(settings, fold=1), MANUAL)


def test_another_session_of_a_held_out_subject_is_refused_too(settings: TrainSettings, tmp_path: Path) -> None:
    scans = table(tmp_path, "name|subject", "m0|x", "other|x")
    record(settings, "a0", json.dumps({"atlases": ["other"]}))
    with pytest.raises(SettingsError, match="made with the atlases other"):
        auxiliary_names(replace(settings, scans=scans, fold=2), MANUAL)


def test_auxiliary_scans_of_held_out_subjects_are_left_out(settings: TrainSettings, tmp_path: Path) -> None:
    scans = table(tmp_path, "name|subject", "m0|x", "a1|x")
    record(settings, "a1", json.dumps({"atlases": ["m0"]}))
    assert auxiliary_names(replace(settings, scans=scans, fold=2), MANUAL) == ["a0"]
    alone = table(tmp_path, "name|subject", "m0|x", "a0|x", "a1|x")
    with pytest.raises(InputError, match=r"aux: all scans are outliers or of subjects held out in fold 2"):
        auxiliary_names(replace(settings, scans=alone, fold=2), MANUAL)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"atlases": 3}'])
def test_an_invalid_record_is_reported(settings: TrainSettings, content: str) -> None:
    record(settings, "a0", content)
    with pytest.raises(InputError, match=r"a0_multiatlas\.json is not a record of `slant multiatlas`"):
        auxiliary_names(settings, MANUAL)


def test_an_empty_auxiliary_folder_is_refused(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="expected pairs"):
        auxiliary_names(replace(settings, auxiliary_dir=tmp_path / "none"), MANUAL)
