"""Which series of a DICOM folder is segmented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import (
    DATA,
    Series,
    make_enhanced,
    make_series,
    oblique,
    t1,
    write_series,
)

from slant.errors import InputError, SettingsError
from slant.io.dicom.choose import evidence, exclusion_reason, listing
from slant.io.dicom.convert import read_dicom
from slant.io.dicom.series import find_series


def named(name: str, number: int = 5, **tags: Any) -> Series:
    return t1(SeriesNumber=number, SeriesDescription=name, ProtocolName=name, **tags)


def only_named(name: str) -> Series:
    """A series in one file, with a name but without times."""
    return make_enhanced(DATA, oblique(), SeriesDescription=name, ProtocolName="", InversionTime=None)


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


@pytest.mark.parametrize("slices_mm", [3.2000002, 100 / 44 - 1e-7])
def test_limits_allow_for_rounding(slices_mm: float, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, make_series(DATA, oblique() @ np.diag([1, 1, slices_mm / 2.6, 1]))))
    assert exclusion_reason(series) == ""


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
