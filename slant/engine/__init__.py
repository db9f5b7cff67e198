"""Runs many jobs, one per scan: order, locks, resuming, worker processes, clusters and a GPU."""
