"""What all HTML reports share: templates, style sheet, script, and values made safe for them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant._version import __version__
from slant.report.paint import style_sheet
from slant.report.qc_figures import color_scale

if TYPE_CHECKING:
    from jinja2 import Environment

    from slant.report.contents import Curve, Plot

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> bytes:
    """A page from a template and the values that it shows; the same bytes for the same values."""
    return _environment().get_template(template).render(**values).encode(errors="replace")


def script(name: str) -> str:
    """A script of the templates."""
    return (_TEMPLATES / name).read_text("utf-8")


def plain_text(value: Any) -> Any:
    """Plain values whose strings can be encoded as UTF-8; file names may contain bytes that are not valid text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: plain_text(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_text(entry) for entry in value]
    return value


def script_json(value: Any) -> str:
    """Plain values as JSON for a script element, escaped so that no string can close it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ramp = ",".join("#" + bytes(color[:3]).hex() for color in color_scale()[1::9].tolist())
    jinja.globals.update(
        version=__version__, css=style_sheet("page.css"), js=script("page.js"), points=_points, ramp=ramp
    )
    return jinja


def _points(plot: Plot, curve: Curve, width: int, height: int, left: int, bottom: int) -> list[tuple[str, str]]:
    """Coordinates in pixels of a curve in a plot of the given size."""
    x_scale = (width - 2 * left) / (plot.high - plot.low)
    y_scale = height - bottom - 28  # below the legend
    return [
        (f"{left + (x - plot.low) * x_scale:.1f}", f"{height - bottom - y * y_scale:.1f}")
        for x, y in zip(curve.x, curve.y, strict=True)
    ]
