"""How long each part of a step takes, while a stream is given a source as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeemo.capture.source import Frame, open_source
from edgeemo.errors import BackendError, InputError
from edgeemo.logs import saying_once
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.stream import Stream

if TYPE_CHECKING:
    from edgeemo.capture.source import Sound, Source
    from edgeemo.inference.graph import Graph
    from edgeemo.preprocess.detector import FaceFinder
    from edgeemo.preprocess.face import Face, Picture

WARM_UP = 0.5
"""Seconds that are not measured: an engine, the caches and the clock of a processor need some steps."""

LEAST = 25
"""Steps that are measured however long they take, so that a slow machine too has some with a detection."""


@dataclass
class Samples:
    """What was measured.

    Attributes:
        stages: seconds by stage, an entry for each hop in which it ran: 'detect', the graphs, 'step' for a
            hop with detection and 'step_tracked' for one without. A step is all that edgeemo does for a hop:
            taking its pictures and its sound, and answering it; decoding a file is not in it.
        seconds: how long that took, with the time for reading the source.
        overhead: of each hop with detection, (step - detect - graphs) / (step - detect).
        overhead_tracked: of each hop without, (step - graphs) / step.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    overhead: list[float] = field(default_factory=list)
    overhead_tracked: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Hops that were measured."""
        return len(self.overhead) + len(self.overhead_tracked)

    def add(self, step: float, parts: Mapping[str, float]) -> None:
        """Take one hop.

        Args:
            step: seconds of all of it.
            parts: seconds of 'detect' and of each graph, of those that ran.

        Example:
            >>> samples = Samples()
            >>> samples.add(0.010, {"detect": 0.006, "face": 0.003})
            >>> sorted(samples.stages), round(samples.overhead[0], 3)
            (['detect', 'face', 'step'], 0.25)
        """
        rest = step - parts.get("detect", 0.0)
        share = (step - sum(parts.values())) / rest
        detected = "detect" in parts
        (self.overhead if detected else self.overhead_tracked).append(share)
        for name, seconds in {**parts, "step" if detected else "step_tracked": step}.items():
            self.stages.setdefault(name, []).append(seconds)


def measure(
    model: Recognizer,
    source: Path,
    seconds: float,
    *,
    warm_up: float = WARM_UP,
    progress: Callable[[float], None] | None = None,
) -> Samples:
    """Play a source into a stream, again and again from its start, and time every hop.

    Graphs and the face finder are timed from outside, so that what is measured is what always runs.

    Args:
        model: the model.
        source: a video, a sound file or a picture.
        seconds: how long, after the warm-up and with the time for reading the source; longer where fewer than
            `LEAST` steps were made.
        warm_up: seconds before.
        progress: called after every hop with the seconds since the warm-up.

    Raises:
        InputError: no hop can be made of the source, or it holds nothing that the model reads: no graph ran.
        SourceError: the source cannot be read.
        BackendError: an engine failed, also where another one took over: its times are not mixed with theirs.
    """
    watches = {name: _Watch() for name in ("detect", *model.graphs)}
    graphs = {name: _TimedGraph(graph, watches[name]) for name, graph in model.graphs.items()}
    sees = "face" in model.bundle.modalities
    finder = _TimedFinder(model.open_finder(), watches["detect"]) if sees else None
    timed = Recognizer(model.bundle, graphs, finder)
    samples = Samples()
    begin = time.perf_counter()
    with saying_once():
        for step in _steps(timed, source):
            parts = {name: spent for name, watch in watches.items() if (spent := watch.take()) is not None}
            passed = time.perf_counter() - begin - warm_up
            if passed < 0:
                continue
            if step is not None:
                samples.add(step, parts)
                if progress is not None:
                    progress(passed)
            if passed >= seconds and samples.steps >= LEAST:
                samples.seconds = passed
                break
    if not any(name in samples.stages for name in graphs):
        raise InputError(
            f"{source}: no graph ran on it, as it has neither a face nor a voice; name a source with one to "
            "measure"
        )
    return samples


def _steps(model: Recognizer, path: Path) -> Iterator[float | None]:
    """Seconds of one step after another; None where two hops were answered at once."""
    while True:
        answered = False
        with closing(open_source(path)) as source:
            both = [name for name in model.bundle.modalities if name in source.modalities]
            if not both:
                raise InputError(
                    f"{path}: it holds {' and '.join(source.modalities)} only; the bundle "
                    f"{model.bundle.name} reads {' and '.join(model.bundle.modalities)}"
                )
            stream = Stream(model, both, model.bundle.hop, lateness=None)
            for step in _played(stream, source):
                answered = answered or step is not None
                yield step
        if not answered:
            raise InputError(f"{path}: there is no hop in it to measure; give a longer recording")


def _played(stream: Stream, source: Source) -> Iterator[float | None]:
    """Push what comes and poll, as whoever owns the loop does; what leads to an answer is its step."""
    spent = 0.0
    for event in source:
        if ("face" if isinstance(event, Frame) else "voice") not in stream.modalities:
            continue
        push = _pushing(stream, event)  # a camera's pictures are there before they are pushed
        begin = time.perf_counter()
        push()
        for modality in stream.modalities:
            stream.advance(modality, event.time)
        emotions = stream.poll()
        spent += time.perf_counter() - begin
        if emotions:
            yield spent if len({emotion.time for emotion in emotions}) == 1 else None
            spent = 0.0
    begin = time.perf_counter()
    for modality in stream.modalities:
        stream.end(modality)
    emotions = stream.poll()
    spent += time.perf_counter() - begin
    if emotions:
        yield spent if len({emotion.time for emotion in emotions}) == 1 else None


def _pushing(stream: Stream, event: Frame | Sound) -> Callable[[], None]:
    if isinstance(event, Frame):
        image, moment = event.image(), event.time
        return lambda: stream.push_frame(image, moment)
    sound = event
    return lambda: stream.push_audio(sound.samples, sound.sample_rate, sound.time)


# --- stop watches


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

    def __init__(self, graph: Graph, watch: _Watch) -> None:
        self._graph = graph
        self._watch = watch
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        begin = time.perf_counter()
        outputs = self._graph.run(feeds)
        self._watch.add(time.perf_counter() - begin)
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

    def __init__(self, finder: FaceFinder, watch: _Watch) -> None:
        self._finder = finder
        self._watch = watch
        self.name = finder.name

    def find(self, image: Picture) -> list[Face]:
        begin = time.perf_counter()
        faces = self._finder.find(image)
        self._watch.add(time.perf_counter() - begin)
        return faces
