"""What the GPU takes for each graph that TensorRT runs, by events of CUDA, as trtexec measures and prints."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from edgeemo.bench.statistics import UNSTABLE_GPU, Distribution, summarise
from edgeemo.errors import InputError, shown
from edgeemo.inference.choice import example
from edgeemo.inference.engines import EngineStore, Missing, Stored
from edgeemo.inference.supply import EngineSupply
from edgeemo.inference.trt import TensorRt, TrtGraph

if TYPE_CHECKING:
    from edgeemo.inference.graph import Graph
    from edgeemo.inference.spec import GraphSpec
    from edgeemo.recognition.recognizer import Recognizer

SECONDS, WARM_UP, LEAST = 3.0, 0.2, 10
"""Seconds that are measured, seconds before, and queries at least: what trtexec takes by default."""

ENQUEUE_BOUND = 0.8
"""Median of the time to enqueue over that of the GPU's computation above which trtexec warns."""

_Times = TypeVar("_Times")
_PERCENTILES = (90, 95, 99)
_ENGINE = "tensorrt "  # how a graph says that TensorRT runs it


@dataclass(frozen=True)
class States:
    """How queries are made; times of GPUs that differ in one of these are not comparable.

    Attributes:
        transfers: whether inputs are copied to the GPU, and outputs back, in each query.
        graph: whether a computation is launched as a CUDA graph.
        spin_wait: whether the host spins until a query is done; else it sleeps.
    """

    transfers: bool
    graph: bool
    spin_wait: bool

    def __str__(self) -> str:
        """As a report prints them.

        Example:
            >>> print(LIKE["trtexec 11"])
            transfers off, CUDA graph on, spin-wait on
        """
        names = {"transfers": self.transfers, "CUDA graph": self.graph, "spin-wait": self.spin_wait}
        return ", ".join(f"{name} {'on' if state else 'off'}" for name, state in names.items())


LIKE = {
    "edgeemo": States(transfers=True, graph=True, spin_wait=False),
    "trtexec 10": States(transfers=True, graph=False, spin_wait=False),
    "trtexec 11": States(transfers=False, graph=True, spin_wait=True),
}
"""A step of this runtime, and what trtexec does unless it is told otherwise."""


