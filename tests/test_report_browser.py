"""Pages in a real browser without a screen: they work, look at no network, and do without WebGL."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import voted_run

from slant.config import PageSettings
from slant.evaluation.difference import compare
from slant.io.finished import finished_of
from slant.io.read import read_label_map
from slant.io.results import ResultNames, write_results
from slant.io.write import write_image
from slant.report.difference import draw_difference
from slant.report.page import contents, draw_page
from slant.volume import LabelMap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the driver's pipes, closed at the end of the process
]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NO_GPU = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WARNING = "the field of view cuts the brain at the top (9 cm2); regions there are incomplete"
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Starts a browser with more arguments; skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: install Debian's package chromium, or run playwright install chromium")
        yield lambda *arguments: driver.chromium.launch(executable_path=path, args=[*NO_GPU, *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the toy scan, and of it against itself moved by a voxel."""
    place = tmp_path_factory.mktemp("pages")
    finished = finished_of(voted_run())
    finished = replace(finished, record={**finished.record, "warnings": [WARNING]})
    (place / "scan.html").write_bytes(draw_page(contents(finished, PageSettings())))
    write_results(voted_run(), place / "results")
    labels, _ = read_label_map(place / "results" / ResultNames("toy").labels)
    moved = np.roll(labels.data, 1, axis=1)
    moved[moved == 47] = 0
    write_image(place / "toy_dseg.nii.gz", LabelMap(moved, labels.grid), voted_run().scan)
    found = compare(place / "results", place / "toy_dseg.nii.gz")
    (place / "difference.html").write_bytes(draw_difference(found, PageSettings()))
    return place


class Visit:
    """A page that is open, with all it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        opened = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.page = opened.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda r: self.asked.append(r.url) if not r.url.startswith(("data:", "blob:")) else None
        )
        self.page.goto(path.as_uri())
        self.address = path.as_uri()

    def check(self) -> None:
        """Nothing was complained of, and nothing asked for but the page."""
        assert self.complaints == []
        assert self.asked == [self.address]


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    found = chromium()
    yield found
    found.close()


@pytest.fixture
def scan(browser: Any, folder: Path) -> Iterator[Visit]:
    visit = Visit(browser, folder / "scan.html")
    yield visit
    visit.page.context.close()


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#region-table tbody tr:visible th").all_text_contents()]


def test_the_page_opens_without_complaints(scan: Visit) -> None:
    assert scan.page.title() == "toy · slant report"
    assert WARNING in scan.page.locator(".warnings").inner_text()
    assert scan.page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert scan.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scan.check()


def test_the_table_sorts_and_searches(scan: Visit) -> None:
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
    page.locator("#search").fill("nothing of the kind")
    assert names(page) == []
    scan.check()


def test_sliders_and_switches_change_the_pictures(scan: Visit) -> None:
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
    assert not page.locator("[data-space=home]").is_visible()
    scan.check()


def test_a_region_is_marked_from_the_table_and_named_in_the_picture(scan: Visit) -> None:
    page = scan.page
    page.get_by_role("button", name="Left Cerebral White Matter").click()
    assert page.locator("#chosen").inner_text().startswith("Marked in white: Left Cerebral White Matter, in ")
    marked = """() => [...document.querySelectorAll('.mosaic.on canvas')].reduce((sum, c) =>
        sum + c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length,
        0)"""
    assert page.evaluate(marked) > 100
    page.get_by_role("button", name="Stop marking it").click()
    assert page.locator(".mosaic canvas").count() == 0
    page.locator(".mosaic.on .stack").nth(3).hover()
    assert page.locator("#tip").inner_text() in [*names(page)]
    scan.check()


def test_registration_blinks_only_if_motion_is_welcome(scan: Visit, browser: Any, folder: Path) -> None:
    page = scan.page
    show = page.locator("#registration").get_attribute
    assert show("data-show") == "scan"
    page.get_by_role("button", name="Blink").click()
    page.wait_for_selector("#registration[data-show=template]")
    page.wait_for_selector("#registration[data-show=scan]")
    page.get_by_role("button", name="Blink").click()
    page.get_by_role("radio", name="template, with the scan's edges").check()
    assert show("data-show") == "template"
    page.get_by_role("checkbox", name="edges").uncheck()
    assert not page.locator("#registration .scan_edges").first.is_visible()
    scan.check()
    calm = Visit(browser, folder / "scan.html", reduced_motion="reduce")
    assert not calm.page.locator("#blink").is_visible()
    assert calm.page.locator("#still").is_visible()
    calm.page.context.close()


def colored_share(page: Any) -> float:
    """Share of the 3D view's pixels that have a colour."""
    picture = page.screenshot(clip=page.locator("#view3d-canvas").bounding_box())
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return float((np.ptp(pixels, axis=-1) > 40).mean())


