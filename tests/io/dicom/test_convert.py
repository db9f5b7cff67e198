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
from slant.errors import InputError, SettingsError, SlantError
from slant.io.dicom.choose import evidence, exclusion_reason, listing
from slant.io.dicom.convert import read_dicom
from slant.io.dicom.series import find_series


def named(name: str, number: int = 5, **tags: Any) -> Series:
    return t1(SeriesNumber=number, SeriesDescription=name, ProtocolName=name, **tags)


def only_named(name: str) -> Series:
    """A series in one file, with a name but without times."""
    return make_enhanced(DATA, oblique(), SeriesDescription=name, ProtocolName="", InversionTime=None)


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


@pytest.mark.parametrize(
    "name",
    [
        *(
            "t1_mprage_sag_p2_iso",
            "T1w",
            "Sag 3D T1 MPRAGE",
            "t1_mpr_ns_tra",
            "SAG FSPGR BRAVO",
            "3D T1 TFE",
            "sT1W_3D_TFE",
        ),
        *("AX 3D SPGR", "MP-RAGE", "MP RAGE", "3DT1", "sagT1", "IR-FSPGR", "anat-T1w", "WIP T1W_3D_TFE SENSE"),
        *("MP2RAGE_UNI_Images", "t1_space_sag", "T1 3D restore"),
    ],
)
def test_names_of_t1_weighted_series(name: str, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, only_named(name)))
    assert (exclusion_reason(series), bool(evidence(series))) == ("", True)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "t2_space_sag",
            "T2w",
            "Ax T2 FLAIR",
            "t2_tirm_tra_dark-fluid",
            "PD_tse",
            "pdw",
            "ep2d_diff_mddw_30",
            "DTI_64",
        ),
        *("rest1", "task-nback_bold", "fMRI run 2", "localizer", "AAHScout", "3-pl loc", "3 Plane Loc", "Survey"),
        *("TOF_3D_multi-slab", "MRA", "SWI_Images", "gre_field_mapping", "pcasl", "T1_map", "t1rho", "mp2rage_INV1"),
        *("Mag_Images", "head", "ASSET calibration", "B1map", "3D FLAIR T1-like", "dce t1", "STIR", "MIP_Images(SW)"),
    ],
)
def test_names_of_other_series(name: str, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, only_named(name)))
    assert exclusion_reason(series)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "TE 2.98 ms after an inversion at TI 900 ms"),
        ({"InversionTime": None, "RepetitionTime": 8, "SequenceVariant": "SP"}, "spoiled, TR 8 ms, TE 2.98 ms"),
        ({"InversionTime": None, "RepetitionTime": 8, "SequenceVariant": "SS"}, ""),
        ({"InversionTime": None, "RepetitionTime": 22, "SequenceVariant": "SP"}, ""),
        ({"InversionTime": 2100, "RepetitionTime": 9000}, ""),
        ({"EchoTime": 388}, ""),
        ({"EchoTime": None}, ""),
        ({"ScanningSequence": ["EP", "GR"]}, ""),
    ],
)
def test_times_are_evidence_if_the_name_has_no_contrast(tags: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, t1(SeriesDescription=None, ProtocolName=None, **tags)))
    assert evidence(series) == reason
    assert exclusion_reason(series) == ("" if reason else "its header has no evidence of T1 weighting")


