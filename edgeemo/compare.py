"""Do the engines of this machine agree: every graph on real windows, and the answers to a whole source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeemo.agreement import Answers, Comparison, Difference, EndDifference, Rows
from edgeemo.errors import BackendError, CheckFailed, InputError, SourceError
from edgeemo.inference.backend import open_graphs
from edgeemo.inference.onnx_files import OnnxFiles
from edgeemo.inference.probe import saturates
from edgeemo.inference.wiring import SPEECH
from edgeemo.logs import saying_once
from edgeemo.recognition.recognizer import Recognizer
from edgeemo.recognition.watch import watch

if TYPE_CHECKING:
    from edgeemo.inference.bundle import Bundle
    from edgeemo.inference.graph import Graph
    from edgeemo.inference.spec import GraphSpec
    from edgeemo.preprocess.detector import FaceFinder

Feeds = Mapping[str, NDArray[Any]]

_WINDOWS = 200  # of each graph
_WINDOW_BYTES = 64 << 20  # of all windows of one graph


@dataclass(frozen=True)
class _Runner:
    """One way to run a bundle: an engine, and the encoding of the files or the precision that it is given."""

    engine: str
    encoding: str

    def __str__(self) -> str:
        return f"{self.engine} {self.encoding}"


_REFERENCE = _Runner("onnx", "fp32")
_INT8 = _Runner("onnx", "int8")  # the file that TensorRT gets: what an INT8 engine should compute
_INT8_ENGINE = _Runner("tensorrt", "int8")
_RUNNERS = (
    _Runner("onnx", "fp16"),
    _Runner("onnx", "int8-cpu"),
    _INT8,
    _Runner("tensorrt", "fp32"),
    _Runner("tensorrt", "fp16"),
    _INT8_ENGINE,
)


@dataclass(frozen=True)
class _Computed:
    """What a runner made of the windows and of the source.

    Attributes:
        engine: what ran it.
        encodings: of each graph.
        outputs: by graph and name, [rows, width] each; fewer where the runner failed.
        answers: None where the runner failed, or answered what is not finite before.
        broken: what it failed with, or empty.
    """

    engine: str
    encodings: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, Rows]]
    answers: Answers | None
    broken: str = ""


def compare(
    bundle: Bundle,
    source: str | os.PathLike[str],
    *,
    backend: str = "auto",
    finder: FaceFinder | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare everything that can run a bundle here with ONNX Runtime in FP32.

    The windows are what the graphs are given while the reference answers the source, at most 200 of each
    graph, evenly spread, and one of as many faces as a call may hold; every runner computes the same ones.
    Then each answers the whole source.

    Args:
        bundle: the bundle.
        source: a video, a sound file or a picture.
        backend: 'onnx' leaves TensorRT out, 'tensorrt' insists on it, 'auto' takes it where it is.
        finder: finds the faces of pictures; None opens the one of this machine.
        progress: called with what is done next.

    Returns:
        What was found; `check` raises when runners disagree.

    Raises:
        InputError: the source has nothing that a graph could be compared on.
        SourceError: the source cannot be read.
        BundleError: the bundle cannot be used.
        BackendError: ONNX Runtime is missing; or TensorRT cannot be opened, and `backend` insists on it.
        CheckFailed: the reference answers what is not finite.
    """
    path, told = Path(source), progress or (lambda _: None)
    bundle.verify()
    absence = "" if backend == "onnx" else _absence(insists=backend == "tensorrt")
    skipped: dict[str, str] = {}
    broken: list[str] = []
    with saying_once():  # the source is read again for every runner
        told(str(_REFERENCE))
        windows, right = _reference(bundle, path, finder)
        computed = {_REFERENCE: right}
        for runner in _RUNNERS:
            if runner.engine == "tensorrt" and backend == "onnx":
                continue
            why = _unfit(bundle, runner) or (absence if runner.engine == "tensorrt" else "")
            if why:
                skipped[str(runner)] = why
                continue
            told(str(runner))
            graphs = _open(bundle, runner, broken)
            if graphs:
                computed[runner] = _computed(str(runner), Recognizer(bundle, graphs, finder), windows, path)
    pairs = [(runner, _REFERENCE) for runner in computed if runner != _REFERENCE]
    if _INT8 in computed and _INT8_ENGINE in computed:
        pairs.append((_INT8_ENGINE, _INT8))
    return Comparison(
        bundle=bundle.name,
        source=str(path),
        windows={name: len(feeds) for name, feeds in windows.items()},
        engines={str(runner): made.engine for runner, made in computed.items()},
        graphs=[part for name in windows for pair in pairs for part in _differences(name, computed, *pair)],
        answers=[part for pair in pairs for part in _end(path, computed, *pair)],
        skipped=skipped,
        broken=[*broken, *(made.broken for made in computed.values() if made.broken)],
    )


