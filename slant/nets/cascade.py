"""Runs the assemblies of a model in order; the majority of their votes decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from slant.decision import decide
from slant.nets.assembly import Assembly
from slant.nets.earlier import block_mean
from slant.nets.predict import Predictor, tile_votes
from slant.sparse_votes import SparseVotes
from slant.vote import Vote, VoteCounter, most_voters

BALLOTS = 32
"""Number of ballots for a voxel where most tiles overlap, see `Cascade.sparse_votes`.

With 27 tiles that overlap, as in `slant27`, each tile has one ballot, or one each for the scan and its mirror image:
many tiles vote for a voxel.
"""


@dataclass(frozen=True, eq=False)
class Cascade:
    """The assemblies of a model, ready to label one scan.

    Attributes
    ----------
    assemblies : tuple of Assembly
        In the order in which they run.
    predictors : tuple of Predictor
        One for each assembly, still without the result of its earlier assembly.
    """

    assemblies: tuple[Assembly, ...]
    predictors: tuple[Predictor, ...]

    @property
    def tile_count(self) -> int:
        """Number of the tiles of all assemblies."""
        return sum(len(assembly.layout) for assembly in self.assemblies)

    def vote(
        self,
        image: NDArray[np.float32],
        device: torch.device,
        threads: int,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Vote:
        """Label a scan: the majority of the votes of all assemblies at each voxel, on the template grid.

        A tile has one ballot. If the tiles label both the scan and its mirror image, each has about `BALLOTS` / (number
        of tiles that vote for a voxel) ballots, at least two, because two votes that differ would be a tie.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            Scan in template space, in network units.
        threads : int
            Number of tiles computed in parallel on a CPU; it does not change the result.
        advance : callable
            Told of the fraction of the tiles that have voted.
        """
        sole = len(self.assemblies) == 1 and self.assemblies[0].resolution_mm == 1
        votes = self._votes(image, device, threads, advance, sparse=not sole)
        if sole:
            return votes[self.assemblies[0].name]
        voting = [votes[assembly.name].sparse for assembly in self.assemblies if assembly.vote]
        x, y, z = image.shape
        return decide([sparse for sparse in voting if sparse is not None], (x, y, z))

    def sparse_votes(
        self,
        image: NDArray[np.float32],
        device: torch.device,
        threads: int,
        advance: Callable[[float], None] = lambda _: None,
    ) -> SparseVotes:
        """The votes of the last assembly that votes, on its grid; arguments as for `vote`.

        A tile has about `BALLOTS` / (number of tiles that vote for a voxel) ballots, half of them for the mirror image
        if it labels both. It divides them between the two most likely channels, so that the fractions follow the
        probabilities of the networks.
        """
        last = [assembly for assembly in self.assemblies if assembly.vote][-1]
        sparse = self._votes(image, device, threads, advance, sparse=True, divided=last.name)[last.name].sparse
        if sparse is None:
            raise AssertionError("the counter keeps sparse votes")
        return sparse

    def _votes(
        self,
        image: NDArray[np.float32],
        device: torch.device,
        threads: int,
        advance: Callable[[float], None],
        *,
        sparse: bool,
        divided: str | None = None,
    ) -> dict[str, Vote]:
        """The vote of each assembly by its name; the tiles of the assembly ``divided`` have several ballots."""
        votes: dict[str, Vote] = {}
        done, common = 0, self._common_ballots()
        for assembly, predictor in zip(self.assemblies, self.predictors, strict=True):
            ballots = _ballots(most_voters(assembly.layout), predictor.views) if assembly.name == divided else common
            earlier = None if assembly.earlier is None else votes[assembly.earlier].sparse
            ready = replace(predictor, earlier=earlier, ballots=ballots)
            cast = ballots * predictor.views
            counter = VoteCounter(assembly.layout, assembly.resolution_mm, sparse=sparse, ballots=cast)
            for tile, channels in tile_votes(ready, block_mean(image, assembly.resolution_mm), device, threads):
                counter.aggregate(channels, tile)
                done += 1
                advance(done / self.tile_count)
            votes[assembly.name] = counter.finalize()
        return votes

    def _common_ballots(self) -> int:
        """Number of ballots of a view of a tile, the same in all assemblies, so that these keep their weights."""
        views = max(predictor.views for predictor in self.predictors)
        return 1 if views == 1 else _ballots(max(most_voters(assembly.layout) for assembly in self.assemblies), views)


def _ballots(voters: int, views: int) -> int:
    """Number of ballots of a view of a tile, where at most this number of tiles vote for a voxel."""
    return max(1, BALLOTS // (voters * views))
