"""Make a library of atlases from scans that were labelled by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from slant.atlas_votes import MIN_ATLASES, Atlas
from slant.engine.resources import plan
from slant.errors import InputError, OutputError, ProtocolError, SettingsError, SlantError
from slant.files import temporary_folder
from slant.io.atlas_library import write_library
from slant.io.read import read_scan
from slant.multiatlas.atlases import AtlasScan, refuse_unusable
from slant.multiatlas.candidates import LabelSource, atlas_channels
from slant.multiatlas.task import source_of

MIN_REGIONS = 100
"""An atlas with fewer of the 132 regions is only partly labelled; what is not labelled would vote for background."""


@dataclass(frozen=True)
class LibrarySettings:
    """Settings of `slant atlases`.

    Attributes
    ----------
    unknown_ids : {"error", "background"}
        How to treat label ids of atlases outside the protocol.
    jobs : int, optional
        Scans prepared in parallel (default: as many as cores and available memory allow).
    work_dir : Path, optional
        Directory in which the prepared scans are kept, also for slant multiatlas and slant train (default: none).
    force : bool
        Replace an existing library when the new one is complete.
    """

    unknown_ids: str = "error"
    jobs: int | None = None
    work_dir: Path | None = None
    force: bool = False


def make_library(path: Path, atlas_scans: Sequence[AtlasScan], settings: LibrarySettings) -> int:
    """Prepare labelled scans and write them as a library; returns its size in bytes.

    Raises
    ------
    OutputError
        If the library exists or cannot be written.
    SettingsError
        If its name does not end in ``.npz``.
    InputError
        If there are too few scans, or one cannot be used.
    """
    if path.suffix != ".npz":
        raise SettingsError(f"the library {path} must end in .npz; for example {path.with_suffix('.npz')}")
    if path.exists() and not settings.force:
        raise OutputError(f"{path} already exists; use --force to replace it when the new one is complete")
    if len(atlas_scans) < MIN_ATLASES:
        raise InputError(f"found {len(atlas_scans)} labelled scan, expected at least {MIN_ATLASES}")
    kept = temporary_folder() if settings.work_dir is None else nullcontext(settings.work_dir)
    with kept as work_dir:
        prepare = joblib.delayed(partial(_prepared, work_dir=work_dir, unknown=settings.unknown_ids))
        jobs = plan(len(atlas_scans), jobs=settings.jobs, threads=1).workers
        found = joblib.Parallel(n_jobs=jobs, return_as="generator")(prepare(scan) for scan in atlas_scans)
        atlases = list(tqdm(found, total=len(atlas_scans), desc="atlases", unit="scan", file=sys.stderr))
    refuse_unusable({s.name: atlas for s, atlas in zip(atlas_scans, atlases, strict=True) if isinstance(atlas, str)})
    write_library(path, [atlas for atlas in atlases if isinstance(atlas, Atlas)])
    return path.stat().st_size


def _prepared(atlas_scan: AtlasScan, *, work_dir: Path, unknown: str) -> Atlas | str:
    """The atlas, or the reason why it cannot be used."""
    try:
        source = source_of(atlas_scan)
        return atlas_of(source, work_dir, unknown)
    except SlantError as error:
        return str(error)


def atlas_of(source: LabelSource, work_dir: Path, unknown: str = "error") -> Atlas:
    """The atlas of a labelled scan; boxes of the brain and of the labels.

    Parameters
    ----------
    work_dir : Path
        Directory of prepared scans.
    unknown : {"error", "background"}
        How to treat label ids outside the protocol.

    Raises
    ------
    SlantError
        If the scan or its labels cannot be used.
    """
    atlas_scan, scan = source.atlas_scan, read_scan(source.atlas_scan.t1w)
    channels = atlas_channels(atlas_scan, scan, unknown)
    found = np.count_nonzero(np.bincount(channels.ravel())[1:])
    if found < MIN_REGIONS:
        raise ProtocolError(
            f"{atlas_scan.dseg} has {found} of the regions, expected at least {MIN_REGIONS}: label the whole brain, "
            "because what is not labelled votes for background"
        )
    prepared = source.prepared(work_dir)
    image = prepared.image
    (labelled,), (brain,) = (ndimage.find_objects((a != 0).astype(np.uint8)) for a in (channels, image.data))
    channels_grid = scan.volume.grid.cropped(labelled)
    return Atlas(
        atlas_scan.name,
        atlas_scan.subject,
        source.sha256,
        image.data[brain].astype(np.float16),
        image.grid.cropped(brain),
        channels[labelled],
        np.asarray(channels_grid.voxel_from_ras @ prepared.native_from_template, dtype=np.float64),
    )
