"""Results of a run: eleven files, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import re
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from toy import (
    QFORM_CODE,
    SFORM_CODE,
    SIMILARITY,
    content,
    light_result,
    native_from_template,
    toy_grid,
    toy_model,
    toy_model_folder,
    toy_result,
    toy_scan,
)

import slant
from slant.errors import InputError, OutputError
from slant.io.luts import format_lut
from slant.io.names import RESULT_FILES, ResultNames, subject_of
from slant.io.quality import Check, Quality, RegionQuality
from slant.io.read_results import read_result
from slant.io.record import DeformationRecord, InputRecord, Record
from slant.io.results import write_results
from slant.io.volume_table import format_volumes, read_volumes

NAMES = ResultNames("toy")
SUFFIXES = (
    "seg-BrainCOLOR_dseg.nii.gz",
    "space-MNI305_seg-BrainCOLOR_dseg.nii.gz",
    "space-MNI305_desc-preproc_T1w.nii.gz",
    "desc-brain_mask.nii.gz",
    "desc-confidence_map.nii.gz",
    "from-T1w_to-MNI305_mode-image_xfm.mat",
    "seg-BrainCOLOR_dseg.tsv",
    "seg-BrainCOLOR_volumes.tsv",
    "seg-BrainCOLOR_dseg.json",
    "overlay.png",
    "record.json",
)
NATIVE = (SUFFIXES[0], SUFFIXES[3], SUFFIXES[4])
TEMPLATE = (SUFFIXES[1], SUFFIXES[2])


PICTURES = {"overlay": b"a picture"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "made" / "here"
    files = write_results(toy_result(), out, PICTURES)
    assert sorted(files.values()) == sorted(out.iterdir())
    return out


def test_exactly_the_expected_files_are_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"toy_{suffix}" for suffix in SUFFIXES)


@pytest.mark.parametrize("suffix", NATIVE)
def test_images_in_native_space_have_the_geometry_of_the_scan(folder: Path, suffix: str) -> None:
    found, scan = nib.load(folder / f"toy_{suffix}"), nib.load(toy_scan().path)
    assert found.shape == scan.shape
    for form in ("sform", "qform"):
        np.testing.assert_array_equal(getattr(found.header, f"get_{form}")(), getattr(scan.header, f"get_{form}")())
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (SFORM_CODE, QFORM_CODE)
    assert nib.aff2axcodes(found.affine) == ("P", "S", "R")


@pytest.mark.parametrize("suffix", TEMPLATE)
def test_images_in_template_space_have_the_geometry_of_the_template(folder: Path, suffix: str) -> None:
    found = nib.load(folder / f"toy_{suffix}")
    assert found.shape == toy_model().inputs.template.grid.shape
    np.testing.assert_allclose(found.affine, toy_model().inputs.template.grid.ras_from_voxel, atol=1e-4)


def test_label_maps_have_integer_ids(folder: Path) -> None:
    for suffix in (SUFFIXES[0], SUFFIXES[1], SUFFIXES[3]):
        image = nib.load(folder / f"toy_{suffix}")
        assert image.get_data_dtype() == np.uint8
        assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    native = np.asarray(nib.load(folder / NAMES.labels).dataobj)
    scan = np.asarray(nib.load(toy_scan().path).dataobj)
    assert set(np.unique(native)) == set(toy_model().protocol.ids.tolist())
    assert (scan[native != 0] != 0).mean() > 0.95


def test_confidence_is_a_fraction(folder: Path) -> None:
    confidence = np.asarray(nib.load(folder / NAMES.confidence).dataobj)
    assert confidence.dtype == np.float32
    assert 0 < confidence.min() < 0.6
    assert confidence.max() == pytest.approx(1)
    assert confidence[0, 0, 0] == 1


def test_ants_applies_the_transform_as_the_pipeline_does(folder: Path) -> None:
    resampled = ants.apply_transforms(
        ants.image_read(str(folder / NAMES.preprocessed)),
        ants.image_read(str(folder / NAMES.brain)).astype("float32"),
        transformlist=[str(folder / NAMES.transform)],
    )
    brain = np.asarray(nib.load(folder / NAMES.preprocessed).dataobj) > 0
    inside = resampled.numpy() > 0.5
    assert 2 * (brain & inside).sum() / (brain.sum() + inside.sum()) > 0.98


def test_lookup_table(folder: Path) -> None:
    assert (folder / NAMES.lookup).read_text("utf-8") == format_lut(toy_model().protocol, "tsv")
    table = pd.read_csv(folder / NAMES.lookup, sep="\t")
    assert list(table.columns) == ["index", "name", "abbreviation", "hemisphere", "color"]
    assert len(table) == 133


def test_volumes_table(folder: Path) -> None:
    table = pd.read_csv(folder / NAMES.volumes, sep="\t")
    region_columns = ["level", "index", "name", "abbreviation", "hemisphere", "tissue", "lobe"]
    quality_columns = ["expected_dice", "volume_z", "reference_low", "reference_high"]
    volume_columns = ["volume_mm3", "etiv_fraction", "asymmetry_percent"]
    assert list(table.columns) == [*region_columns, *volume_columns, *quality_columns]
    assert table[quality_columns].isna().all(axis=None), "the toy model has no reference"
    regions = table[table["level"] == "region"].set_index("index")
    labels = np.asarray(nib.load(folder / NAMES.labels).dataobj)
    ids, counts = np.unique(labels[labels != 0], return_counts=True)
    assert len(regions) == 132
    np.testing.assert_allclose(regions["volume_mm3"].loc[ids], counts * toy_grid().voxel_volume_mm3, atol=6e-4)
    assert b"\r" not in (folder / NAMES.volumes).read_bytes()
    assert "\tn/a\t" in (folder / NAMES.volumes).read_text("utf-8")


def test_sidecar_names_source_model_and_licence(folder: Path) -> None:
    sidecar = json.loads((folder / NAMES.sidecar).read_text("utf-8"))
    assert sidecar["Sources"] == ["toy_T1w.nii.gz"]
    assert sidecar["Atlas"] == "BrainCOLOR"
    assert sidecar["Manual"] is False
    assert (sidecar["Model"], sidecar["ModelHash"]) == ("toy", toy_model().identity)
    assert sidecar["ModelLicense"] == "CC0"
    assert sidecar["GeneratedBy"] == [{"Name": "slant", "Version": slant.__version__}]


def test_record_describes_how_the_results_were_made(folder: Path) -> None:
    written = json.loads((folder / NAMES.record).read_text("utf-8"))
    assert written["input"]["sha256"] == hashlib.sha256(toy_scan().path.read_bytes()).hexdigest()
    manifest = (toy_model_folder() / "manifest.json").read_bytes()
    assert written["model"] == {"name": "toy", "sha256": hashlib.sha256(manifest).hexdigest(), "licence": "CC0"}
    assert written["versions"]["slant"] == slant.__version__
    assert written["versions"]["torch"] == version("torch")
    assert written["settings"]["threads"] == 1
    assert written["settings"]["interpolation"] == "multilabel"
    assert written["warnings"] == []
    assert written["registration_similarity"] == SIMILARITY
    np.testing.assert_allclose(written["native_from_template"], native_from_template())
    assert written["regions_found"] == 132
    assert written["etiv_mm3"] == pytest.approx(1890907 * 0.96**3, abs=0.1)
    assert [timing["name"] for timing in written["timings"]] == [timing.name for timing in toy_result().record.timings]
    assert all(timing["runtime_s"] >= 0 and timing["peak_mib"] > 0 for timing in written["timings"])
    assert toy_result().record.plain() == written


def test_a_record_survives_a_round_trip_through_json(folder: Path) -> None:
    text = (folder / NAMES.record).read_text("utf-8")
    assert Record.from_json(text).to_json() == text
    plain = toy_result().record
    full = replace(
        plain,
        input=InputRecord("caf\udce9.nii.gz", "0" * 64, {"images": 53}),
        warnings=('a "quoted" µ',),
        deformation=DeformationRecord(0.9, 0.7, accepted=True),
        quality=Quality(
            "review",
            (Check("Noise", "3 %", "review", "noisy"), Check("Head size", "0", "pass", "")),
            {"noise": math.nan, "scale": -0.1},
            {4: RegionQuality(0.8, -1.5, 0.0003, 0.0009), 11: RegionQuality()},
            {"tissue:csf": RegionQuality(volume_z=0.5)},
            {4: "small"},
            "42 scans",
        ),
    )
    written = full.to_json()
    written.encode()
    again = Record.from_json(written)
    assert again.to_json() == written
    assert again.input == full.input
    assert again.quality is not None
    assert again.quality.reasons == ("Noise 3 %: noisy",)
    assert again.quality.regions[4] == RegionQuality(0.8, -1.5, 0.0003, 0.0009)
    assert math.isnan(again.quality.metrics["noise"])


@pytest.mark.parametrize("key", ["model", "timings"])
def test_a_record_that_lacks_an_entry_is_an_error(key: str) -> None:
    plain = toy_result().record.plain()
    with pytest.raises(InputError, match=f"here is not the record of `slant segment`: it lacks {key}; segment"):
        Record.from_json(json.dumps({k: v for k, v in plain.items() if k != key}), "here")
    with pytest.raises(InputError, match="here cannot be read as the record of a run"):
        Record.from_json(json.dumps({**plain, key: 1}), "here")


def test_the_table_of_volumes_survives_a_round_trip(folder: Path) -> None:
    rows = read_volumes(folder / NAMES.volumes)
    assert format_volumes(rows) == (folder / NAMES.volumes).read_text("utf-8")
    assert [row.name for row in rows] == [row.name for row in toy_result().volumes]
    (folder / "other.tsv").write_text("level\tindex\nregion\t4\n")
    with pytest.raises(ValueError, match="the table of volumes lacks name, abbreviation"):
        read_volumes(folder / "other.tsv")
    (folder / "other.tsv").unlink()


def test_results_from_files_are_written_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    result = read_result(folder / NAMES.record)
    write_results(result, tmp_path, PICTURES)
    assert content(tmp_path) == content(folder)
    with pytest.raises(OutputError, match="its scan, whose geometry they have, is missing"):
        write_results(replace(result, scan=None), tmp_path, PICTURES)


def test_names_know_their_kinds() -> None:
    assert [*NAMES.optional, *NAMES.all] == [NAMES.of(kind) for kind in RESULT_FILES]
    assert NAMES.all == tuple(f"toy_{suffix}" for suffix in SUFFIXES)
    with pytest.raises(AttributeError, match="'lables' is not a kind of result file, expected one of report, pdf"):
        _ = NAMES.lables
    assert copy(NAMES) == NAMES


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-2", "sub-01"),
        ("study/sub-A7/ses-1/scan", "sub-A7"),
        ("acq_sub-3", "sub-3"),
        ("mysub-01", "mysub-01"),
        ("1000", "1000"),
    ],
)
def test_the_subject_of_a_scan(name: str, subject: str) -> None:
    assert subject_of(name) == subject


def test_every_kind_of_file_is_documented() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "outputs.md"
    table = page.read_text("utf-8").partition("## Volumes of one scan")[0]
    suffixes = re.findall(r"^\| `NAME(\S+)`", table, re.MULTILINE)
    assert sorted(suffixes) == sorted(RESULT_FILES.values())


def test_labels_are_placed_first_and_the_record_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed, replace = [], Path.replace

    def note(self: Path, target: Path) -> Path:
        placed.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    write_results(light_result(), tmp_path, PICTURES)
    final = [path.name for path in placed if path.parent == tmp_path]
    assert final == [f"toy_{suffix}" for suffix in SUFFIXES]


def test_same_bytes_again_and_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(light_result(), tmp_path / "one", PICTURES)
    monkeypatch.chdir(tmp_path)
    write_results(light_result(), Path("other ü"), PICTURES)
    assert content(tmp_path / "one") == content(tmp_path / "other ü")


# Failures
