"""A `LabelProtocol` maps the output channels of a network to region ids and back.

Terms: an *id* is the number of a region in label maps and tables (0, 4, 11 ... 207); a *channel* is an output of the
network (0, 1, 2 ... 132). Channels follow ascending ids: the lowest channel has the lowest id, and a tie that goes to
the lowest channel goes to the lowest id. Channel 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from slant.errors import ProtocolError

Hemisphere = Literal["L", "R", "midline"]
Tissue = Literal["gray", "white", "csf", "background"]
Grouping = Literal["tissue", "lobe", "hemisphere"]
Ids = NDArray[np.int16]
Channels = NDArray[np.uint8]

_UNKNOWN = 255  # reserved channel that marks ids outside the protocol during the lookup
_SIDES = {"L": "Left ", "R": "Right "}
_MAX_LISTED = 20  # ids in an error message
_FREESURFER = (
    *(range(86), range(251, 256)),
    *(range(start, start + 36) for start in (1000, 2000, 3000, 4000)),
    *(range(start, start + 76) for start in (11100, 12100)),
)
_SCHEMES: dict[str, frozenset[int]] = {
    "channel numbers of the networks, 0 to 132 (LabelProtocol.ids_from_channels converts them to ids)": frozenset(
        range(133)
    ),
    "the raw labels of MICCAI 2012 with lesions, vessels and the skull": frozenset(range(208)),
    "one tile of SLANT, where 255 is not covered": frozenset((*range(208), 255)),
    "FreeSurfer's aseg, aparc or wmparc": frozenset(chain(*_FREESURFER)),
}


@dataclass(frozen=True)
class Region:
    """One region of a protocol.

    Parameters
    ----------
    id : int
        Number in label maps, 0 to 32767; 0 is the background.
    name : str
        Unique name for display. The name of a lateral region begins with ``Left`` or ``Right``; the rest is the same
        as in the name of its partner in the other hemisphere.
    abbreviation : str
        Short unique name, for example ``L-FuG``.
    hemisphere : {"L", "R", "midline"}
        ``L`` and ``R`` as in BIDS; ``midline`` for regions without a partner, including the background.
    tissue : {"gray", "white", "csf", "background"}
    lobe : str
        Group of regions for summed volumes, for example ``frontal``; the atlas file gives the source of the grouping.
    color : tuple of 3 int
        Red, green and blue, 0 to 255.

    Raises
    ------
    ProtocolError
        If a field has an invalid value or the name does not fit the hemisphere.
    """

    id: int
    name: str
    abbreviation: str
    hemisphere: Hemisphere
    tissue: Tissue
    lobe: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        region = f"region {self.id} '{self.name}'"
        if not 0 <= self.id <= np.iinfo(np.int16).max:
            raise ProtocolError(f"{region}: an id must be 0 to {np.iinfo(np.int16).max}")
        if self.hemisphere not in get_args(Hemisphere):
            raise ProtocolError(f"{region}: hemisphere is '{self.hemisphere}', expected one of {get_args(Hemisphere)}")
        if self.tissue not in get_args(Tissue):
            raise ProtocolError(f"{region}: tissue is '{self.tissue}', expected one of {get_args(Tissue)}")
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise ProtocolError(f"{region}: color is {self.color}, expected three numbers from 0 to 255")
        if not self.name.startswith(_SIDES.get(self.hemisphere, "")):
            side = _SIDES[self.hemisphere].strip()
            raise ProtocolError(f"{region}: hemisphere is '{self.hemisphere}', so the name must begin with '{side}'")

    @property
    def partner_name(self) -> str:
        """Name of the same region in the other hemisphere; the region's own name on the midline."""
        if self.hemisphere == "midline":
            return self.name
        other = "R" if self.hemisphere == "L" else "L"
        return _SIDES[other] + self.name.removeprefix(_SIDES[self.hemisphere])


