"""Splits are by person: folds, the table of scans, and what auxiliary labels may have seen."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from phantoms import write_pairs

from slant.errors import InputError, SettingsError
from slant.tiles import TileLayout
from slant.train.people import ScanTable, auxiliary_names, read_table, split
from slant.train.settings import StageSettings, TileSettings, TrainSettings

LAYOUT = TileLayout((32, 40, 36), (20, 24, 20), (2, 2, 2))
SETTINGS = TrainSettings("toy", LAYOUT, StageSettings(6), TileSettings(6))


def table(folder: Path, *lines: str) -> Path:
    path = folder / "scans.tsv"
    path.write_text("\n".join(line.replace("|", "\t") for line in lines) + "\n")
    return path


def test_folds_take_every_fifth_person_and_cover_everybody_once() -> None:
    names = [str(i) for i in range(1000, 1015)]
    held_out = [split(replace(SETTINGS, fold=fold), names[::-1])[1] for fold in range(5)]
    assert held_out[0] == ["1000", "1005", "1010"]
    assert sorted(itertools.chain(*held_out)) == names
    for fold in range(5):
        trained, left = split(replace(SETTINGS, fold=fold), names)
        assert sorted(trained + left) == names
    assert split(SETTINGS, names[::-1]) == (names, [])


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("site1_sub-01_ses-2", "sub-01"),
        ("1000", "1000"),
        ("presub-01", "presub-01"),
    ],
)
def test_a_person_is_the_bids_part_of_the_name_or_all_of_it(name: str, person: str) -> None:
    assert ScanTable().person(name) == person


def test_sessions_of_one_person_stay_together() -> None:
    names = [f"sub-{i:02d}_ses-{k}" for i in range(7) for k in (1, 2)]
    for fold in range(5):
        trained, held_out = split(replace(SETTINGS, fold=fold), names)
        assert not {n[:6] for n in trained} & {n[:6] for n in held_out}
        assert len(held_out) % 2 == 0


def test_the_table_says_who_is_the_same_person(tmp_path: Path) -> None:
    scans = table(tmp_path, "name|person", "a|x", "b|y", "c|x", "d|")
    settings = replace(SETTINGS, scans=scans, folds=3, fold=1)
    assert split(settings, ["a", "b", "c", "d"]) == (["b", "d"], ["a", "c"])
    assert read_table(scans).person("d") == "d"


def test_the_table_puts_people_into_folds(tmp_path: Path) -> None:
    scans = table(tmp_path, "name|fold", "sub-1_ses-1|1", "sub-2_ses-1|0", "sub-3_ses-1|")
    settings = replace(SETTINGS, scans=scans)
    names = ["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-3_ses-1"]
    assert split(replace(settings, fold=1), names)[1] == ["sub-1_ses-1", "sub-1_ses-2"]
    assert split(replace(settings, fold=0), names)[1] == ["sub-2_ses-1"]
    with pytest.raises(SettingsError, match="puts none of them into fold 3"):
        split(replace(settings, fold=3), names)


@pytest.mark.parametrize(("fold", "names"), [(3, ["a", "b"]), (0, ["a"]), (0, ["sub-1_ses-1", "sub-1_ses-2"])])
def test_an_empty_fold_is_refused(fold: int, names: list[str]) -> None:
    people = len({ScanTable().person(name) for name in names})
    with pytest.raises(SettingsError, match=f"cannot be split into 5 folds: there are {people} people"):
        split(replace(SETTINGS, fold=fold), names)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("name|person|fold", "a|x|0", "b|x|1"), "x is in fold 0 and in fold 1; wanted one"),
        (("name|fold", "sub-1_ses-1|0", "sub-1_ses-2|1"), "sub-1 is in fold 0 and in fold 1"),
        (("name|person", "a|x", "b|y", "a|z"), "several lines of a"),
        (("name|sex", "a|f"), r"found columns name, sex; wanted name and any of .*person.*fold.*regions"),
        (("person|fold", "a|1"), "found columns person, fold"),
        (("name|fold", "a|one"), "fold of a: found 'one', wanted a whole number"),
        (("name|fold", "a|1.5"), "fold of a: found '1.5', wanted a whole number"),
        (("name|regions", "a|4,x"), "regions of a: found 'x', wanted a whole number"),
        (("name|person", "a|x|y"), "cannot read the table of scans|several|wanted"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = table(tmp_path, *lines)
    with pytest.raises(SettingsError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00name"])
def test_files_that_are_no_table_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scans.tsv"
    with pytest.raises(SettingsError, match="cannot read the table of scans"):
        read_table(path)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="cannot read the table of scans"):
        read_table(path)


def test_regions_are_ids_with_commas(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "name|regions", "a|4, 11", "b|")).regions == {"a": (4, 11)}


# Scans labelled by machine


MANUAL = ["m0", "m1", "m2"]


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    write_pairs(tmp_path / "manual", tuple(MANUAL))
    write_pairs(tmp_path / "aux", ("a0", "a1"))
    return replace(SETTINGS, data=tmp_path / "manual", auxiliary=tmp_path / "aux", folds=3, fold=0)


def record(settings: TrainSettings, name: str, content: str) -> None:
    assert settings.auxiliary is not None
    (settings.auxiliary / f"{name}_multiatlas.json").write_text(content)


def test_auxiliary_scans_are_those_of_the_folder(settings: TrainSettings) -> None:
    assert auxiliary_names(settings, MANUAL) == ["a0", "a1"]
    assert auxiliary_names(replace(settings, auxiliary=None), MANUAL) == []


def test_a_scan_in_both_folders_is_refused(settings: TrainSettings) -> None:
    write_pairs(settings.auxiliary, ("m1",))
    with pytest.raises(SettingsError, match=r"m1 lie in .*manual and in .*aux; a scan belongs in one"):
        auxiliary_names(settings, MANUAL)


def test_labels_made_with_an_atlas_that_is_held_out_are_refused(settings: TrainSettings) -> None:
    record(settings, "a0", json.dumps({"atlases": ["m1", "m2"]}))
    record(settings, "a1", json.dumps({"atlases": ["m2", "m0"]}))
    with pytest.raises(SettingsError, match=r"labels of a1 were made with the atlases m0, .*fold 0.*--exclude m0"):
        auxiliary_names(settings, MANUAL)
    assert auxiliary_names(replace(settings, fold=None), MANUAL) == ["a0", "a1"]
    with pytest.raises(SettingsError, match=r"labels of a0 .* m1"):
        auxiliary_names(replace(settings, fold=1), MANUAL)


def test_another_session_of_a_held_out_atlas_counts_too(settings: TrainSettings, tmp_path: Path) -> None:
    scans = table(tmp_path, "name|person", "m0|x", "other|x")
    record(settings, "a0", json.dumps({"atlases": ["other"]}))
    with pytest.raises(SettingsError, match="made with the atlases other"):
        auxiliary_names(replace(settings, scans=scans, fold=2), MANUAL)


def test_auxiliary_scans_of_people_held_out_are_left_out(settings: TrainSettings, tmp_path: Path) -> None:
    scans = table(tmp_path, "name|person", "m0|x", "a1|x")
    record(settings, "a1", json.dumps({"atlases": ["m0"]}))
    assert auxiliary_names(replace(settings, scans=scans, fold=2), MANUAL) == ["a0"]
    alone = table(tmp_path, "name|person", "m0|x", "a0|x", "a1|x")
    with pytest.raises(InputError, match=r"all scans in .*aux are of people held out in fold 2"):
        auxiliary_names(replace(settings, scans=alone, fold=2), MANUAL)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"atlases": 3}'])
def test_a_record_that_is_none_is_named(settings: TrainSettings, content: str) -> None:
    record(settings, "a0", content)
    with pytest.raises(InputError, match=r"a0_multiatlas\.json is no record of `slant multiatlas`"):
        auxiliary_names(settings, MANUAL)


def test_an_empty_auxiliary_folder_is_refused(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="wanted pairs"):
        auxiliary_names(replace(settings, auxiliary=tmp_path / "none"), MANUAL)
