from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeemo.errors import InputError
from edgeemo_calibration import CPU, TENSORRT, Activation, Encoding, Table, measure, write_encodings
from edgeemo_calibration.encode import encode

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]
TRUNK = "trunk.1.sum.relu"
"""The last tensor of the trunk in the residual net."""
U8_SAME_PLACES = Encoding("test", signed=False, results=False)


def run(
    model: onnx.ModelProto, feeds: Feeds, outputs: list[str] | None = None, optimise: bool = False
) -> list[Any]:
    """Outputs over all feeds; unoptimised, the engine computes exactly what Q and DQ say."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    for node in model.graph.node:
        if node.output[0] in (outputs or ()):
            kind = kinds[node.input[2]] if node.op_type == "QuantizeLinear" else TensorProto.FLOAT
            probed.graph.output.append(helper.make_tensor_value_info(node.output[0], kind, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = [session.run(outputs, feed) for feed in feeds]
    return [np.concatenate(values) for values in zip(*results, strict=True)]


def optimised(model: onnx.ModelProto, tmp_path: Path) -> Counter[str]:
    """Operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file holds for this machine only
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def widened(table: Table, factor: float) -> Table:
    activations = {name: Activation(a.absmax, a.scale * factor) for name, a in table.activations.items()}
    return dataclasses.replace(table, activations=activations)


def decibels(signal: Any, other: Any) -> float:
    return float(10 * np.log10(np.sum(signal**2) / np.sum((signal - other) ** 2)))


def steps(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Any]:
    """Every quantised activation, in steps from its zero point."""
    points = {
        i.name: int(numpy_helper.to_array(i))
        for i in model.graph.initializer
        if not i.dims and "zero" in i.name
    }
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    values = run(model, feeds, [node.output[0] for node in nodes])
    return {
        node.output[0]: value.astype(np.int32) - points[node.input[2]]
        for node, value in zip(nodes, values, strict=True)
    }


@pytest.fixture
def measured(residual: Any, save: Save, faces: Feeds) -> tuple[onnx.ModelProto, Table]:
    model = residual()
    return model, measure(save(model), faces, method="min-max")


def test_values_on_the_grid_pass_without_error(new_net: Any, save: Save) -> None:
    net = new_net()
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (3, 2, 1, 1)) * np.array([1.0, 0.5, 4.0]).reshape(3, 1, 1, 1)
    weight[:, 0, 0, 0] = np.array([127, -63.5, 508])  # each channel reaches the end of its own grid
    net.add("Conv", ["x", net.constant("trunk.weight", weight), net.constant("trunk.bias", [1, 2, 3])], "y")
    path = save(net.model({"x": (TensorProto.FLOAT, [1, 2, 8, 8])}, {"y": (TensorProto.FLOAT, [1, 3, 8, 8])}))
    x = random.integers(-127, 128, (1, 2, 8, 8)).astype(np.float32) / 4
    x[0, 0, 0, 0] = -127 / 4
    table = measure(path, [{"x": x}], method="min-max")
    expected = run(onnx.load(path), [{"x": x}])[0]
    for encoding in (TENSORRT, U8_SAME_PLACES):
        np.testing.assert_array_equal(run(encode(onnx.load(path), table, encoding), [{"x": x}])[0], expected)


@pytest.mark.parametrize("results", [False, True])
def test_u8_holds_the_numbers_of_s8_where_s8_does_not_clip(
    measured: tuple[onnx.ModelProto, Table], faces: Feeds, results: bool
) -> None:
    model, table = measured
    table = widened(table, 1.2)
    signed, unsigned = (encode(model, table, Encoding("test", sign, results)) for sign in (True, False))
    np.testing.assert_array_equal(run(signed, faces)[0], run(unsigned, faces)[0])
    expected, found = steps(signed, faces), steps(unsigned, faces)
    assert expected.keys() == found.keys()
    assert max(np.abs(value).max() for value in expected.values()) <= 127
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("equalise", [False, True])
@pytest.mark.parametrize("floating", [(), ("trunk.0.conv2",), ("trunk.stem", "trunk.1.conv1")])
@pytest.mark.parametrize("skip_first", [False, True])
def test_both_encodings_hold_the_same_numbers(
    residual: Any, save: Save, faces: Feeds, equalise: bool, floating: tuple[str, ...], skip_first: bool
) -> None:
    model = residual(skip_first)
    path = save(model)
    table = measure(path, faces, method="min-max", equalise=equalise, correct=True, floating=floating)
    seen = []
    for factor in (0.9, 1.0, 1.2):
        one = widened(table, factor)
        signed, unsigned = (
            encode(model, one, Encoding("test", sign, results=True)) for sign in (True, False)
        )
        expected, found = steps(signed, faces), steps(unsigned, faces)
        assert expected.keys() == found.keys()
        # Where a step of U8 lies beyond those of S8, a picture goes on otherwise.
        held = np.all([np.abs(value).max(axis=(1, 2, 3)) <= 127 for value in found.values()], axis=0)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name][held], value[held])
        np.testing.assert_array_equal(run(signed, faces)[0][held], run(unsigned, faces)[0][held])
        seen.append(held.mean())
    assert seen[0] < 1.0
    assert seen[-1] == 1.0


