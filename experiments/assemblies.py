"""What does a second assembly bring, and what does it amend: table and picture.

    python experiments/assemblies.py table WORK/fold0/model-*
    python experiments/assemblies.py picture FIRST MODEL SCAN OUT.png [--labels LABELS]

The first command prints a table of models that ``slant train`` has evaluated (``dice.tsv``): mean Dice on the held-out
subjects, that of cortex and of all other regions, tiles, networks and MB. The second segments a scan with FIRST, the
model that ends with the first assembly, and with MODEL, the whole cascade, and draws both label maps and the voxels
that the second assembly amended. With manual labels, these are drawn too, and the amended voxels are green where they
agree only with the cascade, red where they agree only with the first assembly, yellow where with neither.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from slant.evaluation.metrics import CORTEX
from slant.io.models import load_model
from slant.io.read import Scan, read_labels, read_scan
from slant.labels import LabelProtocol
from slant.pipeline import segment

COLUMNS = ["model", "mean", "cortex", "other regions", "subjects", "tiles", "networks", "MB"]
GOOD, BAD, OTHER = (0, 200, 0), (230, 0, 0), (240, 220, 0)
PIXELS_PER_MM = 2.5
DEPTH = 0.45
"""Place of a slice, as a fraction of the brain's extent."""


def row(folder: Path) -> list[str]:
    """One row of the table."""
    model, dice = load_model(str(folder)), pd.read_csv(folder / "dice.tsv", sep="\t")
    cortex = [region.id for region in model.protocol.regions if region.tissue == "gray" and region.lobe in CORTEX]
    subjects = dice.drop(columns=["index", "name", "mean", "ci_low", "ci_high"])
    in_cortex = dice["index"].isin(cortex)
    means = [subjects[part].mean().mean() for part in (in_cortex | True, in_cortex, ~in_cortex)]
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
    tiles = sum(len(assembly.layout) for assembly in model.assemblies)
    networks = sum(
        1 if model.networks.shared(position) else len(assembly.networks)
        for position, assembly in enumerate(model.assemblies)
    )
    texts = [*(f"{value:.4f}" for value in means), ", ".join(f"{mean:.4f}" for mean in subjects.mean())]
    return [folder.name, *texts, str(tiles), str(networks), f"{size:.0f}"]


def colored(labels: NDArray[np.integer], gray: NDArray[np.float64], protocol: LabelProtocol) -> NDArray[np.float64]:
    """(X, Y, Z, 3) labels in their colours over the image."""
    table = np.zeros((int(protocol.ids.max()) + 1, 3))
    for region in protocol.regions:
        table[region.id] = region.color
    return np.where(labels[..., None] > 0, 0.35 * gray + 0.65 * table[labels], gray)


def panels(arrays: list[NDArray[np.float64]], box: tuple[slice | int, ...], spacing: list[float]) -> NDArray[np.uint8]:
    """One slice of each array, side by side."""
    row = []
    for array in arrays:
        plane = Image.fromarray(np.flipud(array[box].transpose(1, 0, 2)).clip(0, 255).astype(np.uint8))
        width, height = (round(n * mm * PIXELS_PER_MM) for n, mm in zip(plane.size, spacing, strict=True))
        row.append(np.asarray(plane.resize((width, height), Image.Resampling.NEAREST)))
    return np.hstack(row)


def draw(arrays: list[NDArray[np.float64]], inside: NDArray[np.bool_], scan: Scan, out: Path) -> None:
    """An axial, a coronal and a sagittal slice of each array, through voxels that are inside."""
    spans = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    rows, sizes_mm = [], scan.volume.grid.voxel_size_mm
    for axis in (2, 1, 0):
        box: list[slice | int] = [slice(max(span[0] - 4, 0), span[-1] + 5) for span in spans]
        box[axis] = int(spans[axis][int(len(spans[axis]) * DEPTH)])
        rows.append(panels(arrays, tuple(box), [mm for other, mm in enumerate(sizes_mm) if other != axis]))
    widest = max(row.shape[1] for row in rows)
    rows = [np.pad(row, [(0, 6), (0, widest - row.shape[1]), (0, 0)]) for row in rows]
    Image.fromarray(np.vstack(rows)).quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)


def picture(options: argparse.Namespace) -> None:
    """Segment with both models, print the counts and write the picture."""
    scan = read_scan(options.scan)
    models = [load_model(str(folder)) for folder in (options.first, options.model)]
    first, final = (segment(scan.volume, model).labels.data for model in models)
    protocol, amended = models[0].protocol, first != final
    count, labelled = amended.sum(), ((first > 0) | (final > 0)).sum()
    print(f"{count} of {labelled} labelled voxels amended ({count / labelled:.1%})")
    intensities = scan.volume.data.astype(np.float64)
    gray = np.repeat(255 * np.clip(intensities / np.percentile(intensities[first > 0], 99), 0, 1)[..., None], 3, axis=3)
    marks, maps = gray * 0.7, [first, final]
    marks[amended] = OTHER
    if options.labels is not None:
        reference = read_labels(options.labels, scan).data
        reference = np.where(np.isin(reference, protocol.ids), reference, 0)
        maps = [reference, *maps]
        for other, color, text in ((final, GOOD, "to the manual label"), (first, BAD, "away from it")):
            chosen = amended & (other == reference)
            marks[chosen] = color
            print(f"{chosen.sum() / count:.1%} {text}")
    draw([*(colored(labels.astype(int), gray, protocol) for labels in maps), marks], final > 0, scan, options.out)


def main() -> None:
    """Print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table").add_argument("models", type=Path, nargs="+")
    drawing = commands.add_parser("picture")
    for name in ("first", "model", "scan", "out"):
        drawing.add_argument(name, type=Path)
    drawing.add_argument("--labels", type=Path)
    options = parser.parse_args()
    if options.command == "picture":
        picture(options)
        return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for folder in options.models:
        print("| " + " | ".join(row(folder)) + " |")


if __name__ == "__main__":
    main()
