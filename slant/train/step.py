"""Loss of one training step: an augmented scan, a sample of small patches, the prior and the tasks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slant.nets.device import has_fast_bfloat16
from slant.nets.network import Network
from slant.train import anatomical, augment, draws, intensity, patches
from slant.train.atlas import Atlas, View, block_coordinates
from slant.train.context import Regions, StageContext
from slant.train.data import LabelledScan
from slant.train.earlier import earlier_of_step
from slant.train.loss import IGNORED, merge_unlabelled


def view_of(scan: LabelledScan, atlas: Atlas, context: StageContext, generator: torch.Generator) -> View:
    """The scan after a random augmentation, with the prior and the earlier result that follow its deformation.

    The scan, see `slant.train.on_device.scan_on`, and the view are on the device of the atlas.
    """
    settings, regions = context.run.settings.augment, context.run.regions
    coordinates = augment.random_coordinates(context.seen, settings, generator, atlas.device)
    flip = settings.flip_probability > 0 and draws.uniform(generator) < settings.flip_probability
    if flip:
        coordinates = augment.flip_coordinates(coordinates, context.run.mirror_x)
    before = coordinates
    coordinates = anatomical.simulate_atrophy(coordinates, scan, regions.csf, settings, generator)
    prior = atlas.of_step(scan, coordinates, context, flip, generator)
    earlier = None if scan.earlier is None else earlier_of_step(scan, coordinates, context, flip, generator)
    image = augment.sample_image(scan.image, coordinates)
    image = anatomical.fill_with_csf(image, scan, before, coordinates, regions.csf)
    image = anatomical.add_lesions(image, scan, coordinates, regions.white_matter, settings, generator)
    image, r = intensity.vary_intensity(image, settings, generator), context.run.assembly.resolution_mm
    if r > 1:
        image, coordinates = functional.avg_pool3d(image[None], r)[0], block_coordinates(coordinates, r)
    return View(scan, image, coordinates, flip, prior, earlier)


def step_loss(
    net: Network,
    scans: tuple[LabelledScan, ...],
    atlas: Atlas,
    context: StageContext,
    generator: torch.Generator,
) -> Tensor:
    """Loss of one scan after a random augmentation, or of a MixUp of two scans (Zhang et al. 2018).

    Parameters
    ----------
    atlas : Atlas
        Prior of all scans, on the device of the network.
    context : StageContext
        With the field of view of this step, see `StageContext.drawn`.

    Returns
    -------
    () float32 tensor
    """
    view = view_of(scans[0], atlas, context, generator)
    drawn = view.draw_patches(context, net.halo, generator)
    parts, image, coordinates = [(view, 1.0)], view.image, view.prior.coordinates
    earlier = _embedded(net, view)
    for scan in scans[1:]:
        second = view_of(scan, atlas, context, generator)
        weight = augment.mixup_weight(context.run.settings.augment, generator)
        image = torch.lerp(image, second.image, weight)
        coordinates = torch.lerp(coordinates, second.prior.coordinates, weight)
        if earlier is not None and (other := _embedded(net, second)) is not None:
            earlier = torch.lerp(earlier, other, weight)
        parts = [(view, 1 - weight), (second, weight)]
    with mixed_precision(atlas.device, context.run.settings.precision):
        features = head_features_in_patches(net, image[None, None], coordinates, drawn.starts, earlier)
        logits, task_logits = net.logits(features).float(), net.tasks(features)
    losses = []
    for part, weight in parts:
        with_prior = logits + atlas.logits(part, drawn, context.run.regions.mirrored) if net.prior else logits
        losses.append(weight * _view_loss(with_prior, task_logits, part, drawn, context))
    return torch.stack(losses).sum()


def _embedded(net: Network, view: View) -> Tensor | None:
    """The earlier result of a view, embedded by the network; None if it takes none."""
    return None if view.earlier is None else net.embed(*view.earlier)


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 if the hardware multiplies it fast, otherwise float32.

    On CPUs without bfloat16 instructions, it is much slower than float32. With AVX512-BF16 a step took half the time of
    float32 (an AMD EPYC, two cores), with AMX a fifth (an Intel Xeon, two cores).
    """
    if precision == "float32":
        return nullcontext()
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def head_features_in_patches(
    net: Network, image: Tensor, coordinates: Tensor, starts: Tensor, earlier: Tensor | None = None
) -> Tensor:
    """(B * 512, M) features at the voxels of patches, with the decoder head computed on the patches only.

    Parameters
    ----------
    image : (1, 1, X, Y, Z) float tensor
    coordinates : (1, 3, X/stride, Y/stride, Z/stride) float tensor
        Coordinate channels.
    starts : (B, 3) int64 tensor
        First voxels of the patches.
    earlier : (1, E, X/stride, Y/stride, Z/stride) float tensor, optional
        Result of the earlier assembly, embedded by the network.
    """
    m, edge = net.halo, patches.EDGE
    features = net.backbone(image, coordinates, earlier)
    patch_features = patches.gather(features, (starts - m) // net.stride, (edge + 2 * m) // net.stride)
    out = net.inner_head(patch_features, patches.gather(image, starts - m, edge + 2 * m))
    return out.permute(0, 2, 3, 4, 1).reshape(-1, out.shape[1])


def _view_loss(
    logits: Tensor, task_logits: dict[str, Tensor], view: View, drawn: patches.Patches, context: StageContext
) -> Tensor:
    """Loss of the logits in the patches, which contain the prior, for the labels of one view."""
    regions = context.run.regions
    reference = view.labels(patches.patch_coordinates(drawn), regions.mirrored)
    if view.scan.near is not None:  # counting the known voxels makes the CPU wait, so it is done only where needed
        known = reference != IGNORED
        logits, reference = logits[known], reference[known]
        task_logits = {task: of_task[known] for task, of_task in task_logits.items()}
    covered, weights = view.scan.covered, view.scan.weights
    if view.flip:
        covered, weights = (None if x is None else x[regions.mirrored.long()] for x in (covered, weights))
    of_voxels = None if weights is None else weights[reference]
    loss = _region_loss(logits, reference, covered, of_voxels, context)
    if task_logits and covered is None:
        loss = loss + context.run.settings.loss.task_weight * _task_loss(task_logits, reference, regions)
    return loss


def _region_loss(
    logits: Tensor, reference: Tensor, covered: Tensor | None, weights: Tensor | None, context: StageContext
) -> Tensor:
    if covered is not None:
        logits = merge_unlabelled(logits, covered)
        reference = torch.where(covered[reference], reference, torch.zeros_like(reference))
    channels = context.seen.channels
    if len(channels) < logits.shape[1]:
        logits, reference, weights = _select_channels(logits, reference, weights, channels)
    return context.run.settings.loss(logits, reference, weights)


def _task_loss(task_logits: dict[str, Tensor], reference: Tensor, regions: Regions) -> Tensor:
    """Mean cross-entropy of the additional tasks; 0 for no voxels."""
    if not len(reference):
        return sum((logits.sum() * 0 for logits in task_logits.values()), torch.zeros((), device=reference.device))
    losses = [
        functional.cross_entropy(logits.float(), regions.tasks[task][reference]) for task, logits in task_logits.items()
    ]
    return torch.stack(losses).mean()


def _select_channels(
    logits: Tensor, reference: Tensor, weights: Tensor | None, channels: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, reference and weights of the given channels only; voxels of other channels are left out."""
    selected = torch.from_numpy(channels).to(logits.device)
    index = torch.full((logits.shape[1],), -1, dtype=torch.long, device=logits.device)
    index[selected] = torch.arange(len(selected), device=logits.device)
    mapped = index[reference]
    known = mapped >= 0
    return logits[known][:, selected], mapped[known], None if weights is None else weights[known]