@pytest.mark.parametrize("floating", [(), ("trunk.0.conv2",)])
def test_the_shipped_pair_agrees_on_labels(
    residual: Any, save: Save, faces: Feeds, floating: tuple[str, ...]
) -> None:
    model = residual()
    table = measure(save(model), faces, equalise=True, correct=True, floating=floating)
    unseen = [{"face": np.random.default_rng(7).integers(0, 256, (200, 1, 12, 12), dtype=np.uint8)}]
    tensorrt, cpu = (run(encode(model, table, one), unseen, optimise=True)[0] for one in (TENSORRT, CPU))
    top = np.sort(tensorrt, axis=1)
    clear = top[:, -1] - top[:, -2] > 0.1 * tensorrt.std()  # of this net, which knows nothing, most are
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(tensorrt.argmax(axis=1)[clear], cpu.argmax(axis=1)[clear])
    assert (tensorrt.argmax(axis=1) == cpu.argmax(axis=1)).mean() >= 0.95


def test_where_s8_clips_u8_goes_on_behind_a_relu_only(
    measured: tuple[onnx.ModelProto, Table], faces: Feeds
) -> None:
    model, table = measured
    table = widened(table, 0.6)
    # Each tensor is looked at for itself: what was clipped before it differs already.
    name, signed_name = "trunk.stem.relu.quantised", "front.basis.quantised"
    signed, unsigned = (
        steps(encode(model, table, encoding), faces) for encoding in (TENSORRT, U8_SAME_PLACES)
    )
    assert unsigned[name].max() > 127
    np.testing.assert_array_equal(np.minimum(unsigned[name], 127), signed[name])
    assert np.abs(signed[signed_name]).max() in (127, 128)
    np.testing.assert_array_equal(unsigned[signed_name], signed[signed_name])


def test_the_optimised_cpu_graph_differs_from_its_definition_by_rounding_only(
    measured: tuple[onnx.ModelProto, Table], faces: Feeds
) -> None:
    model, table = measured
    cpu = encode(model, table, CPU)
    assert decibels(run(cpu, faces)[0], run(cpu, faces, optimise=True)[0]) > 45


def test_the_extra_rounding_of_the_cpu_is_one_step_where_it_happens(
    measured: tuple[onnx.ModelProto, Table], faces: Feeds
) -> None:
    model, table = measured
    table = widened(table, 1.2)
    tensorrt, cpu = (steps(encode(model, table, encoding), faces) for encoding in (TENSORRT, CPU))
    for name in ("front.basis", "trunk.stem.relu", "trunk.0.conv1.relu"):  # before the first sum
        np.testing.assert_array_equal(cpu[f"{name}.quantised"], tensorrt[f"{name}.quantised"])
    moved = np.abs(cpu["trunk.0.sum.relu.quantised"] - tensorrt["trunk.0.sum.relu.quantised"])
    assert moved.max() == 1
    # Behind it convolutions weigh these steps like any other rounding, so a bound on steps holds no longer.


def test_the_extra_rounding_of_the_cpu_costs_less_than_two_decibels(
    measured: tuple[onnx.ModelProto, Table], faces: Feeds
) -> None:
    model, table = measured
    expected = run(model, faces, [TRUNK])[0]
    tensorrt, cpu = (run(encode(model, table, e), faces, [TRUNK])[0] for e in (TENSORRT, CPU))
    assert decibels(expected, cpu) > decibels(expected, tensorrt) - 2


