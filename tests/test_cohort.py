"""Finished scans are recognized, changed ones done again, and what fails is a row."""

from __future__ import annotations

import csv
import fcntl
import os
import re
from pathlib import Path
from typing import Any

import pytest
from fake_work import FakeWork, make_jobs, results, run_fake

from slant.cohort.failures import read_failures
from slant.cohort.index import Entry, append, read_index
from slant.cohort.lock import exclusive
from slant.cohort.place import Place, key
from slant.cohort.worker import process
from slant.errors import OutputError

GOOD = {"a": "ok", "b": "ok", "c": "ok"}


def test_a_second_run_opens_no_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(tmp_path / "in", GOOD, tmp_path / "out")
    assert run_fake(jobs, tmp_path / "out").done == ("a", "b", "c")
    first = results(tmp_path / "out")
    assert len(first) == 9
    monkeypatch.setattr("slant.cohort.run.process", None)
    again = run_fake(jobs, tmp_path / "out")
    assert (again.done, again.kept, again.failed) == ((), ("a", "b", "c"), ())
    assert results(tmp_path / "out") == first


def test_without_the_index_records_and_hashes_decide(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    Place(out).index.unlink()
    assert run_fake(jobs, out).kept == ("a", "b", "c")
    assert set(read_index(Place(out).index)) == {"a", "b", "c"}


def change_bytes(scan: Path, folder: Path) -> None:
    scan.write_text("no")


def change_bytes_with_the_clock_set_back(scan: Path, folder: Path) -> None:
    scan.write_text("no")
    os.utime(scan, (1e9, 1e9))


def lose_a_file(scan: Path, folder: Path) -> None:
    (folder / "a_labels.txt").unlink()


def lose_the_record(scan: Path, folder: Path) -> None:
    (folder / "a_record.json").unlink()


def spoil_the_record(scan: Path, folder: Path) -> None:
    (folder / "a_record.json").write_text('{"input": ')


def another_setting(scan: Path, folder: Path) -> None:
    record = folder / "a_record.json"
    record.write_text(record.read_text().replace('"a"', '"b"'))
    os.utime(record, ns=(1, 1))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        *(change_bytes, change_bytes_with_the_clock_set_back, lose_a_file, lose_the_record, spoil_the_record),
        another_setting,
    ],
)
def test_what_changed_is_done_again(tmp_path: Path, change: Any, index: bool) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    change(jobs[0].scan, out / "a")
    if not index:
        Place(out).index.unlink()
    again = run_fake(jobs, out)
    assert (again.done, again.kept) == (("a",), ("b", "c"))
    assert run_fake(jobs, out).kept == ("a", "b", "c")


def test_another_work_does_all_again_and_force_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    assert run_fake(jobs, out, work=FakeWork("b")).done == ("a", "b", "c")
    assert run_fake(jobs, out, work=FakeWork("b"), force=True).done == ("a", "b", "c")


def test_touched_or_moved_scans_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_fake(make_jobs(tmp_path / "in", GOOD, out), out)
    moved = make_jobs(tmp_path / "elsewhere", GOOD, out)
    os.utime(moved[0].scan, (1e9, 1e9))
    assert run_fake(moved, out).kept == ("a", "b", "c")


def test_failures_are_rows_until_they_succeed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {"a": "ok", "b": "truncated", "c": "error", "d": "full", "e": "ok"}, out)
    jobs[4].scan.unlink()
    found = run_fake(jobs, out)
    assert found.done == ("a",)
    reasons = {f.name: f.reason for f in found.failed}
    assert list(reasons) == ["b", "c", "d", "e"]
    assert "b.nii: the file is truncated: found 9 bytes, wanted 99; copy it again" in reasons["b"]
    assert reasons["c"] == "ZeroDivisionError: the scan is odd"
    assert "No space left on device" in reasons["d"]
    assert "No such file" in reasons["e"]
    assert read_failures(Place(out)) == {f.name: f for f in found.failed}
    assert "Traceback" in (out / "logs" / "c.log").read_text()
    assert {path.split("/")[0] for path in results(out)} == {"a"}
    assert not (out / "b").exists()
    for job in jobs:
        job.scan.write_text("ok")
    assert run_fake(jobs, out).done == ("b", "c", "d", "e")
    assert read_failures(Place(out)) == {}


def test_a_failure_leaves_older_results_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    first = results(out)
    jobs[0].scan.write_text("full")
    assert [f.name for f in run_fake(jobs, out).failed] == ["a"]
    assert results(out) == first
    assert [f.name for f in run_fake(jobs, out).failed] == ["a"], "its results are of other bytes"


def test_a_full_disk_costs_only_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)  # of locks and the index; results are written otherwise
        assert run_fake(jobs, out).done == ("a", "b", "c")
    assert read_index(Place(out).index) == {}
    assert run_fake(jobs, out).kept == ("a", "b", "c")


