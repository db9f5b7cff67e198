"""Every setting of a training is in docs/training.md, in its table, with its default."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slant.nets.memory import MemorySettings
from slant.tiles import TileLayout
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.settings import (
    GroupwiseSettings,
    NetworkChoice,
    PretrainSettings,
    StageSettings,
    TileSettings,
    TrainSettings,
)

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text("utf-8")
TABLES = {"layout", "network", "loss", "memory", "augment", "groupwise", "pretrain", "whole", "tile"}
IN_STAGES = [field.name for field in dataclasses.fields(StageSettings)]


def rows(after: str, before: str) -> dict[str, str]:
    """Default, as written, of each key of the table between two texts; keys of a TOML table begin with its name."""
    table = TEXT[TEXT.index(after) : TEXT.index(before)]
    found = {}
    for keys, default in re.findall(r"^\| (`.*?) \| (.*?) ?\|", table, re.M):
        section = re.match(r"`\[(\w+)\]` ", keys)
        names = re.findall(r"`(\w+)`", keys)
        defaults = default.split(", ") if default.count(", ") == len(names) - 1 else [default] * len(names)
        for name, value in zip(names, defaults, strict=True):
            found[f"{section[1]}.{name}" if section else name] = value.strip("`")
    return found


HEADINGS = (
    "## Settings",
    "`[pretrain]`, `[whole]` and `[tile]`:",
    "Only in `[tile]`:",
    "Only in `[groupwise]`",
    "The loss is computed",
    "## bf",
)
SETTINGS, STAGE, TILE, GROUPWISE, AUGMENT = (rows(*ends) for ends in pairwise(HEADINGS))


def written(value: Any) -> str:
    """A default as the document writes it."""
    if value is dataclasses.MISSING:
        return ""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value) or "empty"


def expected(kind: type, prefix: str = "", without: tuple[str, ...] = ()) -> dict[str, str]:
    fields = [f for f in dataclasses.fields(kind) if f.name not in without]
    return {prefix + field.name: written(field.default) for field in fields}


@pytest.mark.parametrize(
    ("documented", "kind", "prefix", "without"),
    [
        (SETTINGS, TrainSettings, "", tuple(TABLES)),
        (SETTINGS, TileLayout, "layout.", ()),
        (SETTINGS, LossSettings, "loss.", ()),
        (SETTINGS, MemorySettings, "memory.", ()),
        (STAGE, StageSettings, "", ("auxiliary",)),
        (TILE, TileSettings, "", tuple(IN_STAGES)),
        (GROUPWISE, GroupwiseSettings, "", ("syn",)),
        (AUGMENT, AugmentSettings, "", ()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_settings_are_documented_with_their_defaults(
    documented: dict[str, str], kind: type, prefix: str, without: tuple[str, ...]
) -> None:
    wanted = expected(kind, prefix, without)
    assert {key: documented.get(key) for key in wanted} == wanted


def test_defaults_of_a_network_are_those_of_its_kind() -> None:
    wanted = {key: value.replace("none", "the kind's") for key, value in expected(NetworkChoice, "network.").items()}
    wanted["network.tasks"] = "none"
    assert {key: SETTINGS.get(key) for key in wanted} == wanted


def test_auxiliary_scans_have_two_defaults() -> None:
    whole, pretrain = (written(kind.auxiliary) for kind in (StageSettings, PretrainSettings))
    assert STAGE["auxiliary"] == f"{whole}; {pretrain} in `[pretrain]"


def test_nothing_is_documented_that_is_not_there() -> None:
    kinds = {"layout": TileLayout, "network": NetworkChoice, "loss": LossSettings, "memory": MemorySettings}
    known = set(expected(TrainSettings)).union(*(expected(kind, f"{name}.") for name, kind in kinds.items()))
    assert set(SETTINGS) - known == set()
    assert set(STAGE) - set(expected(StageSettings)) == set()
    assert set(TILE) - set(expected(TileSettings)) == set()
    assert set(GROUPWISE) - set(expected(GroupwiseSettings)) == set()
    assert set(AUGMENT) - set(expected(AugmentSettings)) == set()
