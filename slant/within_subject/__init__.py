"""Several visits of one subject in memory: alignment to a within-subject template, and labels that share evidence."""

MIN_VISITS = 2
"""Fewest visits that are segmented together."""