@dataclass(frozen=True)
class GraphTimes:
    """Queries of one graph for one face, each put on the stream before the one ahead of it is waited for.

    So does trtexec, but with streams for the copies, which may overlap with the computation of another query:
    there its throughput is higher. Times of `enqueue`, `h2d`, `compute`, `d2h`, `latency` and `launch` are in
    milliseconds; percentiles are nearest ranks, as is the median.

    Attributes:
        engine: what ran it, and where.
        encoding: the file that its engine was built from.
        states: how queries were made; what could not be done as it was asked is off.
        in_place: whether the GPU reads and writes the host's memory itself, so that there is nothing to copy.
        latency: of a query on the GPU: `h2d` + `compute` + `d2h`.
        enqueue: on the host, from Python, putting the computation on the stream.
        h2d: copying the inputs to the GPU.
        compute: computing on the GPU.
        d2h: copying the outputs back.
        launch: on the GPU, the one launch that a step of this runtime makes, with copies and computation in
            one CUDA graph; None where it has none.
        walltime: seconds on the host that the queries took together.
        trtexec: the command that measures the same engine in the same way; None where the engine is no file.
    """

    engine: str
    encoding: str
    states: States
    in_place: bool
    latency: Distribution
    enqueue: Distribution
    h2d: Distribution
    compute: Distribution
    d2h: Distribution
    launch: Distribution | None
    walltime: float
    trtexec: str | None = None

    @property
    def throughput(self) -> float:
        """Queries a second."""
        return self.latency.n / self.walltime

    @property
    def total_compute(self) -> float:
        """Seconds that the GPU computed for all queries together."""
        return self.compute.mean * self.compute.n / 1e3

    @property
    def warnings(self) -> list[str]:
        """What stands between these figures and the GPU's own, as trtexec warns of it."""
        enqueue, compute = _median(self.enqueue), _median(self.compute)
        warnings = []
        if enqueue > ENQUEUE_BOUND * compute:
            remedy = "" if self.states.graph else "; a CUDA graph takes less"
            warnings.append(
                f"bound by enqueueing: its median, {enqueue:.3f} ms, is more than {ENQUEUE_BOUND:g} of the "
                f"computation's, {compute:.3f} ms, so that the GPU waits for the host{remedy}"
            )
        for name, part in (("host-to-device", self.h2d), ("device-to-host", self.d2h)):
            if self.states.transfers and _median(part) >= compute:
                warnings.append(
                    f"bound by {name} copies: their median, {_median(part):.3f} ms, is not below the "
                    f"computation's, {compute:.3f} ms"
                )
        if self.compute.cv is not None and self.compute.cv > UNSTABLE_GPU:
            remedy = "" if self.states.spin_wait else ", or spin-wait"
            warnings.append(
                f"unstable: the coefficient of variation of the computation is {self.compute.cv:.1%}, more "
                f"than {UNSTABLE_GPU:.1%}; locked clocks help (jetson_clocks, nvidia-smi -lgc){remedy}"
            )
        return warnings

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it; distributions as those of stages."""
        parts = ("latency", "enqueue", "h2d", "compute", "d2h")
        return {
            "engine": self.engine,
            "encoding": self.encoding,
            **asdict(self.states),
            "in_place": self.in_place,
            "throughput": round(self.throughput, 3),
            **{name: getattr(self, name).to_dict() for name in parts},
            "launch": None if self.launch is None else self.launch.to_dict(),
            "walltime": round(self.walltime, 6),
            "total_compute": round(self.total_compute, 6),
            "warnings": self.warnings,
            "trtexec": self.trtexec,
        }

    def __str__(self) -> str:
        lines = [
            f"{self.encoding} on {self.engine}: {self.states}",
            f"Throughput: {self.throughput:.6g} qps",
            f"Latency: {_line(self.latency)}",
            f"Enqueue Time: {_line(self.enqueue)}",
            f"H2D Latency: {_line(self.h2d)}",
            f"GPU Compute Time: {_line(self.compute)}",
            f"D2H Latency: {_line(self.d2h)}",
            f"Total Host Walltime: {self.walltime:.6g} s",
            f"Total GPU Compute Time: {self.total_compute:.6g} s",
        ]
        if self.in_place:
            lines[0] += "; nothing is copied, the GPU reads and writes the host's memory in place"
        if self.launch is not None:
            what = "the computation" if self.in_place else "copies and computation"
            lines.append(f"A step's launch, {what} in one CUDA graph: {_line(self.launch)}")
        lines += [f"! {warning}" for warning in self.warnings]
        if self.trtexec:
            lines.append(f"the same by trtexec: {self.trtexec}")
        return "\n".join(lines)


@dataclass(frozen=True)
class GpuTimes:
    """What the GPU takes for the graphs of a model.

    Attributes:
        asked: how queries were to be made.
        graphs: what was measured, by name of the graph.
        unmeasured: of each other graph that TensorRT runs why it was not.
    """

    asked: States
    graphs: Mapping[str, GraphTimes]
    unmeasured: Mapping[str, str]

    @property
    def states(self) -> States:
        """How every query was made: what one graph could not do is off."""
        done = [self.asked, *(times.states for times in self.graphs.values())]
        return States(**{name: all(getattr(one, name) for one in done) for name in asdict(self.asked)})

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        return {
            "timing": "cuda events",
            **asdict(self.states),
            "graphs": {name: times.to_dict() for name, times in self.graphs.items()},
            "unmeasured": dict(self.unmeasured),
        }

    def __str__(self) -> str:
        lines = [f"GPU timing by CUDA events: {self.states}"]
        for name, times in self.graphs.items():
            first, *rest = str(times).splitlines()
            lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"{name}: not measured, {reason}" for name, reason in self.unmeasured.items()]
        return "\n".join(lines)


def gpu_times(
    model: Recognizer,
    like: str | States = "edgeemo",
    *,
    seconds: float = SECONDS,
    warm_up: float = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> GpuTimes | None:
    """Measure the kept engines of the graphs that TensorRT runs; None where it runs none.

    Each engine is opened a second time, as the model's own answer meanwhile, and none is built.

    Args:
        model: the model.
        like: whose queries are made: 'edgeemo', 'trtexec 10', 'trtexec 11' (see `LIKE`), or any states.
        seconds: how long each graph is measured.
        warm_up: seconds before.
        clock: seconds, monotonic.

    Raises:
        InputError: an unknown name in `like`.
        BackendError: TensorRT or CUDA failed.
    """
    asked = _states(like)
    if not _ran(model):
        return None
    graphs: dict[str, GraphTimes] = {}
    unmeasured: dict[str, str] = {}
    with _kept(model) as (library, engines):
        for name, stored in engines.items():
            if isinstance(stored, Missing):
                unmeasured[name] = stored.reason or "its engine was not kept; 'edgeemo build' keeps it"
                continue
            with contextlib.closing(_open(stored, model.bundle.graphs[name], library)) as graph:
                times = time_graph(graph, asked, seconds=seconds, warm_up=warm_up, clock=clock)
            graphs[name] = replace(times, trtexec=trtexec(stored, graph.spec, times.states))
    return GpuTimes(asked, graphs, unmeasured)


def time_graph(
    graph: TrtGraph,
    asked: States,
    *,
    seconds: float = SECONDS,
    warm_up: float = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> GraphTimes:
    """Measure one graph for one face.

    Args:
        graph: the graph.
        asked: how queries are made, as far as it can.
        seconds: how long, and at least `LEAST` queries.
        warm_up: seconds before.
        clock: seconds, monotonic.

    Raises:
        BackendError: TensorRT or CUDA failed.
    """
    with graph.timed(
        example(graph.spec), transfers=asked.transfers, captured=asked.graph, spin_wait=asked.spin_wait
    ) as timing:
        stream = timing.queries()
        _repeat(stream, warm_up, 1, clock)
        queries, walltime = _repeat(stream, seconds, LEAST, clock)
        launches, _ = _repeat(timing.launches(), seconds / LEAST, LEAST, clock)
    return GraphTimes(
        engine=graph.engine,
        encoding=graph.encoding,
        states=States(timing.transfers, timing.captured, timing.spin_wait),
        in_place=timing.in_place,
        latency=summarise([query.latency for query in queries]),
        enqueue=summarise([query.enqueue for query in queries]),
        h2d=summarise([query.h2d for query in queries]),
        compute=summarise([query.compute for query in queries]),
        d2h=summarise([query.d2h for query in queries]),
        launch=summarise(launches) if launches else None,
        walltime=walltime,
    )


def trtexec(stored: Stored, spec: GraphSpec, states: States) -> str | None:
    """Write the command of trtexec that measures a kept engine in the same way; None where it is no file.

    It must be the trtexec of the TensorRT that built the engine, whose defaults differ between 10 and 11.

    Args:
        stored: the engine.
        spec: its graph.
        states: how queries are made.

    Returns:
        For a POSIX shell.
    """
    if stored.path is None:
        return None
    shapes = ",".join(
        f"{name}:{'x'.join(str(axis) if isinstance(axis, int) else '1' for axis in tensor.shape)}"
        for name, tensor in spec.inputs.items()
        if not all(isinstance(axis, int) for axis in tensor.shape)
    )
    core = stored.key.settings["dla_core"]
    return shlex.join(
        [
            "trtexec",
            f"--loadEngine={stored.path}",
            *([f"--shapes={shapes}"] if shapes else []),
            *([] if core is None else [f"--useDLACore={core}"]),
            *_flags(states, int(stored.key.tensorrt.partition(".")[0])),
            f"--warmUp={1e3 * WARM_UP:g}",
            f"--duration={SECONDS:g}",
            f"--iterations={LEAST}",
            f"--percentile={','.join(map(str, _PERCENTILES))}",
        ]
    )


def engine_build(model: Recognizer) -> dict[str, float] | None:
    """Seconds that building each kept engine took, whenever that was; None where TensorRT runs no graph.

    A graph whose engine was not kept is not in it. Nothing is built.

    Raises:
        BackendError: TensorRT cannot be opened.
    """
    if not _ran(model):
        return None
    with _kept(model) as (_, engines):
        return {
            name: float(stored.report["seconds"])
            for name, stored in engines.items()
            if isinstance(stored, Stored) and "seconds" in stored.report
        }


def _states(like: str | States) -> States:
    if isinstance(like, States):
        return like
    if like not in LIKE:
        raise InputError(f"like is {shown(like)}; it must be one of {', '.join(LIKE)}")
    return LIKE[like]


def _ran(model: Recognizer) -> dict[str, Graph]:
    """The graphs that TensorRT runs."""
    return {name: graph for name, graph in model.graphs.items() if graph.engine.startswith(_ENGINE)}


@contextlib.contextmanager
def _kept(model: Recognizer) -> Iterator[tuple[TensorRt, dict[str, Stored | Missing]]]:
    """TensorRT, and of each graph that it runs the engine that a start now would take."""
    with contextlib.closing(TensorRt.open()) as library:
        supply = EngineSupply(model.bundle, library, EngineStore.default())
        yield (
            library,
            {
                name: supply.store.find(supply.key(graph.spec, graph.encoding))
                for name, graph in _ran(model).items()
            },
        )


def _open(stored: Stored, spec: GraphSpec, library: TensorRt) -> TrtGraph:
    core = stored.key.settings["dla_core"]
    return TrtGraph(stored.plan, spec, library, encoding=stored.key.encoding, most=1, dla_core=core)


def _repeat(
    times: Iterator[_Times], seconds: float, least: int, clock: Callable[[], float]
) -> tuple[list[_Times], float]:
    """Take times for so long, and at least so many of those that there are; the seconds in all."""
    taken: list[_Times] = []
    begin = now = clock()
    for one in times:
        taken.append(one)
        now = clock()
        if len(taken) >= least and now - begin >= seconds:
            break
    return taken, now - begin


def _flags(states: States, major: int) -> list[str]:
    """What must be said to trtexec where its default is another."""
    if major < 11:
        said = {
            "--noDataTransfers": not states.transfers,
            "--useCudaGraph": states.graph,
            "--useSpinWait": states.spin_wait,
        }
    else:
        said = {
            "--includeDataTransfers": states.transfers,
            "--noCudaGraph": not states.graph,
            "--noSpinWait": not states.spin_wait,
        }
    return [flag for flag, needed in said.items() if needed]


def _median(distribution: Distribution) -> float:
    return distribution.percentiles["p50"]


def _line(distribution: Distribution) -> str:
    """Seven figures, as trtexec writes them."""
    figures = {
        "min": distribution.min,
        "max": distribution.max,
        "mean": distribution.mean,
        "median": _median(distribution),
        **{f"percentile({part}%)": distribution.percentiles[f"p{part}"] for part in _PERCENTILES},
    }
    return ", ".join(f"{name} = {value:.6g} ms" for name, value in figures.items())
