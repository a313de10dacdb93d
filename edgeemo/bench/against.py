"""Has it become slower: the report of a measurement against an older one of the same thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from edgeemo.errors import CheckFailed, InputError
from edgeemo.inference.manifest import ManifestError, Section, parse

SCHEMA = 1
"""Version of the shape of a report, `report.schema.json`."""

TOLERANCES: Mapping[str, float] = {
    "p50": 0.05,
    "p90": 0.10,
    "p99": 0.15,
    "overhead": 0.20,
    "throughput": 0.10,
    "start_up": 0.25,
    "memory": 0.05,
    "energy": 0.10,
    "drop_rate": 0.20,
}
"""By how much a figure may grow (a throughput shrink) before it counts, as a share of the smaller of the two.

Those of p50 and p99 are what two runs on a quiet machine agree within; a start-up is that of a few processes.
"""

SCENARIOS = ("single-stream", "live")

Verdict = Literal["better", "worse", "same", "unclear"]

_LEAST: Mapping[str, float] = {  # differences that are none: what a clock, an allocator or one frame makes
    "p50": 0.005,
    "p90": 0.005,
    "p99": 0.005,
    "overhead": 0.01,
    "start_up": 5.0,
    "memory": 1.0,
    "drop_rate": 0.005,
}
_PERCENTILES = ("p50", "p90", "p99")
_UNITS = {
    **dict.fromkeys((*_PERCENTILES, "start_up"), "ms"),
    "memory": "MB",
    "throughput": "/s",
    "energy": "J",
}
_STARTS = ("import", "load", "first", "total")
_MEMORY = ("import", "loaded", "first", "steady", "peak")
_MOST = 1e15  # of any figure; a number beyond is none

_SAME_RUN = ("bundle", "scenario", "backend", "precision", "threads", "detector")
_SAME_MACHINE = ("processor", "architecture", "cores")
_SAME_GPU = ("timing", "transfers", "graph", "spin_wait")
_MAY_CHANGE = ("governors", "jetson_clocks", "on_battery")


@dataclass(frozen=True)
class Figure:
    """One figure of both reports.

    Attributes:
        name: what and of what, as 'step p50'.
        kind: key of its tolerance.
        old: the older value; in ms, MB, joules, steps a second, or a share.
        new: the newer one.
        ratio: new / old; None of an old one of 0.
        verdict: 'better' or 'worse' where they differ by more than the tolerance and, of a percentile, their
            confidence intervals do not overlap; 'unclear' where the intervals overlap, or one is missing, and
            the values alone differ by more; else 'same'.
    """

    name: str
    kind: str
    old: float
    new: float
    ratio: float | None
    verdict: Verdict

    def __str__(self) -> str:
        grown = "" if self.ratio is None else f" (x {self.ratio:.3g})"
        return f"{self.name} {self.old:.5g} -> {self.new:.5g}{_unit(self.kind)}{grown}"


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        old: when the older one was measured.
        new: when the newer one was.
        figures: what both have, in the order of a report; none where they cannot be compared.
        changed: what is not the same and may be the reason, as 'onnxruntime 1.30.0 -> 1.31.1'.
        different: what is not the same and must be, so that nothing was compared.
        missing: figures that only one has.
    """

    old: str
    new: str
    figures: tuple[Figure, ...]
    changed: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def regressions(self) -> list[Figure]:
        """What became worse."""
        return [figure for figure in self.figures if figure.verdict == "worse"]

    def check(self) -> None:
        """Raise where something became worse, or where nothing could be compared.

        Raises:
            CheckFailed: the message names each figure, or each difference.
        """
        if self.different:
            raise CheckFailed(
                f"not comparable with the report of {self.old}: {'; '.join(self.different)}; measure both in "
                "one way on one machine, or see what a setting costs with --scan"
            )
        if self.regressions:
            worse = "; ".join(map(str, self.regressions))
            raise CheckFailed(f"worse than in the report of {self.old}: {worse}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        return {
            "old": self.old,
            "new": self.new,
            "comparable": not self.different,
            "figures": {
                figure.name: {name: value for name, value in asdict(figure).items() if name != "name"}
                for figure in self.figures
            },
            "regressions": [figure.name for figure in self.regressions],
            "changed": list(self.changed),
            "different": list(self.different),
            "missing": list(self.missing),
        }

    def __str__(self) -> str:
        lines = [f"against the report of {self.old}"]
        lines += [f"not comparable: {line}" for line in self.different]
        lines += [f"changed: {line}" for line in self.changed]
        if self.figures:
            width = max(len(figure.name) for figure in self.figures) + 2
            lines.append(f"{'':<{width}}{'old':>10}{'new':>10}{'ratio':>8}")
            lines += [_row(figure, width) for figure in self.figures]
        if self.missing:
            lines.append(f"only in one: {', '.join(self.missing)}")
        if not self.different:
            verdicts = [figure.verdict for figure in self.figures]
            counts = {verdict: verdicts.count(verdict) for verdict in ("worse", "better", "unclear", "same")}
            lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
        return "\n".join(lines)


