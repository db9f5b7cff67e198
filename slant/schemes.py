"""Region numbers of the usual sources of label maps, by which a map that does not fit is recognized."""

from __future__ import annotations

from collections.abc import Iterable

_SCHEMES: dict[str, frozenset[int]] = {
    "channel numbers of the networks, 0 to 132 (LabelProtocol.ids_from_channels takes them to ids)": frozenset(
        range(133)
    ),
    "the raw labels of MICCAI 2012 with lesions, vessels and the skull": frozenset(range(208)),
    "one tile of SLANT, where 255 is not covered": frozenset((*range(208), 255)),
    "FreeSurfer's aseg, aparc or wmparc": frozenset(
        (
            *range(86),
            *range(251, 256),
            *(i for start in (1000, 2000, 3000, 4000) for i in range(start, start + 36)),
            *range(11100, 11176),
            *range(12100, 12176),
        )
    ),
}


def nearest_scheme(ids: Iterable[int]) -> str:
    """In words, the scheme that holds most of the ids that occur in a map; of equals the narrowest.

    Parameters
    ----------
    ids : iterable of int
        All ids of the map, 0 left out of the count.
    """
    found = {int(i) for i in ids} - {0}
    return max(_SCHEMES, key=lambda name: len(found & _SCHEMES[name]))
