"""Plots of a proof, drawn from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeemo.figures import BINS
from edgeemo.plots import BAR, FOOT, ROW, TOP, bar, grid, line, row_name, svg, text, whisker

Figures = Mapping[str, Any]

PRECISIONS = (("fp32", "FP32"), ("int8", "INT8"))


def recall_bars(classes: Sequence[Figures]) -> str:
    """Recall of each class in both precisions, with intervals, between 0 and 1."""
    bottom = TOP + ROW * len(classes)
    parts = grid(bottom, [tick / 5 for tick in range(6)], 1.0, "recall")
    for row, entry in enumerate(classes):
        top = TOP + row * ROW + 7
        parts.append(row_name(top + BAR + 4, entry["label"]))
        for place, (name, _) in enumerate(PRECISIONS):
            figure = entry["recall"][name]
            parts.append(bar(top + place * (BAR + 2), name, figure["value"], 1.0))
            parts.append(whisker(top + place * (BAR + 2) + BAR / 2, figure["low"], figure["high"], 1.0))
    return svg(bottom + FOOT, "Recall of each class, FP32 above INT8, with 95 % intervals", parts)


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
        parts.append(text(left + side * value, bottom + 18, f"{value:g}", "middle"))
        parts.append(text(left - 8, bottom - side * value + 4, f"{value:g}", "end"))
    parts.append(text(left + side / 2, bottom + 36, "top probability", "middle"))
    parts.append(text(left, top - 2, "share right", "start"))
    for (name, _), curve in zip(PRECISIONS, (fp32, int8), strict=True):
        points = [at(entry) for entry in curve]
        parts.append(line(name, points))
        most = max(entry["n"] for entry in curve)
        for (x, y), entry in zip(points, curve, strict=True):
            radius = 2 + 4 * (entry["n"] / most) ** 0.5
            said = f"top probability {entry['confidence']:.3f}, right {entry['accuracy']:.3f}"
            circle = f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            parts.append(f"{circle}<title>{entry['n']} items: {said}</title></circle>")
    label = f"Reliability of FP32 and INT8 over {BINS} bins of the top probability"
    return svg(bottom + 44, label, parts, right + 24)
