"""Parts of slant that a plain installation leaves out, and the command that adds each."""

from __future__ import annotations

from importlib.util import find_spec

from slant.errors import SlantError

EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bids": ("reading BIDS datasets", ("bids", "pathspec")),
    "cluster": ("running on dask or SLURM", ("distributed", "dask_jobqueue")),
    "dicom": ("reading and writing DICOM", ("pydicom", "highdicom", "dcm2niix")),
    "train": ("training or evaluation", ("monai", "tensorboardX")),
}
"""What each extra is for, and the modules that it installs, by the name of the extra in ``pyproject.toml``."""


class MissingExtraError(SlantError):
    """A command needs packages that a plain installation does not have."""


def require_extra(extra: str, *needed: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Parameters
    ----------
    extra : str
        A key of `EXTRAS`.
    needed : str
        Modules that are needed; by default all of the extra.

    Raises
    ------
    MissingExtraError
        If a package is missing; the message names it and the command that installs the extra.
    """
    purpose, modules = EXTRAS[extra]
    missing = [module for module in needed or modules if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs packages that are not installed ({', '.join(missing)}); "
            f"install them: pip install 'slant[{extra}]'"
        )
