"""Settings come from the command line, TOML files or Python; unknown keys and wrong types are errors that name them."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from slant.config import SegmentSettings, build, read_toml
from slant.errors import LayoutError, SettingsError
from slant.tiles import TileLayout


@dataclass(frozen=True)
class Inner:
    """A table."""

    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    """A file."""

    steps: int
    inner: Inner = field(default_factory=Inner)
    widths: tuple[int, ...] = (1, 2)
    folder: Path | None = None
    on: bool = False


def test_default_settings() -> None:
    settings = SegmentSettings()
    assert (settings.model, settings.device, settings.interpolation) == ("slant27", "auto", "multilabel")
    assert settings.skull_stripped is None


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SegmentSettings().threads = 3  # type: ignore[misc]


@pytest.mark.parametrize("threads", [0, -2])
def test_less_than_one_thread_is_refused(threads: int) -> None:
    with pytest.raises(SettingsError, match=f"threads must be at least 1, found {threads}"):
        SegmentSettings(threads=threads)


def test_unknown_interpolation_is_refused() -> None:
    with pytest.raises(SettingsError, match="interpolation must be 'multilabel' or 'nearest', found 'linear'"):
        SegmentSettings(interpolation="linear")  # type: ignore[arg-type]


def test_requested_threads_are_used() -> None:
    assert SegmentSettings(threads=3).thread_count == 3


def test_threads_default_to_those_available_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7}, raising=False)
    assert SegmentSettings().thread_count == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert SegmentSettings().thread_count == 1


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("latin-1"))
    return path


def test_tables_of_a_file_are_read(tmp_path: Path) -> None:
    values = read_toml(write(tmp_path / "a.toml", "steps = 3\nwidths = [4, 5]\n[inner]\nrate = 2\n"))
    assert build(Outer, values, "a.toml") == Outer(3, Inner(2.0), (4, 5))


@pytest.mark.parametrize("text", ["steps = ", "[inner", "steps = 1\nsteps = 2", 'name = "\xff"'])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"a\.toml is not a TOML file"):
        read_toml(write(tmp_path / "a.toml", text))


def test_the_error_names_the_line_of_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 3"):
        read_toml(write(tmp_path / "a.toml", "steps = 1\nwidths = [1,\n,2]"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*a\.toml: No such file"):
        read_toml(tmp_path / "a.toml")


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        read_toml(tmp_path)


def test_values_are_converted_to_the_types_of_their_fields() -> None:
    built = build(Outer, {"steps": 1, "folder": "data/x", "widths": [7], "inner": {"rate": 1}}, "here")
    assert built.folder == Path("data/x")
    assert built.widths == (7,)
    assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, r"here: unknown key 'stepz' \(did you mean 'steps'\?\); known keys: steps, inner, widths"),
        ({"steps": 1, "zzz": 1, "yyy": 2}, r"unknown key 'yyy', 'zzz'; known"),
        (
            {"steps": 1, "inner": {"rat": 1}},
            r"here: unknown key 'inner\.rat' \(did you mean 'inner\.rate'\?\); known keys: inner\.rate, inner\.kind",
        ),
        ({}, 'here: missing value for field "steps"'),
        ({"steps": "1"}, "here: steps is '1', expected a whole number"),
        ({"steps": 1.5}, r"here: steps is 1\.5, expected a whole number"),
        ({"steps": True}, "steps"),
        ({"steps": 1, "on": 1}, "on"),
        ({"steps": 1, "inner": {"rate": True}}, r"inner\.rate"),
        ({"steps": 1, "inner": {"kind": "c"}}, r"inner\.kind is 'c', expected '"),
        ({"steps": 1, "inner": 3}, "inner is 3, expected a table"),
        ({"steps": 1, "widths": [1, "2"]}, r"widths is .*, expected a list, each a whole number"),
        ({"steps": 1, "widths": {"a": 1}}, "widths is one table, expected a list"),
    ],
)
def test_keys_and_values_that_do_not_fit_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        build(Outer, values, "here")
    assert "\n" not in str(raised.value)


def test_tile_layout_from_a_file(tmp_path: Path) -> None:
    text = "shape = [20, 30, 40]\nsize = [20, 16, 22]\ncounts = [1, 2, 2]\noverlap = 'core'"
    layout = build(TileLayout, read_toml(write(tmp_path / "a.toml", text)), "a.toml")
    assert layout == TileLayout((20, 30, 40), (20, 16, 22), (1, 2, 2), "core")
    assert len(layout) == 4


def test_tile_layout_that_leaves_voxels_uncovered_is_refused() -> None:
    values = {"shape": [20, 30, 40], "size": [20, 14, 22], "counts": [1, 2, 2]}
    with pytest.raises(LayoutError, match="leave voxels 14 to 15 of 30 along y in no tile"):
        build(TileLayout, values, "a.toml")
