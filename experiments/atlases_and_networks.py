"""Compare labels of networks and joint label fusion of atlases, alone and together.

    python experiments/atlases_and_networks.py DATA WORK --subjects 1000 1008 1013 --model whole

DATA contains NAME_T1w.nii.gz and NAME_dseg.nii.gz of the subjects, which the model has not seen, and of all others,
which are the atlases. WORK keeps the prepared scans and registrations, as `slant multiatlas --work-dir` does. Prints
the mean Dice over the regions in native space for several weights of the atlases, from 0 (networks alone) to 1.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from positions import dice_of, sampled, votes_of
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from slant.config import SegmentSettings
from slant.grid import Grid
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.multiatlas.atlases import read_atlas_scans
from slant.multiatlas.candidates import LabelSource, choose, gather, on_whole_grid
from slant.multiatlas.label_fusion import Candidates
from slant.multiatlas.settings import MultiAtlasSettings
from slant.multiatlas.task import source_of
from slant.nets.model import Model
from slant.pipeline import prepare
from slant.sparse_votes import KEPT
from slant.volume import LabelMap
from slant.within_subject.evidence import Evidence, Sampled, weighted_sum

WEIGHTS = (0.0, 0.3, 0.5, 0.6, 1.0)
"""Weights of the atlases."""

BLOCK = 20_000
"""Number of voxels for which weights are computed at once."""

Votes = tuple[NDArray[np.bool_], NDArray[np.float32]]
"""Voxels at which the atlases disagree (X, Y, Z), and the weight of every channel at each of them (N, C)."""


def cube(radius: int) -> NDArray[np.intp]:
    """(N, 3) offsets of the voxels of a cube, the nearest to the middle first."""
    offsets = np.array(list(itertools.product(range(-radius, radius + 1), repeat=3)))
    return offsets[np.argsort((offsets**2).sum(axis=1), kind="stable")]


@dataclass(frozen=True, eq=False)
class JointFusion:
    """Joint label fusion (Wang et al. 2013, IEEE TPAMI 35:611) with the weight of every label.

    Each atlas offers the patch within ``search`` voxels that is most similar to the target's. The weights of the
    atlases minimize the expected error if two atlases err together as often as their patches differ from the target's
    together: they are the sums of the rows of the inverse of M, scaled to 1. M is the square of the mean product of the
    absolute differences, plus ``alpha`` on the diagonal. A patch votes at all of its voxels.
    """

    radius: int = 1
    search: int = 1
    alpha: float = 0.001
    channel_count: int = 133

    def votes(self, candidates: Candidates) -> Votes:
        """Weights of the channels where the atlases disagree."""
        pad = 2 * self.radius + self.search
        labels, images = (
            torch.from_numpy(np.pad(a, [(0, 0), *[(pad, pad)] * 3], mode="edge"))
            for a in (candidates.labels, candidates.images)
        )
        target = torch.from_numpy(np.pad(candidates.target, pad, mode="edge"))
        disputed = torch.from_numpy(np.pad((candidates.labels != candidates.labels[0]).any(axis=0), pad))
        near = max_pool3d(disputed[None, None].float(), 2 * self.radius + 1, 1, self.radius)[0, 0] > 0
        centers = near.flatten().nonzero()[:, 0]
        shifts = self.best_shifts(images, target, centers)
        rows = torch.full((target.numel(),), -1)
        rows[disputed.flatten()] = torch.arange(int(disputed.sum()))
        table = torch.zeros((int(disputed.sum()), self.channel_count))
        patch = torch.from_numpy(cube(self.radius)) @ torch.tensor(target.stride())
        flat_images, flat_labels, flat_target = images.flatten(1), labels.flatten(1).long(), target.flatten()
        for start in range(0, len(centers), BLOCK):
            part = slice(start, start + BLOCK)
            around = centers[part, None] + patch
            matched = (centers[part] + shifts[:, part])[..., None] + patch
            differences = torch.stack([image[at] for image, at in zip(flat_images, matched, strict=True)])
            weights = self.weights((flat_target[around] - differences).abs().permute(1, 0, 2))
            row, voted = rows[around], rows[around] >= 0
            for k, own in enumerate(flat_labels):
                cells = row * self.channel_count + own[matched[k]]
                table.view(-1).index_add_(0, cells[voted], weights[:, k, None].expand(row.shape)[voted])
        inside = (slice(pad, -pad),) * 3
        return disputed[inside].numpy(), (table / table.sum(dim=1, keepdim=True)).numpy()

    def best_shifts(self, images: Tensor, target: Tensor, centers: Tensor) -> Tensor:
        """(K, N) flat shift of each atlas to the most similar patch around each center."""
        shifts = torch.zeros((len(images), len(centers)), dtype=torch.long)
        for shift, image in zip(shifts, images, strict=True):
            lowest = torch.full((len(centers),), torch.inf)
            for offset in cube(self.search).tolist():
                squares = (target - torch.roll(image, [-o for o in offset], (0, 1, 2))) ** 2
                mean = avg_pool3d(squares[None, None], 2 * self.radius + 1, 1, self.radius).flatten()[centers]
                better = mean < lowest
                lowest[better] = mean[better]
                shift[better] = sum(o * s for o, s in zip(offset, target.stride(), strict=True))
        return shifts

    def weights(self, differences: Tensor) -> Tensor:
        """(N, K) weights from (N, K, P) absolute differences of patches; none is negative, their sum is 1."""
        count = differences.shape[1]
        joint = (torch.bmm(differences, differences.transpose(1, 2)) / differences.shape[2]) ** 2
        solved = torch.linalg.solve(joint + self.alpha * torch.eye(count), torch.ones(count, 1))
        positive: Tensor = solved[..., 0].clamp(min=0)
        positive /= positive.sum(dim=1, keepdim=True)
        return positive


def evidence_of(votes: Votes, agreed: NDArray[np.uint8]) -> Evidence:
    """The most likely channels of the atlases with their weights; ``agreed`` has the channels where all agree."""
    disputed, table = votes
    channels = np.zeros((*agreed.shape, KEPT), dtype=np.uint8)
    fractions = np.zeros((*agreed.shape, KEPT), dtype=np.float32)
    channels[..., 0], fractions[..., 0] = agreed, 1
    best = np.argsort(-table, axis=1, kind="stable")[:, :KEPT]
    fractions[disputed] = np.take_along_axis(table, best, axis=1)
    channels[disputed] = best
    return Evidence(np.where(fractions > 0, channels, np.uint8(0)), fractions)


def network_votes(target: Path, model: Model, settings: SegmentSettings, grid: Grid) -> Sampled:
    """The votes of the networks at all voxels of a grid in native space."""
    prepared = replace(prepare(read_scan(target).volume, model.inputs, settings), native_grid=grid)
    return sampled(votes_of(prepared, model, settings), prepared)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--model", default="whole")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    settings, model = SegmentSettings(model=options.model, threads=options.threads), load_model(options.model)
    torch.set_num_threads(settings.thread_count)
    sources = [source_of(atlas_scan) for atlas_scan in read_atlas_scans([options.data], labelled=True)]
    atlases = [source for source in sources if source.atlas_scan.name not in options.subjects]
    print(f"| scan | {' | '.join(f'{weight:g}' for weight in WEIGHTS)} | registrations, fusion |")
    print("|---" * (len(WEIGHTS) + 2) + "|")
    for target in (source for source in sources if source.atlas_scan.name in options.subjects):
        print(row_of(target, atlases, model, settings, options.work), flush=True)


def row_of(target: LabelSource, atlases: list[LabelSource], model: Model, settings: SegmentSettings, work: Path) -> str:
    """One row of the table: the Dice of a scan for every weight, and seconds of one core."""
    scan = read_scan(target.atlas_scan.t1w)
    reference = read_labels(target.atlas_scan.t1w.with_name(f"{target.atlas_scan.name}_dseg.nii.gz"), scan)
    known = np.where(np.isin(reference.data, model.protocol.ids), reference.data, 0)
    started = time.process_time()
    of_atlases = MultiAtlasSettings(n_atlases=len(atlases), unknown_ids="background")
    chosen = choose(target, atlases, of_atlases, work, frozenset())
    candidates, box = gather(scan, target.prepared(work), chosen, work, "background")
    registered = time.process_time()
    fused = evidence_of(JointFusion().votes(candidates), candidates.labels[0])
    end, grid = time.process_time(), scan.volume.grid.cropped(box)
    by_atlases = fused.sampled(np.indices(grid.shape, dtype=np.float32).reshape(3, -1))
    by_networks = network_votes(target.atlas_scan.t1w, model, settings, grid)
    scores = []
    for weight in WEIGHTS:
        channels = weighted_sum([(by_networks, 1 - weight), (by_atlases, weight)], 1)[0][:, 0].reshape(grid.shape)
        whole = np.asarray(on_whole_grid(scan.volume.grid, box, channels, 0), dtype=np.uint8)
        scores.append(f"{dice_of(whole, LabelMap(known, scan.volume.grid), model):.4f}")
    seconds = f"{registered - started:.0f} s, {end - registered:.0f} s"
    return f"| {target.atlas_scan.name} | {' | '.join(scores)} | {seconds} |"


if __name__ == "__main__":
    main()
