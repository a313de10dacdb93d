"""One table, two INT8 encodings: S8 for TensorRT and U8 for ONNX Runtime, which hold the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeemo.errors import InputError

from . import equalise
from .half import cast
from .model import check_model, read_model
from .table import STEPS, Table
from .trunk import QUANTISED

NOT_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "Abs", "Sqrt", "Exp")
KEEPS_SIGN = ("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the steps of a table are stored in a graph.

    Args:
        suffix: of the file, ``NAME.SUFFIX.onnx``, and the key of the file in a bundle's manifest.
        signed: S8 with zero point 0, which holds -128 to 127 steps. Otherwise U8, with zero point 128 (the
            very same numbers) or, for a tensor that cannot be negative, 0 (the same, and on to 255 steps).
        results: round the result of every quantised operator, whoever reads it. ONNX Runtime runs an operator
            in integers only between rounded tensors, and one left in floating point costs more than it saves.
            TensorRT writes floating-point results from INT8 inputs, and fuses a residual addition with the
            convolution whose output is not rounded before the sum.
        half: what stays in floating point inside the trunk is FP16, which TensorRT runs faster, not FP32.
    """

    suffix: str
    signed: bool
    results: bool
    half: bool = False


TENSORRT = Encoding("int8", signed=True, results=False, half=True)
CPU = Encoding("int8-cpu", signed=False, results=True)


def write_encodings(
    model: str | Path,
    table: Table,
    folder: str | Path,
    name: str,
    encodings: Iterable[Encoding] = (TENSORRT, CPU),
) -> dict[str, Path]:
    """Write ``NAME.int8.onnx`` and ``NAME.int8-cpu.onnx`` from one FP32 file and one table.

    The two differ where S8 clips and U8 with zero point 0 does not, and by the rounding of the results that
    only the CPU's encoding rounds (see `Encoding`).

    Returns:
        the path of each file, by the suffix of its encoding.

    Raises:
        InputError: the table was measured on another file, or the graph cannot be quantised.
    """
    source = read_source(model, table)
    paths = {}
    for encoding in encodings:
        paths[encoding.suffix] = Path(folder) / f"{name}.{encoding.suffix}.onnx"
        onnx.save_model(encode(source, table, encoding), paths[encoding.suffix])
    return paths


def read_source(model: str | Path, table: Table) -> onnx.ModelProto:
    """Read the FP32 file that a table was measured on.

    Raises:
        InputError: it is another file, or not one that `read_model` takes.
    """
    source, digest = read_model(model)
    if digest != table.model_sha256:
        raise InputError(f"{model}: sha256 is {digest}, but the table was measured on {table.model_sha256}")
    return source


def encode(model: onnx.ModelProto, table: Table, encoding: Encoding) -> onnx.ModelProto:
    """Equalise and correct a graph, then insert Q and DQ next to the operators of the table.

    Weights become INT8, biases stay FP32. Inputs and outputs keep their names, types and shapes. The
    exporter's notes on nodes are left out.

    Raises:
        InputError: the table does not fit the graph.
    """
    _check_fit(model.graph, table)
    result = equalise.apply(model, table.equalisation)
    _correct(result.graph, table.corrections)
    _Writer(result.graph, table, encoding).write()
    if encoding.half and table.floating:
        cast(result.graph, table.floating)
    check_model(result, f"{encoding.suffix} encoding of {model.graph.name!r}")
    return result


def raw(graph: onnx.GraphProto, table: Table, tensor: str, encoding: Encoding = CPU) -> str:
    """What a tensor of the FP32 graph is called in an encoding of it, before it is rounded.

    Args:
        graph: the FP32 one.
        table: what the encoding is written from.
        tensor: what a node of the FP32 graph writes.
        encoding: which.
    """
    return _Writer(graph, table, encoding).source(tensor)


def rounded(graph: onnx.GraphProto, table: Table, tensor: str, encoding: Encoding = CPU) -> str:
    """The same behind its rounding, where the encoding rounds it."""
    writer = _Writer(graph, table, encoding)
    return writer.dequantised(tensor) if tensor in writer.pairs else tensor


