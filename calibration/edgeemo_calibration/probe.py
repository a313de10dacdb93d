"""What a graph computes inside, over recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeemo.errors import InputError
from edgeemo.inference.ort import import_onnxruntime

Feed = Mapping[str, NDArray[Any]]
"""The inputs of one run, by name; first axes count the samples."""

Feeds = Iterable[Feed] | Callable[[], Iterable[Feed]]
"""Recordings: an iterable, or what answers one whenever it is called."""


def once(feeds: Feeds) -> Iterable[Feed]:
    """One pass over the recordings."""
    return feeds() if callable(feeds) else feeds


def repeatable(feeds: Feeds, why: str) -> Callable[[], Iterable[Feed]]:
    """The recordings as something that can be called for each pass.

    Raises:
        InputError: they are an iterator, which is spent after one pass; the message says ``why`` that is too
            few.

    Example:
        >>> repeatable(iter([]), "bias correction")
        Traceback (most recent call last):
        edgeemo.errors.InputError: bias correction reads the data more than once; give a list or a callable
    """
    if not callable(feeds) and iter(feeds) is feeds:
        raise InputError(f"{why} reads the data more than once; give a list or a callable")
    return lambda: once(feeds)


def values(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    wanted: Sequence[str],
    threads: int = 1,
    exact: bool = False,
) -> Iterator[tuple[int, Feed, list[NDArray[np.float32]]]]:
    """Run every feed and yield its place, itself and the values of the wanted tensors.

    Args:
        model: a graph; only what the wanted tensors need of it is run.
        feeds: one pass over the recordings.
        wanted: names of FP32 tensors that nodes or the graph's inputs give.
        threads: threads of the inference engine.
        exact: compute what the graph says, Q and DQ by themselves, instead of what the engine makes of it.

    Raises:
        InputError: a feed does not fit the graph.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = {value.name for value in model.graph.input}
    session = onnxruntime.InferenceSession(
        _cut(model, wanted).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for place, feed in enumerate(feeds):
        if feed.keys() != names:
            raise InputError(f"feed {place} has {sorted(feed)}; the graph reads {sorted(names)}")
        try:
            found = session.run(list(wanted), dict(feed))
        except Exception as error:  # the engine's errors share no root but Exception
            shapes = {name: (str(value.dtype), value.shape) for name, value in feed.items()}
            raise InputError(f"feed {place} with {shapes} does not fit the graph: {error}") from error
        yield place, feed, found


def _cut(model: onnx.ModelProto, wanted: Iterable[str]) -> onnx.ModelProto:
    """The part of a graph that the wanted tensors need, with them as its outputs."""
    needed, kept = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:], part.graph.initializer[:]
    part.graph.node.extend(reversed(kept))
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted
    )
    return part