@pytest.mark.parametrize("encoding", [TENSORRT, CPU], ids=lambda encoding: encoding.suffix)
@pytest.mark.parametrize("method", ["min-max", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("optimise", [False, True])
def test_int8_keeps_thirty_decibels_of_the_output(
    residual: Any, save: Save, faces: Feeds, encoding: Encoding, method: str, optimise: bool
) -> None:
    path = save(residual())
    model = encode(onnx.load(path), measure(path, faces, method=method), encoding)
    unseen = [{"face": np.random.default_rng(7).integers(0, 256, (8, 1, 12, 12), dtype=np.uint8)}]
    bias = 1.0  # of the head: a constant that is no signal
    expected, found = run(onnx.load(path), unseen)[0] - bias, run(model, unseen, optimise=optimise)[0] - bias
    assert decibels(expected, found) > 30
    # The pool averages rounding away. Before it this net, whose channels differ in reach, has 26 to 29 dB.
    expected, found = run(onnx.load(path), unseen, [TRUNK])[0], run(model, unseen, [TRUNK])[0]
    assert decibels(expected, found) > 25


def test_onnx_runtime_runs_every_trunk_convolution_in_integers(
    measured: tuple[onnx.ModelProto, Table], tmp_path: Path
) -> None:
    model, table = measured
    found = optimised(encode(model, table, CPU), tmp_path)
    assert found["QLinearConv"] == len(table.operators) == 6
    assert found["Conv"] + found["FusedConv"] == 1  # the front end
    assert found["QLinearAdd"] == 1  # the sum inside the trunk; the last one goes to the head in FP32
    assert found["Relu"] == 1  # that of the last sum: elsewhere the quantiser is the ReLU
    assert found["QuantizeLinear"] == 1


@pytest.mark.parametrize("skip_first", [False, True])
def test_tensorrt_gets_q_and_dq_on_the_skip_input_only(
    residual: Any, save: Save, faces: Feeds, skip_first: bool
) -> None:
    path = save(residual(skip_first))
    graph = encode(onnx.load(path), measure(path, faces), TENSORRT).graph
    nodes = {node.output[0]: node for node in graph.node}
    skip, inner = nodes["trunk.0.sum"].input if skip_first else reversed(nodes["trunk.0.sum"].input)
    assert inner == "trunk.0.conv2"
    assert (
        skip == nodes["trunk.0.conv1"].input[0] == "trunk.stem.relu.dequantised"
    )  # one pair for both readers
    skip, inner = nodes["trunk.1.sum"].input if skip_first else reversed(nodes["trunk.1.sum"].input)
    assert (skip, inner) == ("trunk.1.skip.dequantised", "trunk.1.conv2")


def test_q_and_dq_are_adjacent_to_the_operator(measured: tuple[onnx.ModelProto, Table]) -> None:
    model, table = measured
    for encoding, kind in ((TENSORRT, np.int8), (CPU, np.uint8)):
        graph = encode(model, table, encoding).graph
        nodes = {node.output[0]: node for node in graph.node}
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for name in table.operators:
            dequantise, weight = (nodes[source] for source in nodes[name].input[:2])
            quantise = nodes[dequantise.input[0]]
            assert [n.op_type for n in (quantise, dequantise, weight)] == [
                "QuantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
            ]
            assert list(quantise.input[1:]) == list(dequantise.input[1:])
            scale, zero = (constants[source] for source in quantise.input[1:])
            assert (scale.dtype, scale.shape, zero.dtype) == (np.float32, (), kind)
            values, scales, zeros = (constants[source] for source in weight.input)
            assert (values.dtype, scales.dtype, zeros.dtype) == (np.int8, np.float32, np.int8)
            assert scales.shape == zeros.shape == (len(values),)
            assert not zeros.any()
            assert values.min() >= -127
            assert constants[nodes[name].input[2]].dtype == np.float32


def test_zero_points_follow_the_sign_of_the_tensor(measured: tuple[onnx.ModelProto, Table]) -> None:
    model, table = measured
    found = {
        tensor.name.removesuffix(".zero_point"): int(numpy_helper.to_array(tensor))
        for tensor in encode(model, table, CPU).graph.initializer
        if tensor.name.endswith(".zero_point") and not tensor.dims
    }
    assert found == {name: 0 if name.endswith("relu") else 128 for name in table.activations}


def test_the_scales_of_the_graph_are_those_of_the_table(measured: tuple[onnx.ModelProto, Table]) -> None:
    model, table = measured
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in encode(model, table, TENSORRT).graph.initializer
    }
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, weight in table.weights.items():
        np.testing.assert_array_equal(constants[f"{name}.scale"], np.array(weight.scales, np.float32))
        restored = constants[f"{name}.quantised"] * constants[f"{name}.scale"][:, None, None, None]
        error = np.abs(restored - floats[name]).max(axis=(1, 2, 3))
        assert (error <= 0.501 * np.array(weight.scales)).all()
        assert name not in constants


def test_the_shell_of_the_graph_stays(residual: Any, save: Save, faces: Feeds, tmp_path: Path) -> None:
    model = residual(opset=17, ir=8)
    model.graph.node[3].metadata_props.add(key="stack_trace", value="/somewhere/net.py")
    path = save(model)
    paths = write_encodings(path, measure(path, faces), tmp_path, "face")
    assert paths == {"int8": tmp_path / "face.int8.onnx", "int8-cpu": tmp_path / "face.int8-cpu.onnx"}
    for written in paths.values():
        found = onnx.load(written)
        assert found.graph.input == model.graph.input
        assert found.graph.output == model.graph.output
        assert (found.ir_version, found.opset_import[0].version) == (8, 17)
        assert b"/somewhere" not in written.read_bytes()
        head = next(node for node in found.graph.node if node.op_type == "Gemm")
        assert head.input[1] == "head.weight"


def test_a_result_that_is_an_output_keeps_its_name(new_net: Any, save: Save, tmp_path: Path) -> None:
    net = new_net()
    net.relu(net.conv("x", "trunk.a", 2, 4))
    net.conv("trunk.a.relu", "trunk.b", 4, 4)
    shape = [1, None, 6, 6]
    outputs = dict.fromkeys(("trunk.a.relu", "trunk.b"), (TensorProto.FLOAT, shape))
    path = save(net.model({"x": (TensorProto.FLOAT, [1, 2, 6, 6])}, outputs))
    feeds = [{"x": np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)}]
    table = measure(path, feeds)
    for encoding in (TENSORRT, CPU):
        model = encode(onnx.load(path), table, encoding)
        assert [value.name for value in model.graph.output] == ["trunk.a.relu", "trunk.b"]
        for expected, found in zip(
            run(onnx.load(path), feeds), run(model, feeds, optimise=True), strict=True
        ):
            assert decibels(expected, found) > 30
    assert optimised(model, tmp_path)["QLinearConv"] == 2


