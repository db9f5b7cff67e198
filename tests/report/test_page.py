"""The report of a scan: complete, equal from memory and from files, for any name of the scan."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import toy_grid, voted_result

from slant.config import ReportSettings, RunReportSettings
from slant.errors import OutputError
from slant.grid import Grid, axis_aligned_grid
from slant.io.quality import Check
from slant.io.results import Result, write_results
from slant.report import page, qc_figures, tables
from slant.report.contents import Contents, contents
from slant.report.page import Viewer, draw_page
from slant.report.pdf import draw_pdf
from slant.report.qc_figures import base_in_native, bias_check, contours, scan_in_template, tissue_levels
from slant.report.slices import labelled_rows
from slant.report.tables import oblique_degrees, pair_lines, region_lines, sum_lines, summary
from slant.run import draw
from slant.threads import Threads
from slant.volume import LabelMap, Volume

LIMIT_BYTES = 15_000_000


@pytest.fixture(scope="module")
def shown(result: Result) -> Contents:
    return contents(result, ReportSettings())


@pytest.fixture(scope="module")
def html(shown: Contents) -> str:
    return draw_page(shown).decode()


@pytest.fixture
def text_only(shown: Contents, monkeypatch: pytest.MonkeyPatch) -> Contents:
    """The contents without pictures, which are fast to draw."""
    monkeypatch.setattr(page, "viewer", lambda _: Viewer("", "", ""))
    return replace(shown, native=(), mni=(), registration=(), votes=(), bias=None)


# Content of the report


@pytest.mark.slow
def test_the_report_is_one_file_that_makes_no_request(html: str) -> None:
    assert len(html.encode()) < LIMIT_BYTES
    assert {source[:5] for source in re.findall(r'\ssrc="([^"]*)', html)} == {"data:"}
    assert set(re.findall(r'\shref="([^"]{1,5})', html)) <= {
        "data:",
        *(link[:5] for link in re.findall('"(#[a-z0-9]+)"', html)),
    }
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_every_region_has_a_row_with_its_numbers(html: str, result: Result) -> None:
    rows = re.findall(r'<tr data-color="(#\w{6})" data-side="(\w+)".*?>([^<>]+)</button></th><td>([^<]*)', html)
    expected = [("#" + bytes(r.color).hex(), r.hemisphere, r.name, r.abbreviation) for r in result.protocol.regions[1:]]
    assert rows == expected
    volumes = {row.name: row.volume_mm3 for row in result.volumes if row.level == "region"}
    assert f'<td class="n">{volumes["Right Hippocampus"]:.0f}</td>' in html


def test_obliqueness_is_the_angle_to_the_scanner_axes(oblique_grid: Grid) -> None:
    assert oblique_degrees(oblique_grid) == pytest.approx(20)
    assert oblique_degrees(Grid((2, 2, 2), np.diag([1, 2, 3, 1.0]))) == 0


def test_tables_agree_with_the_volumes(result: Result) -> None:
    rows = {(row.level, row.name): row for row in result.volumes}
    sums = {line.name: line for line in sum_lines(result)}
    assert sums["Gray matter"].left_cm3 == rows["tissue", "Left gray"].volume_mm3 / 1000
    assert sums["Frontal"].both_cm3 == rows["lobe", "frontal"].volume_mm3 / 1000
    assert sums["Intracranial volume (eTIV)"].etiv_percent == 100
    assert np.isnan(sums["Brainstem"].left_cm3)
    pairs = pair_lines(region_lines(result))
    assert sum(pair.both_cm3 for pair in pairs) == pytest.approx(sums["Brain with ventricles"].both_cm3)
    pair = next(pair for pair in pairs if pair.name == "fusiform gyrus")
    assert pair.right_cm3 == rows["region", "Right FuG fusiform gyrus"].volume_mm3 / 1000


def test_vote_fractions_are_means_over_regions(result: Result) -> None:
    vote_fractions = tables.mean_vote_fractions(result)
    inside = result.labels.data == 47
    assert vote_fractions[47] == pytest.approx(result.confidence.data[inside].mean(), rel=1e-5)


def test_flags_without_a_normative_reference(result: Result) -> None:
    ids = result.labels.data.copy()
    ids[ids == 4] = 0
    ids[(ids == 47) & (np.indices(ids.shape)[1] % 4 > 0)] = 0
    half = Volume(np.where(ids == 48, 0.4, result.confidence.data), result.confidence.grid)
    from slant.volumes import region_volumes

    labels = LabelMap(ids, result.labels.grid)
    changed = replace(result, labels=labels, confidence=half, volumes=region_volumes(labels, result.protocol, 1e6))
    flags = {line.row.index: line.flag for line in region_lines(changed) if line.flag}
    assert flags[4] == "not found"
    assert flags[47] == "asymmetric"
    assert flags[48] == "low agreement, asymmetric"
    assert summary(changed, region_lines(changed))[0] == "131 of 132 regions were found."
    replaced = region_lines(changed, {11: "large"})
    assert [line.flag for line in replaced if line.flag] == ["large"]


@pytest.mark.slow
def test_quality_checks_are_shown_if_there_are_any(text_only: Contents) -> None:
    assert "<caption>Quality" not in draw_page(text_only).decode()
    graded = replace(text_only, quality=(Check("Noise", "3 %", "review", "the scan is <noisy>"),))
    text = draw_page(graded).decode()
    row = re.search(r'<tr class="grade-review">(.*?)</tr>', text)
    assert row is not None
    assert "Noise" in row[1]
    assert "the scan is &lt;noisy&gt;" in row[1]


@pytest.mark.slow
def test_names_and_warnings_are_escaped(text_only: Contents) -> None:
    evil = "</script><script>alert(1)</script>"
    record = replace(text_only.result.record, warnings=(evil, "caf\udce9"))
    text = draw_page(replace(text_only, result=replace(text_only.result, name=evil, record=record))).decode()
    assert evil not in text
    assert "2 warnings" in text
    assert "caf\\udce9" in text
    assert text.index("2 warnings") < text.index("regions were found") < text.index('id="regions"')


@pytest.mark.slow
def test_left_is_on_the_side_of_the_convention(result: Result, shown: Contents, text_only: Contents) -> None:
    other = labelled_rows(base_in_native(result), result.labels, result.protocol, radiological=True)
    for row, mirrored in zip(shown.native[:2], other[:2], strict=True):
        for panel, flipped in zip(row.panels, mirrored.panels, strict=True):
            assert (panel.ends, flipped.ends) == (("L", "R"), ("R", "L"))
            assert panel.caption == flipped.caption
            fill = panel.layers["fill"].pixels
            assert (fill != flipped.layers["fill"].pixels[:, ::-1]).mean() < 0.01
            left = np.isin(fill, [c for c, r in enumerate(result.protocol.regions) if r.hemisphere == "L"])
            right = np.isin(fill, [c for c, r in enumerate(result.protocol.regions) if r.hemisphere == "R"])
            assert np.nonzero(left)[1].mean() < np.nonzero(right)[1].mean()
    assert other[2].panels[0].ends == ("P", "A")
    settings = ReportSettings(convention="radiological")
    assert "left is on the right" in draw_page(replace(text_only, settings=settings)).decode()


@pytest.mark.slow
def test_filled_layers_have_the_colours_of_the_look_up_table(shown: Contents, result: Result) -> None:
    layer = shown.native[0].panels[3].layers["fill"]
    assert layer.colors is not None
    hippocampus = result.protocol.by_id(47)
    channel = result.protocol.regions.index(hippocampus)
    assert tuple(layer.colors[channel]) == (*hippocampus.color, 255)
    assert layer.colors[0, 3] == 0


# Figures for quality control


def test_tissue_levels_lie_between_the_tissues() -> None:
    data = (
        np.random.default_rng(0).normal(0, 0.02, (20, 21, 22))
        + np.repeat([0.3, 0.6, 1.0, 0], [5, 5, 5, 5])[:, None, None]
    )
    data[15:] = 0
    air, csf, gray = tissue_levels(Volume(data, axis_aligned_grid((20, 21, 22), 1, (0, 0, 0))))
    assert 0 < air < 0.3 < csf < 0.6 < gray < 1.0


def test_contours_lie_where_a_level_is_crossed() -> None:
    data = np.zeros((30, 20, 1))
    data[12:] = 1
    lines = contours(Volume(data, axis_aligned_grid((30, 20, 1), 1, (0, 0, 0))), (0.5,))
    assert lines.shape == (1, 20, 30)
    assert set(np.nonzero(lines)[2]) == {11}


def test_a_simulated_bias_field_is_recovered(result: Result) -> None:
    assert result.scan is not None
    bias_field = np.exp(np.linspace(-0.2, 0.2, toy_grid().shape[0]))
    scan = result.scan.volume
    x = scan.data.shape[0]
    factor = np.interp(np.linspace(0, 1, x), np.linspace(0, 1, len(bias_field)), bias_field)[:, None, None]
    biased = replace(result, scan=replace(result.scan, volume=Volume(scan.data * factor, scan.grid)))
    plain = bias_check(result, scan_in_template(result), radiological=False)
    found = bias_check(biased, scan_in_template(biased), radiological=False)
    assert plain is not None
    assert found is not None
    assert plain.extent == pytest.approx((1, 1), abs=1e-3)
    brain = np.nonzero(result.brain.data)[0]
    low, high = (float(factor[int(np.percentile(brain, q))].item()) for q in (1, 99))
    assert found.extent == pytest.approx((low, high), rel=0.02)


@pytest.mark.slow
def test_the_report_works_without_the_scan_and_the_intensity_record(result: Result) -> None:
    record = replace(result.record, intensity=None)
    bare = replace(result, scan=None, record=record, notes=("The scan itself could not be read.",))
    shown = contents(bare, ReportSettings())
    assert shown.bias is None
    assert [plot.title for plot in shown.plots] == ["after"]
    text = draw_page(shown).decode()
    assert "The scan itself could not be read." in text
    assert 'class="bias"' not in text
    assert shown.native[0].panels[3].layers["base"].pixels.std() > 20


# Results read from files


def test_a_run_writes_its_reports(tmp_path: Path) -> None:
    drawings = {"overlay": b"a picture", "report": b"a report", "pdf": b"a pdf"}
    files = write_results(voted_result(), tmp_path, drawings)
    assert sorted(files.values()) == sorted(tmp_path.iterdir())
    assert (tmp_path / "toy_report.html").read_bytes() == b"a report"
    with pytest.raises(OutputError, match="was written empty"):
        write_results(voted_result(), tmp_path, {**drawings, "report": b""})
    assert (tmp_path / "toy_report.html").read_bytes() == b"a report"


@pytest.mark.slow
def test_the_pdf_has_two_pages_for_any_number_of_warnings(shown: Contents) -> None:
    import pypdfium2

    many = tuple(f"warning {i}: " + "words " * 40 for i in range(30))
    for warnings in ((), many):
        record = replace(shown.result.record, warnings=warnings)
        document = pypdfium2.PdfDocument(draw_pdf(replace(shown, result=replace(shown.result, record=record))))
        assert [pdf_page.get_size() for pdf_page in document] == [pytest.approx((595.28, 841.89), abs=0.1)] * 2
        first, second = (pdf_page.get_textpage().get_text_range() for pdf_page in document)
        assert "toy" in first
        assert "the subject's left is on the left" in first
        assert ("warning 0" in first[:300]) == bool(warnings)
        assert "Hippocampus" in second
        assert "SHA-256" in second
        document.close()


# The command


def test_the_last_colour_marks_a_vote_fraction_of_one_half(result: Result) -> None:
    fraction = np.where(result.labels.data == 47, 0.5, 1)
    steps = qc_figures._disagreement_steps(replace(result, confidence=Volume(fraction, result.labels.grid)))
    assert set(np.unique(steps[result.labels.data == 47])) == {len(qc_figures.color_scale()) - 1}
    assert not steps[result.labels.data != 47].any()


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_threads(result: Result, tmp_path: Path) -> None:
    drawn = {}
    for n in (1, 3):
        with Threads(n) as threads:
            drawn[n] = draw(result, RunReportSettings(), threads)
            write_results(result, tmp_path / str(n), drawn[n], threads=threads)
    assert drawn[1] == drawn[3]
    written = [{path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("1", "3")]
    assert written[0] == written[1]
