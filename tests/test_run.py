"""What is done with one scan: its warnings reach the messages of errors, the record and the overlay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy import light_found, mirroring_model, quick_networks, quick_stages, toy_model, toy_prepared, toy_scan

from slant.cli.progress import STEPS
from slant.config import RunReportSettings, SegmentSettings
from slant.errors import DeviceError, InputError, RegistrationError, SettingsError, SlantError
from slant.io.models import load_model
from slant.io.results import Result
from slant.nets.predict import Predictor
from slant.pipeline import label, segment
from slant.run import Output, Request, draw, run_scan, segment_scan
from slant.timing import StepProgress, TimingLog
from slant.within_subject.subject import segment_visits, visit_votes

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


def test_a_precision_that_the_cpu_does_not_have_fails_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.nets.device.has_fast_bfloat16", lambda: False)
    monkeypatch.setattr("slant.pipeline.prepare", None)
    with pytest.raises(DeviceError, match="use --precision float32"):
        segment_scan(toy_scan(), toy_model(), Request(SegmentSettings(device="cpu", precision="bfloat16")))


def test_mirror_images_that_the_model_cannot_label_fail_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.pipeline.find_brain", None)
    monkeypatch.setattr("slant.within_subject.subject.align_visit", None)
    settings, volume = SegmentSettings(device="cpu", mirror=True), toy_scan().volume
    for start in (
        lambda: segment_scan(toy_scan(), toy_model(), Request(settings)),
        lambda: segment(volume, toy_model(), settings),
        lambda: segment_visits([volume, volume], toy_model(), settings),
    ):
        with pytest.raises(SettingsError, match="found none in the model toy; leave --mirror out"):
            start()


def test_the_request_to_label_mirror_images_reaches_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def votes(predictor: Predictor, *_: object) -> Iterator[object]:
        assert predictor.mirroring is not None
        used.append(predictor.mirroring.mirror)
        raise KeyboardInterrupt

    monkeypatch.setattr("slant.nets.cascade.tile_votes", votes)
    model, subject = load_model(str(mirroring_model(tmp_path / "model"))), SimpleNamespace(prepared=[toy_prepared()])
    for mirror in (True, False):
        settings = SegmentSettings(device="cpu", threads=1, mirror=mirror)
        for start in (partial(label, toy_prepared()), partial(visit_votes, subject, 0)):
            with pytest.raises(KeyboardInterrupt):
                start(model, settings)
    assert used == ["both", "both", "alternate", "alternate"]


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


def test_the_clock_gets_all_steps_and_the_record_those_before_the_reports(tmp_path: Path) -> None:
    told: list[StepProgress] = []
    clock = TimingLog(told.append)
    with clock("read"):
        scan = toy_scan()
    request = Request(SegmentSettings(device="cpu"), reports=RunReportSettings(report=False))
    with quick_stages(), quick_networks():
        result, _ = run_scan(scan, toy_model(), request, Output(tmp_path), clock=clock)
    *recorded, overlay, files = (timing.name for timing in clock.timings)
    assert [timing.name for timing in result.record.timings] == recorded
    assert (recorded[0], recorded[-1], overlay, files) == ("read", "quality", "overlay and reports", "write files")
    assert "networks and vote" in recorded
    assert tuple(step.timing for step in told if step.timing is not None) == clock.timings, "each step is told of once"
    tiles = [step.fraction for step in told if step.name == "networks and vote" and step.timing is None]
    assert (tiles[0], tiles[-1], tiles) == (0, 1, sorted(tiles))
    assert len(tiles) > len(toy_model().assemblies[0].layout)
    assert list(dict.fromkeys(step.name for step in told)) == [name for name in STEPS if name in {s.name for s in told}]
