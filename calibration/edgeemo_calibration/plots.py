"""Plots of a proof as SVG, drawn from its figures: no script, no fonts and no colours but the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from edgeemo.figures import BINS

Figures = Mapping[str, Any]

WIDTH = 640
_LEFT, _RIGHT, _ROW, _BAR, _TOP, _FOOT = 96, 24, 40, 12, 8, 36
PRECISIONS = (("fp32", "FP32"), ("int8", "INT8"))


def svg(height: int, label: str, parts: Sequence[str], width: int = WIDTH) -> str:
    """One picture, which a screen reader reads as its label.

    Args:
        height: in the units of the picture.
        label: what it shows.
        parts: its elements.
        width: in the same units.
    """
    said = escape(label, {'"': "&quot;"})
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'<svg {size} role="img" aria-label="{said}">', *parts, "</svg>"])


def recall_bars(classes: Sequence[Figures]) -> str:
    """Recall of each class in both precisions, with intervals, between 0 and 1."""
    bottom = _TOP + _ROW * len(classes)
    parts = _grid(bottom, [tick / 5 for tick in range(6)], 1.0, "recall")
    for row, entry in enumerate(classes):
        top = _TOP + row * _ROW + 7
        parts.append(_text(_LEFT - 8, top + _BAR + 4, entry["label"], "end"))
        for place, (name, _) in enumerate(PRECISIONS):
            figure = entry["recall"][name]
            parts += _bar(top + place * (_BAR + 2), name, figure["value"], 1.0)
            parts.append(_whisker(top + place * (_BAR + 2) + _BAR / 2, figure["low"], figure["high"]))
    return svg(bottom + _FOOT, "Recall of each class, FP32 above INT8, with 95 % intervals", parts)


def reliability(fp32: Sequence[Figures], int8: Sequence[Figures]) -> str:
    """Share of right answers over the top probability, a point a bin; calibrated is on the diagonal."""
    side, left, top = 280, 56, 12
    right, bottom = left + side, top + side

    def at(entry: Figures) -> tuple[float, float]:
        return left + side * entry["confidence"], bottom - side * entry["accuracy"]

    parts = [f'<path class="grid" d="M{left} {bottom}H{right}M{left} {bottom}V{top}"/>']
    parts.append(f'<path class="ideal" d="M{left} {bottom}L{right} {top}"/>')
    for tick in range(6):
        value = tick / 5
        parts.append(_text(left + side * value, bottom + 18, f"{value:g}", "middle"))
        parts.append(_text(left - 8, bottom - side * value + 4, f"{value:g}", "end"))
    parts.append(_text(left + side / 2, bottom + 36, "top probability", "middle"))
    parts.append(_text(left, top - 2, "share right", "start"))
    for (name, _), curve in zip(PRECISIONS, (fp32, int8), strict=True):
        points = [at(entry) for entry in curve]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line {name}" d="M{line}"/>')
        most = max(entry["n"] for entry in curve)
        for (x, y), entry in zip(points, curve, strict=True):
            radius = 2 + 4 * (entry["n"] / most) ** 0.5
            said = f"top probability {entry['confidence']:.3f}, right {entry['accuracy']:.3f}"
            circle = f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            parts.append(f"{circle}<title>{entry['n']} items: {said}</title></circle>")
    label = f"Reliability of FP32 and INT8 over {BINS} bins of the top probability"
    return svg(bottom + 44, label, parts, right + 24)


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str, label: str) -> str:
    """Bars from zero, a group a row.

    Args:
        rows: name of each group, and its values by encoding, which is the class of the bar.
        unit: of the values.
        label: what it shows.
    """
    most = max(value for _, values in rows for value in values.values())
    step = _step(most)
    scale = step * -(-most // step)
    heights = [14 + len(values) * (_BAR + 2) for _, values in rows]
    bottom = _TOP + sum(heights)
    parts = _grid(bottom, [step * tick for tick in range(round(scale / step) + 1)], scale, unit)
    top = _TOP
    for (name, values), height in zip(rows, heights, strict=True):
        parts.append(_text(_LEFT - 8, top + height / 2 + 4, name, "end"))
        for place, (kind, value) in enumerate(values.items()):
            parts += _bar(top + 7 + place * (_BAR + 2), kind, value, scale)
        top += height
    return svg(bottom + _FOOT, label, parts)


def _step(most: float) -> float:
    """A round step of which four to nine reach a value.

    Example:
        >>> _step(1.4), _step(640), _step(0.09)
        (0.2, 100.0, 0.01)
    """
    power = 10.0 ** (len(f"{most:.0f}") if most >= 1 else 0)
    while power > most:
        power /= 10
    return round(power * (0.2 if most / power < 2 else 0.5 if most / power < 4 else 1.0), 12)


def _x(value: float, scale: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / scale


def _grid(bottom: float, ticks: Sequence[float], scale: float, unit: str) -> list[str]:
    lines = "".join(f"M{_x(tick, scale):.1f} {_TOP}V{bottom}" for tick in ticks)
    parts = [f'<path class="grid" d="{lines}"/>']
    parts += [_text(_x(tick, scale), bottom + 16, f"{tick:g}", "middle") for tick in ticks]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 32, unit, "middle"))
    return parts


def _bar(top: float, kind: str, value: float, scale: float) -> list[str]:
    width = _x(value, scale) - _LEFT
    bar = f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}">'
    return [f"{bar}<title>{escape(kind)}: {value:.4g}</title></rect>"]


def _whisker(y: float, low: float, high: float) -> str:
    a, b = _x(low, 1.0), _x(high, 1.0)
    return f'<path class="whisker" d="M{a:.1f} {y}H{b:.1f}M{a:.1f} {y - 3}v6M{b:.1f} {y - 3}v6"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
