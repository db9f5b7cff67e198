"""Read DICOM folders: find and select a series, convert it, and write labels as a DICOM Segmentation."""

from slant.extras import require_extra

require_extra("dicom")
