"""A toy head and a toy model that run the whole pipeline in seconds.

The head is the image of the template, rotated, scaled down and resampled to a coarse grid of oblique, left-handed,
anisotropic voxels. It is zero outside the brain, so no brain extraction is needed. The prior of the model divides the
brain into 132 patches, with the left regions on the left, so each label has a known position. Its random networks
decide between two neighbouring patches.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from slant.cli import main
from slant.config import SegmentSettings
from slant.grid import Grid, Matrix, transform_points
from slant.io.models import load_model, manifest_of
from slant.io.read import Scan, read_scan
from slant.io.resources import load_protocol
from slant.io.results import Result, make_result
from slant.io.templates import load_template
from slant.nets.assembly import Assembly
from slant.nets.model import Model
from slant.nets.prior import SPACING, Prior
from slant.nets.unet import CompactUNet
from slant.nets.voxel_head import UNetSettings
from slant.nets.weights import write_model
from slant.pipeline import label, prepare
from slant.preprocess.register import Registration
from slant.resample import pick_labels, resample
from slant.segmentation import Prepared, Segmentation
from slant.tiles import TileLayout
from slant.volume import LabelMap, Volume
from slant.vote import ballot_maps

LAYOUT = TileLayout((172, 220, 156), (172, 220, 22), (1, 1, 8))
SETTINGS = UNetSettings(133, (4, 6), image_channels=2, head_channels=4)
SHAPE = (75, 65, 53)
QFORM_CODE, SFORM_CODE = 1, 2
SIMILARITY = 0.95
"""Similarity of the registration with which `quick_stages` replaces the real one."""

# Images of noise


def noise(shape: tuple[int, ...] = (7, 8, 9), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def save(path: Path, data: np.ndarray, affine: Any = None, codes: tuple[int, int] = (1, 1)) -> Path:
    """Write an image with these sform and qform codes."""
    affine = np.diag([-1.0, 1.1, 1.2, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


# The head


@cache
def native_from_template() -> Matrix:
    """Affine of the toy head: rotated by about 15 degrees, 4 percent smaller, translated by 26 mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (10, -6, 12), degrees=True).as_matrix() * 0.96
    matrix[:3, 3] = 12, -20, 18
    return matrix


@cache
def toy_grid() -> Grid:
    """Grid with axes close to P, S, R: left-handed, oblique, 2.6 x 2.3 x 3 mm."""
    axes = np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (8, 5, -4), degrees=True).as_matrix() @ axes @ np.diag([2.6, 2.3, 3.0])
    brain = load_template().brain
    template_center = transform_points(brain.grid.ras_from_voxel, np.argwhere(brain.data)).mean(axis=0)
    center = transform_points(native_from_template(), template_center[None])[0]
    matrix[:3, 3] = center - matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return Grid(SHAPE, np.float32(matrix).astype(np.float64))


@cache
def toy_head() -> np.ndarray:
    """(75, 65, 53) int16 head on `toy_grid`."""
    template, grid = load_template(), toy_grid()
    template_from_native = np.linalg.inv(native_from_template())
    image = resample(template.image, grid, source_from_target=template_from_native)
    inside = pick_labels(template.brain, grid, template_from_native).data != 0
    grain = np.random.default_rng(0).normal(0, 5, SHAPE)
    scaled = np.clip(900 * image.data / image.data.max() + grain, 1, None)
    return np.where(inside, scaled, 0).astype(np.int16)


def write_toy_scan(path: Path, data: np.ndarray | None = None) -> Path:
    """Save the toy head, or other data on its grid."""
    data = toy_head() if data is None else data
    return save(path, data, toy_grid().ras_from_voxel, (SFORM_CODE, QFORM_CODE))


@cache
def toy_folder() -> Path:
    """Temporary folder of this process, removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="slant-toy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def toy_scan() -> Scan:
    return read_scan(write_toy_scan(toy_folder() / "toy_T1w.nii.gz"))


# The model


@cache
def patches() -> np.ndarray:
    """Channel of every 4 mm cell of the template: 0 outside the brain, else one of 132 patches on the correct side."""
    template, protocol = load_template(), load_protocol()
    shape = tuple(-(-n // SPACING) for n in template.grid.shape)
    matrix = template.grid.ras_from_voxel @ np.diag([SPACING, SPACING, SPACING, 1.0])
    matrix[:3, 3] += (SPACING - 1) / 2
    cells = np.argwhere(pick_labels(template.brain, Grid(shape, matrix)).data)
    x = cells[:, 0]
    sides = {"L": cells[x < 20], "midline": cells[(x >= 20) & (x < 23)], "R": cells[x >= 23]}
    channels = np.zeros(shape, dtype=np.int64)
    for side, own in sides.items():
        members = [c for c, region in enumerate(protocol.regions) if c and region.hemisphere == side]
        ordered = own[np.lexsort(own.T // np.array([[1], [8], [2]]))]
        for channel, part in zip(members, np.array_split(ordered, len(members)), strict=True):
            channels[tuple(part.T)] = channel
    return channels


def patches_1mm() -> np.ndarray:
    """(172, 220, 156) `patches` on the template's working grid."""
    return patches().repeat(SPACING, 0).repeat(SPACING, 1).repeat(SPACING, 2)


