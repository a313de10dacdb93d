"""The page of a measurement: one HTML file that needs no other, with plots and what each figure means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from xml.sax.saxutils import escape

from edgeemo.bench import charts
from edgeemo.bench.devices import readable, without_paths
from edgeemo.bench.statistics import PERCENTILES
from edgeemo.errors import InputError
from edgeemo.html import document, figure, table

Figures = Mapping[str, Any]
Samples = Mapping[str, Sequence[float]]

_PARTS = tuple(f"p{part}" for part in PERCENTILES)
_STARTS = ("import", "load", "first", "total", "processor")
_COUNTERS = ("cpu", "cores", "power_modes")  # of conditions: what warnings are made of, or said elsewhere

GLOSSARY = {
    "capture": "What passes before a step takes up a hop: of a source that is played at once, reading and "
    "decoding of the file; of a live one, waiting for the rest of the hop and in the queue.",
    "detect": "Finding faces in one picture. It runs in some steps only; in the others faces are tracked.",
    "face": "The call of the face graph, for all faces at once.",
    "voice": "The call of the voice graph.",
    "text": "The call of the text graph.",
    "fusion": "The call of the fusion graph, for all faces at once.",
    "decide": "A step less its detection and its graphs: all that is neither.",
    "deliver": "Handing the answer on.",
    "update": "The calls of all graphs for one hop together.",
    "step": "All that is done for one hop with detection, from its pictures and sound to its answer.",
    "step_tracked": "The same of a hop without detection.",
    "step_all": "The same of every hop, with detection and without.",
    "latency": "Of a source that is played at once, step and delivery of the hop: its samples are there "
    "before, as MLPerf has them loaded, and reading and decoding the file is 'capture' and not in it. Of a "
    "live source, from the end of the hop to delivery, with all waiting.",
    "percentile": "p99 is the smallest latency that at least 99 % of all do not exceed (nearest rank). The "
    "interval beside it holds the true one with 99 % confidence, by order statistics; it is left out where "
    "too few steps were measured.",
    "CV": "Coefficient of variation, the standard deviation over the mean.",
    "single-stream": "The next hop begins when the one before is answered, as in MLPerf's single stream.",
    "live": "Hops come at the pace of a camera and a microphone.",
    "throughput": "Hops answered a second: of a source that is played at once, a second of step and "
    "delivery, decoding not in it; of a live one, a second of wall-clock time.",
    "early_stopping": "What MLPerf reports of a single stream: the smallest measured time that, with 99 % "
    "confidence, the percentile does not exceed; nothing where there were fewer queries than it asks for.",
    "overhead": "Median over the hops with detection of (step - detect - graphs) / (step - detect).",
    "overhead_tracked": "The same over the hops without detection: (step - graphs) / step.",
    "result age": "How old the newest answer is whenever somebody asks, counted from the end of its hop.",
    "drop rate": "Share of the hops that were not answered.",
    "floor": "The multiply-adds of a graph over the rate at which this machine multiplies matrices in the "
    "same precision, measured in the same run: what they need if nothing else took any time.",
    "ratio": "The median over the floor.",
    "start_up": "A new process: importing, loading the bundle, and the first emotion; the start of Python "
    "itself is not in it. 'processor' is the time on all cores together.",
    "memory": "Resident memory of a process of its own.",
    "energy": "Power while steps ran, of what is named beside it; of a hop, that power times seconds, over "
    "the answered hops. Above rest: less what was taken before, with nothing to do.",
    "gpu": "Whether transfers, a CUDA graph and spin-waiting are in the times: what trtexec does about each "
    "without being asked changed from its version 10 to 11.",
}
"""What the words of a report mean, by the key or the word that they are on the page as."""


def write_page(report: Figures, samples: Samples, path: Path, command: str = "") -> None:
    """Write the page.

    Args:
        report: as `edgeemo bench --json` writes it; what it holds no figure of is not on the page.
        samples: seconds by stage in the order of time.
        path: where.
        command: what was called.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_text(page(report, samples, command), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; name a file in a folder") from error


def page(report: Figures, samples: Samples, command: str = "") -> str:
    """The page as XHTML, with no path of this machine; arguments as for `write_page`."""
    report = without_paths({**report, "source": PurePath(report["source"]).name})
    title = f"{report['bundle']} on {report['machine']['processor']}"
    body = [f"<h1>{escape(title)}</h1>", _what(report), *_warnings(report), *_headline(report)]
    body += [*_stages(report, samples), *_made_of(report, samples), *_scans(report), *_live(report)]
    body += [*_start(report), *_energy(report), *_conditions(report)]
    body += _measured_on(report, without_paths(command))
    return document(title, [*body, *_glossary(report)], STYLE)


# --- sections


def _what(report: Figures) -> str:
    engines = dict.fromkeys(graph["engine"] for graph in report["graphs"].values())
    said = [
        f"{report['steps']:,} steps in {_figure(report['seconds'])} s of {report['source']}",
        report.get("scenario"),
        f"{report['precision']}, {_counted(report['threads'], 'thread')} a graph call",
        ", ".join(engines),
        report.get("when"),
    ]
    return f"<p>{escape('; '.join(part for part in said if part))}</p>"


def _warnings(report: Figures) -> Iterator[str]:
    conditions = report.get("conditions") or {}
    found = [f"Throttled: {_said(one)}" for one in conditions.get("throttled") or ()]
    found += map(str, conditions.get("warnings") or ())
    if (report.get("warm_up") or {}).get("stable") is False:
        found.append(
            "Steps had not become stable when the warm-up ended: measure longer, on a quiet machine."
        )
    if report.get("advice"):
        found.append(f"Not well known of update: {report['advice']}.")
    if found:
        items = "".join(f"<li>{escape(one)}</li>" for one in found)
        yield f'<section class="warnings"><h2>Read this first</h2><ul>{items}</ul></section>'
    elif conditions:
        yield "<p>The machine gave no cause for a warning.</p>"


def _headline(report: Figures) -> Iterator[str]:
    stages, tiles = report["stages"], []
    for name, said in (
        ("update", "update"),
        ("step_tracked", "step, tracking"),
        ("step", "step, detection"),
        ("latency", "latency"),
    ):
        if stages.get(name):
            tiles.append((said, f"{_ms(stages[name]['p50'])} ms", f"p99 {_ms(stages[name]['p99'])} ms"))
    floor = _get(report, "floor", "update", "ratio")
    watts, scope = (_get(report, "energy", name) for name in ("watts", "scope"))
    rest: tuple[tuple[float | None, str, Callable[[float], str], str], ...] = (
        (floor, "over the floor", "{:.2f}x".format, "update, median"),
        (report.get("throughput"), "throughput", _figure, "hops a second"),
        (_get(report, "start_up", "total"), "start-up", "{:,.0f} ms".format, "to the first emotion"),
        (_get(report, "memory", "peak"), "memory", "{:,.0f} MB".format, "peak"),
        (watts, "power", lambda value: f"{readable(value)} W", scope or ""),
    )
    tiles += [(said, form(value), small) for value, said, form, small in rest if value is not None]
    cells = "".join(
        f"<div><dt>{escape(said)}</dt><dd>{escape(value)} <small>{escape(small)}</small></dd></div>"
        for said, value, small in tiles
    )
    yield f'<dl class="tiles">{cells}</dl>'


def _stages(report: Figures, samples: Samples) -> Iterator[str]:
    stages = {name: figures for name, figures in report["stages"].items() if figures}
    yield "<h2>Latency</h2>"
    if any(samples.get(name) for name in charts.CURVES):
        said = (
            "Share of the steps by what they need; 90, 99 and 99.9 % are equally far apart, so that the tail "
            "is seen. Whiskers: 99 % confidence intervals. Both scales are logarithmic."
        )
        yield figure(charts.distribution(stages, samples), said)
    yield _percentiles("Milliseconds by stage, with 99 % confidence intervals", stages)
    every = samples.get("step_all")
    if every:
        quarter = charts.drift(samples.get("step_tracked") or every)
        said = (
            "Every step in the order of time; of a long run the lowest and the highest of each column. "
            f"Lines: running medians; that of the last quarter is {abs(quarter):.1%} "
            f"{'above' if quarter >= 0 else 'below'} that of the first."
        )
        yield figure(charts.timeline(samples), said)


def _percentiles(caption: str, stages: Figures) -> str:
    rest = [name for name in ("mean", "min", "max", "cv") if any(name in one for one in stages.values())]
    rows = []
    for name, figures in stages.items():
        cells = [_interval(figures, part) for part in _PARTS]
        cells += [_ms(figures.get(part)) for part in rest if part != "cv"]
        if "cv" in rest:
            cells.append("" if figures.get("cv") is None else f"{figures['cv']:.1%}")
        count = figures.get("n")
        rows.append((escape(name), *cells, "" if count is None else f"{count:,.0f}"))
    heads = [name.upper() if name == "cv" else name for name in rest]
    return table(caption, ("", *_PARTS, *heads, "n"), rows)


def _made_of(report: Figures, samples: Samples) -> Iterator[str]:
    graphs = _get(report, "floor", "graphs") or {}
    floors = {name: one["floor"] for name, one in graphs.items() if one and one.get("floor") is not None}
    stages, order = report["stages"], list(report["graphs"])
    if not (stages.get("step") or stages.get("step_tracked")):
        return
    yield "<h2>What a step is made of</h2>"
    if samples.get("step_all"):
        said = "Medians over the hops of each kind. The mark is that of whole hops, capture to delivery."
        if any(0 < len(samples.get(name) or ()) < len(samples["step_all"]) for name in order):
            said += " A graph that did not run in every hop is drawn as in the hops in which it did."
        if floors:
            said += " Below, the floors of the graphs: their multiply-adds at the rate of this machine."
        yield _legend([name for name in charts.stage_order(order) if samples.get(name)])
        yield figure(charts.stack(samples, order, floors), said)
    if not graphs:
        return
    kinds = dict.fromkeys(
        kind for one in graphs.values() for kind, count in (_get(one, "multiply_adds") or {}).items() if count
    )
    rows = [_floor_row(name, one, stages, list(kinds)) for name, one in graphs.items() if one]
    update = _get(report, "floor", "update")
    if update:
        rows.append(_floor_row("update", update, stages, list(kinds)))
    head = ("weights, kB", "activations, kB", "operators", "floor, ms", "p50, ms", "ratio")
    adds = (f"{kind.upper()}, million multiply-adds" for kind in kinds)
    yield table("The work of one update and its floor", ("", *adds, *head), rows)
    rates = {name: rate for name, rate in (_get(report, "floor", "rates") or {}).items() if rate is not None}
    if rates:
        told = ", ".join(f"{name.upper()} {_figure(rate)}" for name, rate in rates.items())
        yield f"<p>Matrix products here, billion multiply-adds a second: {escape(told)}.</p>"


def _floor_row(name: str, one: Figures, stages: Figures, kinds: Sequence[str]) -> tuple[str, ...]:
    adds = [_get(one, "multiply_adds", kind) for kind in kinds]
    sizes = [_get(one, "bytes", kind) for kind in ("weights", "activations")]
    ratio, operators = one.get("ratio"), one.get("operators")
    return (
        escape(name),
        *("" if not count else f"{count / 1e6:,.2f}" for count in adds),
        *("" if size is None else f"{size / 1e3:,.0f}" for size in sizes),
        "" if operators is None else f"{operators:,}",
        _ms(one.get("floor")),
        _ms(_get(stages, name, "p50")),
        "" if ratio is None else f"{ratio:.2f}",
    )


def _scans(report: Figures) -> Iterator[str]:
    for axis, entries in (report.get("scan") or {}).items():
        if not entries:
            continue
        yield f"<h2>By {escape(_words(axis))}</h2>"
        values = [entry["value"] for entry in entries]
        counted = all(isinstance(value, int) for value in values)
        if counted and len(set(values)) > 1:
            said = f"Medians by {axis}; dashed: 99th percentiles. Whiskers: 99 % confidence intervals."
            yield figure(charts.scaling(entries, axis), said)
        names = charts.scanned(entries)
        head = [f"{name} {part}" for name in names for part in ("p50", "p99")]
        rows = []
        for entry in entries:
            given = [entry.get(name) or {} for name in names]
            cells = [cell for one in given for cell in (_interval(one, "p50"), _ms(one.get("p99")))]
            rows.append((escape(str(entry["value"])), *cells, escape(_said(entry.get("encodings") or {}))))
        yield table("Milliseconds, and the encodings that ran", (axis, *head, ""), rows)


def _live(report: Figures) -> Iterator[str]:
    live = report.get("live")
    if not live:
        return
    yield "<h2>Live</h2>"
    if live.get("result_age"):
        yield _percentiles(
            "Milliseconds since the end of the hop of the newest answer", {"result age": live["result_age"]}
        )
    rate = live.get("drop_rate")
    told = {"drop rate": None if rate is None else f"{rate:.2%}", **(live.get("dropped") or {})}
    yield from _list("What was not answered or not taken", told)


def _start(report: Figures) -> Iterator[str]:
    started = report.get("start_up") or {}
    times = {name: started.get(name) for name in _STARTS}
    found = [
        *_columns("Start-up of a new process, milliseconds", times, "{:,.0f}"),
        *_columns("Resident memory, MB", report.get("memory"), "{:,.1f}"),
        *_columns("Building of the engines, seconds", report.get("engine_build"), "{:,.1f}"),
    ]
    if found:
        yield "<h2>Start-up and memory</h2>"
        yield from found


def _energy(report: Figures) -> Iterator[str]:
    energy = report.get("energy")
    if energy:
        told = {
            "power": _with_unit(energy.get("watts"), "W"),
            "power of": energy.get("scope"),
            "power at rest": _with_unit(energy.get("idle_watts"), "W"),
            "energy a hop": _with_unit(energy.get("joules_per_emotion"), "mJ", 1e3),
            "energy a hop above rest": _with_unit(energy.get("joules_per_emotion_above_idle"), "mJ", 1e3),
            "measured by": energy.get("source"),
            **{f"rail {name}": f"{value} W" for name, value in _flat(energy.get("rails") or {})},
        }
        yield "<h2>Energy</h2>"
        yield from _list("While steps ran", told)
    if report.get("gpu"):
        yield "<h2>Timing on the GPU</h2>"
        yield from _list("To be laid beside trtexec's", dict(_flat(report["gpu"])))


def _conditions(report: Figures) -> Iterator[str]:
    conditions = report.get("conditions") or {}
    before, after = (_snapshot(conditions.get(side) or {}) for side in ("before", "after"))
    names = list(dict.fromkeys([*before, *after]))
    if names:
        rows = [tuple(map(escape, (name, before.get(name, ""), after.get(name, "")))) for name in names]
        yield "<h2>Conditions</h2>"
        yield table("The machine before and after", ("", "before", "after"), rows)


def _snapshot(conditions: Figures) -> dict[str, str]:
    shown = {name: value for name, value in conditions.items() if name not in _COUNTERS}
    return dict(_flat(shown))


def _measured_on(report: Figures, command: str) -> Iterator[str]:
    graphs = {name: f"{one['encoding']} on {one['engine']}" for name, one in report["graphs"].items()}
    asked = {
        "bundle": report["bundle"],
        "source": report["source"],
        "backend": report.get("backend"),
        "precision": report["precision"],
        "threads": report["threads"],
        **{f"{name} graph": said for name, said in graphs.items()},
        "detector": report.get("detector"),
        **{f"warm-up {name}": said for name, said in _flat(report.get("warm_up") or {})},
        **{
            _words(name): f"{report[name]:.1%}"
            for name in ("overhead", "overhead_tracked")
            if report.get(name) is not None
        },
        **{
            f"early stopping, {part} of {stage}": f"{_ms(value)} ms"
            for stage, parts in (report.get("early_stopping") or {}).items()
            for part, value in (parts or {}).items()
            if value is not None
        },
        "command": command or None,
    }
    yield "<h2>What was measured, and on what</h2>"
    yield from _list("The measurement", asked)
    yield from _list("The machine", dict(_flat(report["machine"])))
    yield from _list("Versions", report["versions"])


def _glossary(report: Figures) -> Iterator[str]:
    """What the figures on this page mean; words that are not on it are not explained."""
    stages = {name for name, figures in report["stages"].items() if figures}
    scenario = report.get("scenario")
    present = stages | {
        "percentile",
        scenario,
        *(name for name, value in report.items() if value and name != "live"),
    }
    if any((report["stages"][name]).get("cv") is not None for name in stages):
        present.add("CV")
    if report.get("floor"):
        present.add("ratio")
    if report.get("live"):
        present |= {"live", "result age", "drop rate"}
    terms = "".join(
        f"<dt>{escape(word if word in stages else _words(word))}</dt><dd>{escape(said)}</dd>"
        for word, said in GLOSSARY.items()
        if word in present
    )
    yield f"<h2>What the figures mean</h2><dl>{terms}</dl>"


# --- elements


def _legend(names: Sequence[str]) -> str:
    keys = (f'<span class="{charts.kind_of(name)}"></span>{escape(name)}' for name in names)
    return f'<p class="legend">{" ".join(keys)}</p>'


def _list(caption: str, told: Mapping[str, Any]) -> Iterator[str]:
    rows = [(escape(_words(name)), escape(_said(value))) for name, value in told.items() if value is not None]
    if rows:
        yield table(caption, ("", ""), rows, numbers=False)


def _columns(caption: str, figures: Mapping[str, Any] | None, form: str) -> Iterator[str]:
    rows = [
        (escape(_words(name)), form.format(value))
        for name, value in (figures or {}).items()
        if value is not None
    ]
    if rows:
        yield table(caption, ("", ""), rows)


def _interval(figures: Figures, part: str) -> str:
    low, high = ((figures.get(side) or {}).get(part) for side in ("low", "high"))
    bounds = "" if low is None or high is None else f" <small>({_ms(low)} to {_ms(high)})</small>"
    return _ms(figures.get(part)) + bounds


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:,.1f}"


