"""Files and environments of the kinds that users report. See field.py.

Where only reading is tested, the scan is a constant image of 8 x 8 x 8 voxels: what is read is refused at once because
every voxel is 7.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from field_inputs import (
    FULL_HEAD,
    Base,
    Expected,
    FieldInput,
    Made,
    UnavailableError,
    nifti_bytes,
    plain_header,
    refused,
    same,
    segment,
    write_scan,
)

Content = str | bytes
READ = r"every voxel is 7|constant"
"""The message about a constant image that was read."""

_KEY = "MD5E-s11534336--0123456789abcdef0123456789abcdef.nii.gz"
ANNEX = f"annex/objects/{_KEY}"
GET = "datalad get|git annex get"
_HTML = "<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Please log in.</body></html>\n"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n'
_LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0123456789abcdef' * 4}\nsize 11534336\n"
TINY = nifti_bytes(plain_header(np.eye(4) * [2, 2, 2, 1]), np.full((8, 8, 8), 7, np.int16))
TINY_GZ = gzip.compress(TINY, mtime=0)


def zipped() -> bytes:
    """A ZIP archive of the tiny scan."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("scan.nii"), TINY)
    return file.getvalue()


def tarred() -> bytes:
    """A compressed TAR archive of the tiny scan."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("scan.nii")
        member.size = len(TINY)
        archive.addfile(member, io.BytesIO(TINY))
    return gzip.compress(file.getvalue(), mtime=0)


def file(content: Content, name: str = "scan.nii.gz") -> Callable[[Base, Path], Made]:
    """Makes an input that is this file."""

    def make(_: Base, folder: Path) -> Made:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return Made(segment(name))

    return make


def link(target: str) -> Callable[[Base, Path], Made]:
    """Makes an input that is a link to a missing file."""

    def make(_: Base, folder: Path) -> Made:
        (folder / "scan.nii.gz").symlink_to(target)
        return Made(segment())

    return make


def folder_as_file(_: Base, folder: Path) -> Made:
    """A folder with the name of a file, as some programs unpack archives."""
    (folder / "scan.nii.gz").mkdir()
    (folder / "scan.nii.gz" / "scan.nii").write_bytes(TINY)
    return Made(segment())


def with_dash(command: str) -> Callable[[Base, Path], Made]:
    """Makes an input whose name begins with a dash."""

    def make(_: Base, folder: Path) -> Made:
        (folder / "-x.nii.gz").write_bytes(TINY_GZ)
        return Made(command)

    return make


def trailing_bytes(base: Base, folder: Path) -> Made:
    """A compressed scan followed by bytes that are not gzip."""
    write_scan(folder / "scan.nii.gz", base.header, base.stored)
    with (folder / "scan.nii.gz").open("ab") as stream:
        stream.write(b"END OF FILE\n" * 3)
    return Made(segment(), "scan.nii.gz")


def freesurfer(base: Base, folder: Path) -> Made:
    """An uncompressed FreeSurfer volume."""
    nib.MGHImage(base.data, base.affine).to_filename(folder / "scan.mgh")
    return Made(segment("scan.mgh"), "scan.mgh")


def dicom(base: Base, folder: Path) -> Made:
    """A T1-weighted series of axial DICOM images, each compressed with gzip."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    (folder / "series").mkdir()
    lps = np.diag([-1, -1, 1]) @ base.affine[:3]
    size = np.linalg.norm(lps[:, :3], axis=0)
    stored = np.rint(base.data * (1000 / base.data.max())).astype("<u2")
    for k in range(stored.shape[2]):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid(entropy_srcs=[f"{k}"])
        image.StudyInstanceUID, image.SeriesInstanceUID = (generate_uid(entropy_srcs=[s]) for s in ("study", "series"))
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        image.PatientName = image.PatientID = "field"
        image.Modality, image.Manufacturer, image.PatientPosition = "MR", "field", "HFS"
        image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = 5, k + 1, 1
        image.SeriesDescription = image.ProtocolName = "t1_mprage"
        image.ImageType, image.MRAcquisitionType = ["ORIGINAL", "PRIMARY", "M", "NORM"], "3D"
        image.EchoTime, image.RepetitionTime, image.InversionTime, image.FlipAngle = 2.98, 2300, 900, 9
        image.ImagePositionPatient = [round(v, 6) for v in lps[:, 2] * k + lps[:, 3]]
        image.ImageOrientationPatient = [round(v, 6) for v in [*(lps[:, 0] / size[0]), *(lps[:, 1] / size[1])]]
        image.PixelSpacing = [round(size[1], 6), round(size[0], 6)]
        image.SliceThickness = image.SpacingBetweenSlices = round(size[2], 6)
        image.Columns, image.Rows = stored.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelData = stored[:, :, k].T.tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content = io.BytesIO()
        image.save_as(content, enforce_file_format=True)
        (folder / "series" / f"{k:03d}.dcm.gz").write_bytes(gzip.compress(content.getvalue(), 1, mtime=0))
    return Made(segment("series"), "*", same_voxels=False)


