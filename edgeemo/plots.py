"""Plots as SVG: no script, no fonts and no colours but those of the page that they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 640
"""Of a picture, in its own units."""

LEFT, RIGHT, ROW, BAR, TOP, FOOT = 96, 24, 40, 12, 8, 36
"""Of a plot of bars: room for names, at the right, of a row, of a bar, above and below."""

_LETTER = 6.5  # width of an average letter of 12 units, in the sans-serif fonts of the systems
_QUOTES = {'"': "&quot;"}


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plot, from values to places; a value beyond an end is drawn at the end.

    Attributes:
        low: value at the start.
        high: value at the end.
        start: place of `low`, in the units of the picture.
        end: place of `high`.
        logarithmic: equal ratios are equally far apart; needs values above 0.

    Example:
        >>> Axis(0, 10, 100, 200).at(5), Axis(1, 100, 0, 50, logarithmic=True).at(10)
        (150.0, 25.0)
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def linear(cls, most: float, start: float, end: float) -> Axis:
        """From 0 to the first round value that is not below `most`."""
        unit = step(most)
        return cls(0.0, unit * math.ceil(most / unit), start, end)

    @classmethod
    def ratios(cls, least: float, most: float, start: float, end: float) -> Axis:
        """A logarithmic one between values of 1, 2 or 5 times a power of ten; `least` is above 0.

        Example:
            >>> axis = Axis.ratios(0.31, 7, 0, 100)
            >>> axis.low, axis.high, axis.ticks
            (0.2, 10.0, (0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
        """
        marks = _marks(least, most)
        low = max(mark for mark in marks if mark <= least)
        high = min(mark for mark in marks if mark >= most and mark > low)
        return cls(low, high, start, end, True)

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return self.start + (self.end - self.start) * (inside - low) / (high - low)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values from end to end."""
        if not self.logarithmic:
            unit = step(self.high)
            return tuple(round(unit * tick, 12) for tick in range(round(self.high / unit) + 1))
        marks = [mark for mark in _marks(self.low, self.high) if self.low <= mark <= self.high]
        if len(marks) > 10:
            return tuple(mark for mark in marks if round(math.log10(mark), 9) % 1 == 0)
        if len(marks) > 2:
            return tuple(marks)
        unit = step(self.high - self.low)
        first, last = math.ceil(self.low / unit - 1e-9), math.floor(self.high / unit + 1e-9)
        return tuple(round(unit * tick, 12) for tick in range(first, last + 1))


def svg(height: float, label: str, parts: Sequence[str], width: float = WIDTH) -> str:
    """One picture, which a screen reader reads as its label.

    Args:
        height: in the units of the picture.
        label: what it shows.
        parts: its elements.
        width: in the same units.
    """
    said = escape(label, _QUOTES)
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return "\n".join([f'<svg {size} role="img" aria-label="{said}">', *parts, "</svg>"])


def text(x: float, y: float, said: str, anchor: str, room: float = math.inf) -> str:
    """A text on one line.

    Args:
        x: where it starts, ends or has its middle.
        y: of the line that it stands on.
        said: what.
        anchor: 'start', 'end' or 'middle': what is at `x`.
        room: how wide it may be; a longer one is cut, and its title says all of it.
    """
    most = int(min(room / _LETTER, 1000))
    whole = len(said) <= most
    shown = escape(said) if whole else f"{escape(said[: most - 1])}…<title>{escape(said)}</title>"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown}</text>'


def line(kind: str, points: Iterable[tuple[float, float]], said: str = "") -> str:
    """A line through points.

    Args:
        kind: its class, beside 'line'.
        points: x and y, in the units of the picture.
        said: its title.
    """
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="line {escape(kind, _QUOTES)}" d="M{path}">{_title(said)}</path>'


def dots(kind: str, points: Iterable[tuple[float, float]], said: str = "") -> str:
    """Dots of one class in a single element, so that thousands of them stay small."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path class="dots {escape(kind, _QUOTES)}" d="{path}">{_title(said)}</path>'


def frame(
    x: Axis, y: Axis, ticks: Sequence[tuple[float, str]] | None = None, *, across: str, up: str
) -> list[str]:
    """Grid, ticks and units of a plot over two axes.

    Args:
        x: to the right.
        y: upwards, so that its start is below its end.
        ticks: values of `x` and how they are called; None for the round ones.
        across: what `x` is.
        up: what `y` is.
    """
    marks = [(tick, f"{tick:g}") for tick in x.ticks] if ticks is None else ticks
    level = "".join(f"M{x.start:.1f} {y.at(tick):.1f}H{x.end:.1f}" for tick in y.ticks)
    upright = "".join(f"M{x.at(tick):.1f} {y.end:.1f}V{y.start:.1f}" for tick, _ in marks)
    parts = [f'<path class="grid" d="{level}{upright}"/>']
    parts += [text(x.start - 6, y.at(tick) + 4, f"{tick:g}", "end", x.start - 8) for tick in y.ticks]
    parts += [text(x.at(tick), y.start + 16, said, "middle") for tick, said in marks]
    parts.append(text((x.start + x.end) / 2, y.start + 32, across, "middle"))
    parts.append(text(0, y.end - 8, up, "start"))
    return parts


def apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Places for labels near given ones, no two closer than `least`, all from `low` to `high`.

    Args:
        places: where they should be, in any order.
        least: distance.
        low: first place allowed.
        high: last one; there must be room for all.

    Example:
        >>> apart([50, 52, 10], 14, 0, 60)
        [38, 52, 10]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    found = list(places)
    limit = high
    for index in reversed(order):
        found[index] = limit = min(found[index], limit)
        limit -= least
    limit = low
    for index in order:
        found[index] = limit = max(found[index], limit)
        limit += least
    return found


# --- bars


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str, label: str) -> str:
    """Bars from zero, a group a row.

    Args:
        rows: name of each group, and its values by encoding, which is the class of the bar.
        unit: of the values.
        label: what it shows.
    """
    scale = Axis.linear(max(value for _, values in rows for value in values.values()), 0, 1)
    heights = [14 + len(values) * (BAR + 2) for _, values in rows]
    bottom = TOP + sum(heights)
    parts = grid(bottom, scale.ticks, scale.high, unit)
    top: float = TOP
    for (name, values), height in zip(rows, heights, strict=True):
        parts.append(row_name(top + height / 2 + 4, name))
        for place, (kind, value) in enumerate(values.items()):
            parts.append(bar(top + 7 + place * (BAR + 2), kind, value, scale.high))
        top += height
    return svg(bottom + FOOT, label, parts)


def stacks(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float]], float | None]], unit: str, label: str
) -> str:
    """Bars of parts that follow one another, a row each.

    Args:
        rows: name of each; class, name and value of its parts; a value to mark, or None.
        unit: of the values.
        label: what it shows.
    """
    sums = [max(sum(value for *_, value in parts), marked or 0.0) for _, parts, marked in rows]
    scale = Axis.linear(max(sums), 0, 1)
    bottom = TOP + ROW * len(rows)
    drawn = grid(bottom, scale.ticks, scale.high, unit)
    for row, (name, parts, marked) in enumerate(rows):
        top, tall = TOP + ROW * row + 8, ROW - 16
        drawn.append(row_name(top + tall / 2 + 4, name))
        begin = 0.0
        for kind, said, value in parts:
            drawn.append(bar(top, kind, value, scale.high, begin=begin, height=tall, said=said))
            wide = across(begin + value, scale.high) - across(begin, scale.high)
            if wide > _LETTER * (len(said) + 1):
                middle = across(begin + value / 2, scale.high)
                inside = text(middle, top + tall / 2 + 4, said, "middle")
                drawn.append(inside.replace("<text", '<text class="inside"', 1))
            begin += value
        if marked is not None:
            x = across(marked, scale.high)
            drawn.append(f'<path class="whisker" d="M{x:.1f} {top - 4}v{tall + 8}"/>')
    return svg(bottom + FOOT, label, drawn)


def step(most: float) -> float:
    """A round step of which four to nine reach a value above 0.

    Example:
        >>> step(1.4), step(640), step(0.09)
        (0.2, 100.0, 0.01)
    """
    power = 10.0 ** math.floor(math.log10(most))
    return round(power * (0.2 if most / power < 2 else 0.5 if most / power < 4 else 1.0), 12)


def across(value: float, scale: float) -> float:
    """Where a value lies in a plot of bars that ends at `scale`."""
    return LEFT + (WIDTH - LEFT - RIGHT) * value / scale


def grid(bottom: float, ticks: Sequence[float], scale: float, unit: str) -> list[str]:
    """Lines and ticks behind bars.

    Args:
        bottom: where the lines end.
        ticks: values.
        scale: the value at the right end.
        unit: of the values.
    """
    lines = "".join(f"M{across(tick, scale):.1f} {TOP}V{bottom:g}" for tick in ticks)
    parts = [f'<path class="grid" d="{lines}"/>']
    parts += [text(across(tick, scale), bottom + 16, f"{tick:g}", "middle") for tick in ticks]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 32, unit, "middle"))
    return parts


def row_name(y: float, name: str) -> str:
    """The name of a row of bars, left of it."""
    return text(LEFT - 8, y, name, "end", LEFT - 8)


def bar(
    top: float,
    kind: str,
    value: float,
    scale: float,
    *,
    begin: float = 0.0,
    height: float = BAR,
    said: str | None = None,
) -> str:
    """One bar.

    Args:
        top: its upper edge.
        kind: its class.
        value: its length.
        scale: the value at the right end of the plot.
        begin: the value where it starts.
        height: in units of the picture.
        said: what it is; None for its class.
    """
    x, width = across(begin, scale), across(begin + value, scale) - across(begin, scale)
    place = f'x="{x:.5g}" y="{top:g}" width="{width:.1f}" height="{height:g}"'
    title = _title(f"{kind if said is None else said}: {value:.4g}")
    return f'<rect class="{escape(kind, _QUOTES)}" {place}>{title}</rect>'


def whisker(y: float, low: float, high: float, scale: float) -> str:
    """An interval over a bar, at the height `y`."""
    a, b = across(low, scale), across(high, scale)
    return f'<path class="whisker" d="M{a:.1f} {y}H{b:.1f}M{a:.1f} {y - 3}v6M{b:.1f} {y - 3}v6"/>'


def _title(said: str) -> str:
    return f"<title>{escape(said)}</title>" if said else ""


def _marks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from below `least` to above `most`."""
    powers = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    return [round(first * 10.0**power, 12) for power in powers for first in (1, 2, 5)]
