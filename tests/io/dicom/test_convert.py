"""A folder of DICOM files gives the scan of its T1-weighted series, or an error that lists what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import (
    BIRTH,
    DATA,
    ENHANCED,
    PATIENT,
    SAGITTAL,
    SHAPE,
    Series,
    make_enhanced,
    make_series,
    oblique,
    t1,
    write_series,
)
from pydicom import dcmread

import slant
from slant.errors import InputError, OutputError, SlantError
from slant.io.dicom.choose import listing
from slant.io.dicom.convert import read_dicom
from slant.io.dicom.series import find_series

pytestmark = pytest.mark.usefixtures("stored_intensities")

# Geometry and voxels


@pytest.mark.parametrize("handed", [1, -1])
@pytest.mark.parametrize("axes", [SAGITTAL, np.eye(3), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])])
@pytest.mark.parametrize("make", [make_series, make_enhanced])
def test_every_voxel_keeps_its_position(
    make: Callable[..., Series], axes: np.ndarray, handed: int, tmp_path: Path
) -> None:
    matrix = oblique(axes, handed)
    scan = read_dicom(write_series(tmp_path / "p1", make(DATA, matrix)))
    voxels = np.argwhere(np.ones(SHAPE, dtype=bool))
    ras_mm = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    voxel_from_ras = scan.volume.grid.voxel_from_ras
    found = ras_mm @ voxel_from_ras[:3, :3].T + voxel_from_ras[:3, 3]
    assert np.abs(found - np.rint(found)).max() < 1e-3
    np.testing.assert_array_equal(scan.volume.data[tuple(np.rint(found).astype(int).T)], DATA.ravel())
    assert scan.volume.data.size == DATA.size


def test_the_source_of_a_scan(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "p1_T1w", images := t1(), "IM{:d}")
    scan = slant.read_dicom(folder)
    assert (scan.name, scan.path, scan.warnings) == ("p1", folder, ())
    assert scan.source is not None
    assert scan.source.plain() == {
        "series_instance_uid": images[0].SeriesInstanceUID,
        "series_number": 5,
        "series_description": "t1_mprage_sag",
        "files": 44,
        "images": 44,
        "chosen": "its name contains 't1'",
        "dcm2niix": scan.source.dcm2niix,
    }
    lines = [f"{dcmread(p).SOPInstanceUID} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in folder.iterdir()]
    assert scan.sha256 == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_names_and_folders_of_files_are_irrelevant(tmp_path: Path) -> None:
    images = t1()
    one = write_series(tmp_path / "one", images)
    two = write_series(tmp_path / "two" / "deep" / "deeper", images[::-1], "{:d}").parent.parent
    (two / "notes.txt").write_text("not DICOM " * 50)
    (two / "empty").touch()
    assert read_dicom(one).sha256 == read_dicom(two).sha256
    np.testing.assert_array_equal(read_dicom(one).volume.data, read_dicom(two).volume.data)


def test_copies_are_ignored(tmp_path: Path) -> None:
    images = t1()
    write_series(tmp_path / "p1" / "a", images)
    write_series(tmp_path / "p1" / "b", images[:3])
    scan = read_dicom(tmp_path / "p1")
    assert scan.volume.data.size == DATA.size
    assert scan.warnings == ("3 files of series 5 't1_mprage_sag' hold images that others hold, and were ignored",)


# Selection of the series


# Damaged and incomplete series


def cut_pixels(folder: Path) -> None:
    path = write_series(folder, t1()) / "003.dcm"
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    path = write_series(folder, t1()) / "003.dcm"
    path.write_bytes(path.read_bytes()[:400])


def several_volumes(folder: Path) -> None:
    first = t1()
    write_series(folder, first + t1(SeriesInstanceUID=first[0].SeriesInstanceUID, EchoTime=5.2))


BAD_FOLDERS: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("empty", lambda p: p.mkdir(), ("a folder with 0 files and no DICOM images", "`slant cohort`")),
    ("nifti", lambda p: (p.mkdir(), (p / "a.nii").write_bytes(b"x" * 500)), ("a folder with 1 file and no DICOM",)),
    (
        "pixels",
        cut_pixels,
        ("003.dcm is truncated: found 140 bytes of pixels, expected 240", "export it again"),
    ),
    ("header", cut_header, ("003.dcm", "damaged or incomplete", "copy it again, or remove it")),
    ("volumes", several_volumes, ("found 88 images at 44 positions", "such as echoes")),
    ("no position", lambda p: write_series(p, t1(ImagePositionPatient=None)), ("found 0 images with a position",)),
    ("constant", lambda p: write_series(p, make_series(0 * DATA + 7, oblique())), ("every voxel is 7",)),
]


@pytest.mark.parametrize(("name", "make", "parts"), BAD_FOLDERS, ids=[name for name, _, _ in BAD_FOLDERS])
def test_folders_that_cannot_be_read(
    name: str, make: Callable[[Path], object], parts: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(SlantError) as raised:
        read_dicom(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert [part for part in parts if part not in str(raised.value)] == []
    assert "scan.nii" not in str(raised.value)


def test_missing_slices(tmp_path: Path) -> None:
    images = t1()
    with pytest.raises(
        InputError, match=r"slices are missing: found 5.2 mm between slices 20 and 21 of 43, expected 2.6"
    ):
        read_dicom(write_series(tmp_path, images[:20] + images[21:]))


def test_slices_with_different_orientations(tmp_path: Path) -> None:
    images = t1()
    images[7].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    with pytest.raises(InputError, match="found images of more than one orientation, expected one stack of slices"):
        read_dicom(write_series(tmp_path, images))


def converter(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "echo version; echo 'Error: cannot decode'; exit 3",
            "could not convert it (exit status 3): Error: cannot decode",
        ),
        ("exit 0", "could not convert it (exit status 0)"),
        (
            'touch "${10}/scan.nii" "${10}/scan_e2.nii"',
            "made 2 images of it (scan.nii, scan_e2.nii), expected one 3D scan",
        ),
        ('touch "${10}/scan.nii"', "found an empty file"),
    ],
)
def test_a_converter_that_fails(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm2niix.bin", converter(tmp_path / "program", body))
    folder = write_series(tmp_path / "p1", t1())
    with pytest.raises(InputError) as raised:
        read_dicom(folder)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{folder}, series 5 't1_mprage_sag': ")


def test_a_converter_that_lacks_space_for_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm2niix.bin", converter(tmp_path / "program", "echo; echo 'disk full?'; exit 1"))
    monkeypatch.setattr("slant.files._write_problem", lambda _, size: "full" if size == 4 * DATA.size else None)
    folder = write_series(tmp_path / "p1", t1())
    message = rf"^{folder}, series 5 't1_mprage_sag': cannot write temporary files to .*: full, .* TMPDIR to"
    with pytest.raises(OutputError, match=message):
        read_dicom(folder)


def test_a_missing_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm2niix.bin", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"dcm2niix failed to run .*; install slant again"):
        read_dicom(write_series(tmp_path / "p1", t1()))


def test_a_converter_that_loses_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy import noise, save

    small = save(tmp_path / "small.nii", noise((12, 10, 20)))
    monkeypatch.setattr("dcm2niix.bin", converter(tmp_path / "program", f'cp "{small}" "${{10}}/scan.nii"'))
    with pytest.raises(InputError, match="dcm2niix made 2400 voxels from 5280 pixels in 44 images"):
        read_dicom(write_series(tmp_path / "p1", t1()))


# The patient's name


@pytest.mark.parametrize(
    ("path", "tags", "name"),
    [
        ("p1", {}, "p1"),
        ("Mustermann_Erika", {}, "series-5"),
        ("ERIKA/mri", {}, "series-5"),
        ("anna", {"PatientName": "anna", "PatientID": "anna"}, "anna"),
        ("sub-Erika", {"PatientIdentityRemoved": "YES"}, "sub-Erika"),
    ],
)
def test_the_patients_name_is_not_in_the_results(path: str, tags: dict[str, Any], name: str, tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path / path, t1(SeriesDescription="t1 Mustermann", **tags)))
    assert scan.name == name
    assert (scan.path == Path("withheld")) == (name == "series-5")
    assert scan.source is not None
    if not tags:
        texts = json.dumps([scan.source.plain(), scan.warnings, scan.name, scan.path.name]).lower()
        assert [word for word in (*PATIENT.lower().split("^"), "p-0042", BIRTH) if word in texts] == []
        assert scan.source.series.description == "withheld"


def test_the_name_of_the_working_directory_is_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_series(tmp_path / "Erika", t1()))
    scan = read_dicom(".")
    assert (scan.name, scan.path) == ("series-5", Path("withheld"))


def test_enhanced_files_are_mr(tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, make_enhanced(DATA, oblique())))
    assert (series.sop_class, len(series.images), series.count) == (ENHANCED, 1, 44)
    assert "enhanced MR, 44 images" in listing([series])
