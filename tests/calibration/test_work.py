from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration.work import multiply_adds

FLOAT = TensorProto.FLOAT


def net(
    node: onnx.NodeProto, inputs: dict[str, list[Any]], constants: dict[str, list[int]]
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    initialisers = [
        helper.make_tensor(name, FLOAT, shape, [0.0] * math.prod(shape)) for name, shape in constants.items()
    ]
    output = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([node], "net", values, [output], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "attributes", "inputs", "constants", "expected"),
    [
        # 8 channels of 10 x 10 places, each of 3 x 3 x 3 products
        ("Conv", {"pads": [1] * 4}, {"x": ["N", 3, 10, 10]}, {"w": [8, 3, 3, 3], "b": [8]}, 800 * 27),
        ("Conv", {"strides": [2, 2]}, {"x": [1, 3, 9, 9]}, {"w": [8, 3, 3, 3]}, 8 * 16 * 27),
        ("Conv", {"group": 4}, {"x": [1, 4, 5, 5]}, {"w": [4, 1, 3, 3]}, 4 * 9 * 9),
        ("Conv", {"strides": [160]}, {"x": [1, 1, 1600]}, {"w": [20, 1, 400]}, 20 * 8 * 400),
        ("Gemm", {"transB": 1}, {"x": ["N", 16]}, {"w": [4, 16], "b": [4]}, 64),
        ("Gemm", {"transA": 1}, {"x": [16, 2]}, {"w": [16, 4]}, 2 * 64),
        ("MatMul", {}, {"x": ["N", 40, 16]}, {"w": [16, 4]}, 40 * 64),
        ("MatMul", {}, {"x": [1, 2, 40, 16], "w": [1, 2, 16, 40]}, {}, 2 * 40 * 40 * 16),
        ("Relu", {}, {"x": [1, 3]}, {}, 0),
    ],
)
def test_products_are_counted(
    kind: str,
    attributes: dict[str, Any],
    inputs: dict[str, list[Any]],
    constants: dict[str, list[int]],
    expected: int,
) -> None:
    node = helper.make_node(kind, [*inputs, *constants], ["y"], **attributes)
    assert multiply_adds(net(node, inputs, constants)) == expected


def test_a_whole_graph_is_counted(
    residual: Callable[..., onnx.ModelProto], save: Callable[[onnx.ModelProto], Path]
) -> None:
    """Uint8 [N, 1, 12, 12] through the layers of `residual_net`, counted by hand."""
    front, stem = 2 * 144 * 9, 8 * 144 * 18
    first = 2 * (8 * 144 * 72)
    second = 16 * 36 * 72 + 16 * 36 * 144 + 16 * 36 * 8
    assert multiply_adds(save(residual())) == front + stem + first + second + 4 * 16


def test_the_default_bundle_is_counted(default_bundle: Path) -> None:
    bundle = Bundle.read(default_bundle)
    for spec in bundle.graphs.values():
        assert multiply_adds(bundle.path / spec.files["fp32"]) > 100_000


def test_an_unknown_shape_is_an_error() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = net(node, {"x": [1, 16], "w": [16, 4]}, {})
    model.graph.input[1].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="MatMul 'y': the shape of 'y' cannot be inferred"):
        multiply_adds(model)
