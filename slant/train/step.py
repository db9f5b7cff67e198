"""Loss of one training step: an augmented scan, a sample of small patches, the prior and the tasks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slant.grid import Shape
from slant.train import anatomical, augment, patches
from slant.train.loss import IGNORED, LossSettings, merge_unlabelled

if TYPE_CHECKING:
    import numpy as np

    from slant.labels import LabelProtocol
    from slant.nets.network import Network
    from slant.train.atlas import Atlas, StepPrior
    from slant.train.data import LabelledScan
    from slant.train.settings import StageSettings


@dataclass(frozen=True, eq=False)
class Field:
    """The part of the template that a network sees, and the channels that it distinguishes there.

    Attributes
    ----------
    start, shape : tuple of 3 int
        First voxel (negative outside the template) and size of the box, in template voxels.
    template_shape : tuple of 3 int
        Size of the template in voxels.
    channels : (K,) int64 array
        Channels that the network distinguishes.
    mirror_x : float
        A left-right flip maps the voxel coordinate x to ``mirror_x - x``.
    """

    start: Shape
    shape: Shape
    template_shape: Shape
    channels: NDArray[np.int64]
    mirror_x: float = 0.0


@dataclass(frozen=True, eq=False)
class Regions:
    """Properties of the regions that loss and augmentation use.

    Attributes
    ----------
    mirrored : (C,) uint8 tensor
        Channel of the region on the other side, for each channel.
    tasks : dict of str to (C,) int64 tensor
        Class of each channel in each additional task.
    csf, white_matter : (C,) bool tensor
        Whether each channel is CSF, and whether it is white matter, for the anatomical augmentation.
    """

    mirrored: Tensor
    tasks: dict[str, Tensor]
    csf: Tensor
    white_matter: Tensor


def regions_of(protocol: LabelProtocol, tasks: tuple[str, ...]) -> Regions:
    """The properties of the regions of a protocol.

    Parameters
    ----------
    protocol : LabelProtocol
    tasks : tuple of str
        Additional tasks, see `task_classes`.
    """
    tissues = [region.tissue for region in protocol.regions]
    return Regions(
        torch.from_numpy(protocol.mirrored_channels.copy()),
        task_classes(protocol, tasks),
        torch.tensor([tissue == "csf" for tissue in tissues]),
        torch.tensor([tissue == "white" for tissue in tissues]),
    )


@dataclass(frozen=True, eq=False)
class StageContext:
    """The part of a training step that is the same in all steps of a stage.

    Attributes
    ----------
    seen : Field
        Field of view of every step; with ``crop``, crops are drawn from the template instead.
    stage : StageSettings
    augmentation : AugmentSettings
    loss : LossSettings
    regions : Regions
    precision : {"auto", "float32"}
        See `mixed_precision`.
    crop : tuple of 3 int, optional
        Size of the crops in voxels.
    """

    seen: Field
    stage: StageSettings
    augmentation: augment.AugmentSettings
    loss: LossSettings
    regions: Regions
    precision: str = "auto"
    crop: Shape | None = None

    def drawn(self, generator: torch.Generator) -> StageContext:
        """The context with a crop drawn anywhere in the template; the context itself if ``crop`` is None."""
        if self.crop is None:
            return self
        positions = [whole - size + 1 for whole, size in zip(self.seen.template_shape, self.crop, strict=True)]
        x, y, z = (int(torch.randint(n, (1,), generator=generator)) for n in positions)
        return replace(self, seen=replace(self.seen, start=(x, y, z), shape=self.crop))


def task_classes(protocol: LabelProtocol, tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """Class of each channel in the tasks that are learned in addition to the regions.

    Parameters
    ----------
    protocol : LabelProtocol
    tasks : tuple of str
        Any of ``tissue``, ``lobe`` and ``brain``.

    Returns
    -------
    dict of str to (C,) int64 tensor
    """
    values: dict[str, list[str]] = {
        "tissue": [region.tissue for region in protocol.regions],
        "lobe": [region.lobe for region in protocol.regions],
        "brain": [str(region.id != 0) for region in protocol.regions],
    }
    classes = {}
    for task in tasks:
        order = sorted(set(values[task]))
        classes[task] = torch.tensor([order.index(value) for value in values[task]])
    return classes


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 if the hardware multiplies it fast, otherwise float32.

    On CPUs without bfloat16 instructions, it is much slower than float32. With AVX512-BF16 a step took half the time of
    float32 (an AMD EPYC, two cores), with AMX a fifth (an Intel Xeon, two cores).
    """
    if precision == "float32":
        return nullcontext()
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


