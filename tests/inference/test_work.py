from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeemo.errors import BackendError, BundleError, InputError
from edgeemo.inference import work
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import example
from edgeemo.inference.work import Work, work_of

Feeds = Mapping[str, NDArray[Any]]
U8, S8, F16, F32 = np.uint8, np.int8, np.float16, np.float32


def net(nodes: list[onnx.NodeProto], feeds: Feeds, constants: Feeds) -> bytes:
    """A graph whose last node writes its only output 'y'; the axes of its inputs are free."""
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(value.dtype),
                [f"{name}{axis}" for axis in range(value.ndim)],
            )
            for name, value in feeds.items()
        ],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    if not model.graph.output[0].type.tensor_type.elem_type:
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(model.SerializeToString())


def ones(shapes: Mapping[str, tuple[int, ...]], dtype: Any = F32) -> dict[str, NDArray[Any]]:
    return {name: np.ones(shape, dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("kind", "attributes", "inputs", "constants", "expected"),
    [
        # 8 channels of 10 x 10 places, each of 3 x 3 x 3 products
        ("Conv", {"pads": [1] * 4}, {"x": (1, 3, 10, 10)}, {"w": (8, 3, 3, 3), "b": (8,)}, 800 * 27),
        ("Conv", {"strides": [2, 2]}, {"x": (1, 3, 9, 9)}, {"w": (8, 3, 3, 3)}, 8 * 16 * 27),
        ("Conv", {"group": 4}, {"x": (1, 4, 5, 5)}, {"w": (4, 1, 3, 3)}, 4 * 9 * 9),
        ("Conv", {"strides": [160]}, {"x": (1, 1, 1600)}, {"w": (20, 1, 400)}, 20 * 8 * 400),
        ("Conv", {}, {"x": (1, 2, 5, 5), "w": (3, 2, 2, 2)}, {}, 3 * 16 * 8),
        ("ConvTranspose", {"strides": [2, 2]}, {"x": (1, 3, 4, 4)}, {"w": (3, 5, 2, 2)}, 48 * 20),
        ("Gemm", {"transB": 1}, {"x": (3, 16)}, {"w": (4, 16), "b": (4,)}, 3 * 64),
        ("Gemm", {"transA": 1}, {"x": (16, 2)}, {"w": (16, 4)}, 2 * 64),
        ("MatMul", {}, {"x": (1, 40, 16)}, {"w": (16, 4)}, 40 * 64),
        ("MatMul", {}, {"x": (1, 2, 40, 16), "w": (1, 2, 16, 40)}, {}, 2 * 40 * 40 * 16),
        ("MatMul", {}, {"x": (16,), "w": (16, 4)}, {}, 64),
        ("Relu", {}, {"x": (1, 3)}, {}, 0),
    ],
)
def test_products_are_counted(
    kind: str,
    attributes: dict[str, Any],
    inputs: dict[str, tuple[int, ...]],
    constants: dict[str, tuple[int, ...]],
    expected: int,
) -> None:
    node = helper.make_node(kind, [*inputs, *constants], ["y"], **attributes)
    found = work_of(net([node], ones(inputs), ones(constants)), ones(inputs))
    assert found.total == expected
    assert found.multiply_adds == ({"fp32": expected} if expected else {})
    assert found.products == (1 if expected else 0)
    assert found.operators == 1


@pytest.mark.parametrize(
    ("kind", "feeds", "constants", "expected"),
    [
        (
            "QLinearConv",
            ones({"x": (1, 2, 6, 6)}, U8),
            {
                **ones({"xs": ()}),
                **ones({"xz": ()}, U8),
                **ones({"w": (5, 2, 3, 3)}, S8),
                **ones({"ws": ()}),
                "wz": np.zeros((), S8),
                **ones({"ys": ()}),
                **ones({"yz": ()}, U8),
            },
            5 * 16 * 18,
        ),
        ("ConvInteger", ones({"x": (1, 2, 6, 6)}, U8), ones({"w": (5, 2, 3, 3)}, U8), 5 * 16 * 18),
        ("MatMulInteger", ones({"x": (4, 6)}, U8), ones({"w": (6, 7)}, S8), 4 * 6 * 7),
    ],
)
def test_integer_products_are_counted(kind: str, feeds: Feeds, constants: Feeds, expected: int) -> None:
    node = helper.make_node(kind, [*feeds, *constants], ["y"])
    found = work_of(net([node], feeds, constants), feeds)
    assert found.multiply_adds == {"int8": expected}
    assert found.weights == constants["w"].size


def converted(kind: str, weight: NDArray[Any], zero: int = 128) -> bytes:
    """A convolution of a quantised or FP16 trunk between two of an FP32 graph, x [1, 2, 6, 6] to y."""
    constants: dict[str, NDArray[Any]] = {
        "front": np.ones((2, 2, 1, 1), F32),
        "w": weight,
        "head": np.ones((4, 5, 1, 1), F32),
        "s": np.full((), 0.1, F32),
        "zero": np.array(zero, U8 if zero else S8),
        "wz": np.zeros((), S8),
    }
    first = helper.make_node("Conv", ["x", "front"], ["t"])
    last = helper.make_node("Conv", ["u", "head"], ["y"])
    if kind == "fp16":
        middle = [
            helper.make_node("Cast", ["t"], ["th"], to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["th", "w"], ["uh"]),
            helper.make_node("Cast", ["uh"], ["u"], to=TensorProto.FLOAT),
        ]
    else:
        middle = [
            helper.make_node("QuantizeLinear", ["t", "s", "zero"], ["tq"]),
            helper.make_node("DequantizeLinear", ["tq", "s", "zero"], ["td"]),
            helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"]),
            helper.make_node("Conv", ["td", "wd"], ["ud"]),
            helper.make_node("QuantizeLinear", ["ud", "s", "zero"], ["uq"]),
            helper.make_node("DequantizeLinear", ["uq", "s", "zero"], ["u"]),
        ]
    return net([first, *middle, last], ones({"x": (1, 2, 6, 6)}), constants)


@pytest.mark.parametrize(
    ("kind", "dtype", "zero", "size"),
    [("fp16", F16, 128, 2), ("int8", S8, 128, 1), ("int8", S8, 0, 1)],  # the last as for TensorRT
)
def test_work_is_of_the_precision_of_the_file(kind: str, dtype: Any, zero: int, size: int) -> None:
    """Whether or not this processor has kernels for it; ends and bytes counted by hand."""
    found = work_of(converted(kind, np.ones((5, 2, 3, 3), dtype), zero), ones({"x": (1, 2, 6, 6)}))
    front, trunk, head = 72 * 2, 80 * 18, 64 * 5
    assert found.multiply_adds == {kind: trunk, "fp32": front + head}
    assert found.weights == 4 * 4 + 90 * size + 20 * 4
    assert found.activations == 4 * (72 + 72) + size * (72 + 80) + 4 * (80 + 64)
    assert found.ends == 4 * (72 + 64)
    assert (found.products, found.operators) == (3, 3)


def test_a_weight_of_two_products_counts_in_both() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["u"]),
        helper.make_node("Cast", ["u"], ["y"], to=TensorProto.FLOAT),
    ]
    feeds = ones({"x": (2, 8)})
    assert work_of(net(nodes, feeds, ones({"w": (8, 8)}, F16)), feeds).multiply_adds == {"fp16": 2 * 2 * 64}


