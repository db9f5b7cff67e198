"""Whole-brain segmentation of T1-weighted MRI into 132 BrainCOLOR regions and background.

>>> import slant
>>> scan = slant.read_scan("sub-01_T1w.nii.gz")               # doctest: +SKIP
>>> result = slant.segment(scan.volume, slant.load_model())   # doctest: +SKIP
>>> result.labels.data, result.labels.grid.ras_from_voxel     # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from slant._version import __version__

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.errors import SlantError
    from slant.grid import Grid
    from slant.io.dicom.convert import read_dicom
    from slant.io.models import load_model
    from slant.io.read import Scan, read_scan
    from slant.io.resources import load_protocol
    from slant.labels import LabelProtocol
    from slant.nets.model import Model
    from slant.pipeline import label, prepare, segment
    from slant.segmentation import Prepared, Segmentation
    from slant.tiles import TileLayout
    from slant.volume import LabelMap, Volume
    from slant.within_subject.subject import segment_visits

__all__ = [
    "Grid",
    "LabelMap",
    "LabelProtocol",
    "Model",
    "Prepared",
    "Scan",
    "SegmentSettings",
    "Segmentation",
    "SlantError",
    "TileLayout",
    "Volume",
    "__version__",
    "label",
    "load_model",
    "load_protocol",
    "prepare",
    "read_dicom",
    "read_scan",
    "segment",
    "segment_visits",
]

_MODULES = {
    "slant.config": ("SegmentSettings",),
    "slant.errors": ("SlantError",),
    "slant.grid": ("Grid",),
    "slant.io.dicom.convert": ("read_dicom",),
    "slant.io.models": ("load_model",),
    "slant.io.read": ("Scan", "read_scan"),
    "slant.io.resources": ("load_protocol",),
    "slant.labels": ("LabelProtocol",),
    "slant.nets.model": ("Model",),
    "slant.pipeline": ("Prepared", "Segmentation", "label", "prepare", "segment"),
    "slant.tiles": ("TileLayout",),
    "slant.volume": ("LabelMap", "Volume"),
    "slant.within_subject.subject": ("segment_visits",),
}


def __getattr__(name: str) -> object:
    """Import a public name on first access, so that ``import slant`` is fast."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'slant' has no attribute {name!r}")
