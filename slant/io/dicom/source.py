"""What a scan that was DICOM remembers of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slant.io.dicom.series import Series


@dataclass(frozen=True)
class DicomSource:
    """The series that a scan was converted from.

    Attributes
    ----------
    series : Series
    reason : str
        Why it was taken.
    dcm2niix : str
        Version of the converter.
    """

    series: Series
    reason: str
    dcm2niix: str

    def plain(self) -> dict[str, Any]:
        """For the record: of the headers' free text only the description, without the patient's name."""
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
