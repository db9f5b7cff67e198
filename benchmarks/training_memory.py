"""Peak memory and seconds of one training step, with and without checkpoints and offloading.

    python benchmarks/training_memory.py [--kind compact] [--size 96x128x88] [--memory checkpoint] [--gib 20]
    python benchmarks/training_memory.py --count

With --count nothing is computed: the table has what the trunk's forward pass leaves for the backward pass, counted
tensor by tensor, which is the least that a step needs. Else each case runs in a process of its own: the memory is the
largest that the process ever held (VmHWM, everything included), on CUDA the largest that torch allocated there; the
seconds are those of the processor, on CUDA of the clock. Sizes are rounded up to what the network takes. What needs
more than --gib or more than --minutes is said in the table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

SIZES = ("96x128x88", "172x220x156", "192x192x192")
MEMORY = ("plain", "checkpoint", "offload", "checkpoint+offload")
GIB = 2**30


def held_gib(status: Path, field: str = "VmHWM") -> float:
    """Memory that a process holds or ever held, from its status in /proc."""
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 / GIB if found else 0.0


def run_step(kind: str, size: tuple[int, ...], memory: str, device: str, threads: int) -> dict[str, float]:
    """One optimizer step on a made-up scan, with its seconds and its peak memory."""
    import torch

    from slant.io.resources import load_protocol
    from slant.nets.memory import MemorySettings
    from slant.nets.registry import build_network, settings_of
    from slant.train.augment import AugmentSettings
    from slant.train.checkpoint import new_state
    from slant.train.data import LabelledScan
    from slant.train.loop import train_stage
    from slant.train.loss import LossSettings
    from slant.train.settings import StageSettings
    from slant.train.step import Field, Lesson, Regions

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    channels = len(load_protocol())
    template = (172, 220, 156)
    labels = torch.randint(channels, (43, 55, 39), dtype=torch.uint8)
    for axis in range(3):
        labels = labels.repeat_interleave(4, axis)
    frequency = torch.rand(43, 55, 39, channels).half() / channels
    scan = LabelledScan("made-up", torch.rand(template) + 0.5, labels, frequency)
    settings = settings_of(kind, {"outputs": channels})
    multiple = build_network(kind, settings).multiple
    x, y, z = (-(-n // multiple) * multiple for n in size)
    start = tuple((whole - n) // 2 // 4 * 4 for whole, n in zip(template, (x, y, z), strict=True))
    stage = StageSettings(steps=1)
    seen = Field(start, (x, y, z), template, torch.arange(channels).numpy())  # type: ignore[arg-type]
    regions = Regions(torch.arange(channels, dtype=torch.uint8), {}, *[torch.zeros(channels, dtype=torch.bool)] * 2)
    lesson = Lesson(seen, stage, AugmentSettings(), LossSettings(), regions, "float32")
    state = new_state((kind, settings), stage, None, device)
    state.net.memory = MemorySettings("checkpoint" in memory, "offload" in memory)
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    train_stage(state, ([scan], []), lesson, lambda _: True)
    if device == "cpu":
        return {"gib": held_gib(Path("/proc/self/status")), "seconds": clock() - begun}
    torch.cuda.synchronize()
    return {"gib": torch.cuda.max_memory_allocated() / GIB, "seconds": clock() - begun}


def kept_gib(kind: str, size: tuple[int, ...], memory: str) -> float:
    """What the forward pass of the trunk keeps for the backward pass, counted without computing it."""
    import torch

    from slant.nets.memory import MemorySettings
    from slant.nets.registry import build_network, settings_of

    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"):
        network = build_network(kind, settings_of(kind, {"outputs": 133}))
        network.memory = MemorySettings("checkpoint" in memory)
        x, y, z = (-(-n // network.multiple) * network.multiple for n in size)
        image, place = torch.empty(1, 1, x, y, z), torch.empty(1, 3, x // 2, y // 2, z // 2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = keep(network.trunk(image, place))
    del features
    return sum(storage.nbytes() for storage in kept.values()) / GIB


def run_limited(case: list[str], gib: float) -> None:
    """Run one case in this process with no more memory than allowed, and print what came of it."""
    import resource

    kind, size, memory, device, threads = case
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB),) * 2)
    try:
        found = run_step(kind, tuple(map(int, size.split("x"))), memory, device, int(threads))
    except Exception as error:  # torch has no one class for want of memory
        if not re.search("memory", f"{type(error).__name__} {error}", re.IGNORECASE):
            raise
        found = {}
    sys.stdout.write(json.dumps(found) + "\n")


def measured(case: list[str], gib: float, minutes: float) -> str:
    """The cells of one case, run in a process of its own."""
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
            return f"at least {peak:.1f} | over {60 * minutes:.0f}, stopped"
        said = process.communicate()[0]
    if process.returncode == -9:
        return f"does not fit: killed at {peak:.1f} | -"
    if process.returncode:
        raise SystemExit(f"the case {' '.join(case)} failed")
    found = json.loads(said)
    return f"{found['gib']:.2f} | {found['seconds']:.1f}" if found else f"does not fit in {gib:.0f} | -"


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--kind", nargs="+", default=["compact", "slant2018"])
    parser.add_argument("--size", nargs="+", default=list(SIZES))
    parser.add_argument("--memory", nargs="+", default=list(MEMORY), choices=MEMORY)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gib", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", action="store_true", help="count what the backward pass needs, compute nothing")
    given = parser.parse_args()
    if given.case:
        run_limited(given.case, given.gib)
        return
    if given.count:
        print("| network | box | memory | kept GiB |\n|---|---|---|---|")
        for kind, size, memory in product(given.kind, given.size, ("plain", "checkpoint")):
            kept = kept_gib(kind, tuple(map(int, size.split("x"))), memory)
            print(f"| {kind} | {size.replace('x', ' x ')} | {memory} | {kept:.2f} |")
        return
    print("| network | box | memory | peak GiB | seconds |\n|---|---|---|---|---|", flush=True)
    for kind, size, memory in product(given.kind, given.size, given.memory):
        case = [kind, size, memory, given.device, str(given.threads)]
        cells = measured(case, given.gib, given.minutes)
        print(f"| {kind} | {size.replace('x', ' x ')} | {memory} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
