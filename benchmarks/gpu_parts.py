"""The parts of `gpu.py`, each run as a process of its own: `gpu_parts.py PART OPTIONS`."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from gpu_results import Options, Results

if TYPE_CHECKING:
    from slant.segmentation import Prepared, Segmentation
    from slant.train.settings import TrainSettings

START = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
DONE, FAILED, SKIPPED = 0, 1, 3
GIB = 2**30


def machine(options: Options) -> int:
    """Print and keep what the machine is."""
    import torch

    results = Results(options.out)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    models = [line.split(":")[1].strip() for line in _lines(cpu) if line.startswith("model name")]
    total = [int(line.split()[1]) / 2**20 for line in _lines(meminfo) if line.startswith("MemTotal")]
    results.row("machine", "CPU", models[0] if models else platform.processor(), "", f"{cores} cores available")
    results.row("machine", "memory", total[0] if total else float("nan"), "GiB")
    results.row("machine", "versions", f"Python {platform.python_version()}, torch {torch.__version__}")
    if not options.device.startswith("cuda"):
        return DONE
    smi = shutil.which("nvidia-smi")
    query = [smi or "", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout if smi else ""
    results.row("machine", "nvidia-smi", found.strip() or "not found", "", "name, driver, memory, of which in use")
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device")
        return FAILED
    properties = torch.cuda.get_device_properties(torch.device(options.device))
    results.row(
        "machine", "GPU", properties.name, "", f"CUDA {torch.version.cuda}, sm {properties.major}{properties.minor}"
    )
    results.row("machine", "GPU memory", properties.total_memory / GIB, "GiB")
    return DONE


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def unpack(options: Options) -> int:
    """Make the work folder of the training."""
    from unpack_training import command_of, description_of
    from unpack_training import unpack as unpack_to

    start = time.monotonic()
    settings = unpack_to(options.pack, options.work)
    known, results = description_of(options.work), Results(options.out)
    results.row("unpack", "time", time.monotonic() - start, "s")
    results.row("unpack", "manual scans", len(known["manual"]), "", f"fold {known['fold']} is held out")
    results.row("unpack", "auxiliary scans", len(known["auxiliary"]), "", f"{len(known['left_out'])} left out")
    results.row("unpack", "checkpoint", known["steps"] if known["steps"] is not None else "none", "steps")
    print(command_of(options.work, settings))
    return DONE


def tests(options: Options) -> int:
    """Run the tests that are marked gpu, from the files which have some."""
    import pytest

    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    if not files:
        print("no test is marked gpu")
        return SKIPPED
    os.chdir(ROOT)
    report = options.work / "tests.xml"
    flags = ["-m", "gpu", "-q", "-rs", "--no-header", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    status = pytest.main([*files, *flags, f"--junitxml={report}"])
    results, outcomes = Results(options.out), []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (pytest has written it)
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes.append(kinds[0] if kinds else "passed")
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        results.row("tests", name, outcomes[-1], "", f"{float(case.get('time', 0)):.2f} s")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return FAILED
    return DONE if "passed" in outcomes else SKIPPED


def prepared_of(settings: TrainSettings, name: str) -> Prepared:
    """A scan of the work folder, ready for networks with an affine prior."""
    import numpy as np

    from slant.grid import Grid
    from slant.io.templates import load_template
    from slant.segmentation import Prepared
    from slant.train.data import load_stored
    from slant.volume import LabelMap, Volume

    images, wanted = settings.work_dir / "prepared", ("image", "brain", "native_shape", "ras_from_voxel")
    sha256 = load_stored(images / f"{name}.labels.npz", "prepared scan", "prepare", ("scan_sha256",))["scan_sha256"]
    names = (*wanted, "native_from_template")
    stored = load_stored(images / f"{sha256}.npz", "prepared scan", "prepare", names)
    x, y, z = (int(n) for n in stored["native_shape"])
    grid = Grid((x, y, z), stored["ras_from_voxel"])
    brain = LabelMap(np.unpackbits(stored["brain"], count=x * y * z).reshape(x, y, z), grid)
    image = Volume(stored["image"].astype(np.float32), load_template().grid)
    return Prepared(
        image=image,
        brain=brain,
        native_grid=grid,
        skull_stripped=True,
        native_from_template=stored["native_from_template"],
        similarity=1.0,
    )


def names_of(settings: TrainSettings) -> tuple[list[str], list[str]]:
    """Names of the training scans and of the held-out scans with manual labels."""
    from slant.train.data import labelled_names
    from slant.train.splits import split

    return split(settings, labelled_names(settings.data))


@dataclass
class Labeller:
    """Labels one scan again and again, with the time of each."""

    prepared: Prepared
    model_name: str

    def __post_init__(self) -> None:
        from dataclasses import replace

        from slant.io.models import load_model
        from slant.nets.groupwise import deform

        self.model, start = load_model(self.model_name), time.monotonic()
        if self.model.inputs.groupwise is not None:
            deformation = deform(self.prepared.image, self.model.inputs.groupwise)
            self.prepared = replace(self.prepared, deformation=deformation)
        self.deform_s = time.monotonic() - start

    def label(self, device: str) -> tuple[Segmentation, float]:
        """The labels by the networks on a device, and the seconds."""
        from slant import pipeline
        from slant.config import SegmentSettings

        start = time.monotonic()
        found = pipeline.label(self.prepared, self.model, SegmentSettings(device=device))
        return found, time.monotonic() - start


def peak_gib(device: str) -> tuple[float, str]:
    """Peak memory since the last call: allocated on the GPU or, on a CPU, resident since the start of the process."""
    import torch

    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / GIB, "allocated by torch on the GPU"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, "resident memory of the process"


def labels(options: Options) -> int:
    """Compare the labels of a device with those of the CPU."""
    import numpy as np
    from unpack_training import settings_of

    from slant.io.models import embedded_models

    settings, results = settings_of(options.work), Results(options.out)
    trained, held_out = names_of(settings)
    name = [*held_out, *trained][0]
    prepared = prepared_of(settings, name)
    for name_or_folder in options.models:
        if name_or_folder not in embedded_models() and not Path(name_or_folder).is_dir():
            print(f"{name_or_folder} is neither an embedded model here nor a model folder; left out")
            continue
        labeller, model = Labeller(prepared, name_or_folder), Path(name_or_folder).name
        results.row("labels", f"{model} deformation", labeller.deform_s, "s", f"scan {name}, on the CPU")
        _, first = labeller.label(options.device)
        results.row("labels", f"{model} {options.device} first", first, "s")
        found, again = labeller.label(options.device)
        results.row("labels", f"{model} {options.device} again", again, "s", "networks, native labels and volumes")
        results.row("labels", f"{model} {options.device} peak", *_with_unit(peak_gib(options.device)))
        expected, on_cpu = labeller.label("cpu")
        results.row("labels", f"{model} cpu", on_cpu, "s")
        for space in ("template_labels", "labels"):
            a, b = (getattr(segmentation, space).data for segmentation in (found, expected))
            differing, labelled = int((a != b).sum()), int(np.count_nonzero(b))
            note = f"of {labelled} labelled on the CPU, {100 * differing / max(labelled, 1):.4f} %"
            results.row("labels", f"{model} {space} differing", differing, "voxels", note)
    return DONE


def _with_unit(peak: tuple[float, str]) -> tuple[float, str, str]:
    return peak[0], "GiB", peak[1]


def segment(options: Options) -> int:
    """Measure a whole `slant segment`, from before the imports to the files."""
    scans = sorted((options.work / "native").glob("*"))
    missing = [name for name in ("ants", "deepbet") if find_spec(name) is None]
    if missing or not scans:
        reason = f"{' and '.join(missing)} not installed" if missing else "the pack has no scan (--native-scan)"
        print(f"no whole slant segment: {reason}")
        return SKIPPED
    from slant.cli import main

    out = options.work / "segmented"
    try:
        main(["segment", str(scans[0]), str(out), "--device", options.device, "--model", options.models[-1]])
    except SystemExit as error:
        if error.code not in (None, 0):
            print(f"slant segment ended with the status {error.code}")
            return FAILED
    results, note = Results(options.out), f"{scans[0].name}, {options.models[-1]}, imports and report included"
    results.row("segment", "time", time.monotonic() - START, "s", note)
    results.row("segment", "peak", *_with_unit(peak_gib(options.device)))
    return DONE


def main() -> None:
    """Run one part."""
    part, options = sys.argv[1], Options.from_json(sys.argv[2])
    if part == "training":
        from gpu_training import training

        sys.exit(training(options, START))
    parts = {"machine": machine, "unpack": unpack, "tests": tests, "labels": labels, "segment": segment}
    sys.exit(parts[part](options))


if __name__ == "__main__":
    main()
