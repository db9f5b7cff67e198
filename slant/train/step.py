"""The loss of one training step: a warped scan, a sample of small boxes, the prior, and what is to be learned."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slant.grid import Shape
from slant.train import anatomy, augment, boxes
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
    """The part of the template a network sees, and the channels it tells apart there.

    Attributes
    ----------
    start, shape : tuple of 3 int
        First voxel (negative outside the template) and size of the box, in template voxels.
    template_shape : tuple of 3 int
    channels : (K,) int64 array
    mirror_x : float
        Voxel coordinates x and ``mirror_x - x`` are left-right partners.
    """

    start: Shape
    shape: Shape
    template_shape: Shape
    channels: NDArray[np.int64]
    mirror_x: float = 0.0


@dataclass(frozen=True, eq=False)
class Regions:
    """What the loss knows of the regions.

    Attributes
    ----------
    mirrored : (C,) uint8 tensor
        Channel of each channel's left-right partner.
    tasks : dict of str to (C,) int64 tensor
        Class of each channel in what is learned beside the regions.
    fluid, white : (C,) bool tensor
        Channels of fluid and of white matter, which augmentation treats in ways of their own.
    """

    mirrored: Tensor
    tasks: dict[str, Tensor]
    fluid: Tensor
    white: Tensor


def regions_of(protocol: LabelProtocol, tasks: tuple[str, ...]) -> Regions:
    """What the loss knows of a protocol's regions."""
    tissues = [region.tissue for region in protocol.regions]
    return Regions(
        torch.from_numpy(protocol.mirrored_channels.copy()),
        task_classes(protocol, tasks),
        torch.tensor([tissue == "csf" for tissue in tissues]),
        torch.tensor([tissue == "white" for tissue in tissues]),
    )


@dataclass(frozen=True, eq=False)
class Lesson:
    """What does not change from step to step of a stage.

    Attributes
    ----------
    seen : Field
        What every step sees, or what boxes of the size ``crop`` are drawn from.
    stage : StageSettings
    augmentation : AugmentSettings
    loss : LossSettings
    regions : Regions
    precision : {"auto", "float32"}
    crop : tuple of 3 int, optional
    """

    seen: Field
    stage: StageSettings
    augmentation: augment.AugmentSettings
    loss: LossSettings
    regions: Regions
    precision: str = "auto"
    crop: Shape | None = None

    def drawn(self, generator: torch.Generator) -> Lesson:
        """The same with a box of the size ``crop`` drawn anywhere in the template; itself where there is none."""
        if self.crop is None:
            return self
        free = [whole - size + 1 for whole, size in zip(self.seen.template_shape, self.crop, strict=True)]
        x, y, z = (int(torch.randint(n, (1,), generator=generator)) for n in free)
        return replace(self, seen=replace(self.seen, start=(x, y, z), shape=self.crop))


