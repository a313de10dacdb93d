"""Plots of a measurement: how latencies are distributed, how they went in time, what a step is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from edgeemo.bench.statistics import PERCENTILES
from edgeemo.plots import WIDTH, Axis, apart, dots, frame, line, stacks, svg, text

Figures = Mapping[str, Any]
Samples = Mapping[str, Sequence[float]]

PARTS = ("capture", "detect", "face", "voice", "text", "fusion", "decide", "deliver")
"""What follows one another until a hop is delivered; their names are classes of the page's style."""

STAGES = (*PARTS, "update", "step", "step_tracked", "step_all", "latency")
"""The stages in the order of a report; one that never ran is not in it."""

CURVES = {"update": "update", "step_tracked": "tracking", "step": "detection", "latency": "latency"}
"""What has a curve or dots of its own: stage, and its name in a picture, which is its class too."""

_TOP, _BOTTOM, _START, _END = 28, 288, 48, WIDTH - 100
_HEIGHT = _BOTTOM + 44
_MOST_DOTS = 1500
_COLUMNS = 240
_WINDOWS = 40


def distribution(stages: Figures, samples: Samples) -> str:
    """Percentile plot: latency over the share of steps that need less, its tail drawn out.

    90, 99 and 99.9 % are equally far apart: each decade of the axis holds a tenth of the one before. Whiskers
    are the confidence intervals of the percentiles.

    Args:
        stages: figures in milliseconds, as in a report.
        samples: seconds by stage; at least one of `CURVES` is in it.
    """
    curves = {name: sorted(_positive(samples[name])) for name in CURVES if samples.get(name)}
    tail = min(max(math.ceil(math.log10(max(map(len, curves.values())))), 2), 4)
    x = Axis(0.0, tail, _START, _END)
    y = Axis.ratios(
        1e3 * min(found[0] for found in curves.values()),
        1e3 * max(found[-1] for found in curves.values()),
        _BOTTOM,
        _TOP,
    )
    shares = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)
    marks = [(_decades(share), f"p{100 * share:g}") for share in shares if _decades(share) <= tail + 1e-9]
    parts = frame(x, y, marks, across="share of the steps that take no longer", up="milliseconds")
    ends = []
    for name, found in curves.items():
        last = min(math.log10(len(found)), tail) if len(found) > 1 else 0.3
        places = [last * place / 400 for place in range(401)]
        points = [(x.at(place), y.at(1e3 * _quantile(found, 1 - 10**-place))) for place in places]
        points.append((points[-1][0], y.at(1e3 * found[-1])))
        parts.append(line(CURVES[name], points, f"{_title(name)}, {len(found):,} samples"))
        parts += _intervals(x, y, stages.get(name) or {}, last)
        ends.append((points[-1][1], CURVES[name], CURVES[name]))
    parts += _names(ends)
    return svg(_HEIGHT, "Latency in milliseconds by percentile, with 99 % confidence intervals", parts)


def timeline(samples: Samples) -> str:
    """Every step in the order of time, those with detection apart, and the running median of the others.

    A long run is drawn as the lowest and the highest of each of its columns.

    Args:
        samples: seconds by stage, 'step_all' among them, and 'step' where steps had a detection.
    """
    every = _positive(samples["step_all"])
    detected = list(_detected(samples["step_all"], samples.get("step") or ()))
    x = Axis(0.0, len(every), _START, _END)
    y = Axis.ratios(1e3 * min(every), 1e3 * max(every), _BOTTOM, _TOP)
    marks = [(tick, f"{tick:,g}") for tick in Axis.linear(len(every), 0, 1).ticks if tick <= len(every)]
    parts = frame(x, y, marks, across="step", up="milliseconds")
    ends = []
    for name, flag in (("tracking", False), ("detection", True)):
        chosen = [
            (index + 0.5, 1e3 * seconds) for index, seconds in enumerate(every) if detected[index] is flag
        ]
        if not chosen:
            continue
        parts.append(_cloud(name, x, y, chosen, len(every)))
        running = [(x.at(place), y.at(value)) for place, value in _medians(chosen)]
        if len(chosen) >= 4 * _WINDOWS:
            parts.append(line(f"running {name}", running, f"{name}: running median"))
        ends.append((running[-1][1], name, name))
    parts += _names(ends)
    return svg(_HEIGHT, "Milliseconds of every step in the order of time, with detection and without", parts)


