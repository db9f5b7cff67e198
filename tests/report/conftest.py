"""A headless browser; tests that use it are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NO_GPU = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Function that starts a browser with extra arguments; skips the test if there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip(
                "Chromium is not installed: install the Debian package chromium, or run playwright install chromium"
            )
        yield lambda *arguments: driver.chromium.launch(executable_path=path, args=[*NO_GPU, *arguments])


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    found = chromium()
    yield found
    found.close()
