"""What all pictures share: grey levels, colours, outlines, and encodings as PNG, WebP and text.

The same meaning has the same colour, safe for colour vision deficiency.
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slant.labels import LabelProtocol
from slant.volume import LabelMap, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Picture = NDArray[np.uint8]

_MIN_LUMA = 110.0  # 0 to 255; darker colours are lightened to be visible on a scan

BLUE, ORANGE, VERMILION = "#0072b2", "#e69f00", "#d55e00"
"""Two methods or curves (blue and vermilion), and the three grades; of Okabe & Ito (2008)."""

AMBER = "#ffb000"
"""Warnings, edges and differences; of IBM's safe palette."""

LIGHT, DIM = "#f2f2f2", "#a8a8a8"
"""Text on black."""

AMBER_MASK = np.array([[0, 0, 0, 0], [*bytes.fromhex(AMBER[1:]), 255]], dtype=np.uint8)
"""Red, green, blue and opacity of the values of a mask: transparent, and amber."""

_PALETTE_LEVEL = 7  # of zlib: an eighth of the time of level 9, 2 % larger
_FIGURE_LEVEL = 3  # a third of the time of Pillow's 6, not larger
_TEMPLATES = Path(__file__).parent / "templates"
_NAMES = {"blue": BLUE, "orange": ORANGE, "vermilion": VERMILION, "amber": AMBER}


def outlines(channels: NDArray[np.integer], colors: Picture) -> NDArray[np.integer]:
    """Channel of the outline at every pixel of (panels, rows, columns) channels; 0 where there is no outline."""
    right = np.concatenate([channels[:, :, 1:], channels[:, :, -1:]], axis=2)
    below = np.concatenate([channels[:, 1:], channels[:, -1:]], axis=1)
    line = (channels != right) | (channels != below)
    vivid = np.where(np.arange(len(colors)) > 0, np.ptp(colors.astype(int), axis=1), -1)
    candidates = np.stack([channels[line], right[line], below[line]])
    drawn: NDArray[np.integer] = np.zeros_like(channels)
    drawn[line] = np.take_along_axis(candidates, vivid[candidates].argmax(axis=0)[None], axis=0)[0]
    return drawn


def gray_range(scan: Volume, labels: LabelMap) -> tuple[float, float]:
    """Intensities shown black and white: that of air, and slightly above the brightest voxels of the brain."""
    brain = scan.data[labels.data != 0]
    white = np.percentile(brain if brain.size else scan.data, 99.5)
    black = np.percentile(scan.data[::2, ::2, ::2], 2)
    return float(black), float(black + 1.25 * (white - black))


def gray_fraction(values: NDArray[np.float32], shown: tuple[float, float]) -> NDArray[np.float32]:
    """Grey levels of intensities, from 0 (black) to 1 (white), for the intensities that are shown black and white."""
    black, white = shown
    return np.clip((values - black) / max(white - black, 1e-30), 0, 1)


def line_colors(protocol: LabelProtocol) -> Picture:
    """(channels, 3) uint8: colours of the regions; dark ones are mixed with white to be visible on a scan."""
    colors = np.array([region.color for region in protocol.regions], dtype=np.float64)
    luma = colors @ (0.299, 0.587, 0.114)
    white = np.clip((_MIN_LUMA - luma) / (255 - luma + 1e-9), 0, 1)[:, None]
    lightened: Picture = np.rint(colors * (1 - white) + 255 * white).astype(np.uint8)
    return lightened


def style_sheet(name: str) -> str:
    """A style sheet of the templates, with colours of this module where it names them, for example ``$blue``."""
    return Template((_TEMPLATES / name).read_text("utf-8")).substitute(_NAMES)


def figure_png(figure: Figure) -> bytes:
    """PNG without the name and version of the software; glyphs that the font lacks are drawn as boxes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(  # type: ignore[no-untyped-call]
            buffer, metadata={"Software": None}, pil_kwargs={"compress_level": _FIGURE_LEVEL}
        )
    return buffer.getvalue()


def palette_png(pixels: Picture, colors: Picture) -> bytes:
    """PNG with a palette.

    Parameters
    ----------
    pixels : (rows, columns) uint8 array
        Row numbers of ``colors``.
    colors : (N, 4) uint8 array
        Red, green, blue and opacity.
    """
    from PIL import Image

    used = np.flatnonzero(np.bincount(pixels.ravel(), minlength=len(colors)))
    numbers: Picture = np.zeros(len(colors), dtype=np.uint8)
    numbers[used] = np.arange(len(used))
    image = Image.fromarray(numbers[pixels], mode="P")
    image.putpalette(colors[used, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PALETTE_LEVEL, transparency=colors[used, 3].tobytes())
    return buffer.getvalue()


def webp(image: Image, quality: int) -> bytes:
    """WebP of a quality from 0 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(content).decode()
