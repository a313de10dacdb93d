"""What a step costs here, as figures: of every stage, beside the floor, and what they were measured on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from edgeemo import __version__
from edgeemo.bench.against import SCHEMA
from edgeemo.bench.charts import STAGES
from edgeemo.bench.conditions import changed, snapshot, throttled
from edgeemo.bench.device import machine
from edgeemo.bench.floor import Floors
from edgeemo.bench.gpu import GpuTimes, engine_build, gpu_times
from edgeemo.bench.measure import measure
from edgeemo.bench.power import Meter, energy_meter, why_no_meter
from edgeemo.bench.rate import matrix_rate
from edgeemo.bench.scan import Point, Setting, scan
from edgeemo.bench.startup import StartUp, start_up
from edgeemo.bench.statistics import PERCENTILES, Distribution, early_stopping, summarise
from edgeemo.bench.work import works_of_files
from edgeemo.recognition.recognizer import load

if TYPE_CHECKING:
    from edgeemo.bench.measure import Samples
    from edgeemo.recognition.recognizer import Recognizer

_SCAN_SHARE = 0.5  # of the seconds of the measurement, for each axis

Progress = Callable[[str, float], object]


@dataclass(frozen=True)
class Options:
    """How a bundle is measured.

    Attributes:
        seconds: how long to measure steps, after the warm-up.
        backend: as for `edgeemo.load`.
        precision: as for `edgeemo.load`.
        threads: of one graph call.
        detector: as for `edgeemo.load`.
        live: pace the source as a camera and a microphone do.
        scan: axes, of `edgeemo.bench.scan.AXES`.
        gpu_like: whose manner of timing GPUs, of `edgeemo.bench.gpu.LIKE`.
        steps_only: leave out start-up, memory, floor, energy and the GPU's own timing.
    """

    seconds: float = 10.0
    backend: str = "auto"
    precision: str = "int8"
    threads: int = 1
    detector: str | os.PathLike[str] | None = None
    live: bool = False
    scan: Sequence[str] = ()
    gpu_like: str = "edgeemo"
    steps_only: bool = False


@dataclass(frozen=True)
class Report:
    """What was measured, and on what; `report.schema.json` says what each key of `to_dict` holds.

    Attributes:
        bundle: name of the bundle.
        source: what was played.
        when: UTC, as ISO 8601.
        seconds: how long that took.
        steps: hops that were measured.
        scenario: 'single-stream' or 'live'.
        stages: distribution by stage, in seconds.
        throughput: hops that were answered a second: live by the clock, else of step and delivery.
        overhead: median over the hops with detection of what is neither detection nor a graph, as a share of
            the step without detection; None where nothing was detected.
        overhead_tracked: the same over the hops without detection; None where there were none.
        live: of a live source.
        warm_up: how long it took.
        floor: what the multiply-adds alone take at this machine's rate.
        start_up: of new processes, with their memory.
        engine_build: seconds by graph, of TensorRT's.
        scan: by axis.
        conditions: of the machine, before and after.
        energy: that was used meanwhile.
        gpu: what its events say.
        backend: what was asked for.
        precision: what was asked for.
        threads: of one graph call.
        graphs: of each graph what ran it, 'engine' and 'encoding'.
        detector: the face finder, None without faces.
        machine: as `edgeemo.bench.device.machine` says it.
        versions: of edgeemo, Python and the libraries.
        samples: seconds by stage in the order of time; not in `to_dict`.
    """

    bundle: str
    source: str
    when: str
    seconds: float
    steps: int
    scenario: str
    stages: Mapping[str, Distribution]
    throughput: float
    overhead: float | None
    overhead_tracked: float | None
    live: Mapping[str, Any] | None
    warm_up: Mapping[str, Any]
    floor: Mapping[str, Any] | None
    start_up: StartUp | None
    engine_build: Mapping[str, float] | None
    scan: Mapping[str, Any] | None
    conditions: Mapping[str, Any]
    energy: Mapping[str, Any] | None
    gpu: GpuTimes | None
    backend: str
    precision: str
    threads: int
    graphs: Mapping[str, Mapping[str, str]]
    detector: str | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    samples: Mapping[str, Sequence[float]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples as JSON holds it, times of stages in milliseconds."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "samples"}
        stages = {name: found.to_dict(1e3) for name, found in self.stages.items()}
        return {
            "schema": SCHEMA,
            **told,
            "stages": stages,
            "start_up": None if self.start_up is None else self.start_up.to_dict(),
            "memory": self._memory(),
            "gpu": None if self.gpu is None else self.gpu.to_dict(),
            "enough": self.update.enough,
            "advice": self.update.advice(self.seconds) or None,
            "early_stopping": {name: self.stopped(name) for name in ("update", "latency")},
        }

    def _memory(self) -> dict[str, float | None] | None:
        if self.start_up is None:
            return None
        return {name: self.start_up.memory[name] for name in ("import", "loaded", "steady", "peak")}

    def stopped(self, stage: str) -> dict[str, float | None]:
        """Milliseconds that a percentile of a stage does not exceed, as MLPerf's early stopping has it."""
        found = {f"p{part}": early_stopping(self.samples[stage], part) for part in (90, 99)}
        return {name: None if one is None else float(f"{1e3 * one:.5g}") for name, one in found.items()}

    @property
    def update(self) -> Distribution:
        """Seconds of the calls of all graphs of a hop."""
        return self.stages["update"]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def bench(
    bundle: str | os.PathLike[str] | None,
    source: str | os.PathLike[str],
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Measure what a step of a bundle costs here.

    Args:
        bundle: its folder; None for the one in the package.
        source: a video, a sound file, a picture or a recorded session, played again and again.
        options: how.
        progress: called with what is measured, and for how many seconds it has been.

    Raises:
        EdgeEmoError: the bundle, the source or an engine cannot be used, as for `load` and `watch`.
    """
    options = options or Options()
    told = progress or (lambda what, seconds: None)
    with load(
        bundle,
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        detector=options.detector,
    ) as model:
        # What may be refused comes before what takes long.
        scanned = _scan(model, options, told)
        started = None if options.steps_only else _started(bundle, source, options, told)
        meanwhile = _Meanwhile(None if options.steps_only else _meter(model, told), options.live)
        samples = measure(
            model,
            Path(source),
            options.seconds,
            live=options.live,
            progress=lambda seconds: told("steps", seconds),
            meanwhile=meanwhile,
        )
        stages = {name: summarise(samples.stages[name]) for name in STAGES if name in samples.stages}
        return Report(
            bundle=model.bundle.name,
            source=str(source),
            when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=round(samples.seconds, 3),
            steps=samples.steps,
            scenario="live" if options.live else "single-stream",
            stages=stages,
            throughput=float(f"{samples.throughput:.5g}"),
            overhead=_median(samples.overhead),
            overhead_tracked=_median(samples.overhead_tracked),
            live=_live(samples),
            warm_up=samples.warm_up.to_dict(),
            floor=None if options.steps_only else _floor(model, samples, options, told),
            start_up=started,
            engine_build=engine_build(model),
            scan=scanned,
            conditions=meanwhile.conditions(summarise(samples.alike).cv),
            energy=meanwhile.energy(samples.answered),
            gpu=None if options.steps_only else gpu_times(model, options.gpu_like),
            backend=options.backend,
            precision=options.precision,
            threads=options.threads,
            graphs={
                name: {"engine": graph.engine, "encoding": graph.encoding}
                for name, graph in model.graphs.items()
            },
            detector=model.open_finder().name if "detect" in samples.stages else None,
            machine=machine(),
            versions=_versions(),
            samples=samples.stages,
        )


class _Meanwhile:
    """What the machine does while steps are measured."""

    def __init__(self, meter: Meter | None, live: bool) -> None:
        self._meter = meter
        self._live = live

    def __enter__(self) -> None:
        self._before = snapshot()
        if self._meter is not None:
            self._meter.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.__exit__(None, None, None)
        self._after = snapshot()

    def conditions(self, cv: float | None) -> dict[str, Any]:
        """As a report holds them."""
        # A processor that rests between hops lowers its clocks, and before them it had no rest.
        before = {**self._before, "clocks": None} if self._live else self._before
        return {
            "before": self._before,
            "after": self._after,
            "throttled": throttled(self._before, self._after),
            "warnings": changed(before, self._after, cv),
        }

    def energy(self, steps: int) -> dict[str, Any] | None:
        """As a report holds it."""
        meter = self._meter
        if meter is None or meter.joules is None or meter.watts is None:
            return None
        above = meter.above_idle
        return {
            "source": meter.source,
            "scope": meter.scope,
            "watts": float(f"{meter.watts:.4g}"),
            "idle_watts": None if meter.idle is None else float(f"{meter.idle:.4g}"),
            "joules_per_emotion": float(f"{meter.joules / steps:.4g}"),
            "joules_per_emotion_above_idle": None if above is None else float(f"{above / steps:.4g}"),
            "rails": {name: float(f"{watts:.4g}") for name, watts in meter.rails.items()},
        }


def _meter(model: Recognizer, told: Progress) -> Meter | None:
    """What measures energy, which knows what the machine takes at rest."""
    meter = energy_meter(gpu=any(graph.engine.startswith("tensorrt") for graph in model.graphs.values()))
    if meter is not None:
        told("power at rest", 0.0)
        meter.measure_idle()
    return meter


def _started(
    bundle: str | os.PathLike[str] | None, source: str | os.PathLike[str], options: Options, told: Progress
) -> StartUp:
    told("start-up", 0.0)
    return start_up(
        bundle,
        source,
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        detector=options.detector,
    )


def _floor(model: Recognizer, samples: Samples, options: Options, told: Progress) -> dict[str, Any] | None:
    """Beside the graphs that ran; the rate is one of ONNX Runtime, so it says nothing of other engines."""
    ran = {name: graph for name, graph in model.graphs.items() if name in samples.stages}
    if not all(graph.engine.startswith("onnxruntime") for graph in ran.values()):
        return None
    told("matrix rate", 0.0)
    # A graph that does not run in every hop is in the mean of the updates and not in their median.
    middle = mean if any(graph.spec.every > 1 for graph in ran.values()) else median
    measured = {name: 1e3 * median(samples.stages[name]) for name in ran}
    measured["update"] = 1e3 * middle(samples.alike if middle is median else samples.stages["update"])
    encodings = {name: graph.encoding for name, graph in ran.items()}
    works = works_of_files(model.bundle, encodings, samples.faces)
    every = {name: graph.spec.every for name, graph in ran.items()}
    return Floors(matrix_rate(options.threads), works, every, measured).to_dict()


def _scan(model: Recognizer, options: Options, told: Progress) -> dict[str, Any] | None:
    setting = Setting(options.backend, options.precision, options.threads)
    found = {
        axis: scan(
            model.bundle,
            axis,
            setting,
            _SCAN_SHARE * options.seconds,
            progress=lambda seconds, axis=axis: told(axis, seconds),  # type: ignore[misc]
        )
        for axis in options.scan
    }
    return {axis: [_point(point) for point in points] for axis, points in found.items()} or None


def _point(point: Point) -> dict[str, Any]:
    graphs = {name: summarise(seconds).to_dict(1e3) for name, seconds in point.graphs.items()}
    return {
        "value": point.value,
        "encodings": dict(point.encodings),
        "update": summarise(point.update).to_dict(1e3),
        **graphs,
    }


def _live(samples: Samples) -> dict[str, Any] | None:
    live = samples.live
    if live is None:
        return None
    return {
        "result_age": summarise(live.result_age).to_dict(1e3),
        "dropped": live.lost,
        "drop_rate": round(live.drop_rate, 5),
    }


def _versions() -> dict[str, str]:
    """Of edgeemo, of Python and of the libraries that were used."""
    used = [(name, sys.modules.get(name)) for name in ("numpy", "cv2", "av", "onnxruntime", "tensorrt")]
    libraries = {name: str(getattr(module, "__version__", "?")) for name, module in used if module}
    return {"edgeemo": __version__, "python": platform.python_version(), **libraries}


def _median(shares: Sequence[float]) -> float | None:
    return round(median(shares), 4) if shares else None


# --- as text


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.bundle}: {report.steps} steps in {report.seconds:.3g} s of {report.source}"
    if not report.warm_up["stable"]:
        yield f"! the steps were still changing when the warm-up of {report.warm_up['seconds']:.3g} s ended"
    yield f"{'ms':<14}" + "".join(f"{f'p{part}':>9}" for part in PERCENTILES) + f"{'n':>8}"
    for name, found in report.stages.items():
        cells = "".join(f"{1e3 * found.percentiles[f'p{part}']:>9.3f}" for part in PERCENTILES)
        yield f"{name:<14}{cells}{found.n:>8}"
    idle = [name for name in report.graphs if name not in report.stages]
    if idle:
        yield f"{', '.join(idle)}: not measured, {report.source} has nothing for it"
    advice = report.update.advice(report.seconds)
    if advice:
        yield f"update: {advice}"
    for name, share in (("overhead", report.overhead), ("overhead_tracked", report.overhead_tracked)):
        if share is not None:
            yield f"{name:<17} {share:.1%}"
    yield f"{'throughput':<17} {report.throughput:g} steps/s"
    stopped = report.stopped("latency")["p90"]
    if stopped is not None and report.live is None:
        yield f"{'single stream':<17} {stopped:.3f} ms: p90 of the latency with MLPerf's early stopping"
    yield from _beside(report)
    yield from _scanned(report)
    ran = [f"{name} {graph['encoding']} on {graph['engine']}" for name, graph in report.graphs.items()]
    yield f"graphs: {'; '.join(ran)}; threads {report.threads}"
    if report.detector:
        yield f"detector: {report.detector}"
    yield f"machine: {_told(report.machine)}"
    yield f"versions: {_told(report.versions)}"
    yield from (f"! {warning}" for warning in report.conditions["warnings"])


def _beside(report: Report) -> Iterator[str]:
    """What was measured beside the steps."""
    if report.live is not None:
        age, lost = report.live["result_age"], {name: n for name, n in report.live["dropped"].items() if n}
        yield (
            f"{'result age':<17} p50 {age['p50']:.1f} ms, p99 {age['p99']:.1f} ms; "
            f"{report.live['drop_rate']:.2%} of the hops dropped{f'; {_told(lost)}' if lost else ''}"
        )
    if report.floor is not None and report.floor["update"]["floor"] is not None:
        rates = ", ".join(f"{name.upper()} {rate:g}" for name, rate in report.floor["rates"].items())
        over = [
            f"{name} {graph['floor']:.3f} ms (x {graph['ratio']:.3g})"
            for name, graph in (*report.floor["graphs"].items(), ("update", report.floor["update"]))
            if graph["ratio"] is not None
        ]
        yield f"{'floor':<17} {', '.join(over)}, at {rates} GMAC/s"
    if report.start_up is not None:
        yield str(report.start_up)
    if report.engine_build:
        yield f"{'engine build':<17} {_told(report.engine_build)} s"
    if report.energy is not None:
        millijoules = 1e3 * report.energy["joules_per_emotion"]
        yield (
            f"{'energy':<17} {report.energy['watts']:.3g} W of {report.energy['scope']}, "
            f"{millijoules:.1f} mJ a hop ({report.energy['source']})"
        )
    elif report.start_up is not None:
        reasons = "; ".join(why_no_meter()) or "nothing here measures it"
        yield f"{'energy':<17} not measured: {reasons}"
    if report.gpu is not None:
        yield str(report.gpu)


def _scanned(report: Report) -> Iterator[str]:
    for axis, points in (report.scan or {}).items():
        first = points[0]["update"]["p50"]
        for point in points:
            update = point["update"]
            times = f"update p50 {update['p50']:.3f} ms, p99 {update['p99']:.3f} ms"
            yield f"{axis:<9} {point['value']!s:>8}  {times}  x {update['p50'] / first:.3g}"


def _told(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items() if value is not None)
