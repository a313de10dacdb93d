"""Cross-layer equalisation: channels between two operators that reach equally far lose equally little.

Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.errors import InputError

from .probe import Feed, values
from .table import shortest
from .trunk import Trunk, attribute, output_axis, plan, readers

Array = NDArray[np.float64]
Factors = Mapping[str, tuple[float, ...]]
"""Divisors of the channels of a tensor, by the tensor."""

ROUNDS, CLOSE = 100, 1e-4
"""Iterations at most, and the relative change of a divisor at which they end."""


@dataclass(frozen=True)
class _Between:
    """A tensor, the operator that gives it, behind its ReLU or without, and all that read it."""

    tensor: str
    writer: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]

    @property
    def axis(self) -> int:
        """The tensor's axis that counts channels."""
        return channel_axis(self.writer)


def channel_axis(operator: onnx.NodeProto) -> int:
    """The axis of an operator's result that counts its output channels."""
    return 1 if operator.op_type == "Conv" else -1


def factors(
    model: onnx.ModelProto, trunk: Trunk = "trunk.", reach: Mapping[str, Array] | None = None
) -> dict[str, tuple[float, ...]]:
    """The divisors that even out the channels between operators (Nagel et al., 2019, section 4.1).

    A tensor is equalised where an operator of the trunk gives it, behind its ReLU or without, and nothing but
    ungrouped operators of the trunk reads it. Channel ``i`` is divided by ``sqrt(first_i / second_i)``, where
    ``second_i`` is how far the weights reach that read it. ``first_i`` is how far the weights reach that give
    it or, where it was measured, the channel itself: with one scale for each channel of a weight it is the
    activations that must share one. A channel of no reach on one side is left alone.

    Args:
        model: the FP32 graph.
        trunk: see `measure`.
        reach: what `reaches` measured.

    Returns:
        the divisors by the tensor that is divided.
    """
    found = list(_between(model.graph, trunk))
    weights = _Weights(model.graph)
    divisors: dict[str, Array] = {}
    for between in found:
        divisors[between.tensor] = np.ones(weights.channels(between.writer))
    for _ in range(ROUNDS):
        changes = [0.0]
        for between in found:
            so_far = divisors[between.tensor]
            first = (
                weights.given(between.writer)
                if reach is None
                else np.asarray(reach[between.tensor], np.float64) / so_far
            )
            second = np.max([weights.read(node) for node in between.readers], axis=0)
            alive = (first > 0.0) & (second > 0.0)
            step = np.where(
                alive, np.sqrt(np.divide(first, second, where=alive, out=np.ones_like(first))), 1.0
            )
            divisors[between.tensor] = so_far * step
            weights.divide(between, step)
            changes.append(float(np.abs(step - 1.0).max()))
        if max(changes) < CLOSE:
            break
    return {name: tuple(shortest(value) for value in values) for name, values in divisors.items()}


def reaches(
    model: onnx.ModelProto, feeds: Iterable[Feed], trunk: Trunk = "trunk.", threads: int = 1
) -> dict[str, Array]:
    """The largest magnitude of every channel that `factors` could divide, by the tensor.

    Raises:
        InputError: a feed does not fit the graph, or there is none.
    """
    axes = {between.tensor: between.axis for between in _between(model.graph, trunk)}
    found: dict[str, Array] = {}
    for _, _, arrays in values(model, feeds, list(axes), threads) if axes else ():
        for (name, axis), array in zip(axes.items(), arrays, strict=True):
            largest = np.abs(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).max(axis=1)
            found[name] = np.maximum(found.get(name, 0.0), largest)
    if axes and not found:
        raise InputError("there is no calibration data; give at least one feed")
    return found


