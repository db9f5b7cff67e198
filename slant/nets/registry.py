"""Registry of the kinds of networks by name, each with its settings class."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from slant.config import build
from slant.errors import SettingsError
from slant.nets.adapted import AdaptedSettings, AdaptedUNet
from slant.nets.anisotropic import AnisotropicSettings, AnisotropicUNet
from slant.nets.fusion import FusionNet, FusionSettings
from slant.nets.network import Network, NetworkSettings
from slant.nets.orthogonal import OrthogonalSettings, OrthogonalUNet
from slant.nets.planes import SlicewiseSettings, SlicewiseUNet
from slant.nets.slant2018 import Slant2018, Slant2018Settings
from slant.nets.unet import CompactUNet, ResidualSettings, ResidualUNet
from slant.nets.voxel_head import UNetSettings


@dataclass(frozen=True)
class Kind:
    """A network class and its settings class."""

    settings: type[NetworkSettings]
    network: type[Network]


KINDS = {
    "compact": Kind(UNetSettings, CompactUNet),
    "residual": Kind(ResidualSettings, ResidualUNet),
    "slant2018": Kind(Slant2018Settings, Slant2018),
    "slicewise": Kind(SlicewiseSettings, SlicewiseUNet),
    "anisotropic": Kind(AnisotropicSettings, AnisotropicUNet),
    "orthogonal": Kind(OrthogonalSettings, OrthogonalUNet),
    "adapted": Kind(AdaptedSettings, AdaptedUNet),
    "fusion": Kind(FusionSettings, FusionNet),
}


def settings_of(kind: str, values: dict[str, Any], source: str = "network") -> NetworkSettings:
    """Build the settings of a kind of network from plain values, for example from a TOML table or a manifest.

    Parameters
    ----------
    kind : str
        Key of `KINDS`.
    values : dict
        Values by field name.
    source : str
        File or table that the values come from, for error messages.

    Raises
    ------
    SettingsError
        If the kind or a key is unknown (the message suggests the nearest name), or if a value is missing, has the wrong
        type or is out of range.
    """
    return build(_kind(kind, source).settings, values, source)


def build_network(kind: str, settings: NetworkSettings) -> Network:
    """Build a network with random initial weights from the generator of torch.

    Raises
    ------
    SettingsError
        If the kind is unknown, or the settings belong to another kind.
    """
    known = _kind(kind, "network")
    if not isinstance(settings, known.settings):
        raise SettingsError(f"a {kind!r} network needs {known.settings.__name__}, found {type(settings).__name__}")
    return known.network(settings)


def _kind(name: str, source: str) -> Kind:
    if name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SettingsError(f"{source}: unknown kind of network {name!r}{hint}; known kinds: {', '.join(KINDS)}")
    return KINDS[name]
