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
from slant.vote import VoteCounter, most_ballots


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
    ) -> SparseVotes:
        """Label a scan: the votes of all assemblies that vote at each voxel of the template grid.

        Each tile has `ballots` ballots and divides them between the two most likely channels in proportion to their
        probabilities, so that the fractions follow the mean probability over the tiles.

        Parameters
        ----------
        image : (X, Y, Z) float32 array
            Scan in template space, in network units.
        threads : int
            Number of tiles computed in parallel on a CPU; it does not change the result.
        advance : callable
            Told of the fraction of the tiles that have voted.
        """
        votes = self._votes(image, device, threads, advance)
        voting = [votes[assembly.name] for assembly in self.assemblies if assembly.vote]
        if len(voting) == 1 and voting[0].voxel_mm == 1:
            return voting[0]
        x, y, z = image.shape
        return decide(voting, (x, y, z))

    def last_votes(
        self,
        image: NDArray[np.float32],
        device: torch.device,
        threads: int,
        advance: Callable[[float], None] = lambda _: None,
    ) -> SparseVotes:
        """The votes of the last assembly that votes, on its grid; arguments as for `vote`."""
        last = [assembly for assembly in self.assemblies if assembly.vote][-1]
        return self._votes(image, device, threads, advance)[last.name]

    def _votes(
        self, image: NDArray[np.float32], device: torch.device, threads: int, advance: Callable[[float], None]
    ) -> dict[str, SparseVotes]:
        """The votes of each assembly by its name."""
        votes: dict[str, SparseVotes] = {}
        done, common = 0, self.ballots
        for assembly, predictor in zip(self.assemblies, self.predictors, strict=True):
            earlier = None if assembly.earlier is None else votes[assembly.earlier]
            ready = replace(predictor, earlier=earlier, ballots=common)
            counter = VoteCounter(assembly.layout, assembly.resolution_mm, ballots=common, views=predictor.views)
            for tile, channels in tile_votes(ready, block_mean(image, assembly.resolution_mm), device, threads):
                counter.aggregate(channels, tile)
                done += 1
                advance(done / self.tile_count)
            votes[assembly.name] = counter.finalize()
        return votes

    @property
    def ballots(self) -> int:
        """Number of ballots of a view of a tile: the same in all assemblies, so that each has the weight of its tiles.

        As many as can be counted where most tiles overlap, or one if the networks of an assembly are not
        `slant.nets.network.Network.probabilistic`.
        """
        if not all(assembly.probabilistic for assembly in self.assemblies):
            return 1
        pairs = zip(self.assemblies, self.predictors, strict=True)
        return min(most_ballots(assembly.layout, predictor.views) for assembly, predictor in pairs)
