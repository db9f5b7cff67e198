"""Comparison of two segmentations of one scan: Dice, volumes, the report, and input that is rejected."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from toy import content, noise, run_slant, save, the_line

from slant.config import ReportSettings
from slant.errors import GeometryError, InputError, ProtocolError
from slant.evaluation.compare import compare, is_freesurfer, load_common
from slant.io.resources import load_protocol
from slant.report.comparison import draw_comparison, draw_comparison_pdf

SHAPE = (12, 13, 14)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_labels(path: Path, *, without: int = 0, affine: np.ndarray = AFFINE) -> Path:
    """Adjacent regions 47 and 48, and region 23 on one face; without a region, one layer of 47 is labelled 48."""
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:6, 2:10, 2:10], ids[6:10, 2:10, 2:10], ids[2:10, 10:12, 2:10] = 47, 48, 23
    if without:
        ids[ids == without] = 0
        ids[5, 2:10, 2:10] = 48
    return save(path, ids, affine)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_labels(tmp_path / "x_dseg.nii.gz"), write_labels(tmp_path / "other.nii.gz", without=23)


def test_dice_volumes_and_the_differing_fraction(pair: tuple[Path, Path]) -> None:
    found = compare(*pair)
    regions = {region.id: region for region in found.regions}
    assert regions[47].dice == pytest.approx(2 * 3 / (4 + 3))
    assert regions[48].dice == pytest.approx(2 * 4 / (4 + 5))
    assert (regions[23].dice, regions[23].percent) == (0, -100)
    assert regions[47].percent == pytest.approx(-25)
    assert (regions[48].first_mm3, regions[48].second_mm3) == pytest.approx((4 * 64 * 8, 5 * 64 * 8))
    assert np.isnan(regions[4].dice)
    assert np.isnan(regions[4].percent)
    assert found.differing == pytest.approx((64 + 128) / (512 + 128))
    assert found.name == "x"


def test_a_map_compared_with_itself_does_not_differ(pair: tuple[Path, Path]) -> None:
    found = compare(pair[0], pair[0])
    text = draw_comparison(found, ReportSettings()).decode()
    assert found.differing == 0
    assert "0.00 % of the labelled voxels have different labels." in text
    assert "Mean Dice: 1.0000, over the 3 regions in A." in text
    assert "Largest change" not in text


@pytest.mark.parametrize("convention", ["neurological", "radiological"])
def test_the_report_shows_the_differences(pair: tuple[Path, Path], convention: str) -> None:
    found = compare(*pair)
    text = draw_comparison(found, ReportSettings(convention=convention)).decode()  # type: ignore[arg-type]
    assert "Only in A: Right Accumbens Area." in text
    assert "The scan is not shown" in text
    assert f"{convention.capitalize()} convention" in text
    assert len(re.findall(r'<tr data-color="', text)) == 132
    assert {source[:5] for source in re.findall(r'\ssrc="([^"]*)', text)} == {"data:"}
    assert draw_comparison(found, ReportSettings(convention=convention)).decode() == text  # type: ignore[arg-type]


def test_the_command_writes_one_report(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = save(tmp_path / "scan.nii.gz", noise(SHAPE), AFFINE)
    out = tmp_path / "new" / "folder"
    assert run_slant("report", "--compare", *pair, "--scan", scan, "--out", out) == 0
    assert capsys.readouterr().out == f"{out / 'x_comparison.html'}\n"
    assert "The scan is not shown" not in content(out)["x_comparison.html"].decode()


def test_the_error_names_what_cannot_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.nii: no such file or folder"):
        compare(tmp_path / "gone.nii", pair[1])
    several = tmp_path / "several"
    several.mkdir()
    for name in "ab":
        write_labels(several / f"{name}_dseg.nii.gz")
    with pytest.raises(InputError, match="several holds 2 label maps, expected one; give the file itself"):
        compare(several, pair[1])
    for name in "ab":
        (several / f"{name}_record.json").write_text("{}")
    with pytest.raises(InputError, match="several holds results of 2 scans, expected one scan"):
        compare(several, pair[1])
    apart = write_labels(tmp_path / "apart.nii.gz", affine=np.diag([2.0, 2.0, 2.5, 1.0]))
    with pytest.raises(GeometryError, match=r"apart\.nii\.gz .*against.*x_dseg"):
        compare(pair[0], apart)
    unknown = save(tmp_path / "unknown.nii.gz", np.full(SHAPE, 99, np.uint8), AFFINE)
    with pytest.raises(ProtocolError, match=r"unknown\.nii\.gz"):
        compare(pair[0], unknown)


def test_compare_rejects_other_results(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_slant("report", "results", "--compare", *pair) == 2
    assert "found also results; leave it out" in the_line(capsys)


# Against FreeSurfer


def test_every_structure_has_ids_of_both_protocols_and_one_side() -> None:
    common, braincolor = load_common(), load_protocol()
    sides = {region.id: region.hemisphere for region in braincolor.regions}
    for source, lacking in (("braincolor", {75, 76}), ("freesurfer", {24, 30, 62, 72, 80, 85})):
        members = common.structure_ids[source]  # type: ignore[index]
        assert set(members.values()) == set(common.protocol.ids[1:].tolist())
        assert not lacking & set(members)
    assert set(common.structure_ids["braincolor"]) | {75, 76} == set(braincolor.ids[1:].tolist())
    for region, structure in common.structure_ids["braincolor"].items():
        side = common.protocol.by_id(structure).hemisphere
        assert side in ("midline", sides[region])
    left, right = (common.structure_ids["freesurfer"][i] for i in (17, 53))
    assert [common.protocol.by_id(i).name for i in (left, right)] == ["Left Hippocampus", "Right Hippocampus"]


def test_freesurfer_maps_are_detected() -> None:
    assert is_freesurfer([0, 2, 3, 4, 41, 42])
    assert is_freesurfer([0, 2, 4, 1002, 2030])
    assert not is_freesurfer(load_protocol().ids.tolist())
    assert not is_freesurfer([0, 47, 48])


def write_aseg(path: Path, affine: np.ndarray = AFFINE) -> Path:
    """The hippocampi of `write_labels` with ids of FreeSurfer, with cortex, white matter and a CSF voxel."""
    ids = np.zeros(SHAPE, np.int32)
    ids[2:6, 2:10, 2:10], ids[6:10, 2:10, 2:10], ids[2:10, 10:12, 2:10] = 53, 17, 1012
    ids[2:10, 2:10, 10:12], ids[0, 0, 0] = 2, 24
    return save(path, ids, affine)


def test_an_aseg_is_compared_in_common_structures(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(pair[0], write_aseg(tmp_path / "aseg.mgz"))
    regions = {region.name: region for region in found.regions}
    assert len(regions) == len(load_common().protocol) - 1
    assert (regions["Left Hippocampus"].dice, regions["Right Hippocampus"].dice) == (1, 1)
    assert regions["Right Accumbens Area"].dice == 0
    assert regions["Left Cerebral Cortex"].second_mm3 == pytest.approx(8 * 2 * 8 * 8)
    assert any("B has ids of FreeSurfer" in note and " 24." in note for note in found.notes)
    text = draw_comparison(found, ReportSettings()).decode()
    assert all(note in text for note in found.notes)
    back = compare(tmp_path / "aseg.mgz", pair[0])
    assert {r.name: r.dice for r in back.regions}["Left Hippocampus"] == 1


def test_an_aseg_on_another_grid_is_resampled(pair: tuple[Path, Path], tmp_path: Path) -> None:
    apart = AFFINE.copy()
    apart[0, 3] = 0.6  # voxels of 2 mm
    found = compare(pair[0], write_aseg(tmp_path / "aseg.nii.gz", apart))
    assert any("nearest neighbour" in note for note in found.notes)
    assert {r.name: r.dice for r in found.regions}["Left Hippocampus"] == 1


def test_structures_can_be_forced(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert len(compare(*pair, structures="freesurfer").regions) == len(load_common().protocol) - 1
    with pytest.raises(ProtocolError, match=r"aseg\.nii"):
        compare(pair[0], write_aseg(tmp_path / "aseg.nii.gz"), structures="regions")


def test_the_comparison_can_be_written_as_pdf(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import pypdfium2

    found = compare(*pair)
    content_of = draw_comparison_pdf(found, ReportSettings())
    assert content_of == draw_comparison_pdf(found, ReportSettings())
    document = pypdfium2.PdfDocument(content_of)
    assert len(document) == 2
    text = " ".join(" ".join(document[i].get_textpage().get_text_range() for i in range(2)).split())
    document.close()
    assert "Right Hippocampus" in text
    assert "Only in A: Right Accumbens Area" in text
    assert run_slant("report", "--compare", *pair, "--out", tmp_path / "out", "--pdf") == 0
    assert set(content(tmp_path / "out")) == {"x_comparison.html", "x_comparison.pdf"}