def _reference(
    bundle: Bundle, source: Path, finder: FaceFinder | None
) -> tuple[dict[str, list[Feeds]], _Computed]:
    """The windows, and what the reference makes of them and of the source."""
    graphs = _open_onnx(bundle, _REFERENCE.encoding)
    recorders = {name: _Recorder(graph) for name, graph in graphs.items()}
    answers = _watched(Recognizer(bundle, recorders, finder), source)
    windows = {name: recorder.windows.kept for name, recorder in recorders.items()}
    if not any(windows.values()):
        raise InputError(f"{source}: it has neither a face nor a voice; name a source with one to compare on")
    if bundle.face is not None:
        for name, graph in graphs.items():
            windows[name] += _crowd(graph.spec, windows[name], bundle.face.most)
    outputs = {name: _outputs(graph, windows[name]) for name, graph in graphs.items()}
    return windows, _Computed(_engine(graphs), _encodings(graphs), outputs, answers)


def _computed(runner: str, model: Recognizer, windows: Mapping[str, list[Feeds]], source: Path) -> _Computed:
    """What the graphs of `model` make of the windows and of the source; they are closed then."""
    outputs: dict[str, Mapping[str, Rows]] = {}
    answers, broken = None, ""
    try:
        for name, graph in model.graphs.items():
            outputs[name] = _outputs(graph, windows[name])
        if all(np.isfinite(rows).all() for named in outputs.values() for rows in named.values()):
            answers = _watched(model, source)
    except BackendError as error:
        broken = f"{runner}: {error}"
    finally:
        for graph in model.graphs.values():
            graph.close()
    return _Computed(_engine(model.graphs), _encodings(model.graphs), outputs, answers, broken)


# --- differences


def _differences(
    graph: str, computed: Mapping[_Runner, _Computed], runner: _Runner, against: _Runner
) -> Iterator[Difference]:
    """Every output of one graph; nothing where the runner has but FP32 of it, which is compared as that."""
    given, right = computed[runner], computed[against]
    encoding, other = given.encodings[graph], right.encodings[graph]
    if encoding != runner.encoding:
        plain = computed.get(_Runner(runner.engine, encoding))
        if against == _INT8 or (plain and graph in plain.outputs):
            return
    for output, rows in given.outputs.get(graph, {}).items():
        values = right.outputs[graph][output]
        yield Difference.of(graph, output, str(runner), str(against), _kind(encoding, other), rows, values)


def _end(
    source: Path, computed: Mapping[_Runner, _Computed], runner: _Runner, against: _Runner
) -> Iterator[EndDifference]:
    """The answers of both, if both answered."""
    given, right = computed[runner].answers, computed[against].answers
    if given is None or right is None:
        return
    if len(given.states) != len(right.states):
        raise SourceError(
            f"{source}: it gave {len(right.states)} answers, and then {len(given.states)}; it must be a file "
            "that does not change meanwhile"
        )
    kind = _kind(runner.encoding, against.encoding)
    yield EndDifference.of(str(runner), str(against), kind, given, right)


def _kind(encoding: str, other: str) -> str:
    """The key of the tolerance for an encoding that is held to another."""
    return "int8 engines" if encoding == other == "int8" else encoding.removesuffix("-cpu")


# --- runners


def _absence(*, insists: bool) -> str:
    """Why TensorRT cannot be opened, empty where it can; opened, it is to run what is compared.

    Args:
        insists: raise where it cannot.
    """
    from edgeemo.inference.accelerated import refusal
    from edgeemo.inference.trt_library import TensorRt

    try:
        TensorRt.open().close()
    except BackendError as error:
        if insists:
            raise refusal(error) from error
        return str(error)
    return ""