def _with_unit(value: float | None, unit: str, times: float = 1.0) -> str | None:
    return None if value is None else f"{readable(times * value)} {unit}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _figure(value: float) -> str:
    """Four places that count, or all before the point."""
    return f"{value:,.4g}" if abs(value) < 9999.5 else f"{value:,.0f}"


def _said(value: Any) -> str:
    """One value as a reader wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _figure(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said}" for name, said in _flat(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_said(one) for one in value)
    return str(value)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a tree, without what is None or empty."""
    for name, value in values.items():
        said = f"{before}{_words(str(name))}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{said} ")
        elif value is not None and value != [] and value != ():
            yield said, _said(value)


def _get(values: Mapping[str, Any], *names: str) -> Any:
    """What lies at the end of keys, None where one of them is missing or holds None."""
    found: Any = values
    for name in names:
        found = (found or {}).get(name)
    return found


COLOURS = {
    "capture": "grey",
    "detect": "rust",
    "detection": "rust",
    "face": "teal",
    "tracking": "teal",
    "voice": "blue",
    "update": "blue",
    "text": "rust",
    "fusion": "violet",
    "latency": "violet",
    "decide": "ochre",
    "deliver": "rose",
    "other": "grey",
}
STYLE = """
:root { --grey: #6b7785; --rust: #b3541e; --teal: #0b7a75; --blue: #2f6fb2; --violet: #7a55b5;
  --ochre: #946c00; --rose: #a3476f; }
@media (prefers-color-scheme: dark) { :root { --grey: #97a3b1; --rust: #e58a52; --teal: #35b5ae;
  --blue: #6aa9e9; --violet: #b89bea; --ochre: #d9b13b; --rose: #e08bb0; } }
.warnings { border-left: .4rem solid var(--fail); padding: .1rem 1rem; margin: 1.5rem 0; }
.warnings h2 { margin-top: .5rem; color: var(--fail); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
.tiles dt { color: var(--soft); } .tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; }
.tiles dd small { display: block; font-size: .85rem; font-weight: 400; }
.tiles dd { font-variant-numeric: tabular-nums; }
dl:not(.tiles) dt { font-weight: 600; } dl:not(.tiles) dd { margin: 0 0 .6rem; max-width: 45rem; }
td { overflow-wrap: anywhere; } .numbers td { overflow-wrap: normal; }
.dots { fill: none; stroke-width: 5; stroke-linecap: round; } .dots.tracking { stroke-width: 3; }
.span { fill: none; stroke-width: 2; opacity: .5; } .high { stroke-dasharray: 5 4; }
.dots.key { stroke-width: 8; } svg text.inside { fill: var(--paper); }
rect { stroke: var(--paper); stroke-width: 1; } .whisker { stroke-width: 1; }
.legend { margin-bottom: 0; }
""" + "".join(
    f".line.{kind}, .dots.{kind}, .span.{kind} {{ stroke: var(--{colour}); }} "
    f"rect.{kind} {{ fill: var(--{colour}); }} .legend .{kind} {{ background: var(--{colour}); }}\n"
    for kind, colour in COLOURS.items()
)
STYLE += ".line.running { stroke: var(--ink); stroke-width: 1.5; }\n"
