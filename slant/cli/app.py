"""The program `slant`: options files, signals, and errors as one line with an exit status."""

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

from slant._version import __version__
from slant.config import read_toml
from slant.errors import SettingsError, SlantError

app = App(
    name="slant",
    help="Whole-brain segmentation of T1-weighted MRI into 132 BrainCOLOR regions, in native space.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `guarded` prints what happened to the results
)
app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def _with_options(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    options: Annotated[
        Path | None,
        Parameter(help="TOML file with options of the command. Options on the command line take precedence."),
    ] = None,
) -> None:
    app.config = () if options is None else (_options_file(options),)
    app(tokens, exit_on_error=False, print_error=False)


def _options_file(path: Path) -> Toml:
    tables = [key for key, value in read_toml(path).items() if isinstance(value, dict)]
    if tables:
        raise SettingsError(
            f"{path}: found the table [{tables[0]}], expected options without a table, e.g. threads = 2"
        )
    return Toml(path, allow_unknown=False, use_commands_as_keys=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: status 0 if done, 2 for any error that the user can fix."""
    guarded(lambda: app.meta(arguments, exit_on_error=False, print_error=False))


def guarded(command: Callable[[], object]) -> None:
    """Run a command; an error becomes one line on stderr and an exit status."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages on Linux: torch takes a tenth less time
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain bytes that are not valid text
    try:
        with _terminable():
            command()
    except BrokenPipeError:  # the reader of the output has exited, as in `slant labels | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SlantError, CycloptsError, OSError) as error:
        sys.stderr.write(f"slant: {error}\n")
        sys.exit(2)
    except Terminated:
        sys.stderr.write("slant: terminated; no partial files were left\n")
        sys.exit(143)
    except KeyboardInterrupt:
        sys.stderr.write("slant: interrupted; no partial files were left\n")
        sys.exit(130)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, for example from a batch system at its time limit."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end a run as Ctrl-C does, so that no partial files are left."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal does not disturb the clean-up
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """Print a line to stdout."""
    sys.stdout.write(f"{text}\n")
