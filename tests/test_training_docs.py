"""Every setting of a training is in docs/training.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from slant.nets.memory import MemorySettings
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.settings import NetworkChoice, PretrainSettings, StageSettings, TileSettings, TrainSettings

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text("utf-8")
KINDS = (
    TrainSettings,
    StageSettings,
    PretrainSettings,
    TileSettings,
    NetworkChoice,
    LossSettings,
    MemorySettings,
    AugmentSettings,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(kind: type) -> None:
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if f"`{field.name}`" not in TEXT and f"`[{field.name}]`" not in TEXT
    ]
    assert missing == []
