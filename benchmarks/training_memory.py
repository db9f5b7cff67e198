"""Peak memory and seconds of one training step, with and without gradient checkpointing and offloading.

    python benchmarks/training_memory.py [--kind compact] [--size 96x128x88] [--memory none] [--gib 20]
    python benchmarks/training_memory.py --count

With --count nothing is computed: the table shows what the forward pass of the backbone keeps for the backward pass,
counted tensor by tensor, which is the minimum that a step needs. Otherwise each case runs in a process of its own. The
memory is the peak of that process (VmHWM, everything included), on CUDA the peak that torch allocated there. The
seconds are processor time, on CUDA wall time. Sizes are rounded up to what the network accepts. The table says which
cases need more memory than --gib or more minutes than --time-limit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slant.train.network import NetworkSpec

SIZES = ("96x128x88", "172x220x156", "192x192x192")
CHECKPOINTING, OFFLOADING = "gradient_checkpointing", "offload_activations"
MEMORY = ("none", CHECKPOINTING, OFFLOADING, f"{CHECKPOINTING}+{OFFLOADING}")
GIB = 2**30


def held_gib(status: Path, field: str = "VmHWM") -> float:
    """A size in the status of a process in /proc, by default its peak resident memory."""
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 / GIB if found else 0.0


def spec_of(name: str) -> NetworkSpec:
    """The network of a kind with its default settings, or of the first assembly of a model."""
    from slant.io.models import load_model
    from slant.nets.registry import KINDS, settings_of
    from slant.train.network import NetworkSpec

    if name in KINDS:
        return NetworkSpec(name, settings_of(name, {"outputs": 133}))
    first = load_model(name).assemblies[0]
    return NetworkSpec(first.kind, first.settings)


def run_step(kind: str, size: tuple[int, ...], memory: str, device: str, threads: int) -> dict[str, float]:
    """Runtime and peak memory of one optimizer step on a random scan."""
    import torch

    from slant.nets.network import MemorySettings
    from slant.tiles import TileLayout
    from slant.train.augment import Field
    from slant.train.checkpoint import new_state
    from slant.train.context import StageContext, run_context
    from slant.train.data import LabelledScan, TrainingScans
    from slant.train.loop import train_stage
    from slant.train.settings import TrainSettings
    from slant.train.stage_settings import StageSettings, TileSettings
    from slant.train.transfer import freeze

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    template, stage = (172, 220, 156), StageSettings(steps=1)
    layout = TileLayout(template, template, (1, 1, 1))
    settings = TrainSettings("memory", layout, stage, TileSettings(1), devices=(device,), precision="float32")
    run = replace(run_context(settings), network=spec_of(kind))
    channels = len(run.protocol)
    labels = torch.randint(channels, (43, 55, 39), dtype=torch.uint8)
    for axis in range(3):
        labels = labels.repeat_interleave(4, axis)
    frequency = torch.rand(43, 55, 39, channels).half() / channels
    scan = LabelledScan("random", torch.rand(template) + 0.5, labels, frequency)
    multiple = run.network.settings.multiple
    x, y, z = (-(-n // multiple) * multiple for n in size)
    a, b, c = ((whole - n) // 2 // 4 * 4 for whole, n in zip(template, (x, y, z), strict=True))
    seen = Field((a, b, c), (x, y, z), template, torch.arange(channels).numpy())
    context = StageContext(run, TrainingScans([scan], [], []), stage, seen, layout, device=device)
    state = new_state(run.network, stage, None, device)
    state.net.memory = MemorySettings(CHECKPOINTING in memory, OFFLOADING in memory)
    freeze(state.net, run.network.type.frozen)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start_s = clock()
    train_stage(state, context, lambda _: True)
    if device == "cpu":
        return {"gib": held_gib(Path("/proc/self/status")), "runtime_s": clock() - start_s}
    torch.cuda.synchronize()
    return {"gib": torch.cuda.max_memory_allocated() / GIB, "runtime_s": clock() - start_s}


def kept_gib(kind: str, size: tuple[int, ...], memory: str) -> float:
    """GiB that the forward pass of the backbone keeps for the backward pass, counted without computing it."""
    import torch

    from slant.nets.network import MemorySettings
    from slant.train.transfer import freeze

    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"):
        network = spec_of(kind).build()
        network.memory = MemorySettings(CHECKPOINTING in memory)
        freeze(network, network.frozen)
        x, y, z = (-(-n // network.multiple) * network.multiple for n in size)
        image, s = torch.empty(1, 1, x, y, z), network.stride
        coordinates = torch.empty(1, 3, x // s, y // s, z // s)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            features = count(network.backbone(image, coordinates))
    del features
    return sum(storage.nbytes() for storage in kept.values()) / GIB


def run_limited(case: list[str], gib: float) -> None:
    """Run one case in this process within a limit of memory, and print its memory and runtime as JSON."""
    import resource

    kind, size, memory, device, threads = case
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB),) * 2)
    try:
        found = run_step(kind, tuple(map(int, size.split("x"))), memory, device, int(threads))
    except Exception as error:  # torch raises several classes when memory runs out
        if not re.search("memory", f"{type(error).__name__} {error}", re.IGNORECASE):
            raise
        found = {}
    sys.stdout.write(json.dumps(found) + "\n")


def measured(case: list[str], gib: float, minutes: float) -> str:
    """The cells of the table for one case, run in a process of its own."""
    command = [sys.executable, __file__, "--case", *case, "--gib", str(gib)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        end, peak = time.monotonic() + 60 * minutes, 0.0
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
            if status.exists():
                peak = max(peak, held_gib(status))
        if process.poll() is None:
            process.kill()
            return f"at least {peak:.1f} | stopped after {60 * minutes:.0f}"
        output = process.communicate()[0]
    if process.returncode == -9:
        return f"does not fit: killed at {peak:.1f} | -"
    if process.returncode:
        raise SystemExit(f"the case {' '.join(case)} failed")
    found = json.loads(output)
    return f"{found['gib']:.2f} | {found['runtime_s']:.1f}" if found else f"does not fit in {gib:.0f} | -"


def main() -> None:
    """Print each row of the table as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument(
        "--kind", nargs="+", default=["compact", "slant2018"], help="kinds with their default settings, or models"
    )
    parser.add_argument("--size", nargs="+", default=list(SIZES))
    parser.add_argument("--memory", nargs="+", default=list(MEMORY), choices=MEMORY)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gib", type=float, default=20.0, help="limit of memory of a case on a CPU")
    parser.add_argument("--time-limit", type=float, default=10.0, help="minutes per case")
    parser.add_argument("--count", action="store_true", help="count what the backward pass needs without computing")
    options = parser.parse_args()
    if options.case:
        run_limited(options.case, options.gib)
        return
    if options.count:
        print("| network | size | memory settings | kept GiB |\n|---|---|---|---|")
        for kind, size, memory in product(options.kind, options.size, ("none", CHECKPOINTING)):
            kept = kept_gib(kind, tuple(map(int, size.split("x"))), memory)
            print(f"| {kind} | {size.replace('x', ' x ')} | {memory} | {kept:.2f} |")
        return
    print("| network | size | memory settings | peak GiB | seconds |\n|---|---|---|---|---|", flush=True)
    for kind, size, memory in product(options.kind, options.size, options.memory):
        case = [kind, size, memory, options.device, str(options.threads)]
        cells = measured(case, options.gib, options.time_limit)
        print(f"| {kind} | {size.replace('x', ' x ')} | {memory} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
