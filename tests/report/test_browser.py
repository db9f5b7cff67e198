"""Reports in a headless browser: they work, make no network request, and do not depend on WebGL."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import OpenPage
from PIL import Image
from toy import voted_result

from slant.config import ReportSettings
from slant.evaluation.compare import compare
from slant.io.names import ResultNames
from slant.io.read import read_label_map
from slant.io.results import write_results
from slant.io.write import write_image
from slant.report.comparison import draw_comparison
from slant.report.contents import contents
from slant.report.page import draw_page
from slant.volume import LabelMap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # pipes of the driver, closed at the end of the process
]

WARNING = "the field of view truncates the brain at the top (9 cm2); regions there are incomplete"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of the toy scan, and of its comparison with the labels shifted by one voxel."""
    folder = tmp_path_factory.mktemp("reports")
    result = voted_result()
    warned = replace(result, record=replace(result.record, warnings=(WARNING,)))
    (folder / "scan.html").write_bytes(draw_page(contents(warned, ReportSettings())))
    write_results(result, folder / "results", {"overlay": b"a picture"})
    labels, _ = read_label_map(folder / "results" / ResultNames("toy").labels)
    shifted = np.roll(labels.data, 1, axis=1)
    shifted[shifted == 47] = 0
    write_image(folder / "toy_dseg.nii.gz", LabelMap(shifted, labels.grid), result.scan)
    comparison = compare(folder / "results", folder / "toy_dseg.nii.gz")
    (folder / "comparison.html").write_bytes(draw_comparison(comparison, ReportSettings()))
    return folder


@pytest.fixture
def scan(browser: Any, folder: Path) -> Iterator[OpenPage]:
    visit = OpenPage(browser, folder / "scan.html")
    yield visit
    visit.page.context.close()


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#region-table tbody tr:visible th").all_text_contents()]


def test_the_report_opens_without_console_messages(scan: OpenPage) -> None:
    assert scan.page.title() == "toy · slant report"
    assert WARNING in scan.page.locator(".warnings").inner_text()
    assert scan.page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert scan.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scan.check()


def test_the_table_sorts_and_searches(scan: OpenPage) -> None:
    page = scan.page
    before = names(page)
    assert len(before) == 132
    page.get_by_role("button", name="mm³").click()
    column = page.locator("#region-table tbody tr td:nth-child(4)").all_text_contents()
    assert [float(v) for v in column] == sorted((float(v) for v in column), reverse=True)
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("mm³")
    page.get_by_role("button", name="mm³").press("Enter")
    assert page.locator("#region-table tbody tr td:nth-child(4)").all_text_contents() == column[::-1]
    page.get_by_role("button", name="Region", exact=True).click()
    assert names(page) == sorted(before, key=str.lower)
    page.locator("#search").fill("HIPPOCAMPUS")
    assert sorted(names(page)) == ["Left Hippocampus", "Right Hippocampus"]
    assert page.locator("#count").inner_text() == "2 of 132 regions"
    page.locator("#side").select_option("L")
    assert names(page) == ["Left Hippocampus"]
    page.locator("#search").fill("no such region")
    assert names(page) == []
    scan.check()


def test_controls_change_the_slices(scan: OpenPage) -> None:
    page = scan.page
    opacity = "getComputedStyle(document.querySelector('.mosaic.on .{}')).opacity"
    assert float(page.evaluate(opacity.format("lines"))) == pytest.approx(0.9)
    assert float(page.evaluate(opacity.format("fill"))) == 0
    page.locator("#opacity").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert float(page.evaluate(opacity.format("lines"))) == pytest.approx(0.8)
    assert page.locator("output[for=opacity]").inner_text() == "80 %"
    page.get_by_role("radio", name="filled").check()
    assert float(page.evaluate(opacity.format("lines"))) == 0
    assert float(page.evaluate(opacity.format("fill"))) == pytest.approx(0.45)
    page.get_by_role("radio", name="MNI305").check()
    assert page.locator("[data-space=mni]").is_visible()
    assert not page.locator("[data-space=native]").is_visible()
    scan.check()


def test_a_region_is_highlighted_from_the_table_and_named_in_the_slice(scan: OpenPage) -> None:
    page = scan.page
    page.get_by_role("button", name="Left Cerebral White Matter").click()
    assert page.locator("#highlighted").inner_text().startswith("Highlighted in white: Left Cerebral White Matter, in ")
    highlighted = """() => [...document.querySelectorAll('.mosaic.on canvas')].reduce((sum, c) =>
        sum + c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length,
        0)"""
    assert page.evaluate(highlighted) > 100
    page.get_by_role("button", name="Clear highlight").click()
    assert page.locator(".mosaic canvas").count() == 0
    page.locator(".mosaic.on .stack").nth(3).hover()
    assert page.locator("#tip").inner_text() in [*names(page)]
    scan.check()


