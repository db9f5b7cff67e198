"""Text of users is read whatever its encoding; problems with temporary files are one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slant.config import read_toml
from slant.errors import OutputError
from slant.files import read_text, temporary_folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_removed(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text"
    path.write_bytes('model = "Jürgen 脳"\r\n'.encode(encoding))
    assert read_text(path) == 'model = "Jürgen 脳"\r\n'
    assert read_toml(path) == {"model": "Jürgen 脳"}
    path.write_bytes("".encode(encoding))
    assert read_text(path) == ""


def test_other_encodings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("é".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "text")


def test_a_temporary_folder_is_removed_at_the_end_and_after_an_error() -> None:
    with temporary_folder() as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="ITK"), temporary_folder() as folder:
        raise RuntimeError("ITK")
    assert not folder.exists()


def test_errors_of_libraries_in_a_folder_that_cannot_be_written_are_one_line(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    message = rf"^cannot write temporary files to {tmp_path}: No space left on device, [\d.]+ MiB free; .* TMPDIR to"
    with pytest.raises(OutputError, match=message), temporary_folder():
        raise RuntimeError("ITK\nsays\nmany lines")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_folder_for_temporary_files_that_is_none_is_one_line(tmp_path, monkeypatch, place) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / place))
    monkeypatch.setenv("TMPDIR", str(tmp_path / place))
    message = rf"^cannot write temporary files to {tmp_path / place}: .* TMPDIR"
    with pytest.raises(OutputError, match=message), temporary_folder():
        pass
