"""How far the tensors of an FP32 graph reach on recordings, and the symmetric scales that follow."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.errors import InputError
from edgeemo.inference.ort import import_onnxruntime

from .table import METHODS, STEPS, Activation, Operator, Table, Weight, shortest

OPSETS = (17, 18)
NEWEST_IR = 10
QUANTISED = ("Conv", "Gemm", "MatMul")

Trunk = str | Callable[[str], bool]
"""What is quantised: the prefix of the weights' initialiser names, or a predicate on such a name."""


def measure(
    model: str | Path,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    trunk: Trunk = "trunk.",
    method: str = "percentile",
    percentile: float = 99.99,
    threads: int = 1,
) -> Table:
    """Run the FP32 graph over recordings and choose a symmetric scale for every tensor that INT8 needs.

    Quantised are the Conv, Gemm and MatMul operators whose constant weight belongs to the trunk. Their
    inputs, their results and the skip inputs of their residual additions are measured. Memory does not grow
    with the number of feeds.

    Args:
        model: the FP32 ONNX file.
        feeds: one mapping of input names to arrays for each run; first axes count the samples.
        trunk: prefix of the initialiser names of the weights to quantise, or a predicate on such a name.
            Initialiser names survive an export: torch names them by module path.
        method: ``min-max`` keeps the largest magnitude, ``percentile`` clips the rarest, and ``mse`` has the
            least mean squared error of quantisation. Exact zeros, of which a ReLU makes many, do not count.
        percentile: share of the non-zero magnitudes to keep, in (0, 100], for the method of that name.
        threads: threads of the inference engine.

    Raises:
        InputError: the file cannot be quantised, no operator belongs to the trunk, there is no data, a feed
            does not fit the graph, or a tensor is not finite or always zero.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; it must be one of {', '.join(METHODS)}")
    if not 0.0 < percentile <= 100.0:
        raise InputError(f"percentile {percentile} is outside (0, 100]")
    graph_file, digest = read_model(model)
    operators, residuals = plan(graph_file.graph, trunk)
    if not operators:
        raise InputError(f"{model}: no constant weight of a {'/'.join(QUANTISED)} is in the trunk {trunk!r}")
    wanted = [name for operator in operators.values() for name in (operator.input, operator.result)]
    wanted = list(dict.fromkeys([*wanted, *residuals.values()]))
    histograms, samples, data = _collect(graph_file, feeds, wanted, threads)
    activations = {}
    for name, histogram in histograms.items():
        clip = histogram.clip(method, percentile)
        activations[name] = Activation(shortest(histogram.absmax), shortest(clip / STEPS))
    return Table(
        method=method,
        percentile=percentile if method == "percentile" else None,
        samples=samples,
        data_sha256=data,
        model_sha256=digest,
        activations=activations,
        weights=_weights(graph_file.graph, operators, activations),
        operators=operators,
        residuals=residuals,
    )


def read_model(path: str | Path) -> tuple[onnx.ModelProto, str]:
    """Read an FP32 ONNX file, with the sha256 of its bytes.

    Raises:
        InputError: the file is missing, is not a valid ONNX graph, keeps its weights elsewhere, or is of an
            opset or IR that the engines do not share.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's decoding errors share no public root across its versions
        raise InputError(f"{path}: is not an ONNX file: {error}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InputError(f"{path}: keeps weights in other files; export it with the weights inside")
    check_model(model, str(path))
    return model, hashlib.sha256(content).hexdigest()


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Hold a graph to the ONNX rules and to the versions that every engine reads.

    Raises:
        InputError: the opset is not 17 or 18, the IR is above 10, or the graph is not valid; the message
            begins with ``name``.
    """
    opset = {imported.domain: imported.version for imported in model.opset_import}.get("", 0)
    if opset not in OPSETS:
        raise InputError(f"{name}: opset is {opset}; it must be {' or '.join(map(str, OPSETS))}")
    if model.ir_version > NEWEST_IR:
        raise InputError(f"{name}: IR version is {model.ir_version}; it must be at most {NEWEST_IR}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{name}: is not a valid ONNX graph: {error}") from error


def member(trunk: Trunk) -> Callable[[str], bool]:
    """The predicate on an initialiser's name that says whether it belongs to the trunk."""
    return trunk if callable(trunk) else lambda name: name.startswith(trunk)


def plan(graph: onnx.GraphProto, trunk: Trunk) -> tuple[dict[str, Operator], dict[str, str]]:
    """Choose the operators of the trunk and find the residual additions that they end in.

    Returns:
        the operators by the tensor that each writes, and the skip inputs by the tensor that the residual
        addition writes.

    Raises:
        InputError: a weight of the trunk is not FP32.
    """
    belongs = member(trunk)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    operators = {}
    for node in graph.node:
        if node.op_type not in QUANTISED or node.input[0] in constants or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        if not belongs(weight.name):
            continue
        if weight.data_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(weight.data_type)
            raise InputError(f"weight {weight.name!r} is {kind}; the graph must be the FP32 one")
        result = _behind_relu(node.output[0], readers, graph)
        operators[node.output[0]] = Operator(node.op_type, node.input[0], weight.name, result)
    return operators, _residuals(graph, operators, constants.keys())


def _behind_relu(tensor: str, readers: Mapping[str, list[onnx.NodeProto]], graph: onnx.GraphProto) -> str:
    """The output of the ReLU that alone reads ``tensor``, or else ``tensor`` itself."""
    found = readers.get(tensor, [])
    is_output = any(output.name == tensor for output in graph.output)
    return found[0].output[0] if len(found) == 1 and found[0].op_type == "Relu" and not is_output else tensor


def _residuals(
    graph: onnx.GraphProto, operators: Mapping[str, Operator], constants: Iterable[str]
) -> dict[str, str]:
    """The skip inputs of the additions of two computed tensors, one straight from a quantised operator."""
    order = {name: place for place, node in enumerate(graph.node) for name in node.output}
    constants = set(constants)
    residuals = {}
    for node in graph.node:
        first, second = (*node.input, "", "")[:2]
        if node.op_type != "Add" or {first, second} & constants or not {first, second} & operators.keys():
            continue
        # Two operators may meet in a sum (a projection beside the block): the skip starts at the older one.
        starts = [order.get(operators[i].input, -1) if i in operators else -2 for i in (first, second)]
        residuals[node.output[0]] = first if starts[0] < starts[1] else second
    return residuals


def _weights(
    graph: onnx.GraphProto, operators: Mapping[str, Operator], activations: Mapping[str, Activation]
) -> dict[str, Weight]:
    """Min-max scales of every weight, one for each output channel."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {name: node for node in graph.node for name in node.output}
    weights: dict[str, Weight] = {}
    for name, operator in operators.items():
        node = nodes[name]
        axis = _output_axis(node, len(constants[operator.weight].dims))
        values = np.moveaxis(_finite(constants[operator.weight]), axis, 0)
        scales = np.abs(values.reshape(len(values), -1)).max(axis=1) / STEPS
        if known := weights.get(operator.weight):
            scales = np.maximum(scales, np.array(known.scales, np.float32))
        # Engines store a bias as INT32 in steps of input scale times weight scale. A channel of near-zero
        # weights beside a real bias would overflow it: its step grows until the bias takes half at most.
        floor = np.full(scales.shape, 1e-10)
        if len(node.input) > 2 and node.input[2] in constants:
            floor += np.abs(_finite(constants[node.input[2]])) / (activations[operator.input].scale * 2.0**30)
        weights[operator.weight] = Weight(axis, tuple(shortest(scale) for scale in np.maximum(scales, floor)))
    return weights


def _output_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """The axis of a weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else dimensions - 1


def _finite(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        raise InputError(f"weight {tensor.name!r} holds values that are not finite")
    return values


def _collect(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], wanted: list[str], threads: int
) -> tuple[dict[str, Histogram], int, str]:
    """Histograms of the wanted tensors over all feeds, the number of samples, and the digest of the data."""
    histograms = {name: Histogram() for name in wanted}
    samples = 0
    digest = hashlib.sha256()
    for place, feed, values in _run(model, feeds, wanted, threads):
        for name, value in zip(wanted, values, strict=True):
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


def _run(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], wanted: list[str], threads: int
) -> Iterator[tuple[int, Mapping[str, NDArray[Any]], list[NDArray[np.float32]]]]:
    """Run every feed and yield its place, itself and the values of the wanted tensors."""
    onnxruntime = import_onnxruntime()
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    for place, feed in enumerate(feeds):
        if feed.keys() != names:
            raise InputError(f"feed {place} has {sorted(feed)}; the graph reads {sorted(names)}")
        try:
            values = session.run(wanted, dict(feed))
        except Exception as error:  # the engine's errors share no root but Exception
            shapes = {name: (str(value.dtype), value.shape) for name, value in feed.items()}
            raise InputError(f"feed {place} with {shapes} does not fit the graph: {error}") from error
        yield place, feed, values


