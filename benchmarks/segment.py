"""Time and memory of one scan, step by step, and the time of one tile of the original network on the same machine.

    python benchmarks/segment.py SCAN [--models slant27 slant8] [--threads 1 2] [--repeats 2] [--before FOLDER]
    python benchmarks/segment.py SCAN --functions 30

Every run is a process of its own, from command to files; the least of the repeats counts. With ``--before``, another
version of slant, for example a worktree of an earlier commit, runs in turn with this one. The 3D U-Net of SLANT (Huo et
al. 2018; 19,920,783 parameters, one of 27) is built with random weights and run once on one tile of 96 x 128 x 88
voxels. ``--functions`` lists the functions of Python in which the main thread spends most time.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_STEP = re.compile(r"(.+): (\d+\.\d) s, (\d+) MiB")
_MAIN = "import sys; sys.argv[0] = 'slant'; from slant.cli import main; main()"
_REST, _ALL, _PEAK = "rest", "command to files", "peak MiB"


@dataclass(frozen=True)
class Case:
    """A version of slant (its source folder; None for the installed one) with a model and a number of threads."""

    tree: Path | None
    model: str
    threads: int

    @property
    def name(self) -> str:
        """Head of its column."""
        version = "before, " if self.tree else ""
        return f"{version}{self.model}, {self.threads} thread{'s' if self.threads > 1 else ''}"


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


def run_case(scan: Path, case: Case) -> dict[str, float]:
    """Seconds of each step, of the rest and of all from command to files, and the peak resident MiB."""
    environment = os.environ | {"OMP_NUM_THREADS": str(case.threads)}
    if case.tree:
        environment["PYTHONPATH"] = str(case.tree)
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        command = [sys.executable, "-c", _MAIN, "segment", str(scan), out, "--model", case.model]
        command += ["--threads", str(case.threads)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment, cwd=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        log.seek(0)
        lines = log.read().splitlines()
        if status:
            sys.exit("\n".join([*lines, f"slant segment ({case.name}) failed"]))
        steps = {found[1]: float(found[2]) for line in lines if (found := _STEP.fullmatch(line))}
        if not steps:  # an earlier version, which did not print its steps
            (record,) = Path(out).glob("*_record.json")
            steps = {step["name"]: step["runtime_s"] for step in json.loads(record.read_text())["timings"]}
    return {**steps, _REST: seconds - sum(steps.values()), _ALL: seconds, _PEAK: usage.ru_maxrss / 1024}


def measured(scan: Path, cases: list[Case], repeats: int) -> list[dict[str, float]]:
    """The least of each figure of each case; the cases run in turn."""
    runs = [[run_case(scan, case) for case in cases] for _ in range(repeats)]
    return [{key: min(run[i][key] for run in runs) for key in runs[0][i]} for i in range(len(cases))]


def table(cases: list[Case], found: list[dict[str, float]]) -> Iterator[str]:
    """Lines of a Markdown table: a row per step, a column per case."""
    names = dict.fromkeys(step for steps in sorted(found, key=len, reverse=True) for step in steps)
    steps = [name for name in names if name not in (_REST, _ALL, _PEAK)]
    yield f"| step | {' | '.join(case.name for case in cases)} |"
    yield f"|---|{'--:|' * len(cases)}"
    for step in (*steps, _REST, _ALL, _PEAK):
        form = "{:.0f}" if step == _PEAK else "{:.1f}"
        yield f"| {step} | {' | '.join(form.format(column[step]) if step in column else '' for column in found)} |"


def print_functions(scan: Path, model: str, count: int) -> None:
    """Print the functions in which a run with one thread spends most time by itself."""
    from slant.cli import main as slant

    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as out:
        try:
            profile.runcall(slant, ["segment", str(scan), out, "--model", model, "--threads", "1", "--quiet"])
        except SystemExit as end:
            if end.code:
                raise
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(count)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--models", nargs="+", default=["slant27", "slant8"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--before", type=Path, help="source folder of another version")
    parser.add_argument("--functions", type=int, help="print this many functions instead of the tables")
    options = parser.parse_args()
    scan = options.scan.resolve()
    if options.functions:
        print_functions(scan, options.models[0], options.functions)
        return
    trees = [options.before.resolve(), None] if options.before else [None]
    cases = [Case(tree, model, n) for model in options.models for n in options.threads for tree in trees]
    found = measured(scan, cases, options.repeats)
    print(f"{scan.name}\n")
    print("\n".join(table(cases, found)))
    threads = max(options.threads)
    tile_s, parameters = time_original(threads)
    print(f"\nOriginal network, {parameters:,} parameters: {tile_s:.1f} s per tile, {27 * tile_s:.0f} s for 27 tiles.")
    for case, steps in zip(cases, found, strict=True):
        seconds = steps["networks and vote"]
        if case.threads == threads:
            print(f"{case.name}: all tiles in {seconds:.1f} s, {27 * tile_s / seconds:.0f} times as fast.")


if __name__ == "__main__":
    main()
