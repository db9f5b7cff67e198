"""The rows of dimensions.py divide their minutes, and each is a training that the package accepts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import dimensions
import pytest
from dimensions import ROWS, SLICES, WHOLE, Plan, Row

from slant.train.context import run_context
from slant.train.slices import check_slices


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """Options of a call on folders without scans."""
    return Namespace(data=tmp_path / "data", auxiliary=tmp_path / "aux", work=tmp_path / "work", minutes=10.0, seed=0)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_stages_of_a_row_share_its_minutes(row: Row) -> None:
    seconds = row.seconds(10)

    assert sum(seconds.values()) == pytest.approx(600)
    assert (SLICES in seconds) == (row.slices > 0)


def test_steps_follow_from_their_seconds() -> None:
    seconds = Row({}, slices=0.25).seconds(20)
    assert dimensions.steps_in(seconds, {SLICES: 6.0, WHOLE: 2.0}) == {SLICES: 50, WHOLE: 450}
    assert dimensions.steps_in({WHOLE: 1.0}, {WHOLE: 9.0}) == {WHOLE: 1}


@pytest.mark.parametrize("name", ROWS)
def test_settings_of_each_row_make_a_network(options: Namespace, name: str) -> None:
    row = ROWS[name]
    settings = dimensions.settings_of(options, options.work / name, row, {SLICES: 3, WHOLE: 7})
    run = run_context(settings)
    check_slices(run)

    assert settings.whole is not None
    assert (settings.whole.steps, settings.whole.crop, settings.whole.auxiliary_probability) == (7, True, 0.5)
    assert (settings.augment.slice_thickness_plane, settings.augment.slice_thickness_mm) == ("axial", 5.0)
    assert (settings.slices is not None) == (row.slices > 0)
    if settings.slices is not None:
        assert (settings.slices.steps, settings.slices.folds, settings.slices.crop) == (3, row.folds, True)
    assert run.network.kind == row.network["kind"]


def test_rows_only_read_what_they_share(options: Namespace) -> None:
    settings = dimensions.settings_of(options, options.work / "residual", ROWS["residual"], {WHOLE: 1})
    shared = options.work / "shared"

    for _ in range(2):
        dimensions.link_shared(options, settings)

    assert (settings.work_dir / "prepared").readlink() == shared / "prepared"
    assert (settings.split / "groupwise").readlink() == shared / "fold0" / "groupwise"
    assert (settings.split / "auxiliary").readlink() == shared / "fold0" / "auxiliary"


def test_plan_is_kept_and_refuses_another_time(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    assert dimensions.read_plan(path, 10.0) is None
    plan = dimensions.save(path, Plan(10.0, {WHOLE: 2.0}, {WHOLE: 300}, 12.5))

    assert dimensions.read_plan(path, 10.0) == plan
    with pytest.raises(SystemExit, match="planned with --minutes 10, found 20"):
        dimensions.read_plan(path, 20.0)


def test_interrupted_training_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dimensions, "train_whole", interrupt)
    monkeypatch.setattr(dimensions.time, "process_time", iter([3.0, 8.0]).__next__)
    path = tmp_path / "row.json"
    with pytest.raises(KeyboardInterrupt):
        dimensions.train(None, None, Plan(10.0, {WHOLE: 2.0}, {WHOLE: 300}, 12.5), path)

    kept = dimensions.read_plan(path, 10.0)
    assert kept is not None
    assert kept.used_s == 17.5