class Histogram:
    """Counts of the magnitudes of a tensor over a stream, in bounded memory and independent of its order.

    The range is a power of two that doubles when a larger value comes: pairs of bins then merge exactly.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([0.0, -0.5, 3.0], np.float32))
        >>> histogram.absmax, histogram.limit
        (3.0, 4.0)
    """

    BINS = 16384

    def __init__(self) -> None:
        self.absmax = 0.0
        self.limit = 0.0
        self._counts = np.zeros(self.BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the magnitudes that are not zero.

        Raises:
            InputError: a value is not finite; what was counted before stays.
        """
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest):
            raise InputError("holds values that are not finite")
        if largest == 0.0:
            return
        self.absmax = max(self.absmax, largest)
        self._grow(2.0 ** math.frexp(largest)[1])
        bins = (magnitudes[magnitudes > 0.0] * np.float32(self.BINS / self.limit)).astype(np.int32)
        self._counts += np.bincount(bins, minlength=self.BINS)

    def _grow(self, limit: float) -> None:
        if limit > self.limit > 0.0:
            merged = min(int(limit / self.limit), self.BINS)
            kept = self._counts.reshape(-1, merged).sum(axis=1)
            self._counts = np.zeros(self.BINS, np.int64)
            self._counts[: kept.size] = kept
        self.limit = max(self.limit, limit)

    def clip(self, method: str, percentile: float) -> float:
        """The magnitude from which on values are clipped, at most the largest that was seen."""
        if method == "percentile":
            return self._percentile(percentile)
        return self._least_error() if method == "mse" else self.absmax

    def _percentile(self, percentile: float) -> float:
        cumulated = np.cumsum(self._counts)
        edge = int(np.searchsorted(cumulated, cumulated[-1] * percentile / 100.0))
        return min(self.absmax, (edge + 1) * self.limit / self.BINS)

    def _least_error(self) -> float:
        """The clipping point of least mean squared error, searched over shares of the largest magnitude."""
        filled = np.flatnonzero(self._counts)
        centres, counts = (filled + 0.5) * self.limit / self.BINS, self._counts[filled]
        # Below a 25th a step would be finer than two bins, and the counts would not show its error.
        candidates = self.absmax * np.geomspace(1.0, 0.04, 161)

        def error(clip: float) -> float:
            step = clip / STEPS
            rounded = np.minimum(np.rint(centres / step), STEPS) * step
            return float(np.dot(counts, (centres - rounded) ** 2))

        return float(min(candidates, key=error))
