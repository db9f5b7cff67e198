"""What a GPU that is lent for ten minutes can tell and train, in one command and one folder.

    bash benchmarks/gpu.sh PACK OUT [--device cuda|cpu] [--minutes 9]

PACK is a tar or a folder of `pack_training.py`. The parts, in this order: `machine`; `unpack`; `tests` (those marked
gpu); `labels` (on the device and on the CPU: voxels that differ, seconds, memory); `segment` (the whole of slant
segment, where it is installed); `training` (time and memory of a step, then steps until the time is over; export,
validation).

OUT gets `gpu.log`, `results.tsv` (one line per number), and from the training `whole.tsv`, `curves.png`,
`model-whole.tar` and the checkpoint in pieces, which `pieces.py join OUT whole.pt` joins. Every file is written as soon
as there is something to write, and is at most 16 MiB. Each part is a process of its own: if it fails or hangs, the next
ones still run. The exit status is 1 if a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gpu_results import Options, Results, deliver
from pieces import MIB, PIECE_MIB, write_pieces

PARTS = {"machine": 0.2, "unpack": 0.4, "tests": 0.3, "labels": 0.3, "segment": 0.3, "training": 1.0}
"""The parts, each with the largest fraction of the time left that it may take."""

SKIPPED = 3
"""Exit status of a part that has nothing to do; it prints why."""

MAX_FILES = 8
_END_S = 10.0  # to deliver the last checkpoint
_POLL_S = 1.0


@dataclass
class Log:
    """Prints lines, and writes them to a file."""

    file: IO[str]
    start: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        """Print one line, with the seconds since the start."""
        line = f"{time.monotonic() - self.start:6.1f} {text.rstrip()}\n"
        self.file.write(line)
        self.file.flush()
        sys.stdout.write(line)
        sys.stdout.flush()

    def copy(self, stream: IO[str]) -> None:
        """Print the lines of a stream until its end."""
        for line in stream:
            if line.strip():
                self(f"  {line}")


@dataclass
class Delivery:
    """Copies what the training has written to the results; ``seen`` is the time of the last checkpoint."""

    options: Options
    log: Log
    seen: float = 0.0

    def __call__(self) -> None:
        """Deliver the checkpoint in pieces, the table of steps and the curves, if there is a new checkpoint."""
        for path in sorted(self.options.work.glob("*/whole.pt")):
            try:
                changed = path.stat().st_mtime
                if changed <= self.seen:
                    continue
                for name in ("whole.tsv", "curves.png"):
                    deliver(path.with_name(name), self.options.out)
                pieces = write_pieces(path, self.options.out)
            except Exception as error:  # noqa: BLE001 (the training must go on)
                self.log(f"the checkpoint could not be delivered: {error!r}")
                continue
            self.seen = changed
            self.log(f"checkpoint delivered: {', '.join(piece.name for piece in pieces)}")


def run_part(part: str, options: Options, log: Log, during: Callable[[], None]) -> int:
    """Run a part in a process of its own for at most ``options.seconds``; its exit status.

    ``during`` is called every second.
    """
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), part, options.to_json()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    if process.stdout is None:
        raise AssertionError("the output of the process is a pipe")
    reader = threading.Thread(target=log.copy, args=(process.stdout,), daemon=True)
    reader.start()
    end = time.monotonic() + options.seconds
    try:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(_POLL_S)
            during()
        if process.poll() is None:
            log(f"{part} was stopped after {options.seconds:.0f} s")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it has started
        process.wait()
    reader.join(timeout=5)
    if not reader.is_alive():
        process.stdout.close()
    return process.returncode


def run_all(parts: list[str], options: Options, end: float, log: Log) -> list[str]:
    """Run the parts, each in the time that is left; the names of those that failed."""
    failed: list[str] = []
    delivery = Delivery(options, log)
    try:
        for part in parts:
            left = end - time.monotonic()
            ready = part in ("machine", "unpack") or "unpack" not in failed
            if left < 1 or not ready:
                log(f"{part} left out: {'no time is left' if ready else 'there is no work folder'}")
                failed.append(part)
                continue
            seconds = min(left * PARTS[part], options.tests_seconds if part == "tests" else left)
            seconds -= _END_S if part == "training" else 0.0
            log(f"{part}: at most {seconds:.0f} s")
            training = part == "training"
            status = run_part(part, options.with_seconds(seconds), log, delivery if training else lambda: None)
            log(f"{part}: {'done' if status == 0 else 'skipped' if status == SKIPPED else f'FAILED, status {status}'}")
            Results(options.out).row("run", part, status, "exit status", "3: skipped" if status == SKIPPED else "")
            if status not in (0, SKIPPED):
                failed.append(part)
    finally:
        delivery()
    return failed


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="tar or folder of pack_training.py")
    parser.add_argument("out", type=Path, help="folder of the results, new or empty")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which everything has ended")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="leave out others")
    parser.add_argument("--tests-seconds", type=float, default=90.0, help="at most, for the tests")
    parser.add_argument("--models", nargs="*", default=["whole", "slant27"], help="models to compare")
    parser.add_argument("--step-count", type=int, default=20, help="training steps for each mean")
    parser.add_argument("--fit-steps", action="store_true", help="end the schedule now: as many steps as there is time")
    parser.add_argument("--work-dir", type=Path, help="work folder to keep (default: a temporary one)")
    return parser.parse_args()


def main() -> None:
    """Run the parts; exit with 1 if one of them failed."""
    given = arguments()
    end = time.monotonic() + 60 * given.minutes
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        sys.exit(f"error: {given.out} exists and is not an empty folder; give another one")
    if not given.pack.exists():
        sys.exit(f"error: {given.pack} does not exist; make it with benchmarks/pack_training.py")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = Log(stack.enter_context((given.out / "gpu.log").open("w", encoding="utf-8")))
        work = given.work_dir
        if work is None:
            work = Path(tempfile.mkdtemp(prefix="slant-gpu-"))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
        os.environ.setdefault("TQDM_MININTERVAL", "15")
        log(json.dumps(vars(given), default=str))
        options = Options(
            given.pack.resolve(), given.out.resolve(), work.resolve(), given.device, 0.0, given.tests_seconds,
            tuple(given.models), given.step_count, given.fit_steps,
        )  # fmt: skip
        failed = run_all([part for part in PARTS if part in given.parts], options, end, log)
        files = sorted(given.out.iterdir())
        log(", ".join(f"{path.name} {path.stat().st_size / MIB:.2f} MiB" for path in files))
        if len(files) > MAX_FILES or any(path.stat().st_size > PIECE_MIB * MIB for path in files):
            log(f"more than {MAX_FILES} files of {PIECE_MIB:.0f} MiB: {len(files)} files")
        log(f"failed: {', '.join(failed) or 'nothing'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
