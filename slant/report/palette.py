"""Colours of pages, pictures and figures: the same meaning has the same colour, safe for colour vision deficiency."""

from __future__ import annotations

from pathlib import Path
from string import Template

import numpy as np

BLUE, ORANGE, VERMILION = "#0072b2", "#e69f00", "#d55e00"
"""Two methods or curves (blue and vermilion), and the three grades; of Okabe & Ito (2008)."""

AMBER = "#ffb000"
"""Warnings, edges and differences; of IBM's safe palette."""

LIGHT, DIM = "#f2f2f2", "#a8a8a8"
"""Text on black."""

AMBER_MASK = np.array([[0, 0, 0, 0], [*bytes.fromhex(AMBER[1:]), 255]], dtype=np.uint8)
"""Red, green, blue and opacity of the values of a mask: transparent, and amber."""

_TEMPLATES = Path(__file__).parent / "templates"
_NAMES = {"blue": BLUE, "orange": ORANGE, "vermilion": VERMILION, "amber": AMBER}


def style_sheet(name: str) -> str:
    """A style sheet of the templates, with colours of this module where it names them, for example ``$blue``."""
    return Template((_TEMPLATES / name).read_text("utf-8")).substitute(_NAMES)
