"""The result of an earlier assembly for the training of a later one: made once per scan, varied in every step."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from slant.errors import TrainingError
from slant.io.prepared import digest, kept
from slant.nets.earlier import block_mean, prior_at
from slant.nets.network import Network, channels_last
from slant.nets.predict import Predictor, tile_votes
from slant.sparse_votes import SparseVotes
from slant.train import augment, draws
from slant.train.atlas import ERROR_SPACING, block_coordinates
from slant.train.checkpoint import averaged_weights
from slant.train.context import RunContext, StageContext
from slant.train.data import LabelledScan, TrainingScans
from slant.train.groupwise import deformed_prior
from slant.train.splits import subject_folds
from slant.vote import VoteCounter, most_ballots


def with_earlier(run: RunContext, scans: TrainingScans) -> TrainingScans:
    """The scans with the result of the earlier assembly, if the networks of the run take one.

    Without ``earlier_folds``, the networks of the earlier assembly have seen the labels of the training scans, so its
    result is better there than on new scans: `earlier_of_step` therefore adds errors. The prior leaves out the labels
    of the scan itself.

    Raises
    ------
    TrainingError
        If a network of the earlier assembly is not trained.
    """
    if run.assembly.earlier is None:
        return scans
    before, folds = run.at(run.assembly.earlier), run.assembly.earlier_folds
    networks = _networks_of(before)
    inputs = with_earlier(before, scans)

    def labelled(group: list[LabelledScan], networks: Networks = networks) -> list[LabelledScan]:
        bar = tqdm(
            group, desc=f"{before.assembly.name} on {len(group)} scans", unit="scan", file=sys.stderr, disable=not group
        )
        return [replace(scan, earlier=_kept_votes(before, inputs, scan, networks)) for scan in bar]

    if folds:
        groups = subject_folds(run.settings, [scan.name for scan in inputs.manual], folds)
        parts = [
            labelled([scan for scan in inputs.manual if scan.name in names], _network_without(before, folds, fold))
            for fold, names in enumerate(groups)
        ]
        manual = sorted((scan for part in parts for scan in part), key=lambda scan: scan.name)
    else:
        manual = labelled(inputs.manual)
    return replace(
        scans,
        manual=manual,
        auxiliary=labelled(inputs.auxiliary),
        held_out=labelled(inputs.held_out),
    )


@dataclass(frozen=True, eq=False)
class Networks:
    """Trained networks by tile, with a hash of their weights."""

    of_tile: Callable[[str], Network]
    identity: str


def _networks_of(run: RunContext) -> Networks:
    """The networks of the tiles of an assembly."""
    loaded = {
        tile.name: _network(run, run.tile_checkpoint(tile.name), run.assembly.tile.steps, "tiles")
        for tile in run.assembly.assembly(run.network).networks
    }
    networks = {name: network for name, (network, _) in loaded.items()}
    return Networks(networks.__getitem__, digest(*(sha256 for _, sha256 in loaded.values())))


def _network_without(run: RunContext, folds: int, fold: int) -> Networks:
    """The whole-brain network of an assembly that is trained without a fold, for all tiles."""
    network, sha256 = _network(run, run.out_of_fold(folds, fold), run.assembly.whole.steps, "whole")
    return Networks(lambda _: network, sha256)


def _network(run: RunContext, path: Path, steps: int, stage: str) -> tuple[Network, str]:
    """The network of a checkpoint, and a hash of its weights."""
    if not path.is_file():
        raise TrainingError(
            f"an assembly takes the result of {run.assembly.name!r}, but {path} does not exist; run the stage {stage} "
            f"of {run.assembly.name!r} first"
        )
    weights, sha = averaged_weights(path, steps), hashlib.sha256()
    for name, tensor in weights.items():
        sha.update(name.encode() + np.ascontiguousarray(tensor.float().numpy()).tobytes())
    with torch.device("meta"):
        network = run.network.build()
    network.load_state_dict(weights, assign=True)
    return channels_last(network.requires_grad_(False)), sha.hexdigest()


def _kept_votes(run: RunContext, scans: TrainingScans, scan: LabelledScan, networks: Networks) -> SparseVotes:
    """The votes of an assembly for a scan, from its file if the networks are the same."""

    def compute() -> dict[str, Any]:
        predictor = predictor_of(run, scans, scan, networks.of_tile)
        votes = votes_of(predictor, scan, torch.device(run.devices[0]))
        return {"channels": votes.channels, "counts": votes.counts, "totals": votes.totals}

    inputs = hashlib.sha256(np.ascontiguousarray(scan.image.numpy()).tobytes())
    if scans.groupwise is not None:
        inputs.update(np.ascontiguousarray(scans.groupwise.displacements[scan.name].numpy()).tobytes())
    assembly = json.dumps(run.assembly.assembly(run.network).plain)
    identity = digest("divided votes", assembly, networks.identity, inputs.hexdigest())
    stored = kept(_votes_file(run, scan.name), identity, compute)
    return SparseVotes(stored["channels"], stored["counts"], stored["totals"], run.assembly.resolution_mm)


def _votes_file(run: RunContext, scan: str) -> Path:
    return run.folder / "votes" / f"{scan}.npz"


def votes_of(predictor: Predictor, scan: LabelledScan, device: torch.device) -> SparseVotes:
    """The votes of the tiles of an assembly for a prepared scan."""
    r, layout, views = predictor.resolution_mm, predictor.layout, predictor.views
    divided = predictor.network(layout.tiles[0].name).probabilistic
    predictor = replace(predictor, ballots=most_ballots(layout, views) if divided else 1)
    counter = VoteCounter(layout, r, ballots=predictor.ballots, views=views)
    for tile, channels in tile_votes(predictor, block_mean(scan.image.numpy(), r), device, torch.get_num_threads()):
        counter.aggregate(channels, tile)
    return counter.finalize()


def predictor_of(
    run: RunContext, scans: TrainingScans, scan: LabelledScan, networks: Callable[[str], Network]
) -> Predictor:
    """The predictor of an assembly for a prepared scan, with a prior that leaves out the labels of the scan."""
    prior, displacement, r = None, None, run.assembly.resolution_mm
    if run.network.type.prior:
        if scans.groupwise is None:
            prior = scans.prior_without(scan)
        else:
            displacement = scans.groupwise.displacements[scan.name].numpy()
            prior = deformed_prior(scans.groupwise, scan)
        prior = prior_at(prior, r)
    return Predictor(
        run.assembly.layout,
        prior,
        networks,
        displacement=displacement,
        mirroring=run.mirroring,
        resolution_mm=r,
        earlier=scan.earlier,
    )


def earlier_of_step(
    scan: LabelledScan, coordinates: Tensor, context: StageContext, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The earlier result of a step at the features of the network, at places with a smooth random error.

    Parameters
    ----------
    scan : LabelledScan
        With ``earlier_tensors`` on the device of the coordinates.
    coordinates : (X, Y, Z, 3) float32 tensor
        Template voxel at which each voxel of the crop is sampled.

    Returns
    -------
    channels : (A, B, C, K) uint8 tensor
        Exchanged for those of the other side if the step is flipped.
    fractions : (A, B, C, K) float32 tensor
        Vote fractions; all 0 in a step that does not see the earlier result.
    """
    if scan.earlier is None or scan.earlier_tensors is None:
        raise AssertionError("the scans of an assembly that takes an earlier result have one")
    settings, edge, tables = context.run.assembly, context.feature_mm, scan.earlier_tensors
    cells = block_coordinates(coordinates, edge)
    strength = settings.earlier_error_mm * draws.uniform(generator)
    error = augment.smooth_field(cells.shape[:3], ERROR_SPACING / edge, 3, generator, cells.device) * strength
    hidden = draws.uniform(generator) < settings.earlier_dropout
    index = torch.floor((cells + error.permute(1, 2, 3, 0) + 0.5) / scan.earlier.voxel_mm).long()
    index = torch.minimum(index.clamp(min=0), torch.tensor(scan.earlier.shape, device=index.device) - 1)
    channels, counts, totals = (table[index[..., 0], index[..., 1], index[..., 2]] for table in tables)
    if flip:
        channels = augment.flip_labels(channels, context.run.regions.mirrored)
    fractions = counts.float() / totals[..., None].float()
    return channels, fractions * (0.0 if hidden else 1.0)
