"""Segmentation of the visits of a subject together: files, tables and page of each subject."""
