"""Two segmentations of one scan: what differs, counted and drawn, and what cannot be compared."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from toy import content, noise, run_slant, save, the_line

from slant.config import PageSettings
from slant.errors import GeometryError, InputError, ProtocolError
from slant.evaluation.difference import compare
from slant.report.difference import draw_difference

SHAPE = (12, 13, 14)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_labels(path: Path, *, without: int = 0, affine: np.ndarray = AFFINE) -> Path:
    """Two regions side by side, 47 and 48, and a third, 23, on one face; some voxels of 47 are 48 in another map."""
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:6, 2:10, 2:10], ids[6:10, 2:10, 2:10], ids[2:10, 10:12, 2:10] = 47, 48, 23
    if without:
        ids[ids == without] = 0
        ids[5, 2:10, 2:10] = 48
    return save(path, ids, affine)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_labels(tmp_path / "x_dseg.nii.gz"), write_labels(tmp_path / "other.nii.gz", without=23)


def test_dice_volumes_and_the_share_that_differs(pair: tuple[Path, Path]) -> None:
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
    text = draw_difference(found, PageSettings()).decode()
    assert found.differing == 0
    assert "0.00 % of the labelled voxels have another label." in text
    assert "The mean Dice is 1.0000, over 3 regions that A has." in text
    assert "changed most" not in text


@pytest.mark.parametrize("convention", ["neurological", "radiological"])
def test_the_page_says_and_shows_what_differs(pair: tuple[Path, Path], convention: str) -> None:
    found = compare(*pair)
    text = draw_difference(found, PageSettings(convention=convention)).decode()  # type: ignore[arg-type]
    assert "Only A has Right Accumbens Area." in text
    assert "There is no scan under the labels" in text
    assert f"{convention.capitalize()} convention" in text
    assert len(re.findall(r'<tr data-color="', text)) == 132
    assert {source[:5] for source in re.findall(r'\ssrc="([^"]*)', text)} == {"data:"}
    assert draw_difference(found, PageSettings(convention=convention)).decode() == text  # type: ignore[arg-type]


def test_the_command_writes_one_page(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = save(tmp_path / "scan.nii.gz", noise(SHAPE), AFFINE)
    out = tmp_path / "made" / "here"
    assert run_slant("report", "--compare", *pair, "--scan", scan, "--out", out) == 0
    assert capsys.readouterr().out == f"{out / 'x_difference.html'}\n"
    assert "There is no scan" not in content(out)["x_difference.html"].decode()


def test_what_cannot_be_compared_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.nii: no such file or folder"):
        compare(tmp_path / "gone.nii", pair[1])
    several = tmp_path / "several"
    several.mkdir()
    for name in "ab":
        write_labels(several / f"{name}_dseg.nii.gz")
    with pytest.raises(InputError, match="several holds 2 label maps, wanted one; give the file itself"):
        compare(several, pair[1])
    for name in "ab":
        (several / f"{name}_record.json").write_text("{}")
    with pytest.raises(InputError, match="several holds results of 2 scans, wanted those of one"):
        compare(several, pair[1])
    apart = write_labels(tmp_path / "apart.nii.gz", affine=np.diag([2.0, 2.0, 2.5, 1.0]))
    with pytest.raises(GeometryError, match=r"apart\.nii\.gz .*against.*x_dseg"):
        compare(pair[0], apart)
    strange = save(tmp_path / "strange.nii.gz", np.full(SHAPE, 99, np.uint8), AFFINE)
    with pytest.raises(ProtocolError, match=r"strange\.nii\.gz"):
        compare(pair[0], strange)


@pytest.mark.parametrize(("extra", "named"), [(("results",), "results"), (("--pdf",), "--pdf")])
def test_nothing_else_goes_with_compare(
    pair: tuple[Path, Path], extra: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_slant("report", *extra, "--compare", *pair) == 2
    assert f"found also {named}; leave it out" in the_line(capsys)
