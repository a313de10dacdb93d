from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from edgeemo.capture.clip import read_sound
from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.preprocess.voice import Resampler
from edgeemo_calibration import lint, write_half
from edgeemo_calibration.half import halve

# On an (emulated) Arm with FP16 instructions ONNX Runtime's results are up to twice as far from FP32.
SUMS = 2 if platform.machine() == "aarch64" else 1

Save = Callable[[ModelProto], Path]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def run(model: ModelProto | bytes, feed: dict[str, Any], outputs: list[str] | None = None) -> list[Any]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feed)  # type: ignore[no-any-return]


def types(model: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def kinds(model: ModelProto) -> dict[str, int]:
    """The type that each node of a residual net writes, casts apart."""
    found = types(model)
    return {node.output[0]: found[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}


def test_the_trunk_is_fp16_and_all_else_fp32(residual: Any) -> None:
    model = halve(residual())
    found = kinds(model)
    trunk = {name for name, kind in found.items() if kind == HALF}
    assert trunk == {name for name in found if name.startswith("trunk.")}
    assert set(found) - trunk == {"unit", "x", "front.basis", "pooled", "flat", "tokens"}
    assert {found[name] for name in found if name not in trunk} == {FLOAT}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {name for name, kind in stored.items() if kind == HALF} == {
        name for name in stored if name.startswith("trunk.")
    }


def test_two_casts_at_the_borders_of_the_trunk(residual: Any) -> None:
    casts = [node for node in halve(residual()).graph.node if node.op_type == "Cast"]
    assert [(node.input[0], node.output[0], node.attribute[0].i) for node in casts] == [
        ("face", "float", FLOAT),
        ("front.basis", "front.basis.half", HALF),
        ("trunk.1.sum.relu", "trunk.1.sum.relu.float", FLOAT),
    ]


def test_the_shell_of_the_graph_stays(residual: Any, save: Save, tmp_path: Path) -> None:
    model = residual(opset=17, ir=8)
    model.graph.node[3].metadata_props.add(key="stack_trace", value="/somewhere/net.py")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("trunk.stem", FLOAT, None))
    path = write_half(save(model), tmp_path, "face")
    assert path == tmp_path / "face.fp16.onnx"
    found = onnx.load(path)
    assert found.graph.input == model.graph.input
    assert found.graph.output == model.graph.output
    assert (found.ir_version, found.opset_import[0].version) == (8, 17)
    assert b"/somewhere" not in path.read_bytes()


def test_answers_differ_by_the_rounding_of_fp16(residual: Any, faces: list[dict[str, Any]]) -> None:
    model = residual()
    half = halve(model)
    for feed in faces:
        expected, found = run(model, feed)[0], run(half, feed)[0]
        assert 0.0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_an_output_inside_the_trunk_keeps_name_and_type(new_net: Any, save: Save) -> None:
    net = new_net()
    net.relu(net.conv("x", "trunk.a", 2, 4))
    net.conv("trunk.a.relu", "trunk.b", 4, 4)
    shape = [1, 4, 6, 6]
    outputs = dict.fromkeys(("trunk.a.relu", "trunk.b"), (FLOAT, shape))
    model = net.model({"x": (FLOAT, [1, 2, 6, 6])}, outputs)
    half = halve(model)
    assert half.graph.output == model.graph.output
    feed = {"x": net.random.normal(size=(1, 2, 6, 6)).astype(np.float32)}
    for expected, found in zip(run(model, feed), run(half, feed), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=5e-3 * SUMS)
    assert types(half)["trunk.a.relu.half"] == HALF
    assert lint(half) == []


def test_what_both_precisions_read_is_there_in_both(new_net: Any) -> None:
    """A weight and an input of the trunk that the head reads as well, and a sum off the trunk."""
    net = new_net()
    weight, bias = net.constant("trunk.weight", np.ones((4, 4))), net.constant("trunk.bias", np.ones(4))
    net.add("Gemm", ["x", weight, bias], "product", transB=1)
    level = net.add("ReduceMean", [weight], "level", keepdims=0)
    net.add("Mul", [net.add("Add", ["x", level], "moved"), "product"], "y")
    model = net.model({"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])})
    half = halve(model)
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert stored == {"trunk.weight": FLOAT, "trunk.weight.half": HALF, "trunk.bias": HALF}
    assert types(half)["moved"] == FLOAT
    assert lint(half, trunk={"trunk.weight", "trunk.bias"}.__contains__) == []
    feed = {"x": np.full((2, 4), 0.1, np.float32)}
    np.testing.assert_allclose(run(half, feed)[0], run(model, feed)[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "constant", "kind"),
    [
        ("trunk.bias", 0.5, HALF),
        ("mask", 1e9, FLOAT),  # beyond FP16
        ("epsilon", 1e-8, FLOAT),  # zero in FP16
    ],
)
def test_a_sum_is_fp16_with_constants_of_the_trunk_alone(
    new_net: Any, name: str, constant: float, kind: int
) -> None:
    net = new_net()
    net.add("MatMul", ["x", net.constant("trunk.weight", np.ones((4, 4)))], "product")
    net.add("Add", ["product", net.constant(name, constant)], "sum")
    net.add("Relu", ["sum"], "relu")
    net.add("Sqrt", ["relu"], "y")
    model = net.model({"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])})
    half = halve(model)
    assert {types(half)["sum"], types(half)["relu"]} == {kind}
    assert types(half)["y"] == FLOAT
    np.testing.assert_allclose(
        run(half, {"x": np.full((1, 4), 1e-5, np.float32)})[0],
        run(model, {"x": np.full((1, 4), 1e-5, np.float32)})[0],
        rtol=1e-2,
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (65504.0, None),
        (65536.0, "weight 'trunk.weight' reaches 65536; FP16 holds at most 65504"),
        (float("nan"), "weight 'trunk.weight' reaches nan"),
    ],
)
def test_a_weight_beyond_fp16_is_named(new_net: Any, value: float, message: str | None) -> None:
    net = new_net()
    net.add("MatMul", ["x", net.constant("trunk.weight", np.full((2, 2), value))], "y")
    model = net.model({"x": (FLOAT, ["N", 2])}, {"y": (FLOAT, ["N", 2])})
    if message is None:
        assert numpy_helper.to_array(halve(model).graph.initializer[0])[0, 0] == 65504.0
    else:
        with pytest.raises(InputError, match=message):
            halve(model)


def test_a_graph_without_a_trunk_is_refused(residual: Any) -> None:
    with pytest.raises(
        InputError, match=r"no constant weight of a Conv/Gemm/MatMul is in the trunk 'body\.'"
    ):
        halve(residual(), "body.")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        write_half(tmp_path / "gone.onnx", tmp_path, "face")


# The default bundle on recordings


def tensors_of_the_trunk(model: ModelProto) -> list[str]:
    found = types(model)
    return [node.output[0] for node in model.graph.node if found[node.output[0]] == HALF]


def real_windows(data: Path, name: str) -> NDArray[Any]:
    """24 test pictures, or the seconds of a loud test voice at 16 kHz and at full scale."""
    if name == "face":
        with np.load(data / "ferplus" / "valid.npz", allow_pickle=False) as file:
            return np.ascontiguousarray(file["images"][:24, :, :, None])
    clip = sorted(data.glob("ravdess_speech/actor_17/03-01-05-02-*.flac"))[0]
    samples, rate = read_sound(clip)
    samples = Resampler(rate, 16000).push(samples)
    samples /= np.abs(samples).max()
    return np.stack([samples[start : start + 16000] for start in range(0, len(samples) - 16000, 8000)])


@pytest.mark.parametrize("name", ["face", "voice"])
def test_the_default_bundle_in_fp16_answers_as_in_fp32(default_bundle: Path, data: Path, name: str) -> None:
    bundle = Bundle.read(default_bundle)
    files = bundle.graphs[name].files
    half = onnx.load_model_from_string(bundle.read_file(files["fp16"]))
    assert halve(onnx.load_model_from_string(bundle.read_file(files["fp32"]))) == half
    inner = tensors_of_the_trunk(half)
    probed = ModelProto()
    probed.CopyFrom(half)
    probed.graph.output.extend(onnx.helper.make_tensor_value_info(inside, HALF, None) for inside in inner)
    for window in real_windows(data, name)[:, None]:
        feed = {name: window}
        expected, *_ = run(bundle.read_file(files["fp32"]), feed)
        found, *reached = run(probed, feed)
        # The worst over all test pictures and voices was 0.0014 and 0.0041, of tokens up to 4 and 7.
        np.testing.assert_allclose(found, expected, atol=0.01 * SUMS)
        assert max(np.abs(values).max() for values in reached) < 100.0  # far from 65504