def against(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerances: Mapping[str, float] | None = None
) -> Comparison:
    """Compare two reports of one bundle, on one source and one machine.

    Versions, engines and the settings of a processor may differ and are told; what was measured, how and on
    which machine may not. A percentile counts as worse only where two intervals of 99 % are apart; figures
    without an interval (memory, start-up, energy, throughput, overhead) go by the tolerance alone.

    Args:
        old: the report to hold it to, as `read_report` gives it.
        new: the report that is held to it.
        tolerances: by kind, in place of those of `TOLERANCES`.

    Raises:
        InputError: a tolerance of no kind, or one that is negative.
    """
    allowed = {**TOLERANCES, **(tolerances or {})}
    for kind, tolerance in allowed.items():
        if kind not in TOLERANCES or not tolerance >= 0:
            raise InputError(
                f"tolerance {kind!r} of {tolerance}; give a share of at least 0 for one of "
                + ", ".join(TOLERANCES)
            )
    different = tuple(_different(old, new))
    before, after = _Values.of(old), _Values.of(new)
    shared = [name for name in before.values if name in after.values]
    figures = [_figure(name, before, after, allowed) for name in shared]
    return Comparison(
        old=str(old["when"]),
        new=str(new["when"]),
        figures=() if different else tuple(figures),
        changed=tuple(_changed(old, new)),
        different=different,
        missing=() if different else tuple(sorted(before.values.keys() ^ after.values.keys())),
    )


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `edgeemo bench --json` wrote; keys that this version does not know are left as they are.

    Raises:
        InputError: there is no such file, or it is no report of this schema; the message names the key.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"report {path}: {why}; give a file that `edgeemo bench --json` wrote") from error
    try:
        report = parse(content)
        _validate(report)
    except ManifestError as error:
        raise InputError(f"report {path}: {error}; give what `edgeemo bench --json` wrote") from error
    return report.values


def _validate(report: Section) -> None:
    """Hold a report to what is read of it here; all else is left to `report.schema.json`."""
    if report.whole("schema", 0, 10**9) != SCHEMA:
        report.fail("schema", f"{SCHEMA}, the version of this edgeemo: measure again with it")
    for key in ("bundle", "source", "when", "backend", "precision"):
        report.text(key)
    report.choice("scenario", SCENARIOS)
    report.whole("threads")
    machine = report.section("machine")
    for key in ("processor", "architecture"):
        machine.text(key)
    versions = report.section("versions")
    for key in versions:
        versions.text(key)
    stages = report.section("stages")
    for name in stages:
        _validate_percentiles(stages.section(name))
    if "live" in report:
        live = report.section("live")
        _validate_percentiles(live.section("result_age"))
        _validate_numbers(live, ("drop_rate",))
    _validate_numbers(report, ("throughput", "overhead", "overhead_tracked"))
    for key, parts in (("start_up", _STARTS), ("memory", _MEMORY), ("energy", ("joules_per_emotion",))):
        if key in report:
            _validate_numbers(report.section(key), parts)
    if "gpu" in report:
        report.section("gpu")
    if "conditions" in report and "before" in (conditions := report.section("conditions")):
        conditions.section("before")
    graphs = report.section("graphs")
    for name in graphs:
        graphs.section(name)


def _validate_percentiles(figures: Section) -> None:
    for name in _PERCENTILES:
        figures.number(name, 0, _MOST)
    for end in ("low", "high"):
        if end in figures:
            _validate_numbers(figures.section(end), _PERCENTILES)


def _validate_numbers(section: Section, keys: tuple[str, ...]) -> None:
    """Each is a number or not measured."""
    for key in keys:
        if key in section:
            section.number(key, -_MOST, _MOST)