def test_times_of_enhanced_files_are_read(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    images = make_enhanced(DATA, oblique(), SeriesDescription="", ProtocolName="")
    for keyword in ("EchoTime", "RepetitionTime", "InversionTime"):
        delattr(images[0], keyword)
    shared, times = images[0].SharedFunctionalGroupsSequence[0], [Dataset() for _ in range(3)]
    times[0].EffectiveEchoTime, times[1].InversionTimes, times[2].RepetitionTime = 3.0, [850.0], 2000.0
    shared.MREchoSequence, shared.MRModifierSequence, shared.MRTimingAndRelatedParametersSequence = (
        [item] for item in times
    )
    (series,) = find_series(write_series(tmp_path, images))
    assert evidence(series) == "TE 3 ms after an inversion at TI 850 ms"


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (t1(ImageType=["DERIVED", "SECONDARY"]), "its image type contains DERIVED"),
        (t1(ImageType=["ORIGINAL", "PRIMARY", "P"]), "its image type contains P"),
        (t1(Modality="SEG"), "its modality is SEG, not MR"),
        (t1(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "it has no MR images"),
        (t1()[:30], "30 images are too few for a whole head"),
        (make_series(DATA, oblique() @ np.diag([1, 1, 2, 1])), "slices 5.2 mm apart over 229 mm are not"),
        (make_series(DATA, oblique() @ np.diag([1, 1, 0.5, 1])), "slices 1.3 mm apart over 57 mm are not"),
    ],
    ids=["derived", "phase", "seg", "capture", "few", "thick", "slab"],
)
def test_series_that_are_not_selected_automatically(images: Series, reason: str, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, images))
    assert exclusion_reason(series).startswith(reason)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with all series of a session."""
    folder = tmp_path / "visit 1"
    write_series(folder / "DICOM", make_series(DATA[..., :3], oblique(), SeriesNumber=1, SeriesDescription="localizer"))
    write_series(folder / "DICOM", named("t2_space", 3), "t2 {:d}")
    write_series(folder / "DICOM", named("t1_mprage", 4), "t1 {:d}")
    write_series(folder / "DICOM", named("t1_mprage", 104, ImageType=["DERIVED", "SECONDARY", "MPR"]), "mpr {:d}")
    return folder


def test_the_t1_weighted_series_is_selected(study: Path) -> None:
    scan = read_dicom(study)
    assert scan.source is not None
    assert (scan.source.series.number, scan.source.series.count) == (4, 44)
    assert scan.warnings == ("series 4 't1_mprage' was chosen of 4 series: its name contains 't1'",)
    assert scan.name == "visit 1"


def test_a_requested_series(study: Path) -> None:
    scan = read_dicom(study, series="3")
    assert scan.warnings == ("series 3 't2_space' was asked for, although its name contains 't2'",)
    assert scan.source is not None
    again = read_dicom(study, series=scan.source.series.uid)
    assert again.sha256 == scan.sha256
    assert read_dicom(study, series="4").warnings == ()


def test_without_a_t1_weighted_series_all_series_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path / "a", named("t2_space", 3))
    write_series(tmp_path / "b", make_series(DATA[..., :3], oblique(), SeriesNumber=1, SeriesDescription="localizer"))
    with pytest.raises(InputError) as raised:
        read_dicom(tmp_path)
    assert str(raised.value).splitlines() == [
        f"{tmp_path}: found no T1-weighted series; choose one with --series NUMBER or UID:",
        "  series 1 'localizer': MR, 3 images of 12 x 10 pixels, 1.9 x 2.2 x 2.6 mm; its name contains 'localiz'",
        "  series 3 't2_space': MR, 44 images of 12 x 10 pixels, 1.9 x 2.2 x 2.6 mm; its name contains 't2'",
    ]


def test_two_t1_weighted_series_need_a_choice(tmp_path: Path) -> None:
    write_series(tmp_path / "a", named("t1_mprage", 4))
    write_series(tmp_path / "b", images := named("t1 post", 4, ContrastBolusAgent="Gadobutrol"))
    with pytest.raises(InputError, match="found 2 series that may be the T1-weighted one") as raised:
        read_dicom(tmp_path)
    assert f"series 4 't1 post' ({images[0].SeriesInstanceUID}): MR" in str(raised.value)
    with pytest.raises(SettingsError, match="found 2 series '4'; --series expects one of these"):
        read_dicom(tmp_path, series="4")
    scan = read_dicom(tmp_path, series=images[0].SeriesInstanceUID)
    assert [warning for warning in scan.warnings if "with a contrast agent (Gadobutrol)" in warning]


@pytest.mark.parametrize("series", ["9", "1.2.3", "", "t1_mprage"])
def test_an_unknown_series(series: str, study: Path) -> None:
    with pytest.raises(SettingsError, match="found no series") as raised:
        read_dicom(study, series=series)
    assert listing(find_series(study)) in str(raised.value)


def test_a_series_that_is_not_mr_cannot_be_requested(tmp_path: Path) -> None:
    folder = write_series(tmp_path, t1(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    with pytest.raises(SettingsError, match="cannot be segmented: its modality is CT, not MR"):
        read_dicom(folder, series="5")


@pytest.mark.parametrize(("agent", "warned"), [("", False), ("None", False), ("NO", False), ("GADAVIST", True)])
def test_contrast_agents(agent: str, warned: bool, tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path, t1(ContrastBolusAgent=agent)))
    assert bool(scan.warnings) == warned


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
        ('touch "${10}/scan.nii"', "neither NIfTI nor MGZ"),
    ],
)
def test_a_converter_that_fails(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm2niix.bin", converter(tmp_path / "program", body))
    folder = write_series(tmp_path / "p1", t1())
    with pytest.raises(InputError) as raised:
        read_dicom(folder)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{folder}, series 5 't1_mprage_sag': ")


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