def environment(line: str) -> Callable[[Base, Path], Made]:
    """Makes an input that is the untouched scan in another environment; the line has ``{}`` for the command."""

    def make(base: Base, folder: Path) -> Made:
        shutil.copyfile(base.path, folder / "scan.nii.gz")
        return Made(line.format(segment()), "scan.nii.gz")

    return make


def full_disk(base: Base, folder: Path) -> Made:
    """TMPDIR on a file system that is full but for one file."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    (folder / "full").mkdir()
    mount = f"mount -t tmpfs -o size=16k none '{folder / 'full'}'"
    try:
        subprocess.run([*alone, "sh", "-c", mount], check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        raise UnavailableError("no file system can be mounted without privileges here") from None
    fill = "mount -t tmpfs -o size=16k none full && head -c 12k /dev/zero > full/other"
    return environment(f"{' '.join(alone)} sh -c '{fill}; TMPDIR=\"$PWD/full\" {{}}'")(base, folder)


def out_not_writable(base: Base, folder: Path) -> Made:
    """An output directory that cannot be made."""
    shutil.copyfile(base.path, folder / "scan.nii.gz")
    return Made("slant segment $OPTIONS scan.nii.gz /proc/none")


_FILES: dict[str, tuple[Callable[[Base, Path], Made], *tuple[Expected, ...]]] = {
    "annex-link": (link(f"../.git/annex/objects/aa/bb/{_KEY}/{_KEY}"), refused(GET)),
    "annex-pointer": (file(f"/{ANNEX}\n"), refused(GET)),
    "annex-unlocked-windows": (file(f"../../.git\\{ANNEX}\n".replace("/", "\\")), refused(GET)),
    "lfs-pointer": (file(_LFS), refused("git lfs pull")),
    "empty": (file(b""), refused("empty")),
    "html-page": (file(_HTML), refused("HTML")),
    "mgh": (freesurfer, same(0.99)),
    "trailing-bytes": (trailing_bytes, same(0.99, "after|trailing")),
    "dicom-gz": (dicom, same(0.97)),
    "name-with-dash": (with_dash("slant segment $OPTIONS -- -x.nii.gz ../out"), refused(READ)),
    "options-after-dashes": (with_dash("slant segment -- -x.nii.gz ../out $OPTIONS"), refused(READ), refused("after")),
    "xml-error-page": (file(_XML), refused("XML|HTML")),
    "html-compressed": (file(gzip.compress(_HTML.encode(), mtime=0)), refused("HTML")),
    "empty-compressed": (file(gzip.compress(b"", mtime=0)), refused("empty")),
    "text": (file("Scan of subject 1\n"), refused("text")),
    "json-sidecar": (file(json.dumps({"Modality": "MR", "EchoTime": 0.003})), refused("JSON|text")),
    "zeros": (file(bytes(4096)), refused("zero|empty")),
    "zip": (file(zipped()), refused("zip")),
    "tar-gz": (file(tarred()), refused(r"\btar\b")),
    "bzip2": (file(bz2.compress(TINY)), refused("bzip2")),
    "xz": (file(lzma.compress(TINY)), refused(r"\bxz\b")),
    "gzip-twice": (file(gzip.compress(TINY_GZ, mtime=0)), refused("twice|again|gunzip|gzip")),
    "png": (file(b"\x89PNG\r\n\x1a\n" + bytes(500)), refused("PNG")),
    "minc": (file(b"\x89HDF\r\n\x1a\n" + bytes(500)), refused("HDF5|MINC")),
    "nrrd": (file("NRRD0004\ntype: short\ndimension: 3\n"), refused("NRRD")),
    "dicom-as-nifti": (file(bytes(128) + b"DICM" + bytes(500)), refused("DICOM")),
    "truncated-gzip": (file(TINY_GZ[:60]), refused("incomplete|truncated|damaged")),
    "truncated": (file(TINY[:600], "scan.nii"), refused("truncated")),
    "not-compressed": (file(TINY), refused(READ)),
    "compressed-nii": (file(TINY_GZ, "scan.nii"), refused(READ)),
    "upper-case-name": (file(TINY_GZ, "SCAN.NII.GZ"), refused(READ)),
    "broken-link": (link("../moved/scan.nii.gz"), refused("link")),
    "folder-as-file": (folder_as_file, refused("folder")),
}

_BARE = "env -u MPLCONFIGDIR -u XDG_CACHE_HOME -u XDG_CONFIG_HOME HOME=/dev/null/none TMPDIR=/dev/null/none LC_ALL=C {}"
_ENVIRONMENT: dict[str, tuple[Callable[[Base, Path], Made], *tuple[Expected, ...]]] = {
    "tmpdir-full": (full_disk, refused("TMPDIR")),
    "tmpdir-not-writable": (environment("TMPDIR=/proc/self/fd {}"), same(0.99), refused("TMPDIR")),
    "no-home-no-tmpdir": (environment(_BARE), same(0.99)),
    "out-not-writable": (out_not_writable, refused("proc")),
}

INPUTS: tuple[FieldInput, ...] = (
    *(FieldInput("files", name, FULL_HEAD, make, tuple(e)) for name, (make, *e) in _FILES.items()),
    *(FieldInput("environment", name, FULL_HEAD, make, tuple(e)) for name, (make, *e) in _ENVIRONMENT.items()),
)