def test_leftovers_of_a_killed_run_go_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    place = Place(out)
    place.make()
    place.stage("a").mkdir()
    (place.stage("a") / "half").write_text("half")
    place.lock("a").write_text('{"host": "node", "pid": 1}')
    (out / "a").mkdir()
    (out / "a" / "mine.txt").write_text("mine")
    assert run_fake(jobs, out).done == ("a", "b", "c")
    assert (out / "a" / "mine.txt").read_text() == "mine"
    assert list(place.stages.iterdir()) == list(place.locks.iterdir()) == []


def test_a_line_tells_how_fast_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_fake(make_jobs(tmp_path / "in", {**GOOD, "d": "truncated"}, tmp_path / "out"), tmp_path / "out")
    said = capsys.readouterr().err
    assert re.search(r"4/4 scans .* left, \d+ scans/hour, 1 failed", said)


# Locks


def test_a_scan_at_work_elsewhere_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (job,) = make_jobs(tmp_path / "in", {"a": "ok"}, out)
    place = Place(out)
    place.make()
    place.stage("a").mkdir()
    with exclusive(place.lock("a")) as owner:
        assert owner == ""
        found = process(job, FakeWork(), place, 1)
        assert found.status == "busy"
        assert f"process {os.getpid()} on " in found.reason
        assert place.stage("a").is_dir()
        assert not (out / "a").exists()
    assert process(job, FakeWork(), place, 1).status == "done"


def test_a_busy_scan_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    place = Place(out)
    place.make()
    held = exclusive(place.lock("b"))
    held.__enter__()
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr("slant.cohort.run.time.sleep", nap)
    assert run_fake(jobs, out).done == ("a", "b", "c")
    assert len(naps) == 2


def test_a_lock_of_the_past_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("left by a killed process")
    os.utime(path, (4e9, 4e9))
    with exclusive(path) as owner:
        assert owner == ""
    assert not path.exists()


def test_a_lock_that_was_replaced_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    real, calls = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not calls:
            path.unlink()  # its owner ends between our opening and our locking
        calls.append(how)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(path) as owner:
        assert (owner, len(calls)) == ("", 2)
        with exclusive(path) as other:
            assert other == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OutputError, match=r"Function not implemented; its file system has no locks; .* --work-dir"):
        exclusive(tmp_path / "x.lock").__enter__()
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    assert "has no locks" in run_fake(jobs, tmp_path / "out").failed[0].reason


def test_locks_may_lie_elsewhere(tmp_path: Path) -> None:
    place = Place(tmp_path / "out", tmp_path / "work")
    assert place.lock("a").is_relative_to(tmp_path / "work")
    assert place.stage("a").is_relative_to(tmp_path / "out"), "files are moved from there"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    with pytest.raises(OutputError, match=r"cannot write in .*out.*choose a folder that may be written"):
        run_fake(jobs, tmp_path / "out")


# Index


ENTRY = Entry("a/b", "/in/a", "b", "a/b", "key", (1, 2), (3, 4), "00")


def test_the_index_survives_cut_lines_and_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    append(path, ENTRY)
    whole = path.read_bytes()
    path.write_bytes(b'[1]\n{"id": "z"}\n' + b"\xff\xfe\n" + whole + whole[:40])
    later = Entry("a/b", "/in/a", "b", "a/b", "other", (1, 2), (3, 4), "00")
    assert read_index(path) == {"a/b": ENTRY}
    append(path, later)
    append(path, Entry("c", "/in/c", "c", "c", "key", (1, 2), (3, 4), "00"))
    assert read_index(path)["a/b"] == later
    assert set(read_index(path)) == {"a/b", "c"}


def test_file_names_of_ids_are_plain_and_differ() -> None:
    ids = ["sub-01", "a/b", "a_b", "a b", "é", "..", ".a", "x" * 300, "x" * 301, "a\nb", "-a"]
    keys = [key(i) for i in ids]
    assert keys[0] == "sub-01"
    assert len(set(keys)) == len(ids)
    assert all(len(k) < 200 and "/" not in k and not k.startswith((".", "-")) and k.isascii() for k in keys)


def test_the_mark_of_a_failure_is_one_line_in_the_table(tmp_path: Path) -> None:
    from slant.cohort.failures import Failure, write_failures

    write_failures(
        tmp_path / "f.tsv", [Failure("b", "two\nlines\tand tabs", "/in/b", ""), Failure("a", "x", "/a", "l")]
    )
    with (tmp_path / "f.tsv").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows == [
        ["name", "reason", "scan", "log"],
        ["a", "x", "/a", "l"],
        ["b", "two lines and tabs", "/in/b", "n/a"],
    ]