def test_matrix_products_are_quantised_by_column(new_net: Any, save: Save, tmp_path: Path) -> None:
    net = new_net()
    net.add(
        "MatMul",
        ["x", net.constant("trunk.a", net.random.normal(size=(8, 16)) * np.logspace(-2, 1, 16))],
        "y",
    )
    net.add("Relu", ["y"], "y.relu")
    net.add(
        "Gemm",
        ["y.relu", net.constant("trunk.b", net.random.normal(size=(16, 4))), net.constant("c", np.ones(4))],
        "z",
    )
    path = save(net.model({"x": (TensorProto.FLOAT, ["N", 8])}, {"z": (TensorProto.FLOAT, ["N", 4])}))
    feeds = [{"x": np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)}]
    table = measure(path, feeds, method="min-max")
    for encoding in (TENSORRT, CPU):
        model = encode(onnx.load(path), table, encoding)
        assert decibels(run(onnx.load(path), feeds)[0], run(model, feeds, optimise=True)[0]) > 30
    found = optimised(model, tmp_path)
    assert found["QLinearMatMul"] == found["QGemm"] == 1


def test_a_bias_beside_weights_of_zero_survives(new_net: Any, save: Save) -> None:
    """An INT32 bias in steps of near-zero weights would overflow to a wrong number."""
    net = new_net()
    weight = np.ones((3, 1, 1, 1))
    weight[1], weight[2] = 0.0, 1e-9
    names = [net.constant("trunk.weight", weight), net.constant("trunk.bias", [0.5, -2.0, 3.0])]
    net.add("Conv", ["x", *names], "y")
    path = save(net.model({"x": (TensorProto.FLOAT, [1, 1, 4, 4])}, {"y": (TensorProto.FLOAT, [1, 3, 4, 4])}))
    feeds = [{"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)}]
    model = encode(onnx.load(path), measure(path, feeds, method="min-max"), CPU)
    expected, found = (run(m, feeds, optimise=True)[0] for m in (onnx.load(path), model))
    np.testing.assert_allclose(found, expected, atol=3 / 127)


def test_a_weight_that_two_operators_share_is_stored_once(new_net: Any, save: Save) -> None:
    net = new_net()
    net.conv("x", "trunk.a", 2, 2)
    net.add("Conv", ["trunk.a", "trunk.a.weight"], "y", pads=[1] * 4)
    value = (TensorProto.FLOAT, [1, 2, 6, 6])
    path = save(net.model({"x": value}, {"y": value}))
    feeds = [{"x": np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)}]
    model = encode(onnx.load(path), measure(path, feeds), CPU)
    assert sum(tensor.name.endswith("weight.quantised") for tensor in model.graph.initializer) == 1
    assert decibels(run(onnx.load(path), feeds)[0], run(model, feeds, optimise=True)[0]) > 30


def test_a_pool_between_convolutions_leaves_them_in_integers(
    new_net: Any, save: Save, tmp_path: Path
) -> None:
    net = new_net()
    x = net.relu(net.conv("x", "trunk.a", 1, 4))
    x = net.add("MaxPool", [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    net.conv(x, "trunk.b", 4, 4)
    path = save(
        net.model({"x": (TensorProto.FLOAT, [1, 1, 8, 8])}, {"trunk.b": (TensorProto.FLOAT, [1, 4, 4, 4])})
    )
    feeds = [{"x": np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)}]
    model = encode(onnx.load(path), measure(path, feeds), CPU)
    point = next(tensor for tensor in model.graph.initializer if tensor.name == "pooled.zero_point")
    assert int(numpy_helper.to_array(point)) == 0
    assert optimised(model, tmp_path)["QLinearConv"] == 2
    assert decibels(run(onnx.load(path), feeds)[0], run(model, feeds, optimise=True)[0]) > 30


def test_a_table_of_another_file_is_refused(residual: Any, save: Save, faces: Feeds, tmp_path: Path) -> None:
    table = measure(save(residual()), faces)
    with pytest.raises(
        InputError, match=r"sha256 is [0-9a-f]{64}, but the table was measured on [0-9a-f]{64}"
    ):
        write_encodings(save(residual(skip_first=True)), table, tmp_path, "face")
    assert not list(tmp_path.glob("*.int8*"))


def rename(entries: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in entries.items()}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("operators", lambda e: rename(e, "trunk.stem", "gone"), "does not write 'gone' as the table says"),
        (
            "residuals",
            lambda e: rename(e, "trunk.0.sum", "gone"),
            "does not write 'gone' by an Add that reads",
        ),
        ("residuals", lambda e: {**e, "trunk.0.sum": "trunk.1.skip"}, "an Add that reads 'trunk.1.skip'"),
        (
            "weights",
            lambda e: {**e, "trunk.stem.weight": e["trunk.1.conv1.weight"]},
            "weight 'trunk.stem.weight' of shape (8, 2, 3, 3) does not fit the table's 16 scales on axis 0",
        ),
        (
            "weights",
            lambda e: {**e, "trunk.stem.weight": dataclasses.replace(e["trunk.stem.weight"], axis=4)},
            "does not fit the table's 8 scales on axis 4",
        ),
        (
            "weights",
            lambda e: {**e, "gone": e["trunk.stem.weight"]},
            "weight 'gone' of shape () does not fit",
        ),
    ],
)
def test_a_table_that_does_not_fit_the_graph_is_named(
    measured: tuple[onnx.ModelProto, Table], section: str, change: Any, message: str
) -> None:
    model, table = measured
    changes: dict[str, Any] = {section: change(getattr(table, section))}
    with pytest.raises(InputError) as caught:
        encode(model, dataclasses.replace(table, **changes), CPU)
    assert message in str(caught.value)