@dataclass(frozen=True, eq=False)
class View:
    """A scan after the augmentation of one step.

    Attributes
    ----------
    scan : LabelledScan
    image : (X, Y, Z) float32 tensor
        Image after deformation and intensity changes.
    coordinates : (X, Y, Z, 3) float32 tensor
        Template voxel at which each voxel is sampled.
    flip : bool
        Whether the image is flipped left-right.
    prior : StepPrior
    """

    scan: LabelledScan
    image: Tensor
    coordinates: Tensor
    flip: bool
    prior: StepPrior

    def labels(self, voxels: Tensor, mirrored: Tensor) -> Tensor:
        """(N,) int64 reference channels at (..., 3) voxels of the crop."""
        coordinates = self.coordinates[voxels[..., 0], voxels[..., 1], voxels[..., 2]]
        reference = augment.pick_labels(self.scan.channels, coordinates).flatten()
        return (augment.flip_labels(reference, mirrored) if self.flip else reference).long()


def view_of(scan: LabelledScan, atlas: Atlas, context: StageContext, generator: torch.Generator) -> View:
    """The scan after a random augmentation, with the prior that follows its deformation."""
    seen, settings, regions = context.seen, context.augmentation, context.regions
    coordinates = augment.random_coordinates((seen.start, seen.shape), seen.template_shape, settings, generator)
    flip = settings.flip_probability > 0 and augment.uniform(generator) < settings.flip_probability
    if flip:
        coordinates = augment.flip_coordinates(coordinates, seen.mirror_x)
    before = coordinates
    coordinates = anatomical.simulate_atrophy(coordinates, scan, regions.csf, settings, generator)
    prior = atlas.of_step(scan, coordinates, seen, flip, generator)
    image = augment.sample_image(scan.image, coordinates)
    image = anatomical.fill_with_csf(image, scan, (before, coordinates), regions.csf)
    image = anatomical.add_lesions(image, (scan.channels, regions.white_matter), coordinates, settings, generator)
    return View(scan, augment.vary_intensity(image, settings, generator), coordinates, flip, prior)


def step_loss(
    net: Network,
    scans: tuple[LabelledScan, LabelledScan | None],
    atlas: Atlas,
    setup: tuple[StageContext, torch.Generator],
) -> Tensor:
    """Loss of one scan after a random augmentation, or of a MixUp of two scans (Zhang et al. 2018).

    Parameters
    ----------
    net : Network
    scans : LabelledScan, and a second one for MixUp or None
    atlas : Atlas
        Prior of all scans, on the device of the network.
    setup : StageContext and torch.Generator

    Returns
    -------
    () float32 tensor
    """
    context, generator = setup
    seen, stage, device = context.seen, context.stage, atlas.device
    view = view_of(scans[0], atlas, context, generator)
    candidates = patches.candidate_starts(seen.shape, net.halo)
    centers = candidates + patches.EDGE // 2
    x, y, z = centers[..., 0], centers[..., 1], centers[..., 2]
    near = view.scan.channels if view.scan.near is None else view.scan.near
    center_labels = augment.pick_labels(near, view.coordinates[x, y, z])
    starts = patches.draw_patches(
        candidates, center_labels, view.image[x, y, z] > 0, stage.patches, stage.class_balanced_fraction, generator
    )
    drawn = patches.Patches(starts, seen.start, seen.shape)
    parts, image, coordinates = [(view, 1.0)], view.image, view.prior.coordinates
    if scans[1] is not None:
        second = view_of(scans[1], atlas, context, generator)
        weight = augment.mixup_weight(context.augmentation, generator)
        image = torch.lerp(image, second.image, weight)
        coordinates = torch.lerp(coordinates, second.prior.coordinates, weight)
        parts = [(view, 1 - weight), (second, weight)]
    with mixed_precision(device, context.precision):
        features = head_features_in_patches(net, image[None, None].to(device), coordinates, starts)
        logits = net.logits(features).float()
        task_logits = net.tasks(features)
    losses = [weight * _view_loss((net, logits, task_logits), part, drawn, atlas, context) for part, weight in parts]
    return torch.stack(losses).sum()


