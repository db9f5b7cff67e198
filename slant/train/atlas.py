"""The prior of one training step: affine, or deformed to the scan as the step's augmentation has changed it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slant.nets.groupwise import SPACING, corners, displacement_at, votes_at
from slant.nets.prior import FLOOR, interpolation_matrix
from slant.nets.unet import coordinate_channels, place_channels
from slant.train import augment, boxes
from slant.train.data import own_frequency, total_frequency
from slant.train.loss import IGNORED

if TYPE_CHECKING:
    from slant.nets.prior import Prior
    from slant.train.data import Groupwise, LabelledScan
    from slant.train.step import Field, Lesson

ERROR_SPACING = 20
"""Voxels between the control points of the error that training adds to the place of the prior."""

EDGE_CELLS = boxes.EDGE // SPACING + 2
"""Cells along an edge of what a box of 8 mm is interpolated from."""


@dataclass(frozen=True, eq=False)
class StepPrior:
    """The prior of a scan as one step sees it.

    Attributes
    ----------
    place : (1, 3, X/2, Y/2, Z/2) float32 tensor
        Coordinate channels of the network: of the groupwise template where the prior is deformed.
    cells : (X/2, Y/2, Z/2, 3) float32 tensor, optional
        Where the cells of the crop lie in the groupwise template, in template voxels; None for the affine prior.
    """

    place: Tensor
    cells: Tensor | None = None


class Atlas:
    """What all training scans say about where the regions are.

    Parameters
    ----------
    scans : list of LabelledScan
        All that are trained on.
    groupwise : Groupwise, optional
    prior : Prior, optional
        Of another model, instead of the affine one of the scans.
    device : torch.device
        Where frequencies and votes are kept.
    """

    def __init__(
        self, scans: list[LabelledScan], groupwise: Groupwise | None, prior: Prior | None, device: torch.device
    ) -> None:
        self._scans, self._given, self.device = scans, prior, device
        self._frequency = total_frequency(scans, prior).to(device)
        self._groupwise = None if groupwise is None else replace(groupwise, votes=groupwise.votes.to(device))

    def of_step(
        self, scan: LabelledScan, places: Tensor, seen: Field, flip: bool, generator: torch.Generator
    ) -> StepPrior:
        """The prior that follows the places of a step, with an error, or now and then the affine one.

        Parameters
        ----------
        scan : LabelledScan
        places : (X, Y, Z, 3) float32 tensor
            Template voxels from where each voxel of the crop takes its value.
        seen : Field
        flip : bool
            Whether left and right are exchanged.
        generator : torch.Generator
        """
        if self._groupwise is None or augment.chance(generator) < self._groupwise.settings.affine:
            return StepPrior(place_channels(seen.template_shape, seen.start, seen.shape).to(self.device))
        x, y, z, _ = places.shape
        coarse = places.reshape(x // 2, 2, y // 2, 2, z // 2, 2, 3).mean(dim=(1, 3, 5))
        cells = coarse + displacement_at(self._groupwise.displacements[scan.name], coarse)
        strength = self._groupwise.settings.error_mm * augment.chance(generator)
        error = augment.smooth_field((x // 2, y // 2, z // 2), ERROR_SPACING / 2, 3, generator) * strength
        cells = cells + error.permute(1, 2, 3, 0)
        shown = augment.flip_places(cells, seen.mirror_x) if flip else cells
        return StepPrior(coordinate_channels(shown, seen.template_shape).to(self.device), cells.to(self.device))

    def logits(self, step: StepPrior, scan: LabelledScan, drawn: boxes.Boxes, lesson: Lesson, flip: bool) -> Tensor:
        """(B * 512, C) log-frequencies at the voxels of boxes, without the scan's own labels."""
        if step.cells is None or self._groupwise is None:
            own = own_frequency(scan, self._scans, self._given)
            return boxes.prior_logits(self._frequency, own, drawn, FLOOR).to(self.device)
        x, y, z, _ = step.cells.shape
        rows = boxes.rows(drawn.starts // SPACING - 1, EDGE_CELLS, (x, y, z)).to(self.device)
        places = (step.cells.reshape(-1, 3).index_select(0, rows) - (SPACING - 1) / 2) / SPACING
        share = self._votes_without(self._groupwise, scan, places)
        if flip:
            share = share[:, lesson.regions.mirrored.long().to(self.device)]
        share = share / share.sum(dim=1, keepdim=True).clamp(min=FLOOR)
        logs = torch.log(share.clamp(min=FLOOR)).reshape(-1, EDGE_CELLS, EDGE_CELLS, EDGE_CELLS, share.shape[1])
        weights = interpolation_matrix(SPACING, boxes.EDGE, EDGE_CELLS, SPACING).to(logs)
        return boxes.interpolated(logs, (weights, weights, weights))

    def _votes_without(self, groupwise: Groupwise, scan: LabelledScan, places: Tensor) -> Tensor:
        """(N, C) votes at places in cells, less those of the scan's own subject."""
        share = votes_at(groupwise.votes, places)
        own = groupwise.own[scan.name]
        if not own:
            return share
        x, y, z, channels = groupwise.votes.shape
        index, weight = corners(places, (x, y, z))
        padded = torch.cat([share, share.new_zeros(len(share), 1)], dim=1)
        for labels in own:
            table = labels.to(self.device).reshape(-1, SPACING**3)
            for corner in range(index.shape[1]):
                found = table.index_select(0, index[:, corner]).long()
                found = torch.where(found == IGNORED, channels, found)
                padded.scatter_add_(1, found, -weight[:, corner, None].expand(-1, found.shape[1]))
        return padded[:, :channels].clamp(min=0)