def drift(seconds: Sequence[float]) -> float:
    """The median of the last quarter over that of the first, less 1.

    Example:
        >>> drift([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2, 1.2])
        0.2
    """
    quarter = max(len(seconds) // 4, 1)
    return round(median(seconds[-quarter:]) / median(seconds[:quarter]) - 1.0, 4)


def stack(samples: Samples, graphs: Sequence[str], floors: Mapping[str, float]) -> str:
    """Medians of the stages one after another, with detection and without, and the floors of the graphs.

    Each row is of the hops of its kind alone. A stage that ran in some hops only, such as a graph that is not
    called in every hop, has the same median in both rows: that of the hops in which it ran.

    Args:
        samples: seconds by stage in the order of time, 'step_all' among them, and 'step' where hops had a
            detection.
        graphs: the names of the graphs.
        floors: milliseconds by graph; may be empty.
    """
    order = stage_order(graphs)
    detected = list(_detected(samples["step_all"], samples.get("step") or ()))
    rows: list[tuple[str, list[tuple[str, str, float]], float | None]] = []
    for row, kind in (("detection", True), ("tracking", False)):
        if kind not in detected:
            continue
        inside = {name: _of_kind(samples[name], detected, kind) for name in order if samples.get(name)}
        if not kind:
            inside.pop("detect", None)
        whole = [
            _of_kind(samples[name], detected, kind)
            for name in ("capture", "step_all", "deliver")
            if samples.get(name)
        ]
        parts = [(kind_of(name), name, 1e3 * _middle(seconds)) for name, seconds in inside.items()]
        rows.append((row, parts, 1e3 * _middle([*map(sum, zip(*whole, strict=True))])))
    if floors:
        rows.append(
            ("floor", [(kind_of(name), name, floors[name]) for name in order if name in floors], None)
        )
    return stacks(rows, "milliseconds", "Medians of the stages of a step, one after another")


def stage_order(graphs: Sequence[str]) -> list[str]:
    """The stages of a step in their order, for graphs of these names.

    Example:
        >>> stage_order(["pose", "face", "fusion"])
        ['capture', 'detect', 'face', 'fusion', 'pose', 'decide', 'deliver']
    """
    known = [name for name in PARTS[1:-2] if name in {"detect", *graphs}]
    return ["capture", *known, *(name for name in graphs if name not in PARTS), "decide", "deliver"]


def kind_of(name: str) -> str:
    """The class of a stage in the page's style."""
    return name if name in PARTS else "other"


def scanned(entries: Sequence[Figures]) -> list[str]:
    """The stages of which a scan has figures."""
    return [name for name, one in entries[0].items() if isinstance(one, Mapping) and "p50" in one]


def scaling(entries: Sequence[Figures], axis: str) -> str:
    """Median, and dashed the 99th percentile, of each stage over a number that was scanned.

    Args:
        entries: 'value' and figures in milliseconds by stage, at least two.
        axis: what the number is.
    """
    names = scanned(entries)
    most = max(entry[name]["p99"] for entry in entries for name in names if entry.get(name))
    x = Axis(0.0, max(entry["value"] for entry in entries), _START, _END)
    y = Axis.linear(most, _BOTTOM, _TOP)
    marks = [(entry["value"], f"{entry['value']:g}") for entry in entries]
    parts = frame(x, y, marks, across=axis, up="milliseconds")
    ends = []
    for name in names:
        given = [(entry["value"], entry[name]) for entry in entries if entry.get(name)]
        kind = CURVES.get(name) or kind_of(name)
        middle = [(x.at(value), y.at(figures["p50"])) for value, figures in given]
        parts.append(
            line(f"high {kind}", [(x.at(at), y.at(one["p99"])) for at, one in given], f"{name}, p99")
        )
        parts += [line(kind, middle, f"{name}, p50"), dots(kind, middle)]
        for (value, figures), (place, _) in zip(given, middle, strict=True):
            bounds = _bounds(figures, "p50")
            if bounds:
                parts.append(_upright(place, y, bounds, f"{axis} {value:g}: p50 {figures['p50']:.4g}"))
        ends.append((middle[-1][1], CURVES.get(name, name), kind))
    parts += _names(ends)
    return svg(
        _HEIGHT, f"Milliseconds of each stage by {axis}: median, and dashed the 99th percentile", parts
    )


# --- pieces


def _positive(seconds: Sequence[float]) -> list[float]:
    """What a logarithm can draw: a clock that did not move counts as one nanosecond."""
    return [max(value, 1e-9) for value in seconds]


def _decades(share: float) -> float:
    return -math.log10(1.0 - share)


def _quantile(ranked: Sequence[float], share: float) -> float:
    """The nearest rank, from seconds in ascending order."""
    return ranked[min(max(math.ceil(share * len(ranked) - 1e-9), 1), len(ranked)) - 1]


def _bounds(figures: Figures, name: str) -> tuple[float, float] | None:
    low, high = ((figures.get(side) or {}).get(name) for side in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _intervals(x: Axis, y: Axis, figures: Figures, last: float) -> Iterator[str]:
    for name in (f"p{part}" for part in PERCENTILES):
        bounds, place = _bounds(figures, name), _decades(int(name[1:]) / 100)
        if bounds and place <= last:
            said = f"{name} {figures[name]:.4g} ms, from {bounds[0]:.4g} to {bounds[1]:.4g}"
            yield _upright(x.at(place), y, bounds, said)


def _upright(x: float, y: Axis, bounds: tuple[float, float], said: str) -> str:
    low, high = map(y.at, bounds)
    path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
    return f'<path class="whisker" d="{path}"><title>{said}</title></path>'


def _names(ends: Sequence[tuple[float, str, str]]) -> list[str]:
    """The name of each curve at the height of its end, beside a dot of its class."""
    places = apart([y for y, *_ in ends], 15, _TOP + 4, _BOTTOM)
    return [
        dots(f"{kind} key", [(_END + 12, place - 4)])
        + text(_END + 20, place, name, "start", WIDTH - _END - 20)
        for (_, name, kind), place in zip(ends, places, strict=True)
    ]


def _detected(every: Sequence[float], detected: Sequence[float]) -> Iterator[bool]:
    """Which of all steps are those with detection, which come in the same order."""
    waiting = iter(detected)
    awaited = next(waiting, None)
    for seconds in every:
        found = seconds == awaited
        if found:
            awaited = next(waiting, None)
        yield found


def _of_kind(seconds: Sequence[float], detected: Sequence[bool], kind: bool) -> Sequence[float]:
    """The samples of the hops of one kind; all, of a stage that did not run in every hop."""
    if len(seconds) != len(detected):
        return seconds
    return [one for one, flag in zip(seconds, detected, strict=True) if flag is kind]


def _middle(seconds: Sequence[float]) -> float:
    """The median as a report has it, one of the samples."""
    return _quantile(sorted(seconds), 0.5)


def _cloud(kind: str, x: Axis, y: Axis, chosen: Sequence[tuple[float, float]], steps: int) -> str:
    if len(chosen) <= _MOST_DOTS:
        return dots(kind, [(x.at(place), y.at(value)) for place, value in chosen], f"{kind}: each step")
    columns: dict[int, list[float]] = {}
    for place, value in chosen:
        columns.setdefault(int(_COLUMNS * place / steps), []).append(value)
    spans = [
        f"M{x.at((column + 0.5) * steps / _COLUMNS):.1f} {y.at(min(found)):.1f}V{y.at(max(found)):.1f}"
        for column, found in columns.items()
    ]
    said = f"{kind}: from the lowest to the highest of each column"
    return f'<path class="span {kind}" d="{"".join(spans)}"><title>{said}</title></path>'


def _medians(chosen: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Place and median of each of the equal parts of a run."""
    size = max(math.ceil(len(chosen) / _WINDOWS), 1)
    windows = [chosen[begin : begin + size] for begin in range(0, len(chosen), size)]
    return [(median(at for at, _ in part), median(value for _, value in part)) for part in windows]


def _title(name: str) -> str:
    return name.replace("_", " ")
