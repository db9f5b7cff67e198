"""What is done with one scan: its warnings reach the messages of errors, the record and the overlay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy import light_found, toy_model, toy_scan

from slant.config import RunReportSettings, SegmentSettings
from slant.errors import DeviceError, InputError, RegistrationError, SlantError
from slant.io.results import Result
from slant.run import Request, draw, segment_scan

WARNING = "the sform and the qform disagree"


@pytest.mark.parametrize(("kind", "told"), [(InputError, True), (RegistrationError, True), (DeviceError, False)])
def test_an_error_about_a_scan_tells_its_warnings(
    monkeypatch: pytest.MonkeyPatch, kind: type[SlantError], told: bool
) -> None:
    def fail(*_: object) -> None:
        raise kind("not possible")

    monkeypatch.setattr("slant.pipeline.segment", fail)
    with pytest.raises(kind) as caught:
        segment_scan(replace(toy_scan(), warnings=(WARNING,)), toy_model(), Request(SegmentSettings(device="cpu")))
    assert str(caught.value) == "not possible" + (f"; warning: {WARNING}" if told else "")


def test_warnings_of_reading_and_of_segmenting_are_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.pipeline.segment", lambda *_: replace(light_found(), warnings=("truncated",)))
    monkeypatch.setattr("slant.quality.grade.grade", lambda *_: None)
    scan = replace(toy_scan(), warnings=(WARNING,))
    found = segment_scan(scan, toy_model(), Request(SegmentSettings(device="cpu")))
    assert found.record.warnings == (WARNING, "truncated")


def test_the_overlay_gets_the_warnings(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    drawn: list[tuple[str, ...]] = []

    def overlay(*arguments: object, **_: object) -> bytes:
        drawn.append(arguments[-1])  # type: ignore[arg-type]
        return b"a picture"

    monkeypatch.setattr("slant.report.overlay.draw_overlay", overlay)
    warned = replace(result, record=replace(result.record, warnings=(WARNING,)))
    draw(warned, RunReportSettings(report=False))
    assert drawn == [(WARNING,)]
