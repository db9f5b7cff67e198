"""Lets a visit hear what the networks saw in the other visits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slant.sparse_votes import KEPT, SparseVotes
from slant.within_subject.deformation import VisitField, displaced
from slant.within_subject.evidence import Coordinates, Evidence, Sampled, weighted_sum

WEIGHT = 0.5
"""Weight of the mean of all visits; the visit itself has the rest. docs/experiments.md says how it was chosen."""


def shared_evidence(
    index: int,
    votes: Sequence[SparseVotes],
    fields: Sequence[VisitField],
    near: NDArray[np.bool_],
    weight: float = WEIGHT,
) -> Evidence:
    """Vote fractions of a visit: its own, and the mean of those of all visits, carried through their fields.

    Parameters
    ----------
    index : int
        The visit.
    votes, fields : sequence of SparseVotes, VisitField
        Of all visits, in an order that does not depend on the order in which they are given.
    near : (X, Y, Z) bool array
        Voxels of the template grid in and near the brain; all others are background.
    weight : float
        Weight of the mean of all visits, 0 to 1.
    """
    shape = near.shape
    flat = np.flatnonzero(near)
    voxels = np.stack(np.unravel_index(flat, shape)).astype(np.float32)
    at_template = displaced(fields[index].to_template, voxels)
    parts: list[tuple[Sampled, float]] = [(_sampled(votes[index], voxels), 1 - weight)]
    if weight > 0:
        for other, (own, field) in enumerate(zip(votes, fields, strict=True)):
            coordinates = voxels if other == index else displaced(field.from_template, at_template)
            parts.append((_sampled(own, coordinates), weight / len(votes)))
    channels = np.zeros((*shape, KEPT), dtype=np.uint8)
    fractions = np.zeros((*shape, KEPT), dtype=np.float32)
    fractions[..., 0] = 1
    channels[near], fractions[near] = weighted_sum(parts)
    return Evidence(channels, fractions)


def _sampled(votes: SparseVotes, voxels: Coordinates) -> Sampled:
    """Fractions of votes at template voxels (1 mm)."""
    r = votes.voxel_mm
    return Evidence.of(votes).sampled(voxels if r == 1 else (voxels + np.float32((1 - r) / 2)) / np.float32(r))