def _view_loss(
    output: tuple[Network, Tensor, dict[str, Tensor]],
    view: View,
    drawn: patches.Patches,
    atlas: Atlas,
    context: StageContext,
) -> Tensor:
    """Loss of the logits in the patches for the labels of one view.

    ``output`` is the network, its logits and its logits of the tasks.
    """
    net, logits, task_logits = output
    mirrored = context.regions.mirrored
    reference = view.labels(patches.patch_coordinates(drawn), mirrored).to(logits.device)
    if net.prior:
        logits = logits + atlas.logits(view.prior, view.scan, drawn, context, view.flip)
    known = reference != IGNORED
    covered = view.scan.covered
    if covered is not None and view.flip:
        covered = covered[mirrored.long()]
    loss = _region_loss(logits[known], reference[known], covered, context)
    if task_logits and covered is None:
        loss = loss + context.loss.task_weight * _task_loss(task_logits, reference, known, context.regions)
    return loss


def head_features_in_patches(net: Network, image: Tensor, coordinates: Tensor, starts: Tensor) -> Tensor:
    """(B * 512, M) features at the voxels of patches, with the decoder head computed on the patches only.

    Parameters
    ----------
    net : Network
    image : (1, 1, X, Y, Z) float tensor
    coordinates : (1, 3, X/2, Y/2, Z/2) float tensor
        Coordinate channels.
    starts : (B, 3) int64 tensor
        First voxels of the patches.
    """
    m, edge = net.halo, patches.EDGE
    features = net.backbone(image, coordinates)
    patch_features = patches.gather(features, (starts - m) // net.stride, (edge + 2 * m) // net.stride)
    out = net.decoder_head(patch_features, patches.gather(image, starts - m, edge + 2 * m))
    out = out[:, :, m : m + edge, m : m + edge, m : m + edge]
    return out.permute(0, 2, 3, 4, 1).reshape(-1, out.shape[1])


def _region_loss(logits: Tensor, reference: Tensor, covered: Tensor | None, context: StageContext) -> Tensor:
    if covered is not None:
        covered = covered.to(logits.device)
        logits = merge_unlabelled(logits, covered)
        reference = torch.where(covered[reference], reference, torch.zeros_like(reference))
    logits, reference = _select_channels(logits, reference, context.seen.channels)
    return context.loss(logits, reference)


def _task_loss(task_logits: dict[str, Tensor], reference: Tensor, known: Tensor, regions: Regions) -> Tensor:
    """Mean cross-entropy of the additional tasks."""
    if not known.any():
        return sum((logits.sum() * 0 for logits in task_logits.values()), torch.zeros((), device=reference.device))
    losses = [
        functional.cross_entropy(logits.float()[known], regions.tasks[task].to(reference.device)[reference[known]])
        for task, logits in task_logits.items()
    ]
    return torch.stack(losses).mean()


def _select_channels(logits: Tensor, reference: Tensor, channels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Logits and reference of the given channels only; voxels of other channels are left out."""
    if len(channels) == logits.shape[1]:
        return logits, reference
    selected = torch.from_numpy(channels).to(logits.device)
    index = torch.full((logits.shape[1],), -1, dtype=torch.long, device=logits.device)
    index[selected] = torch.arange(len(selected), device=logits.device)
    mapped = index[reference]
    known = mapped >= 0
    return logits[known][:, selected], mapped[known]
