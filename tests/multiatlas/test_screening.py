"""Outliers among label maps are found by a rule, shown on a contact sheet, and not used for training."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from phantoms import toy_settings
from toy import save, toy_grid, toy_head, write_toy_scan

from slant.errors import InputError
from slant.io.resources import load_protocol
from slant.multiatlas.screening import quality_table, write_quality
from slant.report.contact_sheet import Thumbnail, draw_sheet
from slant.train.data import labelled_names
from slant.train.splits import auxiliary_names

TYPICAL = {"similarity": 0.9, "agreement": 0.83, "regions": 132, "brain_cm3": 1200.0}


def records(folder: Path, *changes: dict[str, float]) -> list[str]:
    """Nine targets that differ a little, some of them changed."""
    names = [f"t{i}" for i in range(9)]
    for i, name in enumerate(names):
        quality = {**TYPICAL, "similarity": 0.9 + 0.002 * i, "agreement": 0.83 - 0.001 * i}
        quality |= changes[i] if i < len(changes) else {}
        (folder / f"{name}_multiatlas.json").write_text(json.dumps({"quality": quality}))
    return names


def test_typical_targets_are_not_outliers(tmp_path: Path) -> None:
    table = quality_table(tmp_path, records(tmp_path))
    assert set(table["outlier"]) == {"no"}
    assert set(table["reason"]) == {""}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"similarity": 0.8}, "similarity 0.800, median 0.908"),
        ({"agreement": 0.7}, "agreement 0.700, median 0.825"),
        ({"regions": 131}, "131 regions, median 132"),
    ],
)
def test_an_unusual_target_is_an_outlier(tmp_path: Path, change: dict[str, float], reason: str) -> None:
    table = quality_table(tmp_path, records(tmp_path, change))
    assert table["outlier"].tolist() == ["yes"] + 8 * ["no"]
    assert table["reason"][0] == reason


def test_few_targets_are_not_compared_by_similarity(tmp_path: Path) -> None:
    names = records(tmp_path, {"similarity": 0.2})[:7]
    assert set(quality_table(tmp_path, names)["outlier"]) == {"no"}


def test_the_table_and_the_sheet_are_written(tmp_path: Path) -> None:
    names = records(tmp_path, {"similarity": 0.5})
    ids = np.where(toy_head() > 0, 47, 0).astype(np.int16)
    for name in names:
        write_toy_scan(tmp_path / f"{name}_T1w.nii.gz", toy_head())
        save(tmp_path / f"{name}_dseg.nii.gz", ids, toy_grid().ras_from_voxel)
    write_quality(tmp_path, quality_table(tmp_path, names))
    lines = (tmp_path / "quality.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["name", *TYPICAL, "outlier", "reason"]
    assert lines[1].startswith("t0\t0.5\t0.83\t132\t1200.0\tyes\tsimilarity 0.500")
    picture = matplotlib.image.imread(tmp_path / "contact_sheet.png")[..., :3]
    color = np.array(next(r.color for r in load_protocol().regions if r.id == 47))
    assert picture.shape[1] > 1000
    vivid = picture[np.ptp(picture, axis=-1) > 0.1]
    assert len(vivid) > 9 * 1000
    assert (np.argmax(vivid, axis=-1) == np.argmax(color)).mean() > 0.9
    assert not list(tmp_path.glob(".slant*"))


def test_the_contact_sheet_is_reproducible() -> None:
    left = np.zeros((20, 30, 3), np.uint8)
    left[:, :10] = 255
    content = draw_sheet([Thumbnail("a", "b", (left,))], "title")
    assert content == draw_sheet([Thumbnail("a", "b", (left,))], "title")
    assert content.startswith(b"\x89PNG")


def test_outliers_are_not_used_for_training(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, subjects=2, auxiliary=2)
    assert settings.auxiliary_dir is not None
    names = labelled_names(settings.auxiliary_dir)
    manual = labelled_names(settings.data)
    assert auxiliary_names(settings, manual) == names
    (settings.auxiliary_dir / "quality.tsv").write_text(f"name\toutlier\n{names[0]}\tyes\n{names[1]}\tno\n")
    assert auxiliary_names(settings, manual) == names[1:]
    (settings.auxiliary_dir / "quality.tsv").write_text("scan\tbad\n")
    with pytest.raises(InputError, match=r"quality.tsv is not a table of .*expected the columns name and outlier"):
        auxiliary_names(settings, manual)
