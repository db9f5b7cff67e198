"""DICOM folders: their series, the one to segment, its conversion, and labels as a DICOM Segmentation."""
