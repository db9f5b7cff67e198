"""How far label maps agree between thread counts, older processors and half precision, in one run.

    python benchmarks/same_bytes.py SCAN [--model slant27]

The scan is segmented whole in processes of their own, with two threads, one thread, and with the libraries told to use
only the AVX2 instructions. The networks and the vote alone are then run again in bfloat16, which rounds 8 times coarser
than the float16 of CUDA.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import slant
from slant.fusion import VoteCounter
from slant.io.read import read_labels
from slant.io.results import ResultNames
from slant.measure import mean_dice
from slant.nets.predict import tile_votes
from slant.nets.unet import CompactUNet
from slant.volume import LabelMap

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"}


def segmented(scan: Path, out: Path, model: str, threads: int, environment: dict[str, str]) -> LabelMap:
    """The native label map of one whole run."""
    code = "from slant.cli import main; main()"
    command = [sys.executable, "-c", code, "segment", str(scan), str(out), "--model", model, "--threads", str(threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    home = slant.read_scan(scan)
    return read_labels(out / ResultNames(home.name).labels, home)


def voted(prepared: slant.Prepared, model: slant.Model, *, half: bool) -> LabelMap:
    """Labels in the template's space, with the layers of the networks in bfloat16 or not."""
    predictor = model.predictor(prepared.image.data, prepared.deformation)
    counter, cpu = VoteCounter(model.layout), torch.device("cpu")

    def network(tile: str) -> CompactUNet:
        made = predictor.network(tile)
        made.trunk = torch.autocast("cpu", torch.bfloat16, enabled=half)(made.trunk)
        made.tail = torch.autocast("cpu", torch.bfloat16, enabled=half)(made.tail)
        return made

    for tile, channels in tile_votes(replace(predictor, network=network), prepared.image.data, cpu, 2):
        counter.aggregate(channels, tile)
    return LabelMap(model.protocol.ids_from_channels(counter.finalize().channels), prepared.image.grid)


def row(name: str, found: LabelMap, wanted: LabelMap, ids: list[int]) -> str:
    """One line of the table."""
    brain = (found.data != 0) | (wanted.data != 0)
    differ = np.count_nonzero(found.data != wanted.data)
    return f"| {name:32} | {differ:16} | {differ / brain.sum():22.5%} | {mean_dice(found, wanted, ids):9.5f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--model", default="slant27")
    options = parser.parse_args()
    model = slant.load_model(options.model)
    ids = [int(i) for i in model.protocol.ids if i]
    print(f"{options.scan.name}, {options.model}\n")
    print(f"| {'against float32, two threads':32} | voxels differing | share of labelled ones | mean Dice |")
    print(f"|{'-' * 34}|-----------------:|-----------------------:|----------:|")
    with tempfile.TemporaryDirectory() as folder:
        runs = {"first": (2, {}), "one thread": (1, {}), "AVX2 only, whole pipeline": (2, AVX2)}
        found = {
            name: segmented(options.scan, Path(folder) / name, options.model, threads, environment)
            for name, (threads, environment) in runs.items()
        }
    for name in list(runs)[1:]:
        print(row(name, found[name], found["first"], ids), flush=True)
    prepared = slant.prepare(slant.read_scan(options.scan).volume, model.inputs)
    exact = voted(prepared, model, half=False)
    print(row("bfloat16 layers, networks only", voted(prepared, model, half=True), exact, ids))


if __name__ == "__main__":
    main()
