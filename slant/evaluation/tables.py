"""From one row for every region of every scan to means with intervals, and to the difference of two methods."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd

from slant.evaluation.metrics import METRICS, mean_of
from slant.evaluation.statistics import bootstrap_interval, holm, paired_difference

COMPARED = ("dice", "volume_similarity", "surface_distance_mm", "hausdorff95_mm")
COMPARISON_COLUMNS = (
    *("level", "index", "name", "how", "metric", "scans", "median_difference"),
    *("p", "p_holm", "smallest_p_holm", "note"),
)

_KEYS = ["level", "index", "name", "how"]
_ALPHA = 0.05


def scan_means(regions: pd.DataFrame) -> dict[str, float | int]:
    """A scan's row: the mean over its regions, and how many of them were compared.

    ``regions`` that the truth has, ``regions_missed`` of them that the prediction lacks (Dice 0, no distance), and
    ``regions_absent`` that the truth lacks although they were predicted.
    """
    present = regions["truth_mm3"] > 0
    predicted = regions["prediction_mm3"] > 0
    return {
        "regions": int(present.sum()),
        "regions_missed": int((present & ~predicted).sum()),
        "regions_absent": int((~present & predicted).sum()),
        **mean_of(regions),
    }


def summarize(
    scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """Mean over scans with its 95 % interval, of everything that was measured.

    Parameters
    ----------
    scans, groups, regions : DataFrame
        With columns ``method`` and ``scan``.
    resamples, seed : int
        See `bootstrap_interval`.

    Returns
    -------
    DataFrame
        ``method``, ``level`` (``all``, ``matter``, ``lobe``, ``region``), ``index``, ``name``, ``how``, ``metric``,
        ``scans`` (that have a value), ``mean``, ``low``, ``high``.
    """
    parts = []
    values = _stacked(scans, groups, regions)
    for method, own in values.groupby("method", sort=False):
        wide = _by_scan(own, list(METRICS))
        low, high = bootstrap_interval(wide.to_numpy(dtype=float), resamples, seed)
        part = wide.columns.to_frame(index=False)
        part.insert(0, "method", method)
        part["scans"] = wide.notna().sum().to_numpy()
        parts.append(part.assign(mean=wide.mean().to_numpy(), low=low, high=high))
    return pd.concat(parts, ignore_index=True)


def compare_methods(scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Second method against the first, paired by scan; no row if there is only one.

    Returns
    -------
    DataFrame
        `COMPARISON_COLUMNS`. ``p_holm`` is corrected for the rows of the same level, way and metric;
        ``smallest_p_holm`` is the least it can become with so many scans, and ``note`` says where that is over 0.05.
    """
    values = _stacked(scans, groups, regions)
    methods = [_by_scan(own, list(COMPARED)) for _, own in values.groupby("method", sort=False)]
    rows = []
    for first, second in pairwise(methods):
        for key in first.columns:
            found = paired_difference(first[key].to_numpy(dtype=float), second[key].to_numpy(dtype=float))
            rows.append((*key, found.pairs, found.median, found.p, found.smallest_p))
    table = pd.DataFrame(rows, columns=[*_KEYS, "metric", "scans", "median_difference", "p", "smallest_p"])
    family = table.groupby(["level", "how", "metric"], sort=False)
    table["p_holm"] = family["p"].transform(lambda p: holm(p.to_numpy(dtype=float)))
    table["smallest_p_holm"] = (table["smallest_p"] * family["p"].transform("count")).clip(upper=1)
    table["note"] = ""
    table.loc[table["smallest_p_holm"] > _ALPHA, "note"] = "too few scans to reach 0.05"
    table.loc[table["scans"] == 0, "note"] = "no scan with both"
    return table[list(COMPARISON_COLUMNS)]


def _stacked(scans: pd.DataFrame, groups: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Scans, groups and regions as rows of one table."""
    whole = scans.assign(level="all", index=0, name="all regions", how="mean")
    parts = (whole, groups.assign(index=0), regions.assign(level="region", how="mean"))
    return pd.concat([part[["method", "scan", *_KEYS, *METRICS]] for part in parts], ignore_index=True)


def _by_scan(values: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """A row for every scan, a column for every thing and metric, in the order they came."""
    long = values.melt(["scan", *_KEYS], metrics, var_name="metric", value_name="value")
    wide = long.pivot(index="scan", columns=[*_KEYS, "metric"], values="value")
    order = pd.MultiIndex.from_frame(long[[*_KEYS, "metric"]].drop_duplicates())
    return wide[order]
