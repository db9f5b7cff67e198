"""Every training setting is in docs/reference/training.md, in its table, with its default."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slant.nets.network import MemorySettings
from slant.tiles import TileLayout
from slant.train.assembly_settings import AssemblySettings
from slant.train.augment import AugmentSettings
from slant.train.loss import LossSettings
from slant.train.network import NetworkChoice
from slant.train.settings import TrainSettings
from slant.train.stage_settings import (
    GroupwiseSettings,
    PretrainSettings,
    SlicesSettings,
    StageSettings,
    TileSettings,
)

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "training.md").read_text("utf-8")
IN_ASSEMBLIES = ("layout", "network", "slices", "pretrain", "whole", "tile")
TABLES = (*IN_ASSEMBLIES, "loss", "memory", "augment", "groupwise", "assemblies")
IN_STAGES = tuple(field.name for field in dataclasses.fields(StageSettings))


def defaults_between(heading: str, next_heading: str) -> dict[str, str]:
    """Default, as written, of each key in the tables between two headings."""
    section = TEXT[TEXT.index(f"\n{heading}\n") : TEXT.index(f"\n{next_heading}\n")]
    documented = {}
    for keys, default in re.findall(r"^\| (`.*?) \| (.*?) ?\|", section, re.M):
        names = re.findall(r"`(\w+)`", keys)
        defaults = default.split(", ") if default.count(", ") == len(names) - 1 else [default] * len(names)
        documented |= {name: re.sub("^`([^`]*)`$", r"\1", value) for name, value in zip(names, defaults, strict=True)}
    return documented


HEADINGS = (
    "### Top level",
    "### `[layout]`",
    "### `[network]`",
    "### `[loss]`",
    "### `[memory]`",
    "### `[pretrain]`, `[whole]` and `[tile]`",
    "### `[slices]`",
    "### Only in `[tile]`",
    "### `[[assemblies]]`",
    "### `[groupwise]`",
    "### `[augment]`",
    "## bfloat16",
)
TOP, LAYOUT, NETWORK, LOSS, MEMORY, STAGE, SLICES, TILE, ASSEMBLY, GROUPWISE, AUGMENT = (
    defaults_between(*ends) for ends in pairwise(HEADINGS)
)


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


def expected(kind: type, without: tuple[str, ...] = ()) -> dict[str, str]:
    """The default of each field of a dataclass as the document writes it."""
    return {field.name: written(field.default) for field in dataclasses.fields(kind) if field.name not in without}


@pytest.mark.parametrize(
    ("documented", "kind", "without"),
    [
        (TOP, TrainSettings, (*TABLES, "round")),
        (LAYOUT, TileLayout, ()),
        (LOSS, LossSettings, ()),
        (MEMORY, MemorySettings, ()),
        (STAGE, StageSettings, ("auxiliary_probability",)),
        (SLICES, SlicesSettings, IN_STAGES),
        (TILE, TileSettings, IN_STAGES),
        (ASSEMBLY, AssemblySettings, IN_ASSEMBLIES),
        (GROUPWISE, GroupwiseSettings, ("syn",)),
        (AUGMENT, AugmentSettings, ()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_settings_are_documented_with_their_defaults(
    documented: dict[str, str], kind: type, without: tuple[str, ...]
) -> None:
    assert {key: value for key, value in documented.items() if key not in without} == expected(kind, without)


def test_defaults_of_a_network_are_those_of_its_kind() -> None:
    defaults = {key: value.replace("none", "the kind's") for key, value in expected(NetworkChoice).items()}
    assert defaults | {"tasks": "none"} == NETWORK


def test_auxiliary_scans_have_two_defaults() -> None:
    whole, pretrain = (written(kind.auxiliary_probability) for kind in (StageSettings, PretrainSettings))
    assert STAGE["auxiliary_probability"] == f"{whole}; {pretrain} in `[pretrain]`"
