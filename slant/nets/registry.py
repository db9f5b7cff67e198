"""The kinds of networks by name, each with the settings that define it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from slant.config import build
from slant.errors import SettingsError
from slant.nets.network import Network, NetworkSettings
from slant.nets.slant2018 import Slant2018, Slant2018Settings
from slant.nets.unet import CompactUNet, ResidualUNet, UNetSettings


@dataclass(frozen=True)
class Kind:
    """A class of networks and the class of its settings."""

    settings: type[NetworkSettings]
    network: type[Network]


KINDS = {
    "compact": Kind(UNetSettings, CompactUNet),
    "residual": Kind(UNetSettings, ResidualUNet),
    "slant2018": Kind(Slant2018Settings, Slant2018),
}


def settings_of(kind: str, values: dict[str, Any], where: str = "network") -> NetworkSettings:
    """The settings of a kind from plain values, as a TOML table or a manifest has them.

    Parameters
    ----------
    kind : str
        Of `KINDS`.
    values : dict
    where : str
        Said in errors: the file or table the values come from.

    Raises
    ------
    SettingsError
        If there is no such kind or key (with the nearest name), or a value is missing, of another type or no number
        of channels.
    """
    return build(_kind(kind, where).settings, values, where)


def build_network(kind: str, settings: NetworkSettings) -> Network:
    """A new network with weights drawn from torch's generator.

    Raises
    ------
    SettingsError
        If there is no such kind, or the settings are another kind's.
    """
    known = _kind(kind, "network")
    if not isinstance(settings, known.settings):
        raise SettingsError(f"a {kind!r} network is made of {known.settings.__name__}, found {type(settings).__name__}")
    return known.network(settings)


def _kind(name: str, where: str) -> Kind:
    if name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SettingsError(f"{where}: unknown kind of network {name!r}{hint}; known kinds: {', '.join(KINDS)}")
    return KINDS[name]