def test_the_3d_view_draws_and_names_places(scan: Visit) -> None:
    page = scan.page
    page.locator("#view3d").scroll_into_view_if_needed()
    page.wait_for_selector("#view3d-canvas[data-ready]")
    page.locator("#view3d-canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert "mm: " in page.locator("#view3d-place").inner_text()
    page.get_by_role("radio", name="3D only").check()
    page.locator("#view3d-opacity").fill("80")
    page.get_by_role("button", name="Turn left").click()
    assert colored_share(page) > 0.02
    scan.check()


def test_without_webgl_the_pictures_remain(chromium: Any, folder: Path) -> None:
    browser = chromium("--disable-gpu", "--disable-3d-apis", "--disable-webgl", "--disable-webgl2")
    visit = Visit(browser, folder / "scan.html")
    visit.page.locator("#view3d").scroll_into_view_if_needed()
    visit.page.get_by_text("This browser offers no WebGL 2").wait_for()
    assert not visit.page.locator("#view3d-canvas").is_visible()
    assert visit.page.locator(".mosaic.on img.base").count() == 17
    visit.check()
    browser.close()


def test_without_javascript_pictures_and_tables_can_be_read(browser: Any, folder: Path) -> None:
    visit = Visit(browser, folder / "scan.html", java_script_enabled=False)
    assert visit.page.locator("img.base:visible").count() >= 34
    assert visit.page.locator("#region-table tbody tr:visible").count() == 132
    visit.page.context.close()


def test_it_can_be_read_on_a_telephone_and_by_a_screen_reader(browser: Any, folder: Path) -> None:
    visit = Visit(browser, folder / "scan.html")
    visit.page.set_viewport_size({"width": 390, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = """() => [...document.querySelectorAll('input, select, button, canvas, [role=img], [role=region]')]
        .filter((e) => !(e.labels && e.labels.length) && !e.getAttribute('aria-label')
        && !e.getAttribute('aria-labelledby') && !e.textContent.trim()).map((e) => e.outerHTML.slice(0, 80))"""
    assert visit.page.evaluate(unnamed) == []
    assert visit.page.evaluate("[...document.images].filter((i) => !i.hasAttribute('alt')).length") == 0
    tree = visit.page.locator("main").aria_snapshot()
    assert 'img "axial slices of the scan with its regions: z =' in tree
    assert "person's left" in tree
    visit.page.context.close()


@pytest.mark.parametrize("name", ["scan", "difference"])
def test_pages_print_on_two_sheets(browser: Any, folder: Path, tmp_path: Path, name: str) -> None:
    import pypdfium2

    visit = Visit(browser, folder / f"{name}.html")
    visit.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
    assert len(document) == 2
    assert document[0].get_size() == pytest.approx((595, 842), abs=1)
    assert "Hippocampus" in document[1].get_textpage().get_text_range()
    document.close()
    visit.page.context.close()


def test_the_comparison_names_both_labels_and_marks_what_differs(browser: Any, folder: Path) -> None:
    visit = Visit(browser, folder / "difference.html")
    page = visit.page
    assert "Only A has Right Hippocampus." in page.locator(".says").inner_text()
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
