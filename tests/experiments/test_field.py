"""Inputs run once, are measured on their own voxels, and are held against what is expected of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import field
import nibabel as nib
import numpy as np
import pytest
from field_check import Measures, Reference, Run, mean_dice, measure, unmet
from field_inputs import FULL_HEAD, Base, FieldInput, Made, failed_grade, refused, same

GOOD = Measures(dice=0.98, grid=True, etiv=1.001, grade="pass")
LABELS = np.random.default_rng(0).integers(0, 4, (6, 7, 8)).astype(np.int32)


def said(stderr: str = "", status: int = 0, stdout: str = "") -> Run:
    return Run(status, stdout, stderr, 1.0)


def test_there_are_many_inputs_of_every_kind() -> None:
    names = [f"{one.kind}/{one.name}" for one in field.INPUTS]
    assert len(names) == len(set(names)) >= 60
    assert {one.kind for one in field.INPUTS} == {
        "intensities",
        "headers",
        "masks",
        "files",
        "environment",
        "cohorts",
    }


@pytest.mark.parametrize(
    ("measures", "run", "word"),
    [
        (replace(GOOD, dice=0.9), said(), "Dice 0.900"),
        (replace(GOOD, dice=None), said(), "Dice none"),
        (replace(GOOD, grid=False), said(), "another grid"),
        (replace(GOOD, etiv=0.9), said(), "eTIV ratio 0.900"),
        (replace(GOOD, grade="fail"), said(), "grade fail"),
        (GOOD, said(status=1), "exit 1"),
        (GOOD, said("matplotlib built its cache"), "not of slant"),
        (GOOD, said("Traceback (most recent call last)\n  ..."), "traceback"),
    ],
)
def test_what_is_not_the_same_is_told(measures: Measures, run: Run, word: str, tmp_path: Path) -> None:
    assert unmet(same(0.95), said("slant: warning: x"), GOOD, tmp_path / "out") == []
    assert [reason for reason in unmet(same(0.95), run, measures, tmp_path / "out") if word in reason]


def test_messages_must_have_the_words_but_not_from_the_name_of_the_input(tmp_path: Path) -> None:
    out = tmp_path / "empty" / "out"
    assert unmet(refused("EMPTY"), said("slant: the file is empty", 2), Measures(), out) == []
    assert unmet(refused("empty"), said(f"slant: {out.parent}/x: damaged", 2), Measures(), out)
    assert unmet(failed_grade("identity"), said("slant: warning: the identity"), replace(GOOD, grade="fail"), out) == []


def test_the_progress_of_a_cohort_is_not_counted() -> None:
    assert said("0/1 scans |   | 00:00\r1/1 scans |###| 00:01\nslant: a failed: b\n").lines == ["slant: a failed: b"]


def test_mean_dice_is_over_the_regions_of_the_reference() -> None:
    assert mean_dice(LABELS, LABELS) == 1
    wanted, found = np.array([0, 1, 1, 2, 2]), np.array([0, 1, 1, 3, 3])
    assert mean_dice(found, wanted) == 0.5


def test_flipped_labels_are_compared_in_world_coordinates(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 2, 1])
    flipped = affine @ np.diag([-1, 1, 1, 1])
    flipped[0, 3] = 2.0 * (LABELS.shape[0] - 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for path in ("in/scan.nii.gz", "out/scan_dseg.nii.gz"):
        nib.Nifti1Image(LABELS[::-1].copy(), flipped).to_filename(tmp_path / path)
    record = {"etiv_mm3": 1010.0, "quality": {"grade": "review"}}
    (tmp_path / "out" / "scan_record.json").write_text(json.dumps(record), "utf-8")
    reference = Reference(LABELS, affine, 1000.0)
    found = measure(Made("", "scan.nii.gz", same_voxels=False), tmp_path, reference)
    assert found == Measures(1.0, True, 1.01, "review")
    assert measure(Made("", "scan.nii.gz"), tmp_path, reference).dice < 0.5


def test_an_input_runs_again_only_if_it_changes(base: Base, tmp_path: Path) -> None:
    options = argparse.Namespace(work=tmp_path, model="whole", threads=1)

    def input_of(command: str, content: str) -> FieldInput:
        def make(_: Base, folder: Path) -> Made:
            (folder / "scan.txt").write_text(content, "utf-8")
            return Made(command)

        return FieldInput("files", "one", FULL_HEAD, make, (refused(),))

    log = tmp_path / "log"
    for command, content, count in (
        ("", "a", 1),
        ("", "a", 1),
        ("", "b", 2),
        ("; exit 3", "b", 3),
        ("; exit 3", "b", 3),
    ):
        _, found = field.run(input_of(f"cat scan.txt >> {log}{command}", content), base, options)
        assert len(log.read_text("utf-8")) == count
    assert found.status == 3
