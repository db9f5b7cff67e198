"""The program `slant` itself: options files, signals, and errors as one line with an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml

import slant
from slant.config import read_toml
from slant.errors import SettingsError, SlantError

app = App(
    name="slant",
    help="Whole-brain segmentation of T1-weighted MRI into 132 BrainCOLOR regions, in the scan's own space.",
    version=slant.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `main` says what became of the results
)
app.meta.suppress_keyboard_interrupt = False


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
    guarded(lambda: app.meta(arguments, exit_on_error=False, print_error=False))


def guarded(command: Callable[[], object]) -> None:
    """Run a program's command; what it raises becomes a line on stderr and an exit status."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks Linux for large pages: a tenth of the time less
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    try:
        with _terminable():
            command()
    except BrokenPipeError:  # the reader of our output has gone, as in `slant labels | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SlantError, CycloptsError, OSError) as error:
        sys.stderr.write(f"slant: {error}\n")
        sys.exit(2)
    except Terminated:
        sys.stderr.write("slant: terminated; nothing half-written was left\n")
        sys.exit(143)
    except KeyboardInterrupt:
        sys.stderr.write("slant: interrupted; nothing half-written was left\n")
        sys.exit(130)


class Terminated(KeyboardInterrupt):
    """SIGTERM, such as a batch system sends at its time limit."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a batch system's SIGTERM end a run as Ctrl-C does, so that nothing half-written stays."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: cleaning up goes undisturbed
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{text}\n")
