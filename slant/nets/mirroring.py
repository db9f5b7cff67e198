"""Mirror images of a scan: which tiles label them, and what a network then gets as its input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slant.nets.assembly import Mirror, own_tiles
from slant.nets.earlier import mirrored_votes
from slant.nets.prior import Prior
from slant.sparse_votes import SparseVotes
from slant.tiles import Tile, TileLayout


@dataclass(frozen=True, eq=False)
class TileInput:
    """Input of one tile: the scan or its mirror image, with the prior, displacement and earlier result of the same.

    Attributes
    ----------
    tile : Tile
        The tile whose network is used, and its box in the image.
    image : (X, Y, Z) float32 array
        Scan or mirror image, on the grid of the assembly.
    prior : Prior, optional
        Its channels are those of the scan, also for the mirror image.
    displacement : (3, X/2, Y/2, Z/2) float32 array, optional
        See `slant.nets.predict.Predictor`.
    earlier : SparseVotes, optional
        Result of the earlier assembly; for the mirror image, with left and right exchanged.
    partners : (C,) uint8 array, optional
        Given for the mirror image: channel of the left-right partner of each channel.
    """

    tile: Tile
    image: NDArray[np.float32]
    prior: Prior | None
    displacement: NDArray[np.float32] | None
    earlier: SparseVotes | None = None
    partners: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Mirroring:
    """Parameters for labelling the mirror image of a scan, with networks trained with left-right flips.

    Attributes
    ----------
    partners : (C,) uint8 array
        Channel of the left-right partner of each channel.
    mirror_x : float
        Points with template voxel coordinates x and ``mirror_x - x`` are mirrored.
    mirror : {"alternate", "shared", "both"}
        Which tiles label the mirror image, see `slant.nets.assembly.Mirror`. ``both``: every tile labels the scan and
        the mirror image, and votes for each.
    """

    partners: NDArray[np.uint8]
    mirror_x: float
    mirror: Mirror | Literal["both"] = "alternate"

    def inputs(self, own: TileInput, layout: TileLayout, resolution_mm: int) -> tuple[TileInput, ...]:
        """What is labelled for a tile: the scan, its mirror image, or both in this order.

        Parameters
        ----------
        own : TileInput
            The scan as input of the tile.
        resolution_mm : int
            Edge length of the voxels of the layout, in template voxels (1 mm).
        """
        partner = self.partner(own.tile, layout, own.prior)
        if partner is None:
            return (own,)
        mirrored = self._mirrored(own, partner, layout.shape[0] * resolution_mm)
        return (own, mirrored) if self.mirror == "both" else (mirrored,)

    def partner(self, tile: Tile, layout: TileLayout, prior: Prior | None) -> Tile | None:
        """The mirrored tile, if its network labels the mirror image for this tile; otherwise None."""
        if self.mirror == "shared":
            return None if tile in own_tiles(layout, "shared") else layout.mirror_of(tile)
        if self.mirror == "alternate" and sum(map(int, tile.name.split("_"))) % 2 == 0:
            return None
        if prior is not None and layout.shape[0] % prior.spacing:
            return None  # mirrored cells of the prior would not coincide with cells
        return layout.mirror_of(tile)

    def _mirrored(self, own: TileInput, partner: Tile, width: int) -> TileInput:
        """The mirror image as input of the mirrored tile; its displacement leads to mirrored coordinates."""
        prior, displacement, earlier = own.prior, own.displacement, own.earlier
        if prior is not None:
            prior = replace(prior, steps=prior.steps[::-1])
        if displacement is not None:
            displacement = np.ascontiguousarray(displacement[:, ::-1])
            displacement[0] = np.float32(self.mirror_x - (width - 1)) - displacement[0]
        if earlier is not None:
            earlier = mirrored_votes(earlier, self.partners)
        return TileInput(partner, own.image[::-1], prior, displacement, earlier, self.partners)
