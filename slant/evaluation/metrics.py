"""How well one label map agrees with another: overlap, volume and surfaces of every region and of groups of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from slant.evaluation.maps import Align, Pair, bring_together
from slant.labels import LabelProtocol
from slant.measure import dice_per_region
from slant.volume import LabelMap

METRICS = (
    "dice",
    "iou",
    "volume_difference_mm3",
    "volume_difference_percent",
    "volume_similarity",
    "surface_distance_mm",
    "hausdorff95_mm",
)
CORTEX = ("frontal", "temporal", "parietal", "occipital", "insula", "limbic")
"""Lobes whose gray matter is the cortex; the gray matter of the lobe ``subcortical`` is the subcortex."""

_COUNTED = ("truth_mm3", "prediction_mm3", "false_positive_mm3")
_QUANTILE = 0.95


def compare_maps(
    prediction: LabelMap,
    truth: LabelMap,
    protocol: LabelProtocol,
    *,
    align: Align = "header",
    surfaces: bool = True,
) -> pd.DataFrame:
    """Agreement of every region of two label maps.

    Parameters
    ----------
    prediction : LabelMap
        Region ids of the protocol.
    truth : LabelMap
        Region ids; others count as background.
    protocol : LabelProtocol
    align : {"header", "shift"}, optional
        See `bring_together`.
    surfaces : bool, optional
        Whether to compute the two distances, which take most of the time; without, they are nan.

    Returns
    -------
    DataFrame
        A row for every region but the background, see `compare_regions`. ``table["dice"].mean()`` is the mean Dice
        of the project's rule.

    Raises
    ------
    ProtocolError, InputError, GeometryError
        See `bring_together`.
    """
    return compare_regions(bring_together(prediction, truth, protocol, align), protocol, surfaces=surfaces)


def compare_regions(pair: Pair, protocol: LabelProtocol, *, surfaces: bool = True) -> pd.DataFrame:
    """Agreement of every region of two maps of channels.

    Returns
    -------
    DataFrame
        ``index``, ``name``, ``abbreviation``, ``hemisphere``, ``tissue``, ``lobe``, then `METRICS`, ``truth_mm3``,
        ``prediction_mm3`` and ``false_positive_mm3`` (the predicted volume if the truth lacks the region, else 0).
        Metrics are nan where the truth lacks the region, distances also where the prediction does.
    """
    regions = protocol.regions[1:]
    columns = ("name", "abbreviation", "hemisphere", "tissue", "lobe")
    head = {"index": [r.id for r in regions], **{c: [getattr(r, c) for r in regions] for c in columns}}
    return pd.DataFrame(head).join(_agreement(pair.prediction, pair.truth, len(regions), surfaces=surfaces))


def groups_of(protocol: LabelProtocol) -> dict[str, dict[str, tuple[int, ...]]]:
    """Channels of cortex and subcortex (level ``matter``) and of every lobe (level ``lobe``).

    The groups of a level share no region.
    """
    channel = {region.id: i for i, region in enumerate(protocol.regions)}
    gray = [r for r in protocol.regions if r.tissue == "gray"]
    matter = {
        "cortex": tuple(channel[r.id] for r in gray if r.lobe in CORTEX),
        "subcortex": tuple(channel[r.id] for r in gray if r.lobe == "subcortical"),
    }
    lobes = {name: tuple(channel[i] for i in ids) for name, ids in protocol.groups("lobe").items()}
    return {"matter": {name: own for name, own in matter.items() if own}, "lobe": lobes}


def compare_groups(
    pair: Pair, protocol: LabelProtocol, regions: pd.DataFrame, *, surfaces: bool = True
) -> pd.DataFrame:
    """Agreement of groups of regions, as the mean of their regions and as one merged region.

    Parameters
    ----------
    pair : Pair
    protocol : LabelProtocol
    regions : DataFrame
        Of `compare_regions`.
    surfaces : bool, optional

    Returns
    -------
    DataFrame
        ``level``, ``name``, ``how`` (``mean`` or ``merged``), ``regions`` (those that the truth has), then as in
        `compare_regions`; volumes of ``mean`` rows are sums.
    """
    rows = []
    for level, groups in groups_of(protocol).items():
        numbers = np.zeros(len(protocol), dtype=np.uint8)
        for number, channels in enumerate(groups.values(), start=1):
            numbers[list(channels)] = number
        predicted, true = (LabelMap(numbers[m.data], m.grid) for m in (pair.prediction, pair.truth))
        merged = _agreement(predicted, true, len(groups), surfaces=surfaces)
        columns = merged.columns.astype(str)
        for number, (name, channels) in enumerate(groups.items()):
            own = regions.iloc[[c - 1 for c in channels]]
            head = {"level": level, "name": name, "regions": int((own["truth_mm3"] > 0).sum())}
            rows.append({**head, "how": "mean", **mean_of(own)})
            rows.append({**head, "how": "merged", **dict(zip(columns, merged.iloc[number], strict=True))})
    first = ["level", "name", "how", "regions"]
    return pd.DataFrame(rows, columns=[*first, *METRICS, *_COUNTED])


def mean_of(regions: pd.DataFrame) -> dict[str, float]:
    """The averaging rule: every metric's mean over the regions that the truth has; volumes are summed."""
    return {
        **{metric: float(regions[metric].mean()) for metric in METRICS},
        **{column: float(regions[column].sum()) for column in _COUNTED},
    }