@cache
def toy_prior() -> Prior:
    """Prior in which only the patch of a cell and that of the next cell along y, slightly less likely, are possible."""
    channels = patches()
    steps = np.zeros((*channels.shape, SETTINGS.outputs), dtype=np.uint8)
    np.put_along_axis(steps, np.roll(channels, 1, axis=1)[..., None], 235, axis=3)
    np.put_along_axis(steps, channels[..., None], 250, axis=3)
    return Prior(steps, LAYOUT.shape)


@cache
def toy_model_folder() -> Path:
    """A model as `slant train` writes it, with random weights."""
    networks = {}
    for i, tile in enumerate(LAYOUT):
        torch.manual_seed(i)
        network = CompactUNet(SETTINGS)
        torch.nn.init.normal_(network.head.weight, std=1.0)
        networks[tile.name] = network.state_dict()
    assembly = Assembly("", LAYOUT, "compact", SETTINGS)
    manifest = manifest_of("toy", [assembly], load_protocol(), {"data": "none, random weights"}, "CC0")
    write_model(toy_folder() / "model", [networks.items()], toy_prior(), manifest)
    return toy_folder() / "model"


def mirroring_model(folder: Path) -> Path:
    """The toy model in another folder, with a manifest that lets every second tile label the mirror image."""
    shutil.copytree(toy_model_folder(), folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "mirror": True}))
    return folder


@cache
def toy_model() -> Model:
    return load_model(str(toy_model_folder()))


# Runs


@contextmanager
def quick_stages() -> Iterator[None]:
    """Replace the registration by the known affine; skip bias field correction and search for residual tissue."""
    known = Registration(native_from_template(), SIMILARITY)
    with (
        patch("slant.preprocess.register.register_to_template", lambda *_: known),
        patch("slant.preprocess.brain.without_residual_tissue", lambda _, foreground: (foreground, "")),
        patch(
            "slant.preprocess.bias.correct_bias",
            lambda volume, _: (volume, Volume(np.ones(volume.grid.shape), volume.grid)),
        ),
    ):
        yield


@contextmanager
def quick_networks() -> Iterator[None]:
    """Let every tile vote for the `patches` where the image is not zero."""

    def votes(predictor: Any, image: np.ndarray, *_: object) -> Iterator[tuple[Any, np.ndarray]]:
        channels = np.where(image != 0, patches_1mm(), 0).astype(np.uint8)
        maps = np.stack([channels, channels, 0 * channels])[: ballot_maps(predictor.ballots)]
        for tile in predictor.layout:
            yield tile, maps[:, *tile.box]

    with patch("slant.nets.cascade.tile_votes", votes):
        yield


@cache
def toy_prepared() -> Prepared:
    """The toy scan on the template grid, by `quick_stages`."""
    with quick_stages():
        return prepare(toy_scan().volume, toy_model().inputs)


@cache
def toy_found() -> Segmentation:
    """The toy scan labelled by the toy model's networks on one thread."""
    return label(toy_prepared(), toy_model(), SegmentSettings(threads=1))


@cache
def light_found() -> Segmentation:
    """`toy_found` with very small images in template space, so that writing it is fast."""
    small = Grid((3, 4, 5), np.eye(4))
    prepared = replace(toy_prepared(), image=Volume(np.ones(small.shape), small))
    return replace(toy_found(), template_labels=LabelMap(np.ones(small.shape, int), small), prepared=prepared)


def toy_result() -> Result:
    """The result of the toy scan with the toy model."""
    return make_result(toy_scan(), toy_found(), toy_model(), SegmentSettings(threads=1))


def light_result() -> Result:
    """The result of `light_found`."""
    return make_result(toy_scan(), light_found(), toy_model(), SegmentSettings(threads=1))


@cache
def voted_result() -> Result:
    """The toy scan segmented with `quick_networks`."""
    with quick_networks():
        found = label(toy_prepared(), toy_model(), SegmentSettings(threads=1))
    return make_result(toy_scan(), found, toy_model(), SegmentSettings(threads=1))


def use_light_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `slant segment` return `light_found` for any scan on the toy grid."""
    toy_model_folder()  # both are made once and then kept; a test may limit what can be written from here on
    found = light_found()
    monkeypatch.setattr("slant.pipeline.segment", lambda *_: found)
    monkeypatch.setattr("slant.report.overlay.draw_overlay", lambda *_, **__: b"a picture")
    monkeypatch.setattr("slant.report.page.reports_of", lambda *_: {"report": b"a page"})


def forbid_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the pipeline starts."""

    def never(*_: object) -> None:
        raise AssertionError("the pipeline was started")

    monkeypatch.setattr("slant.pipeline.segment", never)


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error message of a command: one line on stderr, after those of finished steps; nothing on stdout."""
    output = capsys.readouterr()
    assert output.out == ""
    (message,) = messages(output.err)
    assert message.startswith("slant: ")
    assert output.err.endswith(f"{message}\n")
    return f"{message}\n"


def messages(text: str) -> list[str]:
    """Lines of stderr without those of finished steps."""
    return [line for line in text.splitlines() if not re.fullmatch(r"[a-z ]+: \d+\.\d s, \d+ MiB", line)]


def run_slant(*arguments: object) -> int:
    """Exit status of the command line, run in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def segment_toy(scan: Path, out: Path, *options: object) -> int:
    """Exit status of `slant segment` with the toy model."""
    return run_slant("segment", scan, out, "--model", toy_model_folder(), *options)


def content(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
