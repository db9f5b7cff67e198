"""Files, environments and cohorts are made as they are met in the field."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import field_cohorts
import field_files
import nibabel as nib
import numpy as np
import pytest
from field_inputs import Base, FieldInput, UnavailableError

INPUTS = field_files.INPUTS + field_cohorts.INPUTS
BY_NAME = {one.name: one for one in INPUTS}


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.name)
def test_every_input_is_made_alike_every_time(one: FieldInput, base: Base, tmp_path: Path) -> None:
    from field import digest

    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        try:
            made = one.make(base, tmp_path / name)
        except UnavailableError as error:
            pytest.skip(str(error))
        assert "slant" in made.command
        assert any((tmp_path / name).iterdir())
        found.append(digest(tmp_path / name, made.command))
    assert found[0] == found[1]


def test_an_annex_link_has_no_content(base: Base, tmp_path: Path) -> None:
    BY_NAME["annex-link"].make(base, tmp_path)
    link = tmp_path / "scan.nii.gz"
    assert link.is_symlink()
    assert not link.exists()
    assert ".git/annex/objects" in str(link.readlink())


def test_the_trailing_bytes_follow_a_complete_stream(base: Base, tmp_path: Path) -> None:
    BY_NAME["trailing-bytes"].make(base, tmp_path)
    stream = zlib.decompressobj(wbits=31)
    stream.decompress((tmp_path / "scan.nii.gz").read_bytes())
    assert stream.eof
    assert stream.unused_data.startswith(b"END OF FILE")


def test_freesurfer_and_dicom_hold_the_scan(base: Base, tmp_path: Path) -> None:
    image = nib.MGHImage.from_bytes((tmp_path / BY_NAME["mgh"].make(base, tmp_path).scan).read_bytes())
    np.testing.assert_array_equal(np.asarray(image.dataobj), base.data)
    np.testing.assert_allclose(image.affine, base.affine, atol=1e-4)
    BY_NAME["dicom-gz"].make(base, tmp_path)
    assert len(list((tmp_path / "series").glob("*.dcm.gz"))) == base.stored.shape[2]


def test_a_byte_order_mark_begins_a_valid_description(base: Base, tmp_path: Path) -> None:
    BY_NAME["byte-order-mark"].make(base, tmp_path)
    content = (tmp_path / "data" / "dataset_description.json").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    assert json.loads(content.decode("utf-8-sig"))["DatasetType"] == "raw"


def test_the_same_scan_lies_there_twice(base: Base, tmp_path: Path) -> None:
    BY_NAME["nii-beside-nii-gz"].make(base, tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*_T1w*"))
    assert names == ["sub-01_T1w.nii", "sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