def _agreement(prediction: LabelMap, truth: LabelMap, labels: int, *, surfaces: bool) -> pd.DataFrame:
    """All numbers of labels 1 to ``labels``, a row each."""
    voxel_mm3 = truth.grid.voxel_volume_mm3
    predicted, true = (np.bincount(m.data.ravel(), minlength=labels + 1)[1:] * voxel_mm3 for m in (prediction, truth))
    present = true > 0
    known = np.where(present, 1.0, np.nan)
    dice = np.array(list(dice_per_region(prediction, truth, range(1, labels + 1)).values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "dice": dice,
            "iou": dice / (2 - dice),
            "volume_difference_mm3": (predicted - true) * known,
            "volume_difference_percent": 100 * (predicted - true) / true * known,
            "volume_similarity": 1 - np.abs(predicted - true) / (predicted + true) * known,
        }
    far = np.full((labels, 2), np.nan)
    if surfaces:
        far = _distances_mm(prediction, truth, labels)
    values["surface_distance_mm"], values["hausdorff95_mm"] = far.T
    return pd.DataFrame(
        {
            **values,
            "truth_mm3": true,
            "prediction_mm3": predicted,
            "false_positive_mm3": np.where(present, 0.0, predicted),
        }
    )


def _distances_mm(prediction: LabelMap, truth: LabelMap, labels: int) -> NDArray[np.float64]:
    """(labels, 2) surface and Hausdorff distances; nan for labels that one of the maps lacks."""
    distances = np.full((labels, 2), np.nan)
    boxes = zip(*(ndimage.find_objects(m.data, labels) for m in (prediction, truth)), strict=True)
    for label, (one, other) in enumerate(boxes, start=1):
        if one is not None and other is not None:
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
            masks = (prediction.data[box] == label, truth.data[box] == label)
            distances[label - 1] = surface_distances_mm(*masks, truth.grid.voxel_size_mm)
    return distances


def surface_distances_mm(
    mask: NDArray[np.bool_], other: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """Mean symmetric surface distance and 95 % Hausdorff distance of two masks, by MONAI.

    The surface of a mask are its voxels with a face on the outside; distances go from centre to centre, from each
    surface to the nearest place of the other. Voxels are taken as boxes (no shear).

    Parameters
    ----------
    mask, other : (X, Y, Z) bool arrays
        Neither empty.
    voxel_size_mm : tuple of 3 float

    Returns
    -------
    tuple of 2 float
        In mm: the mean over the voxels of both surfaces, and the larger of the 95th percentiles of the two directions
        (Maier-Hein et al. 2024, Nature Methods 21:195-212, ASSD and HD95); nan if a mask is empty.
    """
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    if not (mask.any() and other.any()):
        return math.nan, math.nan
    edge, other_edge = get_mask_edges(mask, other, crop=False)
    there = get_surface_distance(edge, other_edge, spacing=voxel_size_mm)
    back = get_surface_distance(other_edge, edge, spacing=voxel_size_mm)
    mean = np.concatenate([there, back]).mean(dtype=np.float64)
    return float(mean), float(max(np.quantile(there, _QUANTILE), np.quantile(back, _QUANTILE)))
