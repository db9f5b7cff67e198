"""Tables of users are read as spreadsheets save them: byte-order mark, UTF-16, spaces, short lines."""

from __future__ import annotations

import codecs

import pytest

from slant.io.user_table import read_user_table

TEXT = "name \t T1w\tsubject\n a\tx.nii.gz \tann\n b\ty.nii.gz\n"


@pytest.mark.parametrize("content", [TEXT.encode(), codecs.BOM_UTF8 + TEXT.encode(), TEXT.encode("utf-16")])
def test_cells_are_text_without_spaces(tmp_path, content) -> None:
    path = tmp_path / "scans.tsv"
    path.write_bytes(content)
    assert read_user_table(path).to_dict("records") == [
        {"name": "a", "T1w": "x.nii.gz", "subject": "ann"},
        {"name": "b", "T1w": "y.nii.gz", "subject": ""},
    ]


def test_a_file_that_is_not_text_is_an_error(tmp_path) -> None:
    path = tmp_path / "scans.tsv"
    path.write_bytes(b"\xff\x00\xfe name")
    with pytest.raises(ValueError, match="decode"):
        read_user_table(path)