def apply(model: onnx.ModelProto, divisors: Factors) -> onnx.ModelProto:
    """Divide what writes each tensor, multiply what reads it; the graph computes what it computed.

    Args:
        model: an FP32 graph; it is left as it is.
        divisors: as `factors` gives them.

    Raises:
        InputError: a tensor does not lie between such operators, or has another number of channels.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    known = {between.tensor: between for between in _between(result.graph, lambda _: True)}
    weights = _Weights(result.graph)
    for name, given in divisors.items():
        if name not in known:
            raise InputError(f"the graph has no {name!r} between operators of the trunk alone")
        channels = weights.channels(known[name].writer)
        if len(given) != channels:
            raise InputError(f"{name!r} has {channels} channels, the table {len(given)} divisors")
        weights.divide(known[name], np.array(given))
    weights.store()
    return result


def _between(graph: onnx.GraphProto, trunk: Trunk) -> Iterator[_Between]:
    """The tensors that can be divided without anyone noticing."""
    operators, _ = plan(graph, trunk)
    nodes = {name: node for node in graph.node for name in node.output}
    reads, outputs = readers(graph), {value.name for value in graph.output}
    weights = _Weights(graph)
    for name, operator in operators.items():
        writer, behind = nodes[name], reads.get(operator.result, [])
        family = ("Conv",) if operator.kind == "Conv" else ("Gemm", "MatMul")
        if (
            behind
            and operator.result not in outputs
            and weights.divisible(writer)
            and all(
                node.op_type in family
                and node.input[0] == operator.result  # and not a Gemm's C, whose weight has other channels
                and node.output[0] in operators
                and weights.multipliable(node)
                for node in behind
            )
        ):
            yield _Between(operator.result, writer, tuple(behind))


class _Weights:
    """The constants of the operators of one graph, as they become."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.reads = readers(graph)
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.arrays: dict[str, Array] = {}

    def divisible(self, node: onnx.NodeProto) -> bool:
        """Whether weight and bias are this operator's own, and the bias has one number a channel."""
        bias = node.input[2] if len(node.input) > 2 else ""
        own = all(len(self.reads[name]) == 1 for name in (node.input[1], bias) if name)
        if not own or not self._plain(node):
            return False
        return not bias or (bias in self.tensors and self._array(bias).size == self.channels(node))

    def multipliable(self, node: onnx.NodeProto) -> bool:
        """Whether the weight is this operator's own and every channel of the input has its column in it."""
        own = len(self.reads[node.input[1]]) == 1
        return own and attribute(node, "group", 1) == 1 and self._plain(node)

    def _plain(self, node: onnx.NodeProto) -> bool:
        dimensions = len(self.tensors[node.input[1]].dims)
        return node.op_type == "Conv" or (dimensions == 2 and not attribute(node, "transA", 0))

    def channels(self, node: onnx.NodeProto) -> int:
        return len(self._by_output(node))

    def given(self, node: onnx.NodeProto) -> Array:
        """The reach of the weights of each output channel."""
        rows = self._by_output(node)
        return np.asarray(np.abs(rows).reshape(len(rows), -1).max(axis=1))

    def read(self, node: onnx.NodeProto) -> Array:
        """The reach of the weights of each input channel."""
        columns = np.moveaxis(self._by_output(node), 1, 0)
        return np.asarray(np.abs(columns).reshape(len(columns), -1).max(axis=1))

    def divide(self, between: _Between, divisors: Array) -> None:
        """Divide the output channels of what writes, multiply the input channels of what reads."""
        rows = self._by_output(between.writer)
        rows /= divisors.reshape(-1, *[1] * (rows.ndim - 1))
        if len(between.writer.input) > 2 and between.writer.input[2]:
            bias = self._array(between.writer.input[2])
            bias /= divisors.reshape(bias.shape)
        for node in between.readers:
            columns = np.moveaxis(self._by_output(node), 1, 0)
            columns *= divisors.reshape(-1, *[1] * (columns.ndim - 1))

    def store(self) -> None:
        """Write the weights that were touched into the graph, in FP32."""
        for name, array in self.arrays.items():
            self.tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))

    def _by_output(self, node: onnx.NodeProto) -> Array:
        """A view of an operator's weight with its output channels first, then its input channels."""
        array = self._array(node.input[1])
        return np.moveaxis(array, output_axis(node, array.ndim), 0)

    def _array(self, name: str) -> Array:
        if name not in self.arrays:
            self.arrays[name] = numpy_helper.to_array(self.tensors[name]).astype(np.float64)
        return self.arrays[name]