def task_classes(protocol: LabelProtocol, tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """Class of each channel for what can be learned beside the regions: tissue, lobe, brain.

    Parameters
    ----------
    protocol : LabelProtocol
    tasks : tuple of str
        Of ``tissue``, ``lobe`` and ``brain``.
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
    """Autocast to bfloat16 where the hardware multiplies it fast, float32 elsewhere.

    On CPUs without the instructions for it, bfloat16 is far slower than float32. With AVX512-BF16 a step took half the
    time of float32 (an AMD EPYC, two cores), with AMX a fifth (an Intel Xeon, two cores).
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
    """A scan as one step sees it.

    Attributes
    ----------
    scan : LabelledScan
    image : (X, Y, Z) float32 tensor
        Warped, its intensities changed.
    places : (X, Y, Z, 3) float32 tensor
        Template voxels from where each voxel takes its value.
    flip : bool
        Whether left and right are exchanged.
    prior : StepPrior
    """

    scan: LabelledScan
    image: Tensor
    places: Tensor
    flip: bool
    prior: StepPrior

    def labels(self, at: Tensor, mirrored: Tensor) -> Tensor:
        """(N,) int64 true channels at (..., 3) voxels of the crop."""
        truth = augment.pick_labels(self.scan.channels, self.places[at[..., 0], at[..., 1], at[..., 2]]).flatten()
        return (augment.flip_labels(truth, mirrored) if self.flip else truth).long()


def view_of(scan: LabelledScan, atlas: Atlas, lesson: Lesson, generator: torch.Generator) -> View:
    """The scan warped and changed as the generator says, with the prior that follows it."""
    seen, strength, regions = lesson.seen, lesson.augmentation, lesson.regions
    places = augment.random_places((seen.start, seen.shape), seen.template_shape, strength, generator)
    flip = strength.flip > 0 and augment.chance(generator) < strength.flip
    if flip:
        places = augment.flip_places(places, seen.mirror_x)
    young, places = places, anatomy.aged_places(places, scan, regions.fluid, strength, generator)
    prior = atlas.of_step(scan, places, seen, flip, generator)
    image = augment.sample_image(scan.image, places)
    image = anatomy.with_fluid(image, scan, (young, places), regions.fluid)
    image = anatomy.with_lesions(image, (scan.channels, regions.white), places, strength, generator)
    return View(scan, augment.vary_intensity(image, strength, generator), places, flip, prior)


def step_loss(
    net: Network,
    scans: tuple[LabelledScan, LabelledScan | None],
    atlas: Atlas,
    how: tuple[Lesson, torch.Generator],
) -> Tensor:
    """Loss of one scan, warped and changed as the generator says, or of a mixture of two (Zhang et al. 2018).

    Parameters
    ----------
    net : Network
    scans : LabelledScan and, for a mixture, a second one
    atlas : Atlas
        Prior of all scans, on the network's device.
    how : Lesson and torch.Generator
    """
    lesson, generator = how
    seen, stage, device = lesson.seen, lesson.stage, atlas.device
    view = view_of(scans[0], atlas, lesson, generator)
    candidates = boxes.candidate_starts(seen.shape, net.reach)
    middle = candidates + boxes.EDGE // 2
    x, y, z = middle[..., 0], middle[..., 1], middle[..., 2]
    near = view.scan.channels if view.scan.near is None else view.scan.near
    center = augment.pick_labels(near, view.places[x, y, z])
    starts = boxes.draw_boxes(candidates, center, view.image[x, y, z] > 0, stage.boxes, stage.balanced, generator)
    drawn = boxes.Boxes(starts, seen.start, seen.shape)
    parts, image, place = [(view, 1.0)], view.image, view.prior.place
    if scans[1] is not None:
        second, share = view_of(scans[1], atlas, lesson, generator), augment.mixup_share(lesson.augmentation, generator)
        image, place = torch.lerp(image, second.image, share), torch.lerp(place, second.prior.place, share)
        parts = [(view, 1 - share), (second, share)]
    with mixed_precision(device, lesson.precision):
        mixed = mixed_in_boxes(net, image[None, None].to(device), place, starts)
        logits = net.logits(mixed).float()
        beside = net.tasks(mixed)
    losses = [weight * _view_loss((net, logits, beside), part, drawn, atlas, lesson) for part, weight in parts]
    return torch.stack(losses).sum()


def _view_loss(
    found: tuple[Network, Tensor, dict[str, Tensor]], view: View, drawn: boxes.Boxes, atlas: Atlas, lesson: Lesson
) -> Tensor:
    """Loss of the logits in the boxes for the labels of one view."""
    net, logits, beside = found
    mirrored = lesson.regions.mirrored
    truth = view.labels(boxes.box_places(drawn), mirrored).to(logits.device)
    if net.prior:
        logits = logits + atlas.logits(view.prior, view.scan, drawn, lesson, view.flip)
    known = truth != IGNORED
    covered = view.scan.covered
    if covered is not None and view.flip:
        covered = covered[mirrored.long()]
    loss = _region_part(logits[known], truth[known], covered, lesson)
    if beside and covered is None:
        loss = loss + lesson.loss.tasks * _task_part(beside, truth, known, lesson.regions)
    return loss


def mixed_in_boxes(net: Network, image: Tensor, place: Tensor, starts: Tensor) -> Tensor:
    """(B * 512, M) features at the voxels of boxes, by running the tail on the boxes alone."""
    m, edge = net.reach, boxes.EDGE
    features = net.trunk(image, place)
    near = boxes.gather(features, (starts - m) // net.stride, (edge + 2 * m) // net.stride)
    mixed = net.tail(near, boxes.gather(image, starts - m, edge + 2 * m))
    mixed = mixed[:, :, m : m + edge, m : m + edge, m : m + edge]
    return mixed.permute(0, 2, 3, 4, 1).reshape(-1, mixed.shape[1])


def _region_part(logits: Tensor, truth: Tensor, covered: Tensor | None, lesson: Lesson) -> Tensor:
    if covered is not None:
        covered = covered.to(logits.device)
        logits = merge_unlabelled(logits, covered)
        truth = torch.where(covered[truth], truth, torch.zeros_like(truth))
    logits, truth = _limit(logits, truth, lesson.seen.channels)
    return lesson.loss(logits, truth)


def _task_part(beside: dict[str, Tensor], truth: Tensor, known: Tensor, regions: Regions) -> Tensor:
    """Mean cross-entropy of what is learned beside the regions."""
    if not known.any():
        return sum((logits.sum() * 0 for logits in beside.values()), torch.zeros((), device=truth.device))
    parts = [
        functional.cross_entropy(logits.float()[known], regions.tasks[task].to(truth.device)[truth[known]])
        for task, logits in beside.items()
    ]
    return torch.stack(parts).mean()


def _limit(logits: Tensor, truth: Tensor, channels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Only the channels told apart; voxels of another region are left out."""
    if len(channels) == logits.shape[1]:
        return logits, truth
    keep = torch.from_numpy(channels).to(logits.device)
    compact = torch.full((logits.shape[1],), -1, dtype=torch.long, device=logits.device)
    compact[keep] = torch.arange(len(keep), device=logits.device)
    mapped = compact[truth]
    known = mapped >= 0
    return logits[known][:, keep], mapped[known]
