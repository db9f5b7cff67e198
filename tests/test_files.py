"""Text of users is read whatever its encoding; problems with temporary files are one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
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


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Nothing can be written to the folder for temporary files; the error message that says so."""
    opened = Path.open

    def open_none(path: Path, *mode: str, **other: str) -> object:
        return fail(errno.ENOSPC) if path.is_relative_to(tmp_path) else opened(path, *mode, **other)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "open", open_none)
    return rf"^cannot write temporary files to {tmp_path}: No space left on device, [\d.]+ MiB free; .* TMPDIR to"


def test_errors_of_libraries_in_a_folder_that_cannot_be_written_are_one_line(full: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=full), temporary_folder():
        raise RuntimeError("ITK\nsays\nmany lines")
    assert not list(tmp_path.iterdir())


def test_libraries_that_do_not_notice_a_full_disk_are_not_believed(full: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=full), temporary_folder():
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_errors_of_writing_in_the_body_are_told_as_that(number: int) -> None:
    cause = OSError(number, os.strerror(number))
    with pytest.raises(OutputError, match=f"cannot write temporary files to .*: {cause.strerror}"), temporary_folder():
        raise RuntimeError("a library") from cause


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_errors_of_reading_in_the_body_stay_what_they_are(number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as raised, temporary_folder():
        fail(number)
    assert raised.value.errno == number


LARGE = """
import resource
from slant.files import temporary_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for size in (1 << 19, 1 << 21):
    try:
        with temporary_folder(size):
            raise RuntimeError("a library")
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_the_space_for_a_file_that_a_library_removed_counts(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True, check=True)
    enough, too_little = done.stdout.splitlines()
    assert enough == "RuntimeError a library"
    assert too_little.startswith(f"OutputError cannot write temporary files to {tmp_path}: File too large")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_folder_for_temporary_files_that_is_none_is_one_line(tmp_path, monkeypatch, place) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / place))
    monkeypatch.setenv("TMPDIR", str(tmp_path / place))
    message = rf"^cannot write temporary files to {tmp_path / place}: .* TMPDIR"
    with pytest.raises(OutputError, match=message), temporary_folder():
        pass
