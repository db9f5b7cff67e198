"""The notebook of the documentation runs on the results of a segmentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "read-results.ipynb"

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
"""In a process of its own, since Jupyter's warnings are not ours."""


@pytest.mark.slow
def test_the_notebook_runs_on_results(tmp_path: Path) -> None:
    for module in ("nbclient", "ipykernel", "nilearn"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'slant[docs]'")
    import nbformat
    from toy import voted_result

    from slant.io.results import write_results

    write_results(voted_result(), tmp_path / "results", {"overlay": b"a picture"})
    environment = {**os.environ, "SLANT_RESULTS": str(tmp_path / "results"), "MPLBACKEND": ""}
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(tmp_path / "done.ipynb")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "done.ipynb", as_version=4).cells
    shown = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert shown.count("image/png") == 3
    assert "text/html" in shown
