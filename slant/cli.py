"""The command line: arguments in, exit status out; all work is done by the modules below."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml

import slant
from slant.config import SegmentSettings, build, read_toml
from slant.errors import SettingsError, SlantError

app = App(
    name="slant",
    help="Whole-brain segmentation of T1-weighted MRI into 132 BrainCOLOR regions, in the scan's own space.",
    version=slant.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `main` says what became of the results
)
app.meta.suppress_keyboard_interrupt = False

_DEFAULTS = SegmentSettings()
_LIST = Parameter(negative_iterable=(), show_default=False)


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML file with options of the command; those given here win.")
    ] = None,
) -> None:
    app.config = () if config is None else (_options_file(config),)
    app(tokens, exit_on_error=False, print_error=False)


def _options_file(path: Path) -> Toml:
    tables = [key for key, value in read_toml(path).items() if isinstance(value, dict)]
    if tables:
        raise SettingsError(f"{path}: found the table [{tables[0]}], wanted plain lines such as: threads = 2")
    return Toml(path, allow_unknown=False, use_commands_as_keys=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 for anything the user can mend."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks Linux for large pages: a tenth of the time less
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    try:
        with _terminable():
            app.meta(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError:  # the reader of our output has gone, as in `slant labels | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SlantError, CycloptsError, OSError) as error:
        sys.stderr.write(f"slant: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("slant: interrupted; nothing half-written was left\n")
        sys.exit(130)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a batch system's SIGTERM end a run as Ctrl-C does, so that nothing half-written stays."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@app.command
def segment(
    scan: Path,
    out: Path,
    /,
    *,
    settings: Annotated[SegmentSettings, Parameter(name="*")] = _DEFAULTS,
    volume: int | None = None,
    force: bool = False,
) -> None:
    """Label one T1-weighted scan.

    Parameters
    ----------
    scan : Path
        .nii, .nii.gz or .mgz file.
    out : Path
        Folder for the results; made if absent.
    volume : int
        Which volume of a 4D file to take, counted from 0.
    force : bool
        Replace existing results once the new ones are complete.
    """
    start = time.perf_counter()
    from slant.io.read import read_scan
    from slant.io.results import ResultNames, Run, check_output, write_results

    loaded = read_scan(scan, volume=volume)
    check_output(out, ResultNames(loaded.name), force=force)
    from slant.io.models import load_model

    model = load_model(settings.model)
    from slant import pipeline
    from slant.brain import is_skull_stripped
    from slant.nets.predict import choose_device
    from slant.report.overlay import draw_overlay

    settings = dataclasses.replace(
        settings,
        device=str(choose_device(settings.device)),
        threads=settings.thread_count,
        skull_stripped=is_skull_stripped(loaded.volume) if settings.skull_stripped is None else settings.skull_stripped,
    )
    found = pipeline.segment(loaded.volume, model, settings)
    warnings = loaded.warnings + found.warnings
    title = loaded.name.encode(errors="replace").decode()  # names may hold bytes that are no text
    picture = draw_overlay(loaded.volume, found.labels, model.protocol, title, warnings)
    files = write_results(Run(loaded, found, model, settings, picture), out)
    _report(files, warnings, time.perf_counter() - start)


def _report(files: dict[str, Path], warnings: tuple[str, ...], seconds: float) -> None:
    for warning in warnings:
        sys.stderr.write(f"slant: warning: {warning}\n")
    width = max(map(len, files))
    for kind, path in files.items():
        _say(f"{kind:<{width}}  {path}")
    _say(f"done in {seconds:.0f} s")


@app.command
def labels(*, format: Literal["freesurfer", "itksnap", "tsv"] = "tsv", protocol: str = "braincolor") -> None:  # noqa: A002
    """Print the look-up table of the regions.

    Parameters
    ----------
    format : str
        For FreeSurfer's Freeview, for ITK-SNAP, or BIDS' dseg.tsv.
    protocol : str
        Label protocol.
    """
    from slant.io.luts import format_lut
    from slant.io.resources import load_protocol

    sys.stdout.write(format_lut(load_protocol(protocol), format))


@app.command
def models() -> None:
    """List the embedded models with their licences and what is known about them."""
    from slant.io.models import describe_models

    _say(describe_models())


@app.command
def train(  # noqa: PLR0913
    config: Path,
    /,
    *,
    data: Path | None = None,
    work: Path | None = None,
    fold: int | None = None,
    start: Path | None = None,
    stages: Annotated[tuple[Literal["prepare", "whole", "tiles", "export", "evaluate"], ...], _LIST] = (),
    tiles: Annotated[tuple[str, ...], _LIST] = (),
    minutes: float | None = None,
) -> None:
    """Train networks on labelled scans; run again with the same options to continue.

    Parameters
    ----------
    config : Path
        TOML file, see configs/train.
    data : Path
        Folder of NAME_T1w.nii.gz with NAME_dseg.nii.gz.
    work : Path
        Folder for prepared scans, checkpoints and models.
    fold : int
        Part of the people that is held out.
    start : Path
        Checkpoint from which the whole-brain stage starts.
    stages : list
        What to do, in this order: prepare, whole, tiles, export, evaluate. [default: all]
    tiles : list
        Tiles to fine-tune, such as 1_1_1. [default: all]
    minutes : float
        Stop after so long; the same command continues where it stopped.
    """
    from slant.train.settings import TrainSettings

    given = {"data": data, "work": work, "fold": fold, "start": start}
    values = read_toml(config)
    settings = build(TrainSettings, {**values, **{k: v for k, v in given.items() if v is not None}}, str(config))
    from slant.train import run

    until = None if minutes is None else time.monotonic() + 60 * minutes
    if not run.run_stages(settings, stages, tiles, until):
        _say("stopped in time; run the same command again to continue")
