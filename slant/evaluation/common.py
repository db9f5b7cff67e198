"""Merge labels of FreeSurfer and of BrainCOLOR to the structures that both protocols have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from slant.errors import ProtocolError
from slant.io.resources import read_protocol, resource
from slant.labels import LabelProtocol
from slant.volume import LabelMap

Source = Literal["freesurfer", "braincolor"]

_ONLY_FREESURFER = frozenset((2, 3, 42))
"""Ids of cerebral white matter and cortex that every aseg has and BrainCOLOR does not; aparc+aseg has 2 and 1000s."""


@dataclass(frozen=True, eq=False)
class CommonStructures:
    """Structures that FreeSurfer and BrainCOLOR have in common, from ``atlases/freesurfer/structures.tsv``.

    Attributes
    ----------
    protocol : LabelProtocol
        Label protocol of the structures.
    structure_ids : dict of str to dict of int to int
        For each source, the id of the structure that each id of the source belongs to.
    """

    protocol: LabelProtocol
    structure_ids: dict[Source, dict[int, int]]

    def structures(self, labels: LabelMap, source: Source) -> tuple[LabelMap, tuple[int, ...]]:
        """Label map of the structures, and the ids of the map that belong to none.

        Raises
        ------
        ProtocolError
            If no id of the map belongs to a structure.
        """
        known = self.structure_ids[source]
        ids, inverse = np.unique(labels.data, return_inverse=True)
        table = np.array([known.get(int(i), 0) for i in ids], dtype=np.uint8)
        if not table.any():
            raise ProtocolError(
                f"found the ids {', '.join(map(str, ids[:8]))} ..., expected ids of {source} that belong to a common "
                "structure"
            )
        others = tuple(int(i) for i in ids if i != 0 and int(i) not in known)
        return LabelMap(table[inverse].reshape(labels.data.shape), labels.grid), others


def is_freesurfer(ids: Iterable[int]) -> bool:
    """Whether a map with these ids is an aseg, aparc+aseg or wmparc."""
    found = set(ids)
    return len(found & _ONLY_FREESURFER) > 1 or any(i in found for i in range(1000, 5003))


@cache
def load_common() -> CommonStructures:
    """Load the table that ships with the package."""
    import csv

    path = resource("atlases", "freesurfer", "structures.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    sources: tuple[Source, ...] = ("freesurfer", "braincolor")
    structure_ids = {source: {i: int(row["id"]) for row in rows for i in _numbers(row[source])} for source in sources}
    return CommonStructures(read_protocol(path, "structures common to FreeSurfer and BrainCOLOR"), structure_ids)


def _numbers(text: str) -> list[int]:
    """Integers and ranges of integers, separated by spaces."""
    numbers: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
