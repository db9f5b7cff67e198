"""Scans as augmented in a training step, and their atlas prior: affine, or deformed to the augmented scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from slant.grid import Shape
from slant.nets.groupwise import SPACING, corners, displacement_at, votes_at
from slant.nets.prior import FLOOR
from slant.nets.unet import box_coordinate_channels, coordinate_channels
from slant.train import augment, draws, patches
from slant.train.context import StageContext
from slant.train.data import Groupwise, LabelledScan, TrainingScans, own_frequency, total_frequency
from slant.train.loss import IGNORED

ERROR_SPACING = 20
"""Voxels between the control points of the random error that training adds to the coordinates of the prior."""


@dataclass(frozen=True, eq=False)
class StepPrior:
    """The prior of a scan in one training step.

    Attributes
    ----------
    coordinates : (1, 3, A, B, C) float32 tensor
        Coordinate channels at the features of the network; those of the groupwise template if the prior is deformed.
    cells : (X/2, Y/2, Z/2, 3) float32 tensor, optional
        Coordinates of the cells of the crop in the groupwise template, in template voxels; None for the affine prior.
    """

    coordinates: Tensor
    cells: Tensor | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A scan after the augmentation of one step.

    Attributes
    ----------
    image : (X, Y, Z) float32 tensor
        Image after deformation and intensity changes, on the grid of the assembly.
    coordinates : (X, Y, Z, 3) float32 tensor
        Template voxel at which each voxel is sampled.
    earlier : tuple of tensors, optional
        Channels (A, B, C, K) and vote fractions (A, B, C, K) of the earlier assembly at the features of the network.
    """

    scan: LabelledScan
    image: Tensor
    coordinates: Tensor
    flip: bool
    prior: StepPrior
    earlier: tuple[Tensor, Tensor] | None = None

    def labels(self, voxels: Tensor, mirrored: Tensor) -> Tensor:
        """(N,) int64 reference channels at (..., 3) voxels of the crop."""
        coordinates = self.coordinates[voxels[..., 0], voxels[..., 1], voxels[..., 2]]
        reference = augment.pick_labels(self.scan.channels, coordinates).flatten()
        return (augment.flip_labels(reference, mirrored) if self.flip else reference).long()

    def draw_patches(self, context: StageContext, halo: int, generator: torch.Generator) -> patches.Patches:
        """Random patches of the view, at least ``halo`` voxels inside the field of view."""
        r = context.run.assembly.resolution_mm
        start = context.seen.start
        candidates = patches.candidate_starts(self.image.shape, halo, self.image.device)
        centers = candidates + patches.EDGE // 2
        x, y, z = centers[..., 0], centers[..., 1], centers[..., 2]
        near = self.scan.channels if self.scan.near is None else self.scan.near
        center_labels = augment.pick_labels(near, self.coordinates[x, y, z])
        count, balanced = context.stage.patches, context.stage.class_balanced_fraction
        in_brain = self.image[x, y, z] > 0
        starts = patches.draw_patches(candidates, center_labels, in_brain, count, balanced, generator)
        return patches.Patches(starts, (start[0] // r, start[1] // r, start[2] // r), r)


@dataclass(frozen=True, eq=False)
class Atlas:
    """The prior that all training scans form together.

    Attributes
    ----------
    frequency : (X/4, Y/4, Z/4, C) float32 tensor
        Sum of the label frequencies of all scans, on the device as all tensors here.
    groupwise : Groupwise, optional
        Groupwise template for the deformable prior.
    """

    scans: TrainingScans
    frequency: Tensor
    groupwise: Groupwise | None
    device: torch.device

    def of_step(
        self, scan: LabelledScan, coordinates: Tensor, context: StageContext, flip: bool, generator: torch.Generator
    ) -> StepPrior:
        """The prior that follows the coordinates of a step, with a random error; the affine prior in some steps.

        Parameters
        ----------
        coordinates : (X, Y, Z, 3) float32 tensor
            Template voxel at which each voxel of the crop is sampled.
        """
        seen = context.seen
        if self.groupwise is None or draws.uniform(generator) < self.groupwise.settings.affine_probability:
            channels = box_coordinate_channels(seen.template_shape, seen.start, seen.shape, edge=context.feature_mm)
            return StepPrior(channels.to(self.device))
        x, y, z, _ = coordinates.shape
        coarse = block_coordinates(coordinates, SPACING)
        cells = coarse + displacement_at(self.groupwise.displacements[scan.name].to(self.device), coarse)
        strength = self.groupwise.settings.prior_error_mm * draws.uniform(generator)
        shape = (x // 2, y // 2, z // 2)
        error = augment.smooth_field(shape, ERROR_SPACING / 2, 3, generator, self.device) * strength
        cells = cells + error.permute(1, 2, 3, 0)
        network_cells = augment.flip_coordinates(cells, context.run.mirror_x) if flip else cells
        if context.feature_mm != SPACING:
            network_cells = resampled(network_cells, (x, y, z), context.feature_mm)
        return StepPrior(coordinate_channels(network_cells, seen.template_shape), cells)

    def logits(self, view: View, drawn: patches.Patches, mirrored: Tensor) -> Tensor:
        """(B * 512, C) log-frequencies at the voxels of patches, without the labels of the scan itself.

        Parameters
        ----------
        mirrored : (C,) uint8 tensor
            Channel of the region on the other side, for each channel.
        """
        step = view.prior
        if step.cells is None or self.groupwise is None:
            own = own_frequency(view.scan, self.scans.training, self.scans.external_prior)
            return patches.prior_logits(self.frequency, own, drawn, FLOOR)
        x, y, z, _ = step.cells.shape
        first, edge, weights = drawn.cells(SPACING, (0, 0, 0))
        rows = patches.flat_indices(first, edge, (x, y, z))
        coordinates = (step.cells.reshape(-1, 3).index_select(0, rows) - (SPACING - 1) / 2) / SPACING
        votes = self._votes_without(self.groupwise, view.scan, coordinates)
        if view.flip:
            votes = votes[:, mirrored.long()]
        fraction = votes / votes.sum(dim=1, keepdim=True).clamp(min=FLOOR)
        logs = torch.log(fraction.clamp(min=FLOOR)).reshape(-1, edge, edge, edge, votes.shape[1])
        return patches.interpolated(logs, weights)

    def _votes_without(self, groupwise: Groupwise, scan: LabelledScan, coordinates: Tensor) -> Tensor:
        """(N, C) votes at coordinates in cells, without those of all scans of the same subject."""
        votes = votes_at(groupwise.votes, coordinates)
        own = groupwise.own[scan.name]
        if not own:
            return votes
        x, y, z, channel_count = groupwise.votes.shape
        index, weight = corners(coordinates, (x, y, z))
        padded = torch.cat([votes, votes.new_zeros(len(votes), 1)], dim=1)
        for labels in own:
            table = labels.to(self.device).reshape(-1, SPACING**3)
            for corner in range(index.shape[1]):
                channels = table.index_select(0, index[:, corner]).long()
                channels = torch.where(channels == IGNORED, channel_count, channels)
                padded.scatter_add_(1, channels, -weight[:, corner, None].expand(-1, channels.shape[1]))
        return padded[:, :channel_count].clamp(min=0)


def block_coordinates(coordinates: Tensor, edge: int) -> Tensor:
    """(X/edge, Y/edge, Z/edge, 3) means of the blocks of (X, Y, Z, 3) coordinates."""
    x, y, z, _ = coordinates.shape
    blocks = coordinates.reshape(x // edge, edge, y // edge, edge, z // edge, edge, 3)
    return blocks.mean(dim=(1, 3, 5))


def resampled(cells: Tensor, shape: Shape, edge: int) -> Tensor:
    """Coordinates (A, B, C, 3) of cells of 2 mm, interpolated at cells of another edge of a box of this shape in mm."""
    x, y, z = (n // edge for n in shape)
    out = functional.interpolate(cells.permute(3, 0, 1, 2)[None], size=(x, y, z), mode="trilinear", align_corners=False)
    return out[0].permute(1, 2, 3, 0)


def atlas_of(scans: TrainingScans, device: torch.device) -> Atlas:
    """The prior of all scans on a device; automatic labels locate a region as well as manual ones do."""
    groupwise = scans.groupwise
    return Atlas(
        scans,
        total_frequency(scans.training, scans.external_prior).to(device),
        None if groupwise is None else replace(groupwise, votes=groupwise.votes.to(device)),
        device,
    )
