"""The dashboard of a cohort: its z-scores, its files, and how it works in a browser."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slant.cohort.dashboard import write_dashboard
from slant.cohort.table import CohortResults, CohortRow
from slant.engine.failures import Failure
from slant.grid import Grid
from slant.io.names import ResultNames
from slant.io.resources import load_protocol
from slant.report.group_page import DATA, PAGE, THUMBNAILS, GroupRegion, GroupScan, draw_group, robust_z
from slant.volume import LabelMap
from slant.volumes import region_volumes

REGIONS = load_protocol().regions[1:]
SCANS = 30
OUTLIER, FAILED = 7, 12


def test_z_scores_are_robust_and_of_fractions_of_the_intracranial_volume() -> None:
    random = np.random.default_rng(0)
    etiv = random.normal(1.5e6, 2e5, 200)
    volumes = (etiv * np.exp(random.normal(-6, 0.1, 200)))[:, None]
    volumes[5], volumes[6] = 2 * volumes[5], 0
    z = robust_z(volumes, etiv)[:, 0]
    assert np.isnan(z[6])
    others = np.delete(z, [5, 6])
    assert np.median(others) == pytest.approx(0, abs=0.05)
    assert others.std() == pytest.approx(1, abs=0.2)
    logs = np.log(np.delete(volumes[:, 0] / etiv, 6))
    robust_sd = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    assert z[5] == pytest.approx((np.log(volumes[5, 0] / etiv[5]) - np.median(logs)) / robust_sd)


def test_z_scores_of_few_scans_are_nan_and_of_equal_scans_zero() -> None:
    assert np.isnan(robust_z(np.ones((4, 2)), np.full(4, 9.0))).all()
    assert (robust_z(np.ones((5, 1)), np.full(5, 9.0)) == 0).all()
    assert np.isnan(robust_z(np.ones((6, 1)), np.full(6, np.nan))).all()


def test_numbers_survive_and_no_text_closes_the_script() -> None:
    evil = "</script><b>&'\""
    scans = [
        GroupScan(evil, "review", evil, "a b/p#1.html", "", {"site": evil}, {"X": 1000.0 + i}, 1.5e6) for i in range(6)
    ]
    files = draw_group(evil, scans, [GroupRegion("X", evil)], [(evil, evil)])
    assert files == draw_group(evil, scans, [GroupRegion("X", evil)], [(evil, evil)])
    text = files[DATA].decode()
    assert "</script" not in text
    data = json.loads(text.removeprefix("window.slantGroup=").removesuffix(";\n"))
    assert data["scans"][0] == [evil, "review", evil, "a b/p#1.html", "", [evil]]
    assert np.frombuffer(base64.b64decode(data["volumes"]), "<i4").tolist() == [1000 + i for i in range(6)]
    assert "<b>" not in files[PAGE].decode().split("</style>")[1].split("<script")[0]


def test_reasons_that_most_scans_share_come_before_everything_else() -> None:
    scans = [GroupScan("a", "review", "noisy", "", "", {}, {}, math.nan)]
    without, shown = (draw_group("A", scans, [], [], common)[PAGE].decode() for common in ((), ["5 of 6 <scans>"]))
    assert "Most scans" not in without
    assert 0 < shown.index("5 of 6 &lt;scans&gt;") < shown.index("Grades:") < shown.index('id="gallery"')


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty simulated scans: one with a region of twice the volume, one of grade fail, one with a damaged picture."""
    out, random = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    rows, subjects = [], ["participant_id\tage\tsex"]
    for i in range(SCANS):
        name = f"sub-{i:02d}"
        names, folder = ResultNames(name), out / name / "anat"
        folder.mkdir(parents=True)
        Image.new("RGB", (1600, 1300), (8 * i, 90, 90)).save(folder / names.overlay)
        (folder / names.report).write_text(f"<title>{name}</title>", "utf-8")
        mm3 = 1000 * np.exp(random.normal(0, 0.05, len(REGIONS)))
        mm3[3] *= 2 if i == OUTLIER else 1
        grade = "fail" if i == FAILED else "pass"
        volumes = {r.abbreviation: float(v) for r, v in zip(REGIONS, mm3, strict=True)} | {"eTIV": 1.5e6}
        entities = {"participant_id": name}
        rows.append(CohortRow(name, folder / name, grade, (), (), math.nan, 0.5, 0, 50, volumes, entities))
        subjects.append(f"{name}\t{20 + i}\t{'FM'[i % 2]}")
    (out / "participants.tsv").write_text("\n".join(subjects) + "\n", "utf-8")
    (out / "sub-03/anat/sub-03_overlay.png").write_bytes(b"not a picture")
    lost = [Failure("sub-99", "the file is truncated", "x", "")]
    empty = LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)))
    columns = {row.abbreviation: row for row in region_volumes(empty, load_protocol(), 1e6) if row.level == "region"}
    write_dashboard(out, CohortResults(tuple(rows), columns), lost, out / "participants.tsv")
    return out


def test_every_readable_picture_has_a_small_thumbnail(cohort: Path) -> None:
    thumbnails = {path.name: path.stat() for path in (cohort / THUMBNAILS).iterdir()}
    assert set(thumbnails) == {f"sub-{i:02d}.webp" for i in range(SCANS) if i != 3}
    with Image.open(cohort / THUMBNAILS / "sub-01.webp") as image:
        assert image.width <= 400
    assert max(stat.st_size for stat in thumbnails.values()) < 30_000


@pytest.fixture(scope="module")
def tab(cohort: Path) -> Iterator[Any]:
    """The dashboard in a browser, opened from its file, with its console messages and requests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next((p for name in ("chromium", "google-chrome") if (p := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        if executable is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip(
                "Chromium is not installed: install the Debian package chromium, or run playwright install chromium"
            )
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.messages, page.requests = [], []
        page.on("console", lambda m: page.messages.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto((cohort / PAGE).as_uri())
        yield page
        browser.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_dashboard_works_from_its_file(tab: Any, cohort: Path) -> None:
    def count() -> int:
        return int(tab.locator("#gallery li").count())

    assert count() == SCANS
    assert tab.locator("#gallery li a").first.text_content() == f"sub-{FAILED}"  # the worst first
    tab.select_option("#order", "outliers")
    assert tab.locator("#gallery li a").first.text_content() == f"sub-{OUTLIER:02d}"
    tab.get_by_label("sex").select_option("F")
    assert count() == SCANS // 2
    assert tab.locator("#count").inner_text() == f"{SCANS // 2} of {SCANS} scans"
    tab.get_by_label("sex").select_option("")
    tab.get_by_label("age from").fill("45")
    assert count() == 5
    tab.get_by_label("age from").fill("")
    tab.select_option("#region", "3")
    assert tab.locator("#extremes a").first.inner_text() == f"sub-{OUTLIER:02d}"
    assert tab.locator("#plot circle.outlier").count() >= 1
    tab.select_option("#against", label="age")
    assert "against age" in tab.locator("#plot svg").get_attribute("aria-label")
    tab.locator("#heat").focus()
    tab.keyboard.press("ArrowRight")
    assert "z " in tab.locator("#cell").inner_text()
    assert "the file is truncated" in tab.locator("#failures").inner_text()
    assert tab.messages == []
    assert {url.split("/")[0] for url in tab.requests} == {"file:"}
    tab.locator("#gallery li a").first.click()
    tab.wait_for_load_state()
    assert tab.title() == f"sub-{OUTLIER:02d}"
    assert tab.url.startswith(cohort.as_uri())
