"""Errors that a user can cause; each message says what was found and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SlantError(Exception):
    """Base class of all errors whose cause the user can fix.

    The message says what was found, what was expected, where, and what to do. The command line prints it without
    a traceback and exits with status 2.
    """


@contextmanager
def errors_about(what: str) -> Iterator[None]:
    """Put a text, for example the path of a file, in front of the messages of errors of the body."""
    try:
        yield
    except SlantError as error:
        raise type(error)(f"{what}: {error}") from error


@contextmanager
def errors_with(warnings: Iterable[str]) -> Iterator[None]:
    """Add the warnings of a scan, which may name the cause, to the messages of errors of the body about the scan."""
    try:
        yield
    except (InputError, RegistrationError) as error:
        raise type(error)("; warning: ".join([str(error), *warnings])) from error


class InputError(SlantError):
    """A scan that cannot be segmented as it is: unreadable, not 3D, not T1-weighted, damaged."""


class GeometryError(SlantError):
    """Shapes or affines that do not fit together or do not describe a position in world space."""


class ProtocolError(SlantError):
    """A region id, name or table that does not fit the label protocol."""


class LayoutError(SlantError):
    """A tile layout that is invalid or does not cover its grid."""


class ModelError(SlantError):
    """Weights, manifests or networks that do not fit together."""


class RegistrationError(SlantError):
    """A scan whose registration to the template is not good enough for labelling."""


class TrainingError(SlantError):
    """A training run that cannot continue."""


class SettingsError(SlantError):
    """A setting that is unknown, of the wrong type or out of range."""


class DeviceError(SlantError):
    """A requested computing device that is not available."""


class OutputError(SlantError):
    """Results that cannot be written to the requested output directory."""
