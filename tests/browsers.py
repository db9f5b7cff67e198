"""Pages in a headless browser, with what they print on the console and what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WAIT_MS = 120_000


class OpenPage:
    """An open report with its console messages and requests."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        opened = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.page = opened.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda m: self.messages.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on(
            "request", lambda r: self.requests.append(r.url) if not r.url.startswith(("data:", "blob:")) else None
        )
        self.page.goto(path.as_uri())
        self.address = path.as_uri()

    def check(self) -> None:
        """Check that there is no console message, and no request except for the report."""
        assert self.messages == []
        assert self.requests == [self.address]
