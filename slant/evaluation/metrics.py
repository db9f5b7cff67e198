"""Metrics of agreement: overlap, volume and surface distances of every region and of groups of regions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from slant.evaluation.maps import AlignedMaps
from slant.extras import require_extra
from slant.labels import LabelProtocol
from slant.volume import LabelMap
from slant.volumes import dice_per_region

METRICS = (
    "dice",
    "iou",
    "volume_difference_mm3",
    "volume_difference_percent",
    "volume_similarity",
    "assd_mm",
    "hausdorff95_mm",
)
CORTEX = ("frontal", "temporal", "parietal", "occipital", "insula", "limbic")
"""Lobes whose gray matter is the cortex; the gray matter of the lobe ``subcortical`` is the subcortex."""

_VOLUMES = ("reference_mm3", "prediction_mm3", "false_positive_mm3")
_QUANTILE = 0.95


def compare_regions(maps: AlignedMaps, protocol: LabelProtocol, *, surfaces: bool = True) -> pd.DataFrame:
    """Agreement of every region of two maps of channels.

    Parameters
    ----------
    surfaces : bool, optional
        Whether to compute the two surface distances, which take most of the time; otherwise they are nan.

    Returns
    -------
    DataFrame
        ``index``, ``name``, ``abbreviation``, ``hemisphere``, ``tissue``, ``lobe``, then `METRICS`, ``reference_mm3``,
        ``prediction_mm3`` and ``false_positive_mm3`` (the predicted volume if the reference lacks the region, else 0).
        Metrics are nan where the reference lacks the region, distances also where the prediction does, so that
        ``table["dice"].mean()`` is the mean Dice by the averaging rule of this package.
    """
    regions = protocol.regions[1:]
    columns = ("name", "abbreviation", "hemisphere", "tissue", "lobe")
    head = {"index": [r.id for r in regions], **{c: [getattr(r, c) for r in regions] for c in columns}}
    return pd.DataFrame(head).join(_agreement(maps.prediction, maps.reference, len(regions), surfaces=surfaces))


def groups_of(protocol: LabelProtocol) -> dict[str, dict[str, tuple[int, ...]]]:
    """Channels of cortex and subcortex (level ``region_group``) and of every lobe (level ``lobe``).

    The groups of a level have no region in common.
    """
    channel = {region.id: i for i, region in enumerate(protocol.regions)}
    gray = [r for r in protocol.regions if r.tissue == "gray"]
    region_groups = {
        "cortex": tuple(channel[r.id] for r in gray if r.lobe in CORTEX),
        "subcortex": tuple(channel[r.id] for r in gray if r.lobe == "subcortical"),
    }
    lobes = {name: tuple(channel[i] for i in ids) for name, ids in protocol.groups("lobe").items()}
    return {"region_group": {name: channels for name, channels in region_groups.items() if channels}, "lobe": lobes}


def compare_groups(maps: AlignedMaps, protocol: LabelProtocol, regions: pd.DataFrame) -> pd.DataFrame:
    """Agreement of groups of regions of `compare_regions`, as the mean over them and as one region, their union.

    Returns
    -------
    DataFrame
        ``level``, ``name``, ``aggregation`` (``mean`` or ``union``), ``regions`` (number in the reference), then the
        columns of `compare_regions`; volumes of ``mean`` rows are sums.
    """
    rows = []
    for level, groups in groups_of(protocol).items():
        numbers = np.zeros(len(protocol), dtype=np.uint8)
        for number, channels in enumerate(groups.values(), start=1):
            numbers[list(channels)] = number
        predicted, reference = (LabelMap(numbers[m.data], m.grid) for m in (maps.prediction, maps.reference))
        unions = _agreement(predicted, reference, len(groups), surfaces=True)
        columns = unions.columns.astype(str)
        for number, (name, channels) in enumerate(groups.items()):
            group = regions.iloc[[c - 1 for c in channels]]
            head = {"level": level, "name": name, "regions": int((group["reference_mm3"] > 0).sum())}
            rows.append({**head, "aggregation": "mean", **mean_of(group)})
            rows.append({**head, "aggregation": "union", **dict(zip(columns, unions.iloc[number], strict=True))})
    head_columns = ["level", "name", "aggregation", "regions"]
    return pd.DataFrame(rows, columns=[*head_columns, *METRICS, *_VOLUMES])


def mean_of(regions: pd.DataFrame) -> dict[str, float]:
    """The averaging rule: mean of every metric over the regions that the reference has; volumes are summed."""
    return {
        **{metric: float(regions[metric].mean()) for metric in METRICS},
        **{column: float(regions[column].sum()) for column in _VOLUMES},
    }


def _agreement(prediction: LabelMap, reference: LabelMap, labels: int, *, surfaces: bool) -> pd.DataFrame:
    """Metrics and volumes of labels 1 to ``labels``, one row per label."""
    voxel_mm3 = reference.grid.voxel_volume_mm3
    predicted_mm3, reference_mm3 = (
        np.bincount(m.data.ravel(), minlength=labels + 1)[1:] * voxel_mm3 for m in (prediction, reference)
    )
    present = reference_mm3 > 0
    known = np.where(present, 1.0, np.nan)
    dice = np.array(list(dice_per_region(prediction, reference, range(1, labels + 1)).values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "dice": dice,
            "iou": dice / (2 - dice),
            "volume_difference_mm3": (predicted_mm3 - reference_mm3) * known,
            "volume_difference_percent": 100 * (predicted_mm3 - reference_mm3) / reference_mm3 * known,
            "volume_similarity": 1 - np.abs(predicted_mm3 - reference_mm3) / (predicted_mm3 + reference_mm3) * known,
        }
    unknown = np.full((labels, 2), np.nan)
    distances = _distances_mm(prediction, reference, labels) if surfaces else unknown
    values["assd_mm"], values["hausdorff95_mm"] = distances.T
    return pd.DataFrame(
        {
            **values,
            "reference_mm3": reference_mm3,
            "prediction_mm3": predicted_mm3,
            "false_positive_mm3": np.where(present, 0.0, predicted_mm3),
        }
    )


def _distances_mm(prediction: LabelMap, reference: LabelMap, labels: int) -> NDArray[np.float64]:
    """(labels, 2) average surface and Hausdorff distances; nan for labels that one of the maps lacks."""
    distances = np.full((labels, 2), np.nan)
    boxes = zip(*(ndimage.find_objects(m.data, labels) for m in (prediction, reference)), strict=True)
    for label, (one, other) in enumerate(boxes, start=1):
        if one is not None and other is not None:
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
            masks = (prediction.data[box] == label, reference.data[box] == label)
            distances[label - 1] = surface_distances_mm(*masks, reference.grid.voxel_size_mm)
    return distances


def surface_distances_mm(
    mask: NDArray[np.bool_], other: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """Average symmetric surface distance and 95 % Hausdorff distance of two (X, Y, Z) masks, with MONAI.

    The surface of a mask consists of its voxels with a face to the outside. Distances go between voxel centres, from
    each surface voxel to the nearest surface voxel of the other mask. Voxels are treated as cuboids (no shear).

    Returns
    -------
    tuple of 2 float
        In mm: the mean over the voxels of both surfaces, and the larger of the 95th percentiles of the two directions
        (Maier-Hein et al. 2024, Nature Methods 21:195-212, ASSD and HD95); nan if a mask is empty.
    """
    require_extra("train", "monai")
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    if not (mask.any() and other.any()):
        return math.nan, math.nan
    edge, other_edge = get_mask_edges(mask, other, crop=False)
    to_other = get_surface_distance(edge, other_edge, spacing=voxel_size_mm)
    to_mask = get_surface_distance(other_edge, edge, spacing=voxel_size_mm)
    mean = np.concatenate([to_other, to_mask]).mean(dtype=np.float64)
    return float(mean), float(max(np.quantile(to_other, _QUANTILE), np.quantile(to_mask, _QUANTILE)))
