"""Quality metrics of scans that do not exist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slant.io.resources import load_protocol
from slant.quality.iqm import QualityMetrics

REGIONS = load_protocol().regions[1:]
IDS = [region.id for region in REGIONS]
LEFT = [region.id for region in REGIONS if region.hemisphere == "L"]


def good(seed: int) -> QualityMetrics:
    """Simulated quality metrics of a good scan."""
    random = np.random.default_rng(seed)
    medians = {
        "registration_similarity": 0.55,
        "brain_volume": 1200,
        "etiv": 1400,
        "rotation": 10,
        "scale": -0.2,
        "anisotropic_scaling": 1.15,
        "vote_fraction": 0.93,
        "missing_regions": 0,
        "fragmentation": 0.4,
        "mask_at_image_border": 0,
        "unlabelled_brain": 8,
        "template_overlap": 0.93,
        "wm_gm_contrast": 0.35,
        "cjv": 0.62,
        "gm_csf_contrast": 0.34,
        "noise": 0.05,
        "bright_mask_border": 1.2,
        "intensity_outlier": 0.3,
        "asymmetric_hypointensity": 0.1,
    }
    scan = {name: float(value * (1 + 0.05 * random.standard_normal())) for name, value in medians.items()}
    fractions = {i: float(0.004 * np.exp(0.1 * random.standard_normal())) for i in IDS}
    asymmetries = {i: float(5 * random.standard_normal()) for i in LEFT}
    vote_fractions = {i: float(0.9 + 0.01 * random.standard_normal()) for i in IDS}
    return QualityMetrics(scan, fractions, asymmetries, vote_fractions, dict.fromkeys(IDS, 0.01))


def degraded(seed: int, strength: float) -> QualityMetrics:
    """The same metrics with a lower registration similarity and lower vote fractions."""
    metrics = good(seed)
    scan = {**metrics.scan, "registration_similarity": metrics.scan["registration_similarity"] - 0.1 * strength}
    vote_fractions = {i: fraction - 0.04 * strength for i, fraction in metrics.vote_fractions.items()}
    return replace(metrics, scan=scan, vote_fractions=vote_fractions)
