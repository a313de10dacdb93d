"""How an update's cost depends on one thing: the number of faces, the precision, the threads, the backend."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeemo.errors import InputError
from edgeemo.inference.backend import open_graphs, tensorrt_installed
from edgeemo.inference.choice import example

if TYPE_CHECKING:
    from edgeemo.bench.watches import Clock
    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph

AXES = ("faces", "precision", "threads", "backend")
FACES = (1, 2, 4, 8, 16)
_THREADS = (1, 2, 4, 8)
_PRECISIONS = ("int8", "fp16", "fp32")

_WARM_UP = 10
_LEAST = 50
_MOST = 2000


@dataclass(frozen=True)
class Setting:
    """How a bundle is run.

    Attributes:
        backend: as for `edgeemo.load`.
        precision: as for `edgeemo.load`.
        threads: of one graph call.
        faces: in view.
    """

    backend: str = "auto"
    precision: str = "int8"
    threads: int = 1
    faces: int = 1


@dataclass
class Point:
    """One place on an axis.

    Attributes:
        value: of the axis.
        update: seconds of one call of every graph together, an entry a round.
        graphs: seconds of each graph, likewise.
        encodings: of the files that ran.
    """

    value: int | str
    update: list[float] = field(default_factory=list)
    graphs: dict[str, list[float]] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)


def scan(
    bundle: Bundle,
    axis: str,
    setting: Setting,
    seconds: float,
    *,
    values: Sequence[int | str] | None = None,
    progress: Callable[[float], object] | None = None,
    clock: Clock = time.perf_counter,
) -> list[Point]:
    """Time updates along one axis, all else as in a setting.

    All places of the axis take turns, one update each in a round and the other way round in the next, so that
    whatever else the machine does falls on all of them, and their ratios hold also where their times do not.

    Args:
        bundle: the bundle.
        axis: one of `AXES`.
        setting: all else.
        seconds: how long, for the whole axis after its warm-up; longer where fewer than 50 rounds were made.
        values: places on the axis; those that fit the bundle and the machine by default.
        progress: called after every round with the seconds that have passed.
        clock: seconds, monotonic.

    Raises:
        InputError: no such axis, or the bundle has nothing to vary on it.
        BackendError: an engine failed.
        BundleError: a file is not the one that the manifest describes.
    """
    if axis not in AXES:
        raise InputError(f"scan {axis}: there is no such axis; give one of {', '.join(AXES)}")
    places = list(values or _values(bundle, axis))
    with ExitStack() as opened:
        contenders = []
        for value in places:
            at = replace(setting, **{axis: value})  # type: ignore[arg-type]
            graphs = open_graphs(bundle, at.backend, at.precision, at.threads)
            for graph in graphs.values():
                opened.callback(graph.close)
            contenders.append(_Contender(Point(value), graphs, at.faces))
        if axis == "threads":
            _demand_threads(contenders)
        for _ in range(_WARM_UP):
            for contender in contenders:
                contender.update(clock)
        for contender in contenders:
            contender.forget()
        begin = clock()
        for rounds in range(1, _MOST + 1):
            for contender in contenders[:: 1 if rounds % 2 else -1]:
                contender.update(clock)
            passed = clock() - begin
            if progress is not None:
                progress(passed)
            if passed >= seconds and rounds >= _LEAST:
                break
    return [contender.point for contender in contenders]


def _values(bundle: Bundle, axis: str) -> Sequence[int | str]:
    if axis == "faces":
        if bundle.face is None:
            raise InputError(f"scan faces: the bundle {bundle.name} reads no face")
        return [count for count in FACES if count <= bundle.face.most]
    if axis == "precision":
        return [name for name in _PRECISIONS if any(name in spec.files for spec in bundle.graphs.values())]
    if axis == "threads":
        cores = _cores()
        return [count for count in _THREADS if count <= cores]
    return ["onnx", "tensorrt"] if tensorrt_installed() else ["onnx"]


def _demand_threads(contenders: Sequence[_Contender]) -> None:
    if not any(contender.on_cpu for contender in contenders):
        raise InputError("scan threads: no graph runs in ONNX Runtime, whose threads these are; use it")


def _cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


class _Contender:
    """One place of the axis and what it takes."""

    def __init__(self, point: Point, graphs: Mapping[str, Graph], faces: int) -> None:
        self.point = replace(point, encodings={name: graph.encoding for name, graph in graphs.items()})
        self._calls = [(name, graph, example(graph.spec, faces)) for name, graph in graphs.items()]
        self.forget()

    @property
    def on_cpu(self) -> bool:
        """Whether ONNX Runtime runs some of it."""
        return any(graph.engine.startswith("onnxruntime") for _, graph, _ in self._calls)

    def forget(self) -> None:
        """Begin anew."""
        self.point.update.clear()
        self.point.graphs.update({name: [] for name, _, _ in self._calls})

    def update(self, clock: Clock) -> None:
        """Call every graph once."""
        begin = last = clock()
        for name, graph, feeds in self._calls:
            graph.run(feeds)
            now = clock()
            self.point.graphs[name].append(now - last)
            last = now
        self.point.update.append(last - begin)
