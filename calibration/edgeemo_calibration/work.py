"""How many multiply-adds a graph costs, counted from its operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgeemo.errors import InputError

from .model import read_model

Shapes = Mapping[str, tuple[int, ...]]


def multiply_adds(model: str | Path | onnx.ModelProto) -> int:
    """Multiply-adds of one call with one row: those of Conv, Gemm and MatMul, which are nearly all.

    A sum of products of length K counts as K, a bias as none.

    Args:
        model: an FP32 graph or its file; every axis of its inputs without a size is taken as 1.

    Raises:
        InputError: the file is no graph, or the shape of what such an operator reads or writes is unknown.
    """
    graph = model if isinstance(model, onnx.ModelProto) else read_model(model)[0]
    shapes = _shapes(graph)
    return sum(_COUNTS[node.op_type](node, shapes) for node in graph.graph.node if node.op_type in _COUNTS)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor with one row at the inputs."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    del single.graph.value_info[:]
    for value in single.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            axis.dim_value = axis.dim_value or 1
    for value in single.graph.output:  # what they say with a free axis would contradict
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {item.name: tuple(item.dims) for item in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def _shape(node: onnx.NodeProto, name: str, shapes: Shapes) -> tuple[int, ...]:
    if name not in shapes:
        raise InputError(f"{node.op_type} {node.output[0]!r}: the shape of {name!r} cannot be inferred")
    return shapes[name]


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    # The weight [outputs, inputs / groups, *kernel] is read once for each place of the output.
    weight = _shape(node, node.input[1], shapes)
    return math.prod(_shape(node, node.output[0], shapes)) * math.prod(weight[1:])


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    turned = any(item.name == "transA" and item.i for item in node.attribute)
    first = _shape(node, node.input[0], shapes)
    return math.prod(_shape(node, node.output[0], shapes)) * first[0 if turned else 1]


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(_shape(node, node.output[0], shapes)) * _shape(node, node.input[0], shapes)[-1]


_COUNTS = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}
