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
from slant.vote import Vote, VoteCounter


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
        results: dict[str, SparseVotes] = {}
        done = 0
        for assembly, predictor in zip(self.assemblies, self.predictors, strict=True):
            ready = predictor
            if assembly.earlier is not None:
                ready = replace(predictor, earlier=results[assembly.earlier])
            counter = VoteCounter(assembly.layout, assembly.resolution_mm, sparse=not sole)
            for tile, channels in tile_votes(ready, block_mean(image, assembly.resolution_mm), device, threads):
                counter.aggregate(channels, tile)
                done += 1
                advance(done / self.tile_count)
            vote = counter.finalize()
            if vote.sparse is None:
                return vote
            results[assembly.name] = vote.sparse
        voting = [results[assembly.name] for assembly in self.assemblies if assembly.vote]
        x, y, z = image.shape
        return decide(voting, (x, y, z))
