"""What is drawn in a chart of the report."""

from __future__ import annotations

import base64
import re

DRAWING = "data:image/svg+xml;base64,"


def decoded(source: str) -> str:
    return base64.b64decode(source.removeprefix(DRAWING)).decode()


def pieces(drawing: str, line: str) -> list[list[tuple[float, float]]]:
    """The places of a line's points, each unbroken piece for itself."""
    (path,) = re.findall(rf'<g id="{line}">\s*<path d="([^"]*)"', drawing)
    numbers = [re.findall(r"[-\d.e]+", piece) for piece in path.split("M")[1:]]
    return [[(float(x), float(y)) for x, y in zip(n[::2], n[1::2], strict=True)] for n in numbers]


def look(drawing: str, line: str) -> str:
    (style,) = re.findall(rf'<g id="{line}">\s*<path d="[^"]*"[^>]* style="([^"]*)"', drawing)
    return style