@pytest.mark.parametrize(("name", "rows"), [("face", 1), ("face", 3), ("voice", 1)])
def test_every_file_of_the_default_bundle_has_the_same_work(
    default_bundle: Path, name: str, rows: int
) -> None:
    bundle = Bundle.read(default_bundle)
    spec = bundle.graphs[name]
    feeds = example(spec, rows)
    works = {kind: work_of(bundle.read_file(file), feeds) for kind, file in spec.files.items()}
    assert len({found.total for found in works.values()}) == 1
    assert works["fp32"].multiply_adds.keys() == {"fp32"}
    assert works["int8"].multiply_adds == works["int8-cpu"].multiply_adds
    trunk, rest = (works["int8"].multiply_adds[kind] for kind in ("int8", "fp32"))
    assert works["fp16"].multiply_adds == {"fp16": trunk, "fp32": rest}
    assert trunk > 2 * rest
    alone = work_of(bundle.read_file(spec.files["int8"]), example(spec))
    assert trunk == rows * alone.multiply_adds["int8"]
    assert alone.weights == works["int8"].weights
    size = (default_bundle / spec.files["fp32"]).stat().st_size
    assert 0.9 * size < works["fp32"].weights <= size


def test_a_graph_without_weights_in_its_products(default_bundle: Path) -> None:
    bundle = Bundle.read(default_bundle)
    spec = bundle.graphs["fusion"]
    found = work_of(bundle.read_file(spec.files["fp32"]), example(spec))
    assert found.total > 1_000_000
    assert found.operators > found.products > 10


def test_totals_and_json() -> None:
    found = Work({"int8": 5, "fp32": 2}, weights=3, activations=4, ends=6, products=1, operators=2)
    assert found.total == 7
    assert found.to_dict() == {
        "multiply_adds": {"int8": 5, "fp32": 2},
        "bytes": {"weights": 3, "activations": 4, "ends": 6},
        "products": 1,
        "operators": 2,
    }


LSTM = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
LSTM_WEIGHTS = ones({"w": (1, 8, 3), "r": (1, 8, 2)})
MATMUL = net([helper.make_node("MatMul", ["x", "w"], ["y"])], ones({"x": (1, 3)}), ones({"w": (3, 2)}))


@pytest.mark.parametrize(
    ("model", "shape", "error", "message"),
    [
        (net([LSTM], ones({"x": (4, 1, 3)}), LSTM_WEIGHTS), (4, 1, 3), InputError, "net.onnx: .* LSTM "),
        (b"no model", (1, 3), BundleError, "net.onnx: ONNX Runtime cannot open it"),
        (MATMUL, (1, 4), BackendError, "net.onnx: ONNX Runtime failed"),
        (MATMUL, (1, 3), None, ""),
    ],
)
def test_nothing_stays_behind(
    model: bytes,
    shape: tuple[int, ...],
    error: type[Exception] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if error is None:
        assert work_of(model, ones({"x": shape})).total == math.prod(shape) * 2
    else:
        with pytest.raises(error, match=message):
            work_of(model, ones({"x": shape}), "net.onnx")
    assert not list(tmp_path.iterdir())


def test_fp16_where_the_processor_has_kernels_for_it() -> None:
    """As ONNX Runtime's profiler tells it on ARM with FP16 arithmetic, where nothing is converted."""
    event = {
        "op_name": "Conv",
        "input_type_shape": [{"float16": [1, 2, 6, 6]}, {"float16": [5, 2, 3, 3]}, {"float16": [5]}],
        "output_type_shape": [{"float16": [1, 5, 4, 4]}],
        "parameter_size": "190",
        "activation_size": "144",
    }
    found = work._product(event, ())
    assert found == work._Product("fp16", 80 * 18, weights=180, activations=2 * (72 + 80))
