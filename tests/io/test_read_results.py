"""Results read from their files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from toy import toy_scan

from slant.errors import GeometryError, InputError
from slant.grid import axis_aligned_grid
from slant.io.names import ResultNames
from slant.io.read_results import find_records, read_result
from slant.io.results import Result
from slant.io.write import write_image
from slant.volume import LabelMap

NAMES = ResultNames("toy")


def test_records_are_found_in_subfolders(results: Path, tmp_path: Path) -> None:
    for name in ("b", "a/c", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x_record.json").write_text("{}")
    assert [str(p.relative_to(tmp_path)) for p in find_records(tmp_path)] == ["a/c/x_record.json", "b/x_record.json"]
    assert find_records(results / NAMES.record) == [results / NAMES.record]
    with pytest.raises(InputError, match="no such folder"):
        find_records(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no finished results: found no file NAME_record\.json"):
        find_records(tmp_path / "empty")


@pytest.mark.parametrize(
    "name",
    [
        NAMES.labels,
        NAMES.template_labels,
        NAMES.brain,
        NAMES.confidence,
        NAMES.preprocessed,
        NAMES.lookup,
        NAMES.volumes,
    ],
)
def test_the_error_names_a_missing_or_damaged_file(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2] if name.endswith("gz") else b"index\n\xff")
    with pytest.raises(InputError, match=re.escape(name)):
        read_result(copy / NAMES.record)
    (copy / name).unlink()
    with pytest.raises(InputError, match=re.escape(name)):
        read_result(copy / NAMES.record)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"input": 1}', '{"native_from_template": "x"}'])
def test_a_record_of_another_program_is_rejected(copy: Path, text: str) -> None:
    (copy / NAMES.record).write_text(text)
    with pytest.raises(InputError, match=r"toy_record\.json .*segment the scan again"):
        read_result(copy / NAMES.record)


def test_files_of_different_runs_are_rejected(copy: Path, result: Result) -> None:
    other = LabelMap(np.ones((5, 6, 7), np.uint8), axis_aligned_grid((5, 6, 7), 1, (0, 0, 0)))
    write_image(copy / NAMES.brain, other, None)
    with pytest.raises(GeometryError, match=r"toy_desc-brain_mask.*different runs"):
        read_result(copy / NAMES.record)


def test_the_scan_must_be_the_one_that_was_segmented(copy: Path, tmp_path: Path) -> None:
    record = json.loads((copy / NAMES.record).read_text())
    record["input"]["path"] = "gone_T1w.nii.gz"
    (copy / NAMES.record).write_text(json.dumps(record))
    without = read_result(copy / NAMES.record)
    assert without.scan is None
    assert "give its path with --scan" in without.notes[0]
    assert read_result(copy / NAMES.record, toy_scan().path).scan is not None
    other = copy / NAMES.preprocessed
    with pytest.raises(InputError, match="is not the file that was segmented"):
        read_result(copy / NAMES.record, other)
    record["input"]["path"] = str(other)
    (copy / NAMES.record).write_text(json.dumps(record))
    assert "SHA-256 differs" in read_result(copy / NAMES.record).notes[0]
