"""What of a graph is quantised: the operators of the trunk, and the sums that they end in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import onnx

from edgeemo.errors import InputError

from .table import Operator

QUANTISED = ("Conv", "Gemm", "MatMul")

Trunk = str | Callable[[str], bool]
"""What is quantised: the prefix of the weights' initialiser names, or a predicate on such a name."""


def member(trunk: Trunk) -> Callable[[str], bool]:
    """The predicate on an initialiser's name that says whether it belongs to the trunk."""
    return trunk if callable(trunk) else lambda name: name.startswith(trunk)


def plan(
    graph: onnx.GraphProto, trunk: Trunk, floating: Collection[str] = ()
) -> tuple[dict[str, Operator], dict[str, str]]:
    """Choose the operators to quantise and find the residual additions that they end in.

    Args:
        graph: the FP32 one.
        trunk: see `Trunk`.
        floating: operators of the trunk that stay in floating point, by the tensor that each writes.

    Returns:
        the operators by the tensor that each writes, and the skip inputs by the tensor that the residual
        addition writes.

    Raises:
        InputError: a weight of the trunk is not FP32, or what stays in floating point is not in the trunk.
    """
    belongs = member(trunk)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = readers(graph)
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
        result = _behind_relu(node.output[0], reads, graph)
        operators[node.output[0]] = Operator(node.op_type, node.input[0], weight.name, result)
    if strange := sorted(set(floating) - operators.keys()):
        known = ", ".join(operators)
        raise InputError(f"{strange[0]!r} cannot stay in floating point; the trunk's operators are {known}")
    quantised = {name: operator for name, operator in operators.items() if name not in floating}
    return quantised, residuals(graph, quantised, floating)


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in the order of the graph."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _behind_relu(tensor: str, reads: Mapping[str, list[onnx.NodeProto]], graph: onnx.GraphProto) -> str:
    """The output of the ReLU that alone reads ``tensor``, or else ``tensor`` itself."""
    found = reads.get(tensor, [])
    is_output = any(output.name == tensor for output in graph.output)
    return found[0].output[0] if len(found) == 1 and found[0].op_type == "Relu" and not is_output else tensor


def residuals(
    graph: onnx.GraphProto, operators: Mapping[str, Operator], floating: Iterable[str] = ()
) -> dict[str, str]:
    """The skip inputs of the additions of two computed tensors, one straight from a quantised operator.

    A sum that a floating operator ends in has none: what was kept from rounding is not rounded there.
    """
    order = {name: place for place, node in enumerate(graph.node) for name in node.output}
    excluded = {tensor.name for tensor in graph.initializer} | set(floating)
    found = {}
    for node in graph.node:
        first, second = (*node.input, "", "")[:2]
        if node.op_type != "Add" or {first, second} & excluded or not {first, second} & operators.keys():
            continue
        # Two operators may meet in a sum (a projection beside the block): the skip starts at the older one.
        starts = [order.get(operators[i].input, -1) if i in operators else -2 for i in (first, second)]
        found[node.output[0]] = first if starts[0] < starts[1] else second
    return found


def output_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """The axis of an operator's weight that counts output channels.

    Args:
        node: a Conv, Gemm or MatMul.
        dimensions: of the weight.
    """
    if node.op_type == "Conv":
        return 0
    return 0 if attribute(node, "transB", 0) else dimensions - 1


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)