def _correct(graph: onnx.GraphProto, corrections: Mapping[str, tuple[float, ...]]) -> None:
    """Give each of these operators a bias of its own: what it had, if it had any, and what is added."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        name = node.output[0]
        if name not in corrections:
            continue
        bias = np.array(corrections[name], np.float32)
        if len(node.input) > 2 and node.input[2]:
            held = numpy_helper.to_array(constants[node.input[2]])
            bias = (held + bias.reshape(held.shape if held.size == bias.size else bias.shape)).astype(
                np.float32
            )
        del node.input[2:]
        node.input.append(f"{name}.corrected_bias")
        graph.initializer.append(numpy_helper.from_array(bias, node.input[2]))


def _check_fit(graph: onnx.GraphProto, table: Table) -> None:
    nodes = {name: node for node in graph.node for name in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for name, operator in table.operators.items():
        node, wanted = nodes.get(name), [operator.kind, operator.input, operator.weight]
        if node is None or [node.op_type, *node.input[:2]] != wanted or operator.result not in nodes:
            raise InputError(f"the graph does not write {name!r} as the table says: {operator}")
    for name, weight in table.weights.items():
        shape = shapes.get(name, ())
        if not 0 <= weight.axis < len(shape) or shape[weight.axis] != len(weight.scales):
            count = f"{len(weight.scales)} scales on axis {weight.axis}"
            raise InputError(f"weight {name!r} of shape {shape} does not fit the table's {count}")
    for name, skip in table.residuals.items():
        node = nodes.get(name)
        if node is None or node.op_type != "Add" or skip not in node.input:
            raise InputError(f"the graph does not write {name!r} by an Add that reads {skip!r}")
    for name in table.floating:
        if name not in nodes or nodes[name].op_type not in QUANTISED:
            raise InputError(f"the graph does not write {name!r} by a {'/'.join(QUANTISED)}")
    for name, added in table.corrections.items():
        _check_correction(nodes[name], shapes, len(table.weights[table.operators[name].weight].scales), added)


def _check_correction(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], channels: int, added: tuple[float, ...]
) -> None:
    name = node.output[0]
    if node.op_type == "MatMul":
        raise InputError(f"{name!r} is written by a MatMul, which has no bias to correct")
    if len(added) != channels:
        raise InputError(f"{name!r} has {channels} channels, the table {len(added)} corrections")
    if len(node.input) > 2 and node.input[2] and node.input[2] not in shapes:
        raise InputError(f"the bias {node.input[2]!r} of {name!r} is computed and cannot be corrected")


class _Writer:
    """Rewrites one graph in place."""

    def __init__(self, graph: onnx.GraphProto, table: Table, encoding: Encoding) -> None:
        self.graph, self.table, self.encoding = graph, table, encoding
        operators = table.operators.values()
        self.results = {operator.result for operator in operators} if encoding.results else set()
        self.pairs = self.results | {operator.input for operator in operators} | set(table.residuals.values())
        self.weights = list(dict.fromkeys(operator.weight for operator in operators))  # in order: equal bytes
        self.replaced = {value.name for value in graph.output} & self.results

    def write(self) -> None:
        """Insert every pair behind the tensor that it rounds, and let the planned readers read it."""
        producers = {name: node for node in self.graph.node for name in node.output}
        nodes = [node for name in self.weights for node in self._weight(name)]
        inputs = [value.name for value in self.graph.input]
        nodes += [node for name in inputs if name in self.pairs for node in self._pair(name, producers)]
        for old in self.graph.node:
            nodes.append(self._rewired(old))
            for name in old.output:
                if name in self.pairs:
                    nodes += self._pair(name, producers)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _rewired(self, old: onnx.NodeProto) -> onnx.NodeProto:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        del node.metadata_props[:]
        key = old.output[0]
        for place, name in enumerate(old.input):
            planned = (place < 2 and key in self.table.operators) or self.table.residuals.get(key) == name
            if planned or name in self.results:
                node.input[place] = self.dequantised(name)
        for place, name in enumerate(old.output):
            if name in self.replaced:
                node.output[place] = f"{name}.float"
        return node

    def source(self, name: str) -> str:
        """What is rounded."""
        return f"{name}.float" if name in self.replaced else name

    def dequantised(self, name: str) -> str:
        """What the rounded tensor is called."""
        return name if name in self.replaced else f"{name}.dequantised"

    def _pair(self, name: str, producers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The quantiser and dequantiser of one activation."""
        zero = np.array(0, np.int8)
        if not self.encoding.signed:
            zero = np.array(0 if _never_negative(name, producers) else 128, np.uint8)
        scale, point = f"{name}.scale", f"{name}.zero_point"
        self._constant(scale, np.array(self.table.activations[name].scale, np.float32))
        self._constant(point, zero)
        source, steps = self.source(name), f"{name}.quantised"
        return [
            helper.make_node("QuantizeLinear", [source, scale, point], [steps], f"{name}.quantise"),
            helper.make_node(
                "DequantizeLinear", [steps, scale, point], [self.dequantised(name)], f"{name}.dequantise"
            ),
        ]

    def _weight(self, name: str) -> list[onnx.NodeProto]:
        """The dequantiser of one weight, whose steps become a constant of the graph."""
        weight = self.table.weights[name]
        values = numpy_helper.to_array(next(found for found in self.graph.initializer if found.name == name))
        scales = np.array(weight.scales, np.float32)
        names = [f"{name}.{part}" for part in ("quantised", "scale", "zero_point")]
        self._constant(names[0], _steps(values, scales, weight.axis))
        self._constant(names[1], scales)
        self._constant(names[2], np.zeros(scales.shape, np.int8))
        return [
            helper.make_node(
                "DequantizeLinear", names, [self.dequantised(name)], f"{name}.dequantise", axis=weight.axis
            )
        ]

    def _constant(self, name: str, value: NDArray[Any]) -> None:
        self.graph.initializer.append(numpy_helper.from_array(value, name))


def _steps(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Round a weight to steps in [-127, 127], with one scale for each index of ``axis``."""
    shape = [1] * values.ndim
    shape[axis] = -1
    rounded: NDArray[np.int8] = np.rint(values / scales.reshape(shape)).clip(-STEPS, STEPS).astype(np.int8)
    return rounded


def _never_negative(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the graph's structure alone says that a tensor holds no negative number."""
    node = producers.get(name)
    while node is not None and node.op_type in KEEPS_SIGN:
        node = producers.get(node.input[0])
    return node is not None and node.op_type in NOT_NEGATIVE
