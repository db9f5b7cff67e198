"""Moves what training steps read to the device, once if it fits there, so that no step waits for a copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from slant.train.context import Regions, StageContext
from slant.train.data import Groupwise, LabelledScan, TrainingScans

SHARE = 0.5
"""Largest fraction of the free memory of a device that scans may take; beyond it, each step copies its scan."""


def scan_on(scan: LabelledScan, device: torch.device) -> LabelledScan:
    """The scan with all tensors that a step reads on the device; the scan itself if they are there."""
    earlier = scan.earlier_tensors
    if earlier is None and scan.earlier is not None:
        earlier = tuple(map(torch.tensor, (scan.earlier.channels, scan.earlier.counts, scan.earlier.totals)))
    elif scan.image.device == device:
        return scan
    return replace(
        scan,
        image=scan.image.to(device),
        channels=scan.channels.to(device),
        frequency=scan.frequency.to(device),
        near=None if scan.near is None else scan.near.to(device),
        covered=None if scan.covered is None else scan.covered.to(device),
        weights=None if scan.weights is None else scan.weights.to(device),
        earlier_tensors=None if earlier is None else tuple(tensor.to(device) for tensor in earlier),
    )


def context_on(context: StageContext, device: torch.device) -> StageContext:
    """The context of a stage for its steps: regions and, if they fit, training scans on the device.

    Held-out scans stay where they are: validation reads them on the CPU.
    """
    scans, run = context.scans, context.run
    moved = scans_on(scans, device) if fits(scans, device) else scans
    return replace(context, scans=moved, run=replace(run, regions=regions_on(run.regions, device)))


def scans_on(scans: TrainingScans, device: torch.device) -> TrainingScans:
    """The training scans and their groupwise template on the device."""
    groupwise = scans.groupwise
    return replace(
        scans,
        manual=[scan_on(scan, device) for scan in scans.manual],
        auxiliary=[scan_on(scan, device) for scan in scans.auxiliary],
        groupwise=None if groupwise is None else _groupwise_on(groupwise, scans.training, device),
    )


def _groupwise_on(groupwise: Groupwise, training: list[LabelledScan], device: torch.device) -> Groupwise:
    names = [scan.name for scan in training]
    return replace(
        groupwise,
        votes=groupwise.votes.to(device),
        displacements={name: groupwise.displacements[name].to(device) for name in names},
        own={name: tuple(labels.to(device) for labels in groupwise.own[name]) for name in names},
    )


def regions_on(regions: Regions, device: torch.device) -> Regions:
    """The properties of the channels on the device."""
    return Regions(
        regions.mirrored.to(device),
        {task: classes.to(device) for task, classes in regions.tasks.items()},
        regions.csf.to(device),
        regions.white_matter.to(device),
    )


def fits(scans: TrainingScans, device: torch.device) -> bool:
    """Whether all training scans fit into the free memory of a device, see `SHARE`; True on the CPU, where they are."""
    if device.type == "cpu":
        return True
    if device.type != "cuda":  # torch does not tell the free memory of others
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.nbytes for tensor in _tensors(scans)) <= SHARE * free


def _tensors(scans: TrainingScans) -> Iterator[Tensor]:
    for scan in scans.training:
        yield from (tensor for tensor in (scan.image, scan.channels, scan.frequency, scan.near) if tensor is not None)
        if scans.groupwise is not None:
            yield scans.groupwise.displacements[scan.name]
            yield from scans.groupwise.own[scan.name]
