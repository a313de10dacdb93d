"""Where everything of an SVG lies, so that a test can say that nothing is cut off."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

_LETTER, _ASCENT, _DESCENT = 6.5, 10.0, 3.0  # of 12 units in the common sans-serif fonts


def pictures(page: str) -> list[ElementTree.Element]:
    """Every SVG of a page, which must be well-formed."""
    return [one for one in ElementTree.fromstring(page).iter() if _tag(one) == "svg"]


def outside(picture: ElementTree.Element) -> list[str]:
    """The elements of a picture that lie in part outside its viewBox."""
    left, top, width, height = map(float, picture.attrib["viewBox"].split())
    return [
        ElementTree.tostring(element, "unicode")
        for element in picture.iter()
        for x, y in _corners(element)
        if not (left <= x <= left + width and top <= y <= top + height)
    ]


def _corners(element: ElementTree.Element) -> Iterator[tuple[float, float]]:
    kind, numbers = _tag(element), element.attrib
    if kind == "rect":
        x, y, width, height = (float(numbers[name]) for name in ("x", "y", "width", "height"))
        assert width >= 0 and height >= 0
        yield from ((x, y), (x + width, y + height))
    elif kind == "circle":
        x, y, radius = (float(numbers[name]) for name in ("cx", "cy", "r"))
        yield from ((x - radius, y - radius), (x + radius, y + radius))
    elif kind == "text":
        x, y, wide = float(numbers["x"]), float(numbers["y"]), _LETTER * len(element.text or "")
        start = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[numbers["text-anchor"]]
        yield from ((start, y - _ASCENT), (start + wide, y + _DESCENT))
    elif kind == "path":
        yield from points(numbers["d"])


def points(path: str) -> Iterator[tuple[float, float]]:
    """The points of a path of the commands M, L, H, V, h and v.

    Example:
        >>> list(points("M1 2h3V5L0 0 6 7"))
        [(1.0, 2.0), (4.0, 2.0), (4.0, 5.0), (0.0, 0.0), (6.0, 7.0)]
    """
    assert re.fullmatch(r"([MLHVhv][\d., e-]+)+", path), path
    x = y = 0.0
    for command, given in re.findall(r"([MLHVhv])([^MLHVhv]*)", path):
        values = [float(value) for value in re.findall(r"-?[\d.]+(?:e-?\d+)?", given)]
        pairs = list(zip(values[::2], values[1::2], strict=True)) if command in "ML" else values
        for value in pairs:
            if isinstance(value, tuple):
                x, y = value
            elif command in "Hh":
                x = value if command == "H" else x + value
            else:
                y = value if command == "V" else y + value
            yield x, y


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
