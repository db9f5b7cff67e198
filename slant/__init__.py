"""Whole-brain segmentation of T1-weighted MRI into the 133 BrainCOLOR regions."""

__version__ = "0.1.0"
