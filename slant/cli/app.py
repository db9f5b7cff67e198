"""The program `slant`: options files, signals, and errors as one line with an exit status."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter
from cyclopts.config import Dict

from slant._version import __version__
from slant.config import read_toml
from slant.errors import SettingsError, SlantError
from slant.quiet import silence_libraries

app = App(
    name="slant",
    help="Whole-brain segmentation of T1-weighted MRI into 132 BrainCOLOR regions, in native space.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `guarded` prints what happened to the results
)
app.meta.suppress_keyboard_interrupt = False

_END_OF_OPTIONS = "--"
_OPTION = re.compile(r"-h|--[A-Za-z][\w-]*(=.*)?|-[\d.]+", re.DOTALL)  # or a negative number


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


def _options_file(path: Path) -> Dict:
    options = read_toml(path)
    tables = [key for key, value in options.items() if isinstance(value, dict)]
    if tables:
        raise SettingsError(
            f"{path}: found the table [{tables[0]}], expected options without a table, e.g. threads = 2"
        )
    return Dict(options, source=str(path), allow_unknown=False, use_commands_as_keys=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: status 0 if done, 2 for any error that the user can fix."""
    guarded(lambda: app.meta(checked(arguments), exit_on_error=False, print_error=False))


def checked(arguments: Iterable[str] | None) -> list[str]:
    """Arguments of a program, by default those of this process.

    Raises
    ------
    SettingsError
        If an option follows ``--``, where it would be taken for the name of a file.
    """
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    for token in tokens[len(_before_end_of_options(tokens)) :]:
        if token != _END_OF_OPTIONS and token.startswith("--") and not os.path.lexists(token):
            raise SettingsError(
                f"found {token} after --, where every argument is the name of a file or folder; put options before "
                f"--, or write ./{token} if this is a name"
            )
    return tokens


def _before_end_of_options(tokens: list[str]) -> list[str]:
    return tokens[: tokens.index(_END_OF_OPTIONS)] if _END_OF_OPTIONS in tokens else tokens


def _about_dashes(error: CycloptsError) -> str:
    """How to write names and values that begin with a dash, if the arguments have one; otherwise empty."""
    tokens = [token for token in _before_end_of_options(error.root_input_tokens or []) if token.startswith("-")]
    name = next((token for token in tokens if not _OPTION.fullmatch(token) or os.path.lexists(token)), "")
    option = getattr(error, "keyword", None)
    if not name:
        return ""
    if option and isinstance(error, MissingArgumentError) and error.argument and error.argument.token_count()[0] == 1:
        return f" If {name} is the value, write {option}={name}."
    return f" If {name} is the name of a file or folder, write ./{name}, or put -- before the names, after all options."


def guarded(command: Callable[[], object]) -> None:
    """Run a command; an error becomes one line on stderr and an exit status."""
    silence_libraries()
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
        advice = _about_dashes(error) if isinstance(error, CycloptsError) else ""
        sys.stderr.write(f"slant: {error}{advice}\n")
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
