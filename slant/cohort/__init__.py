"""Segmentation of many scans: in parallel, resumable, with a table of the scans that failed."""
