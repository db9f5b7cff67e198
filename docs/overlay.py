"""Draw docs/overlay.png, the picture of the README, from the results of ``make demo``: python docs/overlay.py."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "demo/results"
OUT = ROOT / "docs/overlay.png"

POINT_MM = (-24.0, -20.0, 4.0)
"""World coordinates (RAS) of the point that the three planes go through; it lies near the left hippocampus."""

PIXELS_PER_MM = 2.9
OPACITY = 0.6
GAMMA = 1.6
"""Darkens the scan: the average of many brains, without the skull, is bright nearly everywhere."""

PLANES = ((2, "L", "R"), (1, "L", "R"), (0, "P", "A"))
"""Axial, coronal and sagittal: the axis that the plane is perpendicular to, and the letters of its two sides."""


def main() -> None:
    """Draw the scan above, and below it the regions in the colours of the look-up table."""
    scan = nib.as_closest_canonical(nib.load(ROOT / "demo/MNI152_T1w.nii.gz"))
    labels = nib.as_closest_canonical(nib.load(RESULTS / "MNI152_seg-BrainCOLOR_dseg.nii.gz"))
    table = pd.read_csv(RESULTS / "MNI152_seg-BrainCOLOR_dseg.tsv", sep="\t")
    colors = np.zeros((table["index"].max() + 1, 3))
    colors[table["index"]] = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in table["color"]]

    gray = np.asarray(scan.dataobj, dtype=float)
    gray = np.repeat(255 * np.clip(gray / np.percentile(gray[gray > 0], 99.5), 0, 1)[..., None] ** GAMMA, 3, axis=3)
    ids = np.asarray(labels.dataobj).astype(int)
    blended = np.where(ids[..., None] > 0, (1 - OPACITY) * gray + OPACITY * colors[ids], gray)
    voxel = np.rint(np.linalg.inv(scan.affine) @ [*POINT_MM, 1])[:3].astype(int)
    box = [slice(max(a.min() - 7, 0), a.max() + 8) for a in np.nonzero(ids)]

    rows = [np.hstack([_panel(image, box, voxel, *plane) for plane in PLANES]) for image in (gray, blended)]
    picture = Image.fromarray(np.vstack(rows))
    picture.quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)


def _panel(
    image: NDArray[np.float64], box: list[slice], voxel: NDArray[np.int64], axis: int, left: str, right: str
) -> NDArray[np.uint8]:
    """One plane, enlarged, in the middle of a panel that is as high as the tallest plane."""
    plane: list[slice | int] = [*box]
    plane[axis] = int(voxel[axis])
    pixels = Image.fromarray(np.flipud(image[tuple(plane)].transpose(1, 0, 2)).astype(np.uint8))
    width, height = (round(PIXELS_PER_MM * n) for n in pixels.size)
    tallest = round(PIXELS_PER_MM * max(s.stop - s.start for s in box[1:]))
    panel = Image.new("RGB", (width, tallest))
    panel.paste(pixels.resize((width, height), Image.Resampling.LANCZOS), (0, (tallest - height) // 2))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(26)
    draw.text((12, tallest // 8), left, "white", font, anchor="lm")
    draw.text((width - 12, tallest // 8), right, "white", font, anchor="rm")
    return np.asarray(panel)


if __name__ == "__main__":
    main()
