"""Opens the graphs of a bundle in TensorRT: all of them, or those that it answers sooner."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgeemo.errors import BackendError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import Contest, decide, recall
from edgeemo.inference.engines import EngineStore
from edgeemo.inference.fallback import FallbackGraph
from edgeemo.inference.graph import Graph
from edgeemo.inference.onnx_files import OnnxFiles
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.sharing import Sharing
from edgeemo.inference.spec import GraphSpec
from edgeemo.inference.supply import EngineSupply
from edgeemo.inference.trt import TensorRt, TrtGraph

_log = logging.getLogger("edgeemo")


def open_tensorrt(bundle: Bundle, precision: str) -> dict[str, Graph]:
    """Open every graph in TensorRT; a graph without a file of the precision runs in FP32 there.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32'.

    Raises:
        BackendError: TensorRT cannot be opened, or cannot build or run a graph; the message says why.
        BundleError: a file is not the one that the manifest describes.
    """
    try:
        library = TensorRt.open()
    except BackendError as error:
        raise refusal(error) from error
    supply = EngineSupply(bundle, library, EngineStore.default())
    graphs: dict[str, Graph] = {}
    with _closed_on_error(library, graphs):
        warn_of_precision(bundle, precision)
        sharing = Sharing(library.close)
        for name, spec in bundle.graphs.items():
            graphs[name] = sharing.add(supply.open(spec, encoding(spec, precision)).graph)
    return graphs


def refusal(error: BackendError) -> BackendError:
    """What is said to those who insist on TensorRT where it cannot be opened.

    Args:
        error: why.
    """
    return BackendError(f"backend 'tensorrt' cannot be opened: {error}; or use 'onnx' or 'auto'")


def open_faster(bundle: Bundle, precision: str, threads: int) -> dict[str, Graph]:
    """Open each graph in ONNX Runtime and, where TensorRT answers it sooner, in TensorRT in front of that.

    Which is faster is what 'edgeemo build' measured on this device, else what is measured now. What TensorRT
    cannot do is a warning, never an error.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32'.
        threads: threads of one run in ONNX Runtime, at least 1.

    Raises:
        InputError: `threads` is below 1.
        BackendError: ONNX Runtime is not there.
        BundleError: a file is not the one that the manifest describes.
    """
    files = OnnxFiles.choose(bundle, precision, threads)
    onnx = {name: files.open(spec) for name, spec in bundle.graphs.items()}
    try:
        library = TensorRt.open()
    except BackendError as error:
        _log.warning("TensorRT is installed but cannot be used, so ONNX Runtime runs every graph: %s", error)
        files.warn()
        return dict(onnx)
    supply = EngineSupply(bundle, library, EngineStore.default())
    graphs: dict[str, Graph] = {}
    with _closed_on_error(library, graphs):
        warn_of_precision(bundle, precision)
        sharing = Sharing(library.close)
        for name, spec in bundle.graphs.items():
            contest = contest_of(supply, spec, encoding(spec, precision), onnx[name], threads)
            faster = _faster(supply, spec, contest, onnx[name])
            graphs[name] = (
                onnx[name] if faster is None else FallbackGraph(sharing.add(faster), onnx[name], supply.most)
            )
    if all(isinstance(graph, OrtGraph) for graph in graphs.values()):
        library.close()
    if any(isinstance(graph, OrtGraph) for graph in graphs.values()):
        files.warn()
    return graphs


def encoding(spec: GraphSpec, precision: str) -> str:
    """Which of a graph's files TensorRT gets: the one of the precision, else the one in FP32."""
    return precision if precision in spec.files else "fp32"


def warn_of_precision(bundle: Bundle, precision: str) -> None:
    """Say where no graph has a file of the precision.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32'.
    """
    if not any(precision in spec.files for spec in bundle.graphs.values()):
        _log.warning("bundle %s has no %s graphs: TensorRT runs it in FP32", bundle.name, precision)


def contest_of(supply: EngineSupply, spec: GraphSpec, encoded: str, onnx: OrtGraph, threads: int) -> Contest:
    """What a measurement of a graph in both engines holds for.

    Args:
        supply: opens the engine.
        spec: the graph.
        encoded: which of its files TensorRT gets.
        onnx: the graph in ONNX Runtime.
        threads: threads of one run there.
    """
    model = supply.bundle.files[spec.files[onnx.encoding]][1]
    return Contest(supply.key(spec, encoded), onnx.engine, model, threads)


def _faster(supply: EngineSupply, spec: GraphSpec, contest: Contest, onnx: OrtGraph) -> TrtGraph | None:
    """The graph in TensorRT where it is the faster one, None where it is not or does not run."""
    known = recall(supply.store, contest)
    if known and known.winner == "onnx":
        return None
    with ExitStack() as opened:
        try:
            graph = supply.open(spec, contest.key.encoding).graph
            opened.callback(graph.close)
            known = known or decide(supply.store, contest, graph, onnx, supply.say_waiting)
        except BackendError as error:
            _log.warning("TensorRT cannot run graph %r, so ONNX Runtime does: %s", spec.name, error)
            return None
        if known.winner == "onnx":
            return None
        opened.pop_all()
        return graph


@contextmanager
def _closed_on_error(library: TensorRt, graphs: dict[str, Graph]) -> Iterator[None]:
    """Close what was opened when something goes wrong on the way."""
    try:
        yield
    except BaseException:
        for graph in graphs.values():
            graph.close()
        library.close()
        raise
