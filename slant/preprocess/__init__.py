"""Preprocessing of a scan: brain extraction, registration, bias field correction, intensity normalization."""