def _unfit(bundle: Bundle, runner: _Runner) -> str:
    """Why a runner is not to run this bundle on this processor, empty where it is."""
    if not any(runner.encoding in spec.files for spec in bundle.graphs.values()):
        return f"the bundle {bundle.name} has no {runner.encoding} graphs"
    if runner.encoding == "int8-cpu" and saturates():
        return "INT8 products saturate on this processor (x86 without VNNI): FP32 runs instead"
    return ""


def _open(bundle: Bundle, runner: _Runner, broken: list[str]) -> dict[str, Graph] | None:
    """The graphs of one runner; None where TensorRT cannot open them, which `broken` takes."""
    if runner.engine == "onnx":
        return _open_onnx(bundle, runner.encoding)
    try:
        return open_graphs(bundle, "tensorrt", runner.encoding)
    except BackendError as error:
        broken.append(f"{runner}: {error}")
    return None


def _open_onnx(bundle: Bundle, encoding: str) -> dict[str, Graph]:
    """Every graph in ONNX Runtime; one without the encoding in FP32, as everywhere."""
    files = OnnxFiles(bundle, encoding, threads=1)
    return {name: files.open(spec) for name, spec in bundle.graphs.items()}


def _engine(graphs: Mapping[str, Graph]) -> str:
    return ", ".join(dict.fromkeys(graph.engine for graph in graphs.values()))


def _encodings(graphs: Mapping[str, Graph]) -> dict[str, str]:
    return {name: graph.encoding for name, graph in graphs.items()}


# --- windows


class _Windows:
    """Every n-th of the feeds that it is given, n growing so that they are few, evenly spread copies."""

    def __init__(self) -> None:
        self.kept: list[Feeds] = []
        self._seen = 0
        self._stride = 1
        self._bytes = 0

    def add(self, feeds: Feeds) -> None:
        if self._seen % self._stride == 0:
            self.kept.append({name: values.copy() for name, values in feeds.items()})
            self._bytes += _size(feeds)
        self._seen += 1
        while len(self.kept) > 1 and (len(self.kept) > _WINDOWS or self._bytes > _WINDOW_BYTES):
            self.kept = self.kept[::2]
            self._stride *= 2
            self._bytes = sum(map(_size, self.kept))


def _crowd(spec: GraphSpec, windows: list[Feeds], most: int) -> list[Feeds]:
    """One window of `most` rows, evenly spread: an engine may compute many faces by another way than one."""
    free = {name for name, tensor in spec.inputs.items() if "N" in tensor.shape}
    if not free or not windows or most == 1:
        return []
    rows = [windows[index * len(windows) // most] for index in range(most)]
    crowd = {
        name: np.concatenate([feeds[name] for feeds in rows])[:most] if name in free else values
        for name, values in rows[0].items()
    }
    return [crowd]


def _size(feeds: Feeds) -> int:
    return sum(values.nbytes for values in feeds.values())


class _Recorder:
    """The reference's graph: keeps windows of what it is given, and holds what it answers to be finite."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.spec, self.encoding, self.engine = graph.spec, graph.encoding, graph.engine
        self.windows = _Windows()

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        outputs = self._graph.run(feeds)
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise CheckFailed(f"graph {self.spec.name!r}, output {name!r}: {_REFERENCE} is not finite")
        self.windows.add(feeds)
        return outputs

    def close(self) -> None:
        self._graph.close()


def _outputs(graph: Graph, windows: list[Feeds]) -> dict[str, Rows]:
    """Each output for all windows, [rows, width]; nothing where there are none."""
    rows: dict[str, list[Rows]] = {}
    for feeds in windows:
        for name, values in graph.run(feeds).items():
            rows.setdefault(name, []).append(_rows(name, values))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _rows(output: str, values: Rows) -> Rows:
    """Copies of the vectors along the last axis; a presence p is (p, 1 - p), which has a direction."""
    if output == SPEECH:
        return np.stack([values, 1.0 - values], axis=1)
    return values.reshape(-1, values.shape[-1]).copy()


# --- answers


def _watched(model: Recognizer, source: Path) -> Answers:
    probabilities, states = [], []
    absent = np.full(len(model.labels), np.nan, np.float32)
    for emotion in watch(source, model=model):
        values = emotion.probabilities
        probabilities.append(absent if values is None else np.array(list(values.values()), np.float32))
        states.append(emotion.state)
    return Answers(np.reshape(probabilities, (-1, len(model.labels))), tuple(states))
