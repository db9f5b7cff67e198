"""A DICOM Segmentation has the labels at the same positions, voxel by voxel, as the source images."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicoms import (
    DATA,
    PATIENT,
    SAGITTAL,
    Series,
    check_positions,
    make_enhanced,
    make_series,
    oblique,
    region_id,
    t1,
    write_series,
)
from pydicom import Dataset, dcmread
from toy import run_slant, toy_model

from slant.errors import GeometryError, InputError
from slant.grid import Grid
from slant.io.dicom.convert import read_dicom
from slant.io.dicom.planes import voxels_from_pixels
from slant.io.dicom.seg import LOBES, SIDES, seg_bytes, seg_target, structure_code
from slant.io.names import ResultNames
from slant.io.read import Scan, read_scan
from slant.io.resources import load_protocol
from slant.volume import LabelMap

PROTOCOL = load_protocol()


def some_labels(scan: Scan) -> LabelMap:
    """Twenty regions in asymmetric patches, one of them in a single voxel, and empty slices."""
    shape = scan.volume.grid.shape
    ids = np.random.default_rng(1).choice(PROTOCOL.ids[:20], [-(-n // 3) for n in shape])
    labels = ids.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]].copy()
    labels[:9] = 0
    labels[3, 4, 5] = 207
    return LabelMap(labels, scan.volume.grid)


def written(scan: Scan, labels: LabelMap) -> Dataset:
    return dcmread(io.BytesIO(seg_bytes(seg_target(scan, toy_model()), labels)))


# Geometry


@pytest.mark.parametrize("handed", [1, -1])
@pytest.mark.parametrize("axes", [SAGITTAL, np.eye(3), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])])
@pytest.mark.parametrize("make", [make_series, make_enhanced])
def test_every_label_keeps_its_position(
    make: Callable[..., Series], axes: np.ndarray, handed: int, tmp_path: Path
) -> None:
    scan = read_dicom(write_series(tmp_path / "p1", make(DATA, oblique(axes, handed))))
    labels = some_labels(scan)
    check_positions(written(scan, labels), labels.data, labels.grid.ras_from_voxel)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed: apt-get install dicom3tools")
@pytest.mark.parametrize("make", [make_series, make_enhanced])
def test_the_validator_of_dicom3tools_finds_no_error(make: Callable[..., Series], tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path / "p1", make(DATA, oblique())))
    (tmp_path / "seg.dcm").write_bytes(seg_bytes(seg_target(scan, toy_model()), some_labels(scan)))
    checked = subprocess.run(["dciodvfy", "-new", tmp_path / "seg.dcm"], capture_output=True, text=True, check=False)
    assert (checked.stdout + checked.stderr).split() == ["Segmentation"]  # the detected type, and no errors


@pytest.mark.parametrize("make", [make_series, make_enhanced])
def test_highdicom_reads_the_same_labels(make: Callable[..., Series], tmp_path: Path) -> None:
    import highdicom

    scan = read_dicom(write_series(tmp_path / "p1", images := make(DATA, oblique())))
    labels = some_labels(scan)
    raw = seg_bytes(seg_target(scan, toy_model()), labels)
    seg = highdicom.seg.segread(io.BytesIO(raw))
    ids = np.array([0, *(region_id(segment) for segment in seg.SegmentSequence)])
    assert {str(uid) for _, _, uid in seg.get_source_image_uids()} == {str(image.SOPInstanceUID) for image in images}
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    ras_from_index = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    ras_mm = np.argwhere(volume.array) @ ras_from_index[:3, :3].T + ras_from_index[:3, 3]
    voxel_from_ras = labels.grid.voxel_from_ras
    voxels = np.rint(ras_mm @ voxel_from_ras[:3, :3].T + voxel_from_ras[:3, 3]).astype(int)
    np.testing.assert_array_equal(labels.data[tuple(voxels.T)], ids[volume.array[volume.array > 0]])
    assert len(voxels) == np.count_nonzero(labels.data)


def test_frames_refer_to_their_source_images(tmp_path: Path) -> None:
    images = t1()
    scan = read_dicom(write_series(tmp_path / "p1", images))
    seg = written(scan, some_labels(scan))
    position = {str(image.SOPInstanceUID): [float(x) for x in image.ImagePositionPatient] for image in images}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        frame_position = [float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient]
        np.testing.assert_allclose(frame_position, position[str(source.ReferencedSOPInstanceUID)], atol=1e-6)


# Contents


def test_tags_of_a_segmentation(tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path / "p1", images := t1()))
    labels = some_labels(scan)
    seg = written(scan, labels)
    assert (seg.Modality, seg.SegmentationType, seg.SOPClassUID) == ("SEG", "BINARY", "1.2.840.10008.5.1.4.1.1.66.4")
    assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID
    assert seg.SeriesInstanceUID not in {image.SeriesInstanceUID for image in images}
    assert (str(seg.PatientName), seg.PatientID) == (PATIENT, "P-0042")
    assert (seg.Manufacturer, seg.ManufacturerModelName) == ("slant", "slant toy")
    assert seg.DeviceSerialNumber == toy_model().identity
    assert (seg.SeriesNumber, seg.SeriesDescription) == (501, "slant BrainCOLOR regions")
    assert [region_id(segment) for segment in seg.SegmentSequence] == [i for i in labels.ids if i]
    assert [segment.SegmentNumber for segment in seg.SegmentSequence] == list(range(1, len(labels.ids)))
    for segment in seg.SegmentSequence:
        region = PROTOCOL.by_id(region_id(segment))
        assert segment.SegmentLabel == region.name
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert toy_model().identity in algorithm.AlgorithmParameters
    frames = seg.pixel_array
    assert frames.any(axis=(1, 2)).all()
    assert frames.shape[1:] == (DATA.shape[1], DATA.shape[0])


def test_segments_have_the_colours_of_the_table(tmp_path: Path) -> None:
    from highdicom.color import CIELabColor

    scan = read_dicom(write_series(tmp_path / "p1", t1()))
    for segment in written(scan, some_labels(scan)).SegmentSequence:
        color = CIELabColor.from_dicom_value(tuple(segment.RecommendedDisplayCIELabValue)).to_rgb()
        assert np.abs(np.subtract(color, PROTOCOL.by_id(region_id(segment)).color)).max() <= 1


def test_every_region_has_a_code_and_its_side() -> None:
    codes = {region.name: structure_code(region) for region in PROTOCOL.regions[1:]}
    sides = {region.name: SIDES.get(region.hemisphere) for region in PROTOCOL.regions[1:]}
    assert codes["Left Hippocampus"] == codes["Right Hippocampus"]
    assert (codes["Left Hippocampus"].value, sides["Left Hippocampus"].meaning) == ("5366008", "Left")
    assert (codes["Right FuG fusiform gyrus"].meaning, sides["Right FuG fusiform gyrus"].meaning) == (
        "Cerebral cortex",
        "Right",
    )
    assert LOBES[PROTOCOL.by_name("Right FuG fusiform gyrus").lobe].meaning == "Temporal lobe"
    assert sides["3rd Ventricle"] is None
    general = {name for name, code in codes.items() if code.meaning in ("Gray Matter", "White Matter", "Brain")}
    assert general == {"Left Basal Forebrain", "Right Basal Forebrain"}


# Rejected before any work is done


def test_pixels_that_are_not_the_voxels() -> None:
    from slant.io.dicom.planes import ImagePlane

    planes = [ImagePlane((0.0, 0.0, float(k)), (1.0, 0, 0, 0, 1.0, 0), (1.0, 1.0)) for k in range(4)]
    fits = Grid((3, 2, 4), np.diag([-1.0, -1, 1, 1]))
    assert voxels_from_pixels(planes, (2, 3), fits).shape == (4, 3, 3)
    shifted, rotated = fits.ras_from_voxel.copy(), fits.ras_from_voxel.copy()
    shifted[0, 3], rotated[:2, :2] = 0.4, [[0, -1], [-1, 0]]
    for grid in (Grid((3, 2, 4), shifted), Grid((3, 2, 5), fits.ras_from_voxel), Grid((3, 2, 4), rotated)):
        with pytest.raises(GeometryError, match="are not the voxels of the converted scan"):
            voxels_from_pixels(planes, (2, 3), grid)
    with pytest.raises(GeometryError, match="are not the voxels"):
        voxels_from_pixels(planes[:1] * 4, (2, 3), fits)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"FrameOfReferenceUID": None}, "have no FrameOfReferenceUID"),
        ({"StudyInstanceUID": None}, "do not allow a DICOM Segmentation"),
    ],
)
def test_headers_that_do_not_allow_a_segmentation(tags: dict[str, Any], message: str, tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path / "p1", t1(**tags)))
    with pytest.raises(InputError) as raised:
        seg_target(scan, toy_model())
    assert str(raised.value).startswith(f"{tmp_path / 'p1'}, series 5 't1_mprage_sag': ")
    assert message in str(raised.value)


def test_headers_without_the_patient_are_accepted(tmp_path: Path) -> None:
    removed = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate")
    scan = read_dicom(write_series(tmp_path / "p1", t1(**dict.fromkeys(removed))))
    seg = written(scan, some_labels(scan))
    assert (seg.PatientID or "", str(seg.PatientName or "")) == ("", "")


def test_empty_labels_and_labels_on_another_grid(tmp_path: Path) -> None:
    scan = read_dicom(write_series(tmp_path / "p1", t1()))
    target = seg_target(scan, toy_model())
    with pytest.raises(InputError, match="no region was found"):
        seg_bytes(target, LabelMap(np.zeros(scan.volume.grid.shape, int), scan.volume.grid))
    with pytest.raises(GeometryError, match="are not on the scan's grid"):
        seg_bytes(target, LabelMap(np.ones((2, 3, 4), int), Grid((2, 3, 4), np.eye(4))))


# The command


# A real scan


@pytest.mark.slow
def test_a_real_scan_as_dicom_has_the_labels_of_its_nifti(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "single" / "chris_T1w.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    assert np.array_equal(data, np.rint(data))
    assert data.min() >= -32768
    assert data.max() <= 32767
    folder = write_series(tmp_path / "chris", make_series(data.astype(np.int16), image.affine))
    np.testing.assert_array_equal(read_dicom(folder).volume.data, read_scan(path).volume.data)
    options = ("--model", "slant8", "--threads", 1, "--no-report")
    assert run_slant("segment", path, tmp_path / "nifti", *options) == 0
    assert run_slant("segment", folder, tmp_path / "dicom", *options, "--dicom-seg") == 0
    names = ResultNames("chris")
    one, two = (nib.as_closest_canonical(nib.load(tmp_path / kind / names.labels)) for kind in ("nifti", "dicom"))
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-4)
    labels, others = np.asarray(one.dataobj), np.asarray(two.dataobj)
    assert (labels == others)[(labels > 0) | (others > 0)].mean() > 0.95  # the registration is sensitive to micrometres
    check_positions(dcmread(tmp_path / "dicom" / names.dicom_seg), others, two.affine)
