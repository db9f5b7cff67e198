"""Compare labels of networks and joint label fusion of atlases, alone and together.

    python experiments/atlases_and_networks.py LIBRARY DATA --subjects 1000 1008 1013 --model whole

LIBRARY is a file made by `slant atlases`, without the subjects. DATA contains NAME_T1w.nii.gz and NAME_dseg.nii.gz of
the subjects, which the model has not seen. Prints the mean Dice over the regions in native space for several shares of
the atlases in the votes, from 0 (networks alone) to 1; `slant segment --atlases` uses 1/2.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from positions import dice_of, votes_of

from slant.atlas_votes import Atlas, votes_of_atlases
from slant.config import SegmentSettings
from slant.decision import decide
from slant.io.atlas_library import LibraryFile, read_library
from slant.io.models import load_model
from slant.io.read import read_labels, read_scan
from slant.nets.model import Model
from slant.pipeline import prepare
from slant.resample_votes import resample_votes
from slant.sparse_votes import SparseVotes
from slant.volume import LabelMap

SHARES = tuple(Fraction(share) for share in ("0", "1/3", "1/2", "2/3", "1"))
"""Shares of the atlases in the votes."""


def mixed(networks: SparseVotes, atlases: SparseVotes, share: Fraction) -> SparseVotes:
    """Votes of both on the template grid, with a share of the atlases."""
    x, y, z = networks.shape
    equal = decide([networks], (x, y, z))  # as many votes at each voxel as the atlases have
    return decide([equal] * (share.denominator - share.numerator) + [atlases] * share.numerator, (x, y, z))


def row_of(name: str, data: Path, atlases: tuple[Atlas, ...], model: Model, settings: SegmentSettings) -> str:
    """One row of the table: the Dice of a scan for every share, and seconds of all cores for the atlases."""
    scan = read_scan(data / f"{name}_T1w.nii.gz")
    reference = read_labels(data / f"{name}_dseg.nii.gz", scan)
    known = LabelMap(np.where(np.isin(reference.data, model.protocol.ids), reference.data, 0), scan.volume.grid)
    prepared = prepare(scan.volume, model.inputs, settings)
    started = time.process_time()
    by_atlases = votes_of_atlases(prepared.image, atlases, settings.thread_count).votes
    seconds = time.process_time() - started
    by_networks = votes_of(prepared, model, settings)
    template_from_native = np.asarray(np.linalg.inv(prepared.native_from_template), dtype=np.float64)
    scores = []
    for share in SHARES:
        votes = mixed(by_networks, by_atlases, share)
        channels, _ = resample_votes(votes, prepared.image.grid, scan.volume.grid, template_from_native)
        scores.append(f"{dice_of(channels, known, model):.4f}")
    return f"| {name} | {' | '.join(scores)} | {seconds:.0f} s |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--model", default="whole")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    settings, model = SegmentSettings(model=options.model, threads=options.threads), load_model(options.model)
    library = read_library(LibraryFile.of(options.library))
    library.check(model)
    print(f"| scan | {' | '.join(map(str, SHARES))} | atlases |")
    print("|---" * (len(SHARES) + 2) + "|")
    for name in options.subjects:
        atlases = library.atlases_for(read_scan(options.data / f"{name}_T1w.nii.gz"))
        print(row_of(name, options.data, atlases, model, settings), flush=True)


if __name__ == "__main__":
    main()
