"""The page of a subject with several visits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import OpenPage
from made_subjects import made_subject, volume_rows

from slant.config import ReportSettings
from slant.grid import axis_aligned_grid
from slant.io.subject_record import VisitRecord
from slant.io.subject_result import SubjectResult
from slant.io.visit_times import VisitTime, note_on_times
from slant.report.trajectories import trajectories_page
from slant.report.trajectory_plots import (
    HEIGHT,
    NOISE_PERCENT,
    WIDTH,
    TimeAxis,
    region_plots,
    sum_plots,
    time_axis,
    volume_curves,
)
from slant.volume import Volume

AGES = tuple(VisitTime(None, age) for age in (60.0, 61.0, 64.0))
EVIL = "</script><b>&'\""
LEFT_OUT = VisitRecord(EVIL, "", EVIL, "", "", VisitTime(), None, f"not the same subject {EVIL}")


def template() -> Volume:
    """A box of 12 x 16 x 10 cm, brighter at its right."""
    data = np.zeros((36, 40, 34), np.float32)
    data[3:33, 4:36, 5:30] = 1
    data[20:33, 4:36, 5:30] = 2
    return Volume(data, axis_aligned_grid((36, 40, 34), 4.0, (-70, -80, -60)))


@pytest.fixture(scope="module")
def subject() -> SubjectResult:
    changes = {0: -0.5, 47: -2.0, 48: 1.0}
    return made_subject("sub-1", AGES, changes, left_out=[LEFT_OUT], template=template())


def links(result: SubjectResult) -> dict[str, str]:
    return {visit.name: f"{visit.folder}/a b#1.html" for visit in result.visits}


def test_every_region_is_in_one_plot_with_both_its_sides(subject: SubjectResult) -> None:
    curves, axis = volume_curves(subject), time_axis(subject)
    plots = [plot for lobe in region_plots(curves, axis).values() for plot in lobe]
    sides = [tuple(drawn.curve.side for drawn in plot.curves) for plot in plots]
    assert set(sides) == {("left", "right"), ("",)}
    names = [drawn.curve.row.name for plot in plots for drawn in plot.curves]
    assert sorted(names) == sorted(row.name for row in subject.volumes[0] if row.level == "region")
    titles = [plot.title for plots in sum_plots(curves, axis).values() for plot in plots]
    assert titles[:2] == ["Brain without ventricles", "Brain with ventricles"]
    assert {"Gray matter", "White matter", "Intracranial (eTIV)", "Frontal", "Temporal"} <= set(titles)


def test_curves_lie_inside_the_plot_and_larger_is_higher(subject: SubjectResult) -> None:
    plots = region_plots(volume_curves(subject), time_axis(subject))
    hippocampus = next(plot for plot in plots["subcortical"] if plot.abbreviation == "Hip")
    left, right = (
        [tuple(map(float, pair.split(","))) for pair in drawn.points.split()] for drawn in hippocampus.curves
    )
    x = [place[0] for place in left]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.25, abs=0.01)
    assert [place[0] for place in right] == x
    assert [y for _, y in left] == sorted((y for _, y in left), reverse=True)  # grows; y is downwards
    assert [y for _, y in right] == sorted(y for _, y in right)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in left + right)


def test_noise_does_not_fill_a_plot(subject: SubjectResult) -> None:
    plots = region_plots(volume_curves(subject), time_axis(subject))
    assert all(0 < plot.band[1] < 0.5 * HEIGHT for lobe in plots.values() for plot in lobe)


def test_the_axis_has_years_only_if_they_are_known_and_differ() -> None:
    assert time_axis(made_subject("a", AGES)) == TimeAxis((0, 1, 4), known=True)
    for times in ((VisitTime(), VisitTime(None, 1)), (VisitTime(None, 1), VisitTime(None, 1))):
        axis = time_axis(made_subject("a", times))
        assert axis == TimeAxis((1, 2), known=False)
        assert [text for _, text in axis.ticks] == ["visit 1", "visit 2"]
    assert [text for _, text in TimeAxis((1.0,), known=False).ticks] == ["visit 1"]


def test_the_page_is_self_contained_and_escapes_texts(subject: SubjectResult) -> None:
    text = trajectories_page(subject, links(subject))
    assert text == trajectories_page(subject, links(subject))
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert EVIL not in text
    assert "not the same subject &lt;/script&gt;" in text
    assert 'href="ses-1/anat/a%20b%231.html"' in text
    assert f"{NOISE_PERCENT} %" in text
    assert "3 visits in 4 years." in text
    assert len(text) < 300_000


def test_without_times_there_are_no_rates_and_the_page_says_how_to_give_them() -> None:
    result = made_subject("sub-1", (VisitTime(), VisitTime("2001-01-01")))
    text = trajectories_page(result, {})
    note = "times of visits sub-1_ses-1 are unknown"
    assert text.count(f"The {note}") == 1
    assert "--age" in text
    assert "%/y" not in text.replace("%/year (", "")
    assert "report</a>" not in text
    names, times = [v.name for v in result.visits], [v.time for v in result.visits]
    warned = replace(result, record=replace(result.record, warnings=(note_on_times(names, times),)))
    assert re.findall(f"[Tt]he {note}", trajectories_page(warned, {}).partition("<main")[2].partition("<pre")[0]) == [
        f"the {note}"
    ]


def test_visits_at_one_time_are_named_so() -> None:
    text = trajectories_page(made_subject("sub-1", (VisitTime(None, 60), VisitTime(None, 60))), {})
    assert "2 visits at the same time. Changes per year are not shown." in text
    assert "unknown, so changes" not in text


def test_a_region_that_is_not_found_and_a_single_visit(subject: SubjectResult) -> None:
    empty = replace(subject, volumes=tuple(volume_rows(np.zeros(132), None) for _ in AGES))
    assert trajectories_page(empty, {}).count("Not found, or not known at every visit.") > 60
    assert "1 visit." in trajectories_page(made_subject("sub-1", AGES[:1]), {})


def test_the_template_has_three_slices_with_its_sides(subject: SubjectResult) -> None:
    text = trajectories_page(subject, {}, ReportSettings("radiological"))
    assert text.count('class="base"') == 3
    assert "the subject's left is on the right" in text.replace("&#39;", "'")
    assert "Within-subject template" not in trajectories_page(replace(subject, template=None), {})


# In a browser


@pytest.fixture(scope="module")
def path(subject: SubjectResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subject") / "sub-1_longitudinal.html"
    path.write_text(trajectories_page(subject, links(subject)), "utf-8")
    return path


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[OpenPage]:
    opened = OpenPage(browser, path)
    yield opened
    opened.page.context.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_opens_and_its_table_sorts_searches_and_leads_to_the_plots(opened: OpenPage) -> None:
    page = opened.page
    assert page.title() == "sub-1 · slant longitudinal"
    assert page.locator("#plots svg:visible").count() > 60
    page.get_by_role("button", name="%/year").press("Enter")
    rates = [float(v) for v in page.locator("#region-table tbody td:last-child").all_text_contents()]
    assert rates == sorted(rates, reverse=True)
    assert page.locator("#region-table tbody th").first.inner_text() == "Left Hippocampus"
    page.locator("#search").fill("hippocampus")
    assert page.locator("#count").inner_text() == "2 of 132 regions"
    page.get_by_role("link", name="Right Hippocampus").press("Enter")
    assert page.locator("figure:target h4").inner_text() == "Hippocampus"
    opened.check()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_fits_a_phone_and_has_text_alternatives(opened: OpenPage) -> None:
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tree = page.locator("main").aria_snapshot()
    assert re.search(r'img "Hippocampus: left \d+, \d+, \d+ mm³; right ', tree)
    assert 'img "Axial, coronal and sagittal slice' in tree
    opened.check()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_prints_and_works_without_javascript(browser: Any, path: Path, tmp_path: Path) -> None:
    import pypdfium2

    opened = OpenPage(browser, path, java_script_enabled=False)
    assert opened.page.locator("#region-table tbody tr:visible").count() == 132
    opened.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
    assert len(document) <= 5
    document.close()
    opened.page.context.close()
