"""Encodes pictures: figures and masks as PNG, grey levels as WebP, any bytes as text for a page."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from slant.report.paint import Picture


def figure_png(figure: Figure) -> bytes:
    """PNG without the name and version of the software; glyphs that the font lacks are drawn as boxes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
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

    used, numbers = np.unique(pixels, return_inverse=True)
    image = Image.fromarray(numbers.reshape(pixels.shape).astype(np.uint8), mode="P")
    image.putpalette(colors[used, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, transparency=colors[used, 3].tobytes())
    return buffer.getvalue()


def webp(image: Image, quality: int) -> bytes:
    """WebP of a quality from 0 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(content).decode()
