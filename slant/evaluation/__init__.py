"""Evaluate label maps against reference label maps: metrics, confidence intervals, comparison of two methods."""
