"""How far the tensors of an FP32 graph reach on recordings, and the symmetric scales that follow."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.errors import InputError

from . import equalise as cross_layer
from .correct import corrections
from .histogram import Histogram
from .model import read_model
from .probe import Feed, Feeds, once, repeatable, values
from .table import MEASURED, STEPS, Activation, Operator, Table, Weight, shortest
from .trunk import QUANTISED, Trunk, output_axis, plan, residuals


def measure(
    model: str | Path,
    feeds: Feeds,
    *,
    trunk: Trunk = "trunk.",
    method: str = "percentile",
    percentile: float = 99.99,
    threads: int = 1,
    equalise: bool = False,
    correct: bool = False,
    floating: Collection[str] = (),
) -> Table:
    """Run the FP32 graph over recordings and choose a symmetric scale for every tensor that INT8 needs.

    Quantised are the Conv, Gemm and MatMul operators whose constant weight belongs to the trunk. Their
    inputs, their results and the skip inputs of their residual additions are measured. Memory does not grow
    with the number of feeds.

    Args:
        model: the FP32 ONNX file.
        feeds: one mapping of input names to arrays for each run; first axes count the samples. Equalisation
            and correction read them more than once: an iterator is then too little, and a list or a callable
            that gives an iterator is right.
        trunk: prefix of the initialiser names of the weights to quantise, or a predicate on such a name.
            Initialiser names survive an export: torch names them by module path.
        method: ``min-max`` keeps the largest magnitude, ``percentile`` clips the rarest, ``entropy`` keeps
            most of the distribution and ``mse`` has the least mean squared error of quantisation. Exact
            zeros, of which a ReLU makes many, do not count.
        percentile: share of the non-zero magnitudes to keep, in (0, 100], for the method of that name.
        threads: threads of the inference engine.
        equalise: divide channels between operators of the trunk so that they reach equally far.
        correct: add to biases what rounding shifts.
        floating: operators of the trunk that stay in floating point, by the tensor that each writes.

    Raises:
        InputError: the file cannot be quantised, no operator belongs to the trunk, there is no data, a feed
            does not fit the graph, or a tensor is not finite or always zero.
    """
    if method not in MEASURED:
        raise InputError(f"method {method!r} is unknown; it must be one of {', '.join(MEASURED)}")
    if not 0.0 < percentile <= 100.0:
        raise InputError(f"percentile {percentile} is outside (0, 100]")
    if equalise or correct:
        feeds = repeatable(feeds, "equalisation" if equalise else "correction")
    source, digest = read_model(model)
    operators, skips = plan(source.graph, trunk, floating)
    if not operators:
        raise InputError(f"{model}: no constant weight of a {'/'.join(QUANTISED)} is in the trunk {trunk!r}")
    divisors: dict[str, tuple[float, ...]] = {}
    if equalise:
        reach = cross_layer.reaches(source, once(feeds), trunk, threads)
        divisors = cross_layer.factors(source, trunk, reach)
    graph_file = cross_layer.apply(source, divisors)
    wanted = _rounded(operators, skips)
    histograms, samples, data = _collect(graph_file, once(feeds), wanted, threads)
    activations = {}
    for name, histogram in histograms.items():
        clip = histogram.clip(method, percentile)
        activations[name] = Activation(shortest(histogram.absmax), shortest(clip / STEPS))
    table = Table(
        method=method,
        percentile=percentile if method == "percentile" else None,
        samples=samples,
        data_sha256=data,
        model_sha256=digest,
        activations=activations,
        weights=_weights(graph_file.graph, operators, activations),
        operators=operators,
        residuals=skips,
        equalisation=divisors,
        floating=_ordered(source.graph, floating),
    )
    if not correct:
        return table
    return dataclasses.replace(table, corrections=corrections(source, table, lambda: once(feeds), threads))


def keep_floating(model: onnx.ModelProto, table: Table, names: Collection[str]) -> Table:
    """A table that leaves more of its operators in floating point; all other scales stay as they are.

    Args:
        model: the FP32 graph.
        table: its ranges.
        names: operators to leave, by the tensor that each writes.

    Raises:
        InputError: one of them is not quantised in the table, or nothing else is.
    """
    if strange := sorted(set(names) - table.operators.keys()):
        raise InputError(f"{strange[0]!r} is not quantised; operators that are: {', '.join(table.operators)}")
    floating = _ordered(model.graph, [*table.floating, *names])
    operators = {name: operator for name, operator in table.operators.items() if name not in floating}
    skips = residuals(model.graph, operators, floating)
    weights = {operator.weight for operator in operators.values()}
    return dataclasses.replace(
        table,
        activations={name: table.activations[name] for name in _rounded(operators, skips)},
        weights={name: weight for name, weight in table.weights.items() if name in weights},
        operators=operators,
        residuals=skips,
        corrections={name: added for name, added in table.corrections.items() if name in operators},
        floating=floating,
    )


def _ordered(graph: onnx.GraphProto, names: Collection[str]) -> tuple[str, ...]:
    return tuple(node.output[0] for node in graph.node if node.output[0] in names)


def _rounded(operators: Mapping[str, Operator], skips: Mapping[str, str]) -> list[str]:
    """Every tensor that a graph with these operators rounds."""
    names = [name for operator in operators.values() for name in (operator.input, operator.result)]
    return list(dict.fromkeys([*names, *skips.values()]))


def _weights(
    graph: onnx.GraphProto, operators: Mapping[str, Operator], activations: Mapping[str, Activation]
) -> dict[str, Weight]:
    """Min-max scales of every weight, one for each output channel."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {name: node for node in graph.node for name in node.output}
    weights: dict[str, Weight] = {}
    for name, operator in operators.items():
        node = nodes[name]
        axis = output_axis(node, len(constants[operator.weight].dims))
        rows = np.moveaxis(_finite(constants[operator.weight]), axis, 0)
        scales = np.abs(rows.reshape(len(rows), -1)).max(axis=1) / STEPS
        if known := weights.get(operator.weight):
            scales = np.maximum(scales, np.array(known.scales, np.float32))
        # Engines store a bias as INT32 in steps of input scale times weight scale. A channel of near-zero
        # weights beside a real bias would overflow it: its step grows until the bias takes half at most.
        floor = np.full(scales.shape, 1e-10)
        if len(node.input) > 2 and node.input[2] in constants:
            floor += np.abs(_finite(constants[node.input[2]])) / (activations[operator.input].scale * 2.0**30)
        weights[operator.weight] = Weight(axis, tuple(shortest(scale) for scale in np.maximum(scales, floor)))
    return weights


