"""Settings of a training run: splits by person, and what is refused before any work is done."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from slant.config import build, read_toml
from slant.errors import SettingsError
from slant.io.resources import resource
from slant.tiles import TileLayout
from slant.train import loop
from slant.train.settings import TrainSettings

SHAPE = (32, 40, 36)
STAGE = loop.StageSettings(6)
SETTINGS = TrainSettings("toy", TileLayout(SHAPE, (20, 24, 20), (2, 2, 2)), STAGE, STAGE)


def test_folds_take_every_fifth_person_and_cover_everybody_once() -> None:
    names = [str(i) for i in range(1000, 1015)]
    held_out = [replace(SETTINGS, fold=fold).split(names[::-1])[1] for fold in range(5)]
    assert held_out[0] == ["1000", "1005", "1010"]
    assert sorted(itertools.chain(*held_out)) == names
    for fold in range(5):
        trained_names, left = replace(SETTINGS, fold=fold).split(names)
        assert not set(trained_names) & set(left)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 1}, "at least 2"),
        ({"fold": 5}, "fold must be 0 to 4"),
        ({"layout": TileLayout(SHAPE, (19, 24, 24), (2, 2, 2))}, "size must be even"),
    ],
)
def test_impossible_settings_are_refused(values, message) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(SETTINGS, **values)


def test_too_few_people_for_a_fold_are_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be split"):
        replace(SETTINGS, fold=3).split(["a", "b"])


@pytest.mark.parametrize(("name", "tiles"), [("slant27", 27), ("slant8", 8), ("slant27-all", 27), ("slant8-all", 8)])
def test_shipped_settings_are_whole(name: str, tiles: int) -> None:
    path = resource("configs", "train", f"{name}.toml")
    settings = build(TrainSettings, read_toml(path), str(path))
    assert settings.name == name.removesuffix("-all")
    assert len(settings.layout) == tiles
    assert "Neuromorphometrics" in settings.credits
