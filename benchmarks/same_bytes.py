"""Reproducibility: how far label maps agree between thread counts, instruction sets and half precision.

    python benchmarks/same_bytes.py SCAN [--model slant27]

Segments the scan in processes of their own, with two threads, with one thread, and with the libraries limited to AVX2
instructions, then runs the networks and the vote alone in bfloat16, whose rounding is 8 times coarser than that of the
float16 of CUDA. Prints the number and fraction of differing voxels and the mean Dice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import slant
from slant.io.names import ResultNames
from slant.io.read import read_labels
from slant.volume import LabelMap
from slant.volumes import mean_dice

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"}


def segmented(scan: Path, out: Path, model: str, threads: int, environment: dict[str, str]) -> LabelMap:
    """The label map in native space of one run of the command line."""
    code = "from slant.cli import main; main()"
    command = [sys.executable, "-c", code, "segment", str(scan), str(out), "--model", model, "--threads", str(threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    read = slant.read_scan(scan)
    return read_labels(out / ResultNames(read.name).labels, read)


def voted(prepared: slant.Prepared, model: slant.Model, dtype: torch.dtype) -> LabelMap:
    """Labels in template space, with the layers of the networks in this data type."""
    image = prepared.image.data
    vote = model.cascade(image, prepared.deformation, dtype).vote(image, torch.device("cpu"), 2)
    return LabelMap(model.protocol.ids_from_channels(vote.winners), prepared.image.grid)


def row(name: str, found: LabelMap, expected: LabelMap, ids: list[int]) -> str:
    """One line of the table."""
    labelled = (found.data != 0) | (expected.data != 0)
    differ = np.count_nonzero(found.data != expected.data)
    fraction, dice = differ / labelled.sum(), mean_dice(found, expected, ids)
    return f"| {name:32} | {differ:16} | {fraction:27.5%} | {dice:9.5f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--model", default="slant27")
    options = parser.parse_args()
    model = slant.load_model(options.model)
    ids = [int(i) for i in model.protocol.ids if i]
    print(f"{options.scan.name}, {options.model}\n")
    print(f"| {'against float32, two threads':32} | differing voxels | fraction of labelled voxels | mean Dice |")
    print(f"|{'-' * 34}|-----------------:|----------------------------:|----------:|")
    with tempfile.TemporaryDirectory() as folder:
        runs = {"first": (2, {}), "one thread": (1, {}), "AVX2 only, whole pipeline": (2, AVX2)}
        found = {
            name: segmented(options.scan, Path(folder) / name, options.model, threads, environment)
            for name, (threads, environment) in runs.items()
        }
    for name in list(runs)[1:]:
        print(row(name, found[name], found["first"], ids), flush=True)
    prepared = slant.prepare(slant.read_scan(options.scan).volume, model.inputs)
    exact, half = (voted(prepared, model, dtype) for dtype in (torch.float32, torch.bfloat16))
    print(row("bfloat16 layers, networks only", half, exact, ids))


if __name__ == "__main__":
    main()