def test_registration_blinks_unless_reduced_motion_is_requested(scan: OpenPage, browser: Any, folder: Path) -> None:
    page = scan.page
    show = page.locator("#registration").get_attribute
    assert show("data-show") == "scan"
    page.get_by_role("button", name="Blink").click()
    page.wait_for_selector("#registration[data-show=template]")
    page.wait_for_selector("#registration[data-show=scan]")
    page.get_by_role("button", name="Blink").click()
    page.get_by_role("radio", name="template with the edges of the scan").check()
    assert show("data-show") == "template"
    page.get_by_role("checkbox", name="edges").uncheck()
    assert not page.locator("#registration .scan_edges").first.is_visible()
    scan.check()
    reduced = OpenPage(browser, folder / "scan.html", reduced_motion="reduce")
    assert not reduced.page.locator("#blink").is_visible()
    assert reduced.page.locator("#still").is_visible()
    reduced.page.context.close()


def colored_fraction(page: Any) -> float:
    """Fraction of the pixels of the 3D view that have a colour."""
    picture = page.screenshot(clip=page.locator("#view3d-canvas").bounding_box())
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return float((np.ptp(pixels, axis=-1) > 40).mean())


def test_the_3d_view_draws_and_names_positions(scan: OpenPage) -> None:
    page = scan.page
    page.locator("#view3d").scroll_into_view_if_needed()
    page.wait_for_selector("#view3d-canvas[data-ready]")
    page.locator("#view3d-canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert "mm: " in page.locator("#view3d-position").inner_text()
    page.get_by_role("radio", name="3D only").check()
    page.locator("#view3d-opacity").fill("80")
    page.get_by_role("button", name="Rotate left").click()
    assert colored_fraction(page) > 0.02
    scan.check()


def test_without_webgl_the_slices_are_shown(chromium: Any, folder: Path) -> None:
    browser = chromium("--disable-gpu", "--disable-3d-apis", "--disable-webgl", "--disable-webgl2")
    visit = OpenPage(browser, folder / "scan.html")
    visit.page.locator("#view3d").scroll_into_view_if_needed()
    visit.page.get_by_text("This browser does not support WebGL 2").wait_for()
    assert not visit.page.locator("#view3d-canvas").is_visible()
    assert visit.page.locator(".mosaic.on img.base").count() == 17
    visit.check()
    browser.close()


def test_without_javascript_slices_and_tables_are_shown(browser: Any, folder: Path) -> None:
    visit = OpenPage(browser, folder / "scan.html", java_script_enabled=False)
    assert visit.page.locator("img.base:visible").count() >= 34
    assert visit.page.locator("#region-table tbody tr:visible").count() == 132
    visit.page.context.close()


def test_the_report_works_on_a_phone_and_with_a_screen_reader(browser: Any, folder: Path) -> None:
    visit = OpenPage(browser, folder / "scan.html")
    visit.page.set_viewport_size({"width": 390, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = """() => [...document.querySelectorAll('input, select, button, canvas, [role=img], [role=region]')]
        .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute('aria-label')
        && !e.getAttribute('aria-labelledby') && !e.textContent.trim()).map((e) => e.outerHTML.slice(0, 80))"""
    assert visit.page.evaluate(unnamed) == []
    assert visit.page.evaluate("[...document.images].filter((i) => !i.hasAttribute('alt')).length") == 0
    tree = visit.page.locator("main").aria_snapshot()
    assert 'img "axial slices of the scan with its regions: z =' in tree
    assert "subject's left" in tree
    visit.page.context.close()


@pytest.mark.parametrize("name", ["scan", "comparison"])
def test_reports_print_on_two_pages(browser: Any, folder: Path, tmp_path: Path, name: str) -> None:
    import pypdfium2

    visit = OpenPage(browser, folder / f"{name}.html")
    visit.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
    assert len(document) == 2
    assert document[0].get_size() == pytest.approx((595, 842), abs=1)
    assert "Hippocampus" in document[1].get_textpage().get_text_range()
    document.close()
    visit.page.context.close()


def test_the_comparison_names_both_labels_and_shows_the_differences(browser: Any, folder: Path) -> None:
    visit = OpenPage(browser, folder / "comparison.html")
    page = visit.page
    assert "Only in A: Right Hippocampus." in page.locator("ul.summary").inner_text()
    page.get_by_role("button", name="Dice").click()
    assert float(page.locator("#region-table tbody td:nth-child(3)").first.inner_text()) > 0.3
    page.get_by_role("button", name="Dice").click()
    assert names(page)[0] == "Right Hippocampus"
    page.get_by_role("radio", name="outlines of B").check()
    assert page.evaluate("getComputedStyle(document.querySelector('.diff')).opacity") == "0"
    page.locator(".mosaic .stack").nth(3).hover()
    assert page.locator("#tip").inner_text().startswith("A: ")
    page.locator("#search").fill("L-Amy")
    assert names(page) == ["Left Amygdala"]
    visit.check()
    visit.page.context.close()
