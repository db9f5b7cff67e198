"""DICOM series from arrays: single-frame or enhanced multi-frame, of an invented patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from slant.grid import Matrix

PATIENT = "Mustermann^Erika"
BIRTH = "19640812"
MR, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
SHAPE = (12, 10, 44)
DATA = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)
SAGITTAL = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
_STUDY, _FRAME_OF_REFERENCE = generate_uid(), generate_uid()

Series = list[Dataset]


def make_series(data: np.ndarray, ras_from_voxel: Matrix, **tags: Any) -> Series:
    """Images whose columns run along the array's first axis, rows along the second, slices along the third.

    Parameters
    ----------
    data : (X, Y, Z) int16 array
    ras_from_voxel : (4, 4) array
        With orthogonal axes, left- or right-handed.
    tags : dict
        Values of every image by their keywords; None removes one.
    """
    uid = generate_uid()
    images = []
    for k in range(data.shape[2]):
        image = _common(data, {"SOPClassUID": MR, "SeriesInstanceUID": uid})
        image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing = _geometry(ras_from_voxel, k)
        thickness = float(np.linalg.norm(ras_from_voxel[:3, 2]))
        image.SliceThickness = image.SpacingBetweenSlices = round(thickness, 6)
        image.InstanceNumber = k + 1
        image.PixelData = data[:, :, k].T.astype("<i2").tobytes()
        images.append(_tagged(image, tags))
    return images


def make_enhanced(data: np.ndarray, ras_from_voxel: Matrix, **tags: Any) -> Series:
    """The same as `make_series` in one file of many frames."""
    image = _common(data, {"SOPClassUID": ENHANCED, "SeriesInstanceUID": generate_uid()})
    image.InstanceNumber, image.NumberOfFrames = 1, data.shape[2]
    frames = []
    for k in range(data.shape[2]):
        position, orientation, spacing = _geometry(ras_from_voxel, k)
        frame = Dataset()
        frame.PlanePositionSequence = _one(ImagePositionPatient=position)
        frame.FrameContentSequence = _one(
            StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1], TemporalPositionIndex=1
        )
        frames.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = _one(ImageOrientationPatient=orientation)
    thickness = round(float(np.linalg.norm(ras_from_voxel[:3, 2])), 6)
    shared.PixelMeasuresSequence = _one(PixelSpacing=spacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    image.PixelData = np.ascontiguousarray(data.transpose(2, 1, 0)).astype("<i2").tobytes()
    return [_tagged(image, tags)]


def write_series(folder: Path, images: Series, names: str = "{:03d}.dcm") -> Path:
    """Write images in random order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(np.random.default_rng(0).permutation(len(images))):
        write_image(folder / names.format(number), images[k])
    return folder


def write_image(path: Path, image: Dataset) -> None:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(path, enforce_file_format=True)


def _common(data: np.ndarray, uids: dict[str, str]) -> Dataset:
    image = Dataset()
    image.SOPInstanceUID, image.StudyInstanceUID = generate_uid(), _STUDY
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = _FRAME_OF_REFERENCE, ""
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = PATIENT, "P-0042", BIRTH, "F"
    image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = "20240229"
    image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = "101112"
    image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "", "1", ""
    image.Manufacturer, image.Modality, image.PatientPosition = "slant tests", "MR", "HFS"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    image.SeriesNumber, image.SeriesDescription, image.ProtocolName = 5, "t1_mprage_sag", "t1_mprage_sag"
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = ["GR", "IR"], ["SP", "MP"], ""
    image.MRAcquisitionType, image.EchoTime, image.RepetitionTime, image.InversionTime = "3D", 2.98, 2300, 900
    image.FlipAngle, image.EchoTrainLength, image.MagneticFieldStrength = 9, 1, 3
    image.AcquisitionNumber = 1
    image.Columns, image.Rows = data.shape[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    for keyword, value in uids.items():
        setattr(image, keyword, value)
    return image


def _tagged(image: Dataset, tags: dict[str, Any]) -> Dataset:
    for keyword, value in tags.items():
        if value is not None:
            setattr(image, keyword, value)
        elif keyword in image:
            delattr(image, keyword)
    return image


def _geometry(ras_from_voxel: Matrix, k: int) -> tuple[list[float], list[float], list[float]]:
    """Position, orientation and pixel spacing of a slice in the conventions of DICOM."""
    lps = _LPS_FROM_RAS @ ras_from_voxel[:3]
    column_mm, row_mm = np.linalg.norm(lps[:, 0]), np.linalg.norm(lps[:, 1])
    position = lps[:, 2] * k + lps[:, 3]
    orientation = np.concatenate([lps[:, 0] / column_mm, lps[:, 1] / row_mm])
    return _rounded(position), _rounded(orientation), _rounded(np.array([row_mm, column_mm]))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 9) for value in values]


def _one(**values: Any) -> Sequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def oblique(axes: np.ndarray = SAGITTAL, handed: int = 1) -> Matrix:
    """Affine of an oblique grid of 1.9 x 2.2 x 2.6 mm."""
    matrix = np.eye(4)
    rotation = Rotation.from_euler("xyz", (8, 5, -4), degrees=True).as_matrix()
    matrix[:3, :3] = rotation @ axes @ np.diag([1.9, 2.2, 2.6 * handed])
    matrix[:3, 3] = -50, 60, 40
    return matrix


def t1(**tags: Any) -> Series:
    return make_series(DATA, oblique(), **tags)


def region_id(segment: Dataset) -> int:
    return int(segment.TrackingID.removeprefix("BrainCOLOR "))


def labelled_points(seg: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points in LPS mm and (N,) ids of all labelled pixels, by the equation of the standard without slant."""
    ids = {segment.SegmentNumber: region_id(segment) for segment in seg.SegmentSequence}
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    points, found = [], []
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        row, column = np.nonzero(frame)
        points.append(position + np.outer(column * spacing[1], across) + np.outer(row * spacing[0], down))
        found.append(np.full(row.size, ids[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]))
    return np.concatenate(points), np.concatenate(found)


def check_positions(seg: Dataset, labels: np.ndarray, ras_from_voxel: np.ndarray) -> None:
    """Every labelled voxel is a pixel of its segment at the same position, and no other pixel is labelled."""
    lps_mm, ids = labelled_points(seg)
    voxel_from_ras = np.linalg.inv(ras_from_voxel)
    exact = lps_mm * [-1, -1, 1] @ voxel_from_ras[:3, :3].T + voxel_from_ras[:3, 3]
    voxels = np.rint(exact).astype(int)
    assert np.abs(exact - voxels).max() < 0.02
    assert len(ids) == np.count_nonzero(labels) > 0
    assert len(np.unique(np.ravel_multi_index(tuple(voxels.T), labels.shape))) == len(ids), "segments overlap"
    np.testing.assert_array_equal(labels[tuple(voxels.T)], ids)
