"""A `LabelProtocol` is the one place where a network's channel becomes a region's id.

Nouns: an *id* is the number that stands in label maps and tables (0, 4, 11 ... 207); a *channel* is an output of the
network (0, 1, 2 ... 132). Channels follow ascending ids, so the lowest channel is the lowest id and a tie that goes
to the first channel goes to the lowest id. Channel 0 is the background.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from slant.errors import ProtocolError
from slant.schemes import nearest_scheme

Hemisphere = Literal["L", "R", "midline"]
Tissue = Literal["gray", "white", "csf", "background"]
Grouping = Literal["tissue", "lobe", "hemisphere"]
Ids = NDArray[np.int16]
Channels = NDArray[np.uint8]

_UNKNOWN = 255  # channel that no region may have: marks ids outside the protocol while they are looked up
_SIDES = {"L": "Left ", "R": "Right "}


@dataclass(frozen=True)
class Region:
    """One region of a protocol.

    Parameters
    ----------
    id : int
        Number in label maps, 0 to 32767; 0 is the background.
    name : str
        Human-readable, unique. A lateral region's name begins with ``Left`` or ``Right``, and the rest of it is
        shared with its partner.
    abbreviation : str
        Short and unique, such as ``L-FuG``.
    hemisphere : {"L", "R", "midline"}
        ``L`` and ``R`` as in BIDS; ``midline`` for what has no partner, the background too.
    tissue : {"gray", "white", "csf", "background"}
    lobe : str
        Group of regions for summed volumes, such as ``frontal``; the atlas says where the grouping comes from.
    color : tuple of 3 int
        Red, green, blue from 0 to 255.

    Raises
    ------
    ProtocolError
        If a field is outside the values above or the name does not fit the hemisphere.
    """

    id: int
    name: str
    abbreviation: str
    hemisphere: Hemisphere
    tissue: Tissue
    lobe: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        where = f"region {self.id} '{self.name}'"
        if not 0 <= self.id <= np.iinfo(np.int16).max:
            raise ProtocolError(f"{where}: an id must lie in 0 to {np.iinfo(np.int16).max}")
        if self.hemisphere not in get_args(Hemisphere):
            raise ProtocolError(f"{where}: hemisphere is '{self.hemisphere}', wanted one of {get_args(Hemisphere)}")
        if self.tissue not in get_args(Tissue):
            raise ProtocolError(f"{where}: tissue is '{self.tissue}', wanted one of {get_args(Tissue)}")
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise ProtocolError(f"{where}: color is {self.color}, wanted three numbers from 0 to 255")
        if not self.name.startswith(_SIDES.get(self.hemisphere, "")):
            raise ProtocolError(f"{where}: in hemisphere {self.hemisphere} a name begins with Left or Right to match")

    @property
    def partner_name(self) -> str:
        """Name of the same region in the other hemisphere; the own name on the midline."""
        if self.hemisphere == "midline":
            return self.name
        other = "R" if self.hemisphere == "L" else "L"
        return _SIDES[other] + self.name.removeprefix(_SIDES[self.hemisphere])


@dataclass(frozen=True)
class LabelProtocol:
    """The regions a network knows, in the order of its channels.

    Parameters
    ----------
    name : str
    regions : tuple of Region
        Ascending ids, background (id 0) first, at most 255; every lateral region with its partner.

    Raises
    ------
    ProtocolError
        If ids, names or abbreviations are doubled, out of order, without background, or a partner is missing.
    """

    name: str
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        ids = [r.id for r in self.regions]
        _refuse_doubles("id", ids)
        _refuse_doubles("name", [r.name for r in self.regions])
        _refuse_doubles("abbreviation", [r.abbreviation for r in self.regions])
        if not ids or ids[0] != 0 or ids != sorted(ids):
            raise ProtocolError(f"protocol '{self.name}' needs ascending ids that begin with 0, found {ids[:5]} ...")
        if len(ids) > _UNKNOWN:
            raise ProtocolError(f"protocol '{self.name}' has {len(ids)} regions; {_UNKNOWN} fit in uint8 channels")
        for region in self.regions:
            if region.partner_name not in self._channel_of_name:
                raise ProtocolError(
                    f"protocol '{self.name}': region {region.id} '{region.name}' has no partner "
                    f"'{region.partner_name}'; give both sides or hemisphere 'midline'"
                )

    def __len__(self) -> int:
        """Number of channels, background included."""
        return len(self.regions)

    @cached_property
    def ids(self) -> Ids:
        """(len,) int16, read-only: the id of every channel, ascending."""
        ids = np.array([r.id for r in self.regions], dtype=np.int16)
        ids.flags.writeable = False
        return ids

    @cached_property
    def mirrored_channels(self) -> Channels:
        """(len,) uint8, read-only: the channel of every channel's left-right partner, itself on the midline.

        Partners are found by name, since no rule of ids holds: in the cortex even is right, below it odd is mostly
        right, and of the basal forebrain 75 is left.
        """
        partners = np.array([self._channel_of_name[r.partner_name] for r in self.regions], dtype=np.uint8)
        partners.flags.writeable = False
        return partners

    def channels_from_ids(
        self, ids: NDArray[np.integer], *, unknown: Literal["error", "background"] = "error"
    ) -> Channels:
        """Replace every id by its channel.

        Parameters
        ----------
        ids : array of any shape and integer type
        unknown : {"error", "background"}, optional
            What to do with ids outside the protocol. ``"background"`` gives them channel 0, as the MICCAI 2012
            training maps need, which also hold lesions, vessels, a vitamin capsule and the skull.

        Returns
        -------
        uint8 array of the same shape

        Raises
        ------
        ProtocolError
            If the array holds no whole numbers, or an id is unknown and ``unknown`` is ``"error"``.
        """
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ProtocolError(f"ids must be whole numbers, found an array of {ids.dtype}")
        highest = int(self.ids[-1])
        table = np.full(highest + 2, _UNKNOWN, dtype=np.uint8)
        table[self.ids] = np.arange(len(self), dtype=np.uint8)
        outside = (ids < 0) | (ids > highest)
        channels: Channels = table[np.where(outside, highest + 1, ids.astype(np.intp))]
        strange = channels == _UNKNOWN
        if unknown == "error" and strange.any():
            raise ProtocolError(
                f"{np.count_nonzero(strange)} voxels have ids outside protocol '{self.name}': "
                f"{_listed(ids[strange])}; the ids resemble {nearest_scheme(np.unique(ids).tolist())}; map them to the "
                "background if that is what they are"
            )
        channels[strange] = 0
        return channels

    def ids_from_channels(self, channels: NDArray[np.integer]) -> Ids:
        """Replace every channel by its id.

        Parameters
        ----------
        channels : array of any shape and integer type
            Values from 0 to ``len - 1``.

        Returns
        -------
        int16 array of the same shape

        Raises
        ------
        ProtocolError
            If a value is not a channel of this protocol.
        """
        channels = np.asarray(channels)
        if not np.issubdtype(channels.dtype, np.integer):
            raise ProtocolError(f"channels must be whole numbers, found an array of {channels.dtype}")
        strange = (channels < 0) | (channels >= len(self))
        if strange.any():
            raise ProtocolError(
                f"protocol '{self.name}' has channels 0 to {len(self) - 1}, found {_listed(channels[strange])}"
            )
        return np.asarray(self.ids[channels])

    def by_id(self, region_id: int) -> Region:
        """The region with this id; ProtocolError names the nearest ids if there is none."""
        if region_id in self._channel_of_id:
            return self.regions[self._channel_of_id[region_id]]
        nearest = sorted(self._channel_of_id, key=lambda known: abs(known - region_id))[:2]
        raise ProtocolError(f"protocol '{self.name}' has no id {region_id}; the nearest are {sorted(nearest)}")

    def by_name(self, name: str) -> Region:
        """The region with exactly this name; ProtocolError gives the nearest name if there is none."""
        if name in self._channel_of_name:
            return self.regions[self._channel_of_name[name]]
        nearest = get_close_matches(name, self._channel_of_name, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise ProtocolError(f"protocol '{self.name}' has no region '{name}'{hint}")

    def groups(self, by: Grouping) -> dict[str, tuple[int, ...]]:
        """Ids of every tissue, lobe or hemisphere, in order of their first id; the background is in none."""
        members: dict[str, list[int]] = {}
        for region in self.regions[1:]:
            members.setdefault(str(getattr(region, by)), []).append(region.id)
        return {group: tuple(ids) for group, ids in members.items()}

    @cached_property
    def _channel_of_id(self) -> dict[int, int]:
        return {r.id: channel for channel, r in enumerate(self.regions)}

    @cached_property
    def _channel_of_name(self) -> dict[str, int]:
        return {r.name: channel for channel, r in enumerate(self.regions)}


def _refuse_doubles(what: str, values: list[int] | list[str]) -> None:
    doubled = sorted({str(v) for v in values if values.count(v) > 1})  # type: ignore[arg-type]
    if doubled:
        raise ProtocolError(f"every {what} of a protocol must be unique, found several times: {', '.join(doubled)}")


def _listed(values: NDArray[np.integer], most: int = 20) -> str:
    distinct = np.unique(values).tolist()
    shown = ", ".join(str(v) for v in distinct[:most])
    return shown if len(distinct) <= most else f"{shown} and {len(distinct) - most} more"