def _finite(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    array: NDArray[np.float32] = numpy_helper.to_array(tensor)
    if not np.isfinite(array).all():
        raise InputError(f"weight {tensor.name!r} holds values that are not finite")
    return array


def _collect(
    model: onnx.ModelProto, feeds: Iterable[Feed], wanted: list[str], threads: int
) -> tuple[dict[str, Histogram], int, str]:
    """Histograms of the wanted tensors over all feeds, the number of samples, and the digest of the data."""
    histograms = {name: Histogram() for name in wanted}
    samples = 0
    digest = hashlib.sha256()
    for place, feed, arrays in values(model, feeds, wanted, threads):
        for name, value in zip(wanted, arrays, strict=True):
            try:
                histograms[name].add(value)
            except InputError as error:
                raise InputError(f"feed {place}: tensor {name!r} {error}") from error
        for name in sorted(feed):
            digest.update(f"{name} {feed[name].dtype} {feed[name].shape} ".encode())
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
        samples += max((len(array) for array in feed.values() if array.ndim), default=1)
    if not samples:
        raise InputError("there is no calibration data; give at least one feed")
    for name, histogram in histograms.items():
        if histogram.absmax == 0.0:
            raise InputError(f"tensor {name!r} is zero in all {samples} samples; give data that reaches it")
    return histograms, samples, digest.hexdigest()