# --- what may and what may not differ


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _differences(_SAME_RUN, old, new)
    # By its name: another checkout of the same clip has another path.
    clips = [PurePath(report["source"]).name for report in (old, new)]
    if clips[0] != clips[1]:
        yield f"source {clips[0]} -> {clips[1]}"
    yield from _differences(_SAME_MACHINE, old["machine"], new["machine"])
    before = [_before(report) for report in (old, new)]
    if all(before):  # else one of them does not say
        yield from _differences(("power_mode",), *before)
    if old.get("gpu") and new.get("gpu"):
        yield from (f"GPU {line}" for line in _differences(_SAME_GPU, old["gpu"], new["gpu"]))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    versions = dict.fromkeys([*old["versions"], *new["versions"]])
    yield from _differences(tuple(versions), old["versions"], new["versions"])
    yield from _differences(("system", "governor"), old["machine"], new["machine"])
    before = [_before(report) for report in (old, new)]
    if all(before):
        yield from _differences(_MAY_CHANGE, *before)
    graphs = [
        {name: " ".join(map(str, graph.values())) for name, graph in report["graphs"].items()}
        for report in (old, new)
    ]
    yield from _differences(tuple(dict.fromkeys([*graphs[0], *graphs[1]])), *graphs)


def _before(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the machine was, as far as the report says."""
    return (report.get("conditions") or {}).get("before") or {}


def _differences(keys: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in keys:
        values = [_text(report.get(key)) for report in (old, new)]
        if values[0] != values[1]:
            yield f"{key} {values[0]} -> {values[1]}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


# --- figures


@dataclass(frozen=True)
class _Values:
    """The figures of one report by name, with their kinds, and the intervals of percentiles."""

    values: dict[str, float]
    kinds: dict[str, str]
    intervals: dict[str, tuple[float | None, float | None]]

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> _Values:
        made = cls({}, {}, {})
        for stage, figures in report["stages"].items():
            made._add_percentiles(stage, figures)
        for name in ("overhead", "overhead_tracked"):
            made._add(name, "overhead", report.get(name))
        made._add("throughput", "throughput", report.get("throughput"))
        live = report.get("live")
        if live:
            made._add_percentiles("result_age", live["result_age"])
            made._add("drop_rate", "drop_rate", live.get("drop_rate"))
        for group, parts in (("start_up", _STARTS), ("memory", _MEMORY)):
            for part in parts:
                made._add(f"{group} {part}", group, (report.get(group) or {}).get(part))
        energy = report.get("energy")
        if energy:  # each source measures another part of the machine
            made._add(f"energy by {energy.get('source')}", "energy", energy.get("joules_per_emotion"))
        return made

    def _add_percentiles(self, name: str, figures: Mapping[str, Any]) -> None:
        for part in _PERCENTILES:
            self._add(f"{name} {part}", part, figures[part])
            low, high = ((figures.get(end) or {}).get(part) for end in ("low", "high"))
            self.intervals[f"{name} {part}"] = (low, high)

    def _add(self, name: str, kind: str, value: float | None) -> None:
        if value is not None:
            self.values[name] = value
            self.kinds[name] = kind


def _figure(name: str, old: _Values, new: _Values, tolerances: Mapping[str, float]) -> Figure:
    kind, before, after = old.kinds[name], old.values[name], new.values[name]
    grown = _exceeds(after, before, kind, tolerances[kind])
    shrunk = _exceeds(before, after, kind, tolerances[kind])
    verdict: Verdict = "same"
    if grown or shrunk:
        verdict = "worse" if grown != (kind == "throughput") else "better"
        lower, upper = (old, new) if grown else (new, old)
        if name in old.intervals and not _apart(lower.intervals[name][1], upper.intervals[name][0]):
            verdict = "unclear"
    return Figure(name, kind, before, after, round(after / before, 4) if before else None, verdict)


def _exceeds(larger: float, smaller: float, kind: str, tolerance: float) -> bool:
    return larger > smaller + max(tolerance * abs(smaller), _LEAST.get(kind, 0.0))


def _apart(high: float | None, low: float | None) -> bool:
    """Whether one interval ends before the other begins; two that are not known do not."""
    return high is not None and low is not None and high < low


def _row(figure: Figure, width: int) -> str:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
    verdict = "" if figure.verdict == "same" else f"  {figure.verdict}"
    values = f"{figure.old:>10.5g}{figure.new:>10.5g}{ratio:>8}{_unit(figure.kind):<4}"
    return f"{figure.name:<{width}}{values}{verdict}".rstrip()


def _unit(kind: str) -> str:
    unit = _UNITS.get(kind)
    return f" {unit}" if unit else ""
