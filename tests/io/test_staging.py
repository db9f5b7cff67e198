"""Failures of writing results leave everything as it was."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from toy import content, light_result, toy_result

from slant.errors import OutputError
from slant.io.names import ResultNames
from slant.io.results import write_results
from slant.io.staging import check_output, staged

NAMES = ResultNames("toy")
PICTURES = {"overlay": b"a picture"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_is_too_large_leaves_old_results_unchanged(tmp_path: Path) -> None:
    write_results(light_result(), tmp_path, PICTURES)
    before = content(tmp_path)
    with largest_file(100_000), pytest.raises(OutputError, match=r"File too large.*check free space"):
        write_results(toy_result(), tmp_path, PICTURES)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", NAMES.all)
def test_a_failure_at_any_file_leaves_old_results_unchanged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(light_result(), tmp_path, PICTURES)
    before = content(tmp_path)

    def full(path: Path) -> None:
        if path.name == name and path.parent != tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened, replaced = Path.open, Path.replace
    monkeypatch.setattr(Path, "open", lambda self, *mode, **other: full(self) or opened(self, *mode, **other))
    monkeypatch.setattr(Path, "replace", lambda self, target: full(target) or replaced(self, target))
    with pytest.raises(OutputError, match="No space left on device; check free space"):
        write_results(light_result(), tmp_path, PICTURES)
    assert content(tmp_path) == before


def test_an_empty_file_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(light_result(), tmp_path, PICTURES)
    before = content(tmp_path)
    monkeypatch.setattr("slant.io.results.affine_file", lambda _: b"")
    with pytest.raises(OutputError, match=r"xfm\.mat was written empty"):
        write_results(light_result(), tmp_path, PICTURES)
    assert content(tmp_path) == before


def test_a_folder_with_the_name_of_a_result_is_not_changed(tmp_path: Path) -> None:
    write_results(light_result(), tmp_path, PICTURES)
    (tmp_path / NAMES.overlay).unlink()
    (tmp_path / NAMES.overlay).mkdir()
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"overlay\.png is a folder"):
        write_results(light_result(), tmp_path, PICTURES)
    assert content(tmp_path) == before


def test_folders_created_for_a_failed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(OutputError, match="No such file"), staged(tmp_path / "old" / "a" / "b", NAMES) as temporary:
        (temporary / NAMES.labels).write_text("and no others")
    assert list((tmp_path / "old").iterdir()) == []


def test_other_files_are_never_changed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".slant-other").mkdir()
    write_results(light_result(), tmp_path, PICTURES)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / ".slant-other").is_dir()


@pytest.mark.parametrize("name", NAMES.all)
def test_any_existing_result_file_is_detected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(OutputError, match=r"already holds results of this scan \(toy_.*--force"):
        check_output(tmp_path, NAMES, force=False)
    check_output(tmp_path, NAMES, force=True)
    check_output(tmp_path, ResultNames("other"), force=False)
    assert content(tmp_path) == {name: b"old"}


def test_the_check_creates_no_folder(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b", NAMES, force=False)
    assert list(tmp_path.iterdir()) == []
