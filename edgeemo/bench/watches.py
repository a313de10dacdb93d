"""What a step spends where, seen from outside: graphs and a face finder under stop watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeemo.errors import BackendError
from edgeemo.recognition.recognizer import Recognizer

if TYPE_CHECKING:
    from edgeemo.inference.graph import Graph
    from edgeemo.preprocess.detector import FaceFinder
    from edgeemo.preprocess.face import Face, Picture

Clock = Callable[[], float]


class Watches:
    """A model whose parts are timed, so that what is measured is what always runs.

    Args:
        model: the model.
        clock: seconds, monotonic.

    Attributes:
        model: the same, with a watch over the face finder ('detect') and over each graph.
    """

    def __init__(self, model: Recognizer, clock: Clock = time.perf_counter) -> None:
        self._watches = {name: _Watch() for name in ("detect", *model.graphs)}
        graphs = {
            name: _TimedGraph(graph, self._watches[name], clock) for name, graph in model.graphs.items()
        }
        sees = "face" in model.bundle.modalities
        finder = _TimedFinder(model.open_finder(), self._watches["detect"], clock) if sees else None
        self.model = Recognizer(model.bundle, graphs, finder)

    def take(self) -> dict[str, float]:
        """Seconds since the last call of what ran since then."""
        return {name: spent for name, watch in self._watches.items() if (spent := watch.take()) is not None}


class _Watch:
    """The time that one part took since it was last asked."""

    def __init__(self) -> None:
        self._spent: float | None = None

    def add(self, seconds: float) -> None:
        self._spent = seconds + (self._spent or 0.0)

    def take(self) -> float | None:
        """Seconds since the last call; None when the part did not run."""
        spent, self._spent = self._spent, None
        return spent


class _TimedGraph:
    """A graph under a watch."""

    def __init__(self, graph: Graph, watch: _Watch, clock: Clock) -> None:
        self._graph, self._watch, self._clock = graph, watch, clock
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        begin = self._clock()
        outputs = self._graph.run(feeds)
        self._watch.add(self._clock() - begin)
        if self._graph.engine != self.engine:
            raise BackendError(
                f"graph {self.spec.name!r} went over from {self.engine} to {self._graph.engine} while it was "
                "measured; measure one of them, with backend 'tensorrt' or 'onnx'"
            )
        return outputs

    def close(self) -> None:
        self._graph.close()


class _TimedFinder:
    """A face finder under a watch."""

    def __init__(self, finder: FaceFinder, watch: _Watch, clock: Clock) -> None:
        self._finder, self._watch, self._clock = finder, watch, clock
        self.name = finder.name

    def find(self, image: Picture) -> list[Face]:
        begin = self._clock()
        faces = self._finder.find(image)
        self._watch.add(self._clock() - begin)
        return faces
