"""The example of an analysis in the documentation runs, and finds the change that the data were made with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_subjects import made_subject

from slant.io.visit_times import VisitTime
from slant.longitudinal.tables import long_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "longitudinal.md"
RIGHT_HIPPOCAMPUS = 47
CONTROLS, PATIENTS = -0.5, -2.0  # percent per year
SUBJECTS = 24


def example() -> str:
    """The code below the comment that names this file."""
    found = re.search(rf"<!-- example: .*{Path(__file__).name} -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert found is not None
    return found[1]


def write_cohort(folder: Path) -> None:
    """The long table of controls and patients, whose hippocampi shrink at different rates, and of a failed visit."""
    random = np.random.default_rng(0)
    subjects, lines = [], ["participant_id\tgroup\tage"]
    for i in range(SUBJECTS):
        patient, name = i % 2 == 1, f"sub-{i:02d}"
        rate = (PATIENTS if patient else CONTROLS) + random.normal(0, 0.4)
        ages = random.uniform(60, 80) + np.array([0, 1.1, 2.3, 3.8])
        times = [VisitTime(None, float(age)) for age in ages]
        size = random.uniform(0.85, 1.15)
        subjects.append(made_subject(name, times, {RIGHT_HIPPOCAMPUS: rate}, noise_percent=0.7, size=size, seed=i))
        lines.append(f"{name}\t{'patient' if patient else 'control'}\t{ages[0]:.1f}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "results").mkdir()
    text = long_table(subjects, folder / "participants.tsv")
    (folder / "results" / "longitudinal.tsv").write_text(text, "utf-8")


@pytest.mark.slow
def test_the_example_finds_the_simulated_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is not installed: pip install 'slant[dev]'")
    write_cohort(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example(), str(PAGE), "exec"), names)  # noqa: S102 (code of this repository)
    assert recwarn.list == []
    found = names["fit"].params
    assert found["years"] == pytest.approx(CONTROLS, abs=0.2)
    assert found["years:group[T.patient]"] == pytest.approx(PATIENTS - CONTROLS, abs=0.3)
    assert "Mixed Linear Model" in capsys.readouterr().out