@dataclass(frozen=True)
class LabelProtocol:
    """The regions that a network labels, in the order of its channels.

    Parameters
    ----------
    regions : tuple of Region
        At most 255 regions with ascending ids, background (id 0) first; every lateral region with its partner.

    Raises
    ------
    ProtocolError
        If ids, names or abbreviations are not unique, ids are out of order, or the background or a partner is missing.
    """

    name: str
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        ids = [r.id for r in self.regions]
        _check_unique("id", ids)
        _check_unique("name", [r.name for r in self.regions])
        _check_unique("abbreviation", [r.abbreviation for r in self.regions])
        if not ids or ids[0] != 0 or ids != sorted(ids):
            raise ProtocolError(f"protocol '{self.name}' needs ascending ids that begin with 0, found {ids[:5]} ...")
        if len(ids) > _UNKNOWN:
            raise ProtocolError(f"protocol '{self.name}' has {len(ids)} regions, expected at most {_UNKNOWN}")
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
        """Id of every channel: (len,) int16, ascending, read-only."""
        ids = np.array([r.id for r in self.regions], dtype=np.int16)
        ids.flags.writeable = False
        return ids

    @cached_property
    def mirrored_channels(self) -> Channels:
        """Channel of the left-right partner of every channel, itself on the midline: (len,) uint8, read-only.

        Partners are found by name, because ids follow no rule: in the cortex even ids are right, in subcortical regions
        odd ids are mostly right, and of the basal forebrain 75 is left.
        """
        partners = np.array([self._channel_of_name[r.partner_name] for r in self.regions], dtype=np.uint8)
        partners.flags.writeable = False
        return partners

    def channels_from_ids(
        self, ids: NDArray[np.integer], *, unknown: Literal["error", "background"] = "error"
    ) -> Channels:
        """Replace every id of an integer array by its channel, uint8.

        Parameters
        ----------
        unknown : {"error", "background"}, optional
            How to treat ids outside the protocol. ``"background"`` gives them channel 0; the MICCAI 2012 training
            maps need this, because they also contain lesions, vessels, a vitamin capsule and the skull.

        Raises
        ------
        ProtocolError
            If the array does not hold integers, or an id is unknown and ``unknown`` is ``"error"``.
        """
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ProtocolError(f"ids must be integers, found an array of {ids.dtype}")
        highest = int(self.ids[-1])
        table = np.full(highest + 2, _UNKNOWN, dtype=np.uint8)
        table[self.ids] = np.arange(len(self), dtype=np.uint8)
        outside = (ids < 0) | (ids > highest)
        channels: Channels = table[np.where(outside, highest + 1, ids.astype(np.intp))]
        is_unknown = channels == _UNKNOWN
        if unknown == "error" and is_unknown.any():
            raise ProtocolError(
                f"{np.count_nonzero(is_unknown)} voxels have ids outside protocol '{self.name}': "
                f"{_listed(ids[is_unknown])}; the ids resemble {guess_scheme(np.unique(ids).tolist())}; convert the "
                "map to the protocol, or map unknown ids to the background"
            )
        channels[is_unknown] = 0
        return channels

    def ids_from_channels(self, channels: NDArray[np.integer]) -> Ids:
        """Replace every channel (0 to ``len - 1``) of an integer array by its id, int16.

        Raises
        ------
        ProtocolError
            If a value is not a channel of this protocol.
        """
        channels = np.asarray(channels)
        if not np.issubdtype(channels.dtype, np.integer):
            raise ProtocolError(f"channels must be integers, found an array of {channels.dtype}")
        is_invalid = (channels < 0) | (channels >= len(self))
        if is_invalid.any():
            raise ProtocolError(
                f"protocol '{self.name}' has channels 0 to {len(self) - 1}, found {_listed(channels[is_invalid])}"
            )
        return np.asarray(self.ids[channels])

    def by_id(self, region_id: int) -> Region:
        """The region with this id; if there is none, a ProtocolError names the nearest ids."""
        if region_id in self._channel_of_id:
            return self.regions[self._channel_of_id[region_id]]
        nearest = sorted(self._channel_of_id, key=lambda known: abs(known - region_id))[:2]
        raise ProtocolError(f"protocol '{self.name}' has no id {region_id}; the nearest are {sorted(nearest)}")

    def by_name(self, name: str) -> Region:
        """The region with exactly this name; if there is none, a ProtocolError suggests the nearest name."""
        if name in self._channel_of_name:
            return self.regions[self._channel_of_name[name]]
        nearest = get_close_matches(name, self._channel_of_name, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise ProtocolError(f"protocol '{self.name}' has no region '{name}'{hint}")

    def groups(self, by: Grouping) -> dict[str, tuple[int, ...]]:
        """Region ids of every tissue, lobe or hemisphere, in order of the first id, without the background."""
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


def _check_unique(field: str, values: list[int] | list[str]) -> None:
    repeated = sorted({str(v) for v in values if values.count(v) > 1})  # type: ignore[arg-type]
    if repeated:
        raise ProtocolError(f"every {field} of a protocol must be unique, found several times: {', '.join(repeated)}")


def _listed(values: NDArray[np.integer]) -> str:
    distinct = np.unique(values).tolist()
    shown = ", ".join(str(v) for v in distinct[:_MAX_LISTED])
    return shown if len(distinct) <= _MAX_LISTED else f"{shown} and {len(distinct) - _MAX_LISTED} more"


def guess_scheme(ids: Iterable[int]) -> str:
    """Description of the label scheme that contains most ids of a map; of equally good schemes, the smallest."""
    present = {int(i) for i in ids} - {0}
    return max(_SCHEMES, key=lambda name: len(present & _SCHEMES[name]))
