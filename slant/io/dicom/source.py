"""The DICOM series that a scan was converted from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slant.io.dicom.series import Series


@dataclass(frozen=True)
class DicomSource:
    """The DICOM series of a scan, for the record and for the DICOM Segmentation.

    Attributes
    ----------
    reason : str
        Why the series was selected.
    dcm2niix : str
        Version of dcm2niix.
    """

    series: Series
    reason: str
    dcm2niix: str

    def plain(self) -> dict[str, Any]:
        """Plain values for the record; the only free text is the description, without the patient's name."""
        series = self.series
        return {
            "series_instance_uid": series.uid,
            "series_number": series.number,
            "series_description": series.description,
            "files": len(series.images),
            "images": series.count,
            "chosen": self.reason,
            "dcm2niix": self.dcm2niix,
        }
