"""Resuming, failures, locks and the index of a run."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
from fake_task import fake_task, make_jobs, results, run_fake

from slant.engine.failures import read_failures
from slant.engine.index import Entry, append, read_index
from slant.engine.layout import OutputLayout, key
from slant.errors import OutputError

GOOD = {"a": "ok", "b": "ok", "c": "ok"}


def test_a_second_run_opens_no_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(tmp_path / "in", GOOD, tmp_path / "out")
    assert run_fake(jobs, tmp_path / "out").done == ("a", "b", "c")
    first = results(tmp_path / "out")
    assert len(first) == 9
    monkeypatch.setattr("slant.engine.run.process", None)
    again = run_fake(jobs, tmp_path / "out")
    assert (again.done, again.kept, again.failed) == ((), ("a", "b", "c"), ())
    assert results(tmp_path / "out") == first


def test_records_and_hashes_decide_without_the_index(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    OutputLayout(out).index.unlink()
    assert run_fake(jobs, out).kept == ("a", "b", "c")
    assert set(read_index(OutputLayout(out).index)) == {"a", "b", "c"}


def change_bytes(scan: Path, folder: Path) -> None:
    scan.write_text("no")


def change_bytes_with_the_clock_set_back(scan: Path, folder: Path) -> None:
    scan.write_text("no")
    os.utime(scan, (1e9, 1e9))


def remove_a_file(scan: Path, folder: Path) -> None:
    (folder / "a_labels.txt").unlink()


def remove_the_record(scan: Path, folder: Path) -> None:
    (folder / "a_record.json").unlink()


def damage_the_record(scan: Path, folder: Path) -> None:
    (folder / "a_record.json").write_text('{"input": ')


def change_the_setting(scan: Path, folder: Path) -> None:
    record = folder / "a_record.json"
    record.write_text(record.read_text().replace('"a"', '"b"'))
    os.utime(record, ns=(1, 1))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        *(change_bytes, change_bytes_with_the_clock_set_back, remove_a_file, remove_the_record, damage_the_record),
        change_the_setting,
    ],
)
def test_a_changed_scan_or_result_is_processed_again(tmp_path: Path, change: Any, index: bool) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    change(jobs[0].scan, out / "a")
    if not index:
        OutputLayout(out).index.unlink()
    again = run_fake(jobs, out)
    assert (again.done, again.kept) == (("a",), ("b", "c"))
    assert run_fake(jobs, out).kept == ("a", "b", "c")


def test_another_task_and_force_process_all_scans_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    assert run_fake(jobs, out, task=fake_task("b")).done == ("a", "b", "c")
    assert run_fake(jobs, out, task=fake_task("b"), force=True).done == ("a", "b", "c")


def test_touched_and_moved_scans_are_not_processed_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_fake(make_jobs(tmp_path / "in", GOOD, out), out)
    moved = make_jobs(tmp_path / "elsewhere", GOOD, out)
    os.utime(moved[0].scan, (1e9, 1e9))
    assert run_fake(moved, out).kept == ("a", "b", "c")


def test_failures_are_listed_until_the_scans_succeed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", {"a": "ok", "b": "truncated", "c": "error", "d": "full", "e": "ok"}, out)
    jobs[4].scan.unlink()
    summary = run_fake(jobs, out)
    assert summary.done == ("a",)
    reasons = {f.name: f.reason for f in summary.failed}
    assert list(reasons) == ["b", "c", "d", "e"]
    assert "b.nii: the file is truncated: found 9 bytes, expected 99; copy it again" in reasons["b"]
    assert reasons["c"] == "ZeroDivisionError: two lines"
    assert "No space left on device" in reasons["d"]
    assert "No such file" in reasons["e"]
    assert read_failures(OutputLayout(out)) == {f.name: f for f in summary.failed}
    assert "Traceback" in (out / "logs" / "c.log").read_text()
    assert {path.split("/")[0] for path in results(out)} == {"a"}
    assert not (out / "b").exists()
    for job in jobs:
        job.scan.write_text("ok")
    assert run_fake(jobs, out).done == ("b", "c", "d", "e")
    assert read_failures(OutputLayout(out)) == {}


def test_a_failure_leaves_older_results_unchanged(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    run_fake(jobs, out)
    first = results(out)
    jobs[0].scan.write_text("full")
    assert [f.name for f in run_fake(jobs, out).failed] == ["a"]
    assert results(out) == first
    assert [f.name for f in run_fake(jobs, out).failed] == ["a"], "the older results belong to other bytes"


def test_only_the_index_is_lost_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)  # used for locks and the index only
        assert run_fake(jobs, out).done == ("a", "b", "c")
    assert read_index(OutputLayout(out).index) == {}
    assert run_fake(jobs, out).kept == ("a", "b", "c")


def test_files_of_a_killed_run_are_removed_and_other_files_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = make_jobs(tmp_path / "in", GOOD, out)
    layout = OutputLayout(out)
    layout.make()
    layout.staging_of("a").mkdir()
    (layout.staging_of("a") / "half").write_text("half")
    layout.lock("a").write_text('{"host": "node", "pid": 1}')
    (out / "a").mkdir()
    (out / "a" / "mine.txt").write_text("mine")
    assert run_fake(jobs, out).done == ("a", "b", "c")
    assert (out / "a" / "mine.txt").read_text() == "mine"
    assert list(layout.staging.iterdir()) == list(layout.locks.iterdir()) == []


def test_the_progress_line_shows_rate_and_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_fake(make_jobs(tmp_path / "in", {**GOOD, "d": "truncated"}, tmp_path / "out"), tmp_path / "out")
    progress = capsys.readouterr().err
    assert re.search(r"4/4 scans .* left, \d+ scans/hour, 1 failed", progress)


# Locks


def test_locks_are_in_the_work_dir_and_staging_is_not(tmp_path: Path) -> None:
    layout = OutputLayout(tmp_path / "out", tmp_path / "work")
    assert layout.lock("a").is_relative_to(tmp_path / "work")
    assert layout.staging_of("a").is_relative_to(tmp_path / "out"), (
        "files are moved from there, so it must be the same file system"
    )


def test_an_output_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    jobs = make_jobs(tmp_path / "in", {"a": "ok"}, tmp_path / "out")
    with pytest.raises(OutputError, match=r"cannot write to .*out.*check free space and write permission"):
        run_fake(jobs, tmp_path / "out")


# Index


ENTRY = Entry("a/b", "/in/a", "b", "a/b", "key", (1, 2), (3, 4), "00")


def test_the_index_ignores_truncated_and_invalid_lines(tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    append(path, ENTRY)
    line = path.read_bytes()
    path.write_bytes(b'[1]\n{"id": "z"}\n' + b"\xff\xfe\n" + line + line[:40])
    later = Entry("a/b", "/in/a", "b", "a/b", "other", (1, 2), (3, 4), "00")
    assert read_index(path) == {"a/b": ENTRY}
    append(path, later)
    append(path, Entry("c", "/in/c", "c", "c", "key", (1, 2), (3, 4), "00"))
    assert read_index(path)["a/b"] == later
    assert set(read_index(path)) == {"a/b", "c"}


def test_file_names_of_ids_are_plain_and_unique() -> None:
    ids = ["sub-01", "a/b", "a_b", "a b", "é", "..", ".a", "x" * 300, "x" * 301, "a\nb", "-a"]
    keys = [key(i) for i in ids]
    assert keys[0] == "sub-01"
    assert len(set(keys)) == len(ids)
    assert all(len(k) < 200 and "/" not in k and not k.startswith((".", "-")) and k.isascii() for k in keys)


def test_a_failure_is_one_line_in_the_table(tmp_path: Path) -> None:
    from slant.engine.failures import Failure, write_failures

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
