"""Make ``atlases/braincolor/intensity_reference.tsv``: the mean sorted intensities of the training scans.

    python benchmarks/make_intensity_reference.py FOLDER

FOLDER holds the training scans as ``NAME_T1w.nii.gz``. Each goes through brain extraction, registration and N4 as in
`slant.pipeline.prepare` and is z-scored inside its brain. Prints nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from slant.io.read import read_scan
from slant.io.templates import load_template
from slant.preprocess import bias, intensity
from slant.preprocess.alignment import align_brain
from slant.timing import TimingLog


def sorted_z_scores(path: Path) -> NDArray[np.float64]:
    """Sorted z-scored intensities in the brain of one scan."""
    found = align_brain(read_scan(path).volume, load_template(), TimingLog())
    corrected, _ = bias.correct_bias(found.image, found.template_mask)
    return intensity.sorted_intensities(intensity.z_score(corrected, found.template_mask), found.template_mask)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    paths = sorted(parser.parse_args().folder.glob("*_T1w.nii.gz"))
    reference = intensity.build_reference(Parallel(n_jobs=2)(delayed(sorted_z_scores)(path) for path in paths))
    out = Path(__file__).resolve().parents[1] / "atlases" / "braincolor" / "intensity_reference.tsv"
    header = f"# Mean sorted z-scored intensity in the brain of {len(paths)} scans of the MICCAI 2012 Multi-Atlas "
    header += "Labeling Challenge (OASIS), CC BY-NC 3.0; made by benchmarks/make_intensity_reference.py\n"
    rows = zip(reference.quantiles, reference.values, strict=True)
    out.write_text(header + "quantile\tz\n" + "".join(f"{q:.3f}\t{z:.5f}\n" for q, z in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
