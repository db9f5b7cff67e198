"""Time and memory of one scan, step by step, and the time of one tile of the original network on the same machine.

    python benchmarks/segment.py SCAN [--models slant27 slant8] [--threads 2]

Each model runs in a process of its own, from command to files. The 3D U-Net of SLANT (Huo et al. 2018; 19,920,783
parameters, one of 27) is built with random weights and run once on one tile of 96 x 128 x 88 voxels. Prints the seconds
and the peak memory of each step and how many times faster the networks of each model are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class OriginalUNet(nn.Module):
    """The network of SLANT (MASILab/SLANTbrainSeg) as it runs there.

    Batch normalization is in training mode, and the output is that of ``dc1`` after its rectifier.
    """

    def __init__(self) -> None:
        super().__init__()
        encoder = ((1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512))
        for i, (inputs, outputs) in enumerate(encoder):
            conv = nn.Conv3d(inputs, outputs, 3, padding=1)
            self.add_module(f"ec{i}", nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU()))
        for i, inputs, outputs in ((9, 512, 512), (6, 256, 256), (3, 133, 133)):
            self.add_module(f"dc{i}", nn.Sequential(nn.ConvTranspose3d(inputs, outputs, 2, 2), nn.ReLU()))
        decoder = ((8, 768, 256), (7, 256, 256), (5, 384, 133), (4, 133, 133), (2, 197, 133), (1, 133, 133))
        for i, inputs, outputs in decoder:
            self.add_module(f"dc{i}", nn.Sequential(nn.ConvTranspose3d(inputs, outputs, 3, 1, 1), nn.ReLU()))
        self.dc0 = nn.Sequential(nn.ConvTranspose3d(64, 133, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(1, 133, D, H, W) of a (1, 1, D, H, W) tile."""
        layer = dict(self.named_children())
        pool = nn.MaxPool3d(2)
        s0 = layer["ec1"](layer["ec0"](x))
        s1 = layer["ec3"](layer["ec2"](pool(s0)))
        s2 = layer["ec5"](layer["ec4"](pool(s1)))
        x = layer["ec7"](layer["ec6"](pool(s2)))
        for skip, names in ((s2, ("dc9", "dc8", "dc7")), (s1, ("dc6", "dc5", "dc4")), (s0, ("dc3", "dc2", "dc1"))):
            up, first, second = (layer[name] for name in names)
            x = second(first(torch.cat([up(x), skip], dim=1)))
        return x


def time_original(threads: int) -> tuple[float, int]:
    """Seconds of one tile of the original network, and its number of parameters."""
    torch.set_num_threads(threads)
    network = OriginalUNet().train()
    with torch.inference_mode():
        tile = torch.rand(1, 1, 88, 128, 96)
        start = time.perf_counter()
        network(tile).argmax(dim=1)
        return time.perf_counter() - start, sum(p.numel() for p in network.parameters())


def run_model(scan: Path, model: str, threads: int) -> tuple[float, float, list[dict[str, float | str]]]:
    """Seconds from command to files, peak resident MiB, and the timings of the record."""
    code = "from slant.cli import main; main()"
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        command = [sys.executable, "-c", code, "segment", str(scan), out, "--model", model, "--threads", str(threads)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit(f"slant segment with the model {model} failed; see its message above")
        record = json.loads(next(Path(out).glob("*_record.json")).read_text())
    return seconds, usage.ru_maxrss / 1024, record["timings"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--models", nargs="+", default=["slant27", "slant8"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    print(f"{options.scan.name}, {options.threads} threads\n")
    print(f"| {'model':8} | {'step':24} | seconds | peak MiB so far |")
    print(f"|{'-' * 10}|{'-' * 26}|--------:|----------------:|")
    networks_s = {}
    for model in options.models:
        seconds, peak, timings = run_model(options.scan, model, options.threads)
        for step in timings:
            print(f"| {model:8} | {step['name']:24} | {step['runtime_s']:7.1f} | {step['peak_mib']:15.0f} |")
        rest = seconds - sum(float(step["runtime_s"]) for step in timings)
        print(f"| {model:8} | {'start, read, draw, write':24} | {rest:7.1f} | {'':15} |")
        print(f"| {model:8} | {'**command to files**':24} | {seconds:7.1f} | {peak:15.0f} |", flush=True)
        networks_s[model] = next(float(s["runtime_s"]) for s in timings if s["name"] == "networks and vote")
    tile_s, parameters = time_original(options.threads)
    print(f"\nOriginal network, {parameters:,} parameters: {tile_s:.1f} s per tile, {27 * tile_s:.0f} s for 27 tiles.")
    for model, seconds in networks_s.items():
        print(f"{model}: all tiles and the vote in {seconds:.1f} s, {27 * tile_s / seconds:.0f} times as fast.")


if __name__ == "__main__":
    main()
