"""Errors a user can cause, each of which names what was found and what was wanted."""

from __future__ import annotations


class SlantError(Exception):
    """Base of every error with a cause that the user can mend.

    The message says what was found, what was wanted, where, and what to do. The command line prints it without
    a traceback and exits with status 2.
    """


class InputError(SlantError):
    """A scan that cannot be segmented as it is: unreadable, not 3D, not T1-weighted, damaged."""


class GeometryError(SlantError):
    """Shapes or affines that do not fit together or do not describe a place in the world."""


class ProtocolError(SlantError):
    """A region number, name or table that the label protocol does not know."""


class LayoutError(SlantError):
    """A tile layout that does not cover its grid or that cannot be built."""


class ModelError(SlantError):
    """Weights, manifests or networks that do not fit together."""


class RegistrationError(SlantError):
    """A scan that could not be brought onto the template well enough to be labelled."""


class TrainingError(SlantError):
    """A training that cannot go on."""


class SettingsError(SlantError):
    """A setting that is unknown, of the wrong type or out of range."""


class DeviceError(SlantError):
    """A computing device that was asked for and is not there."""


class OutputError(SlantError):
    """Results that cannot be written where they were asked for."""
