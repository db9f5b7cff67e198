"""Figures and reports for visual quality control."""
