from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgeemo.errors import InputError
from edgeemo_calibration import measure
from edgeemo_calibration.equalise import apply, factors, reaches
from edgeemo_calibration.noise import output_noise

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]


def run(model: onnx.ModelProto, feed: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feed
    )[0]


def weight(model: onnx.ModelProto, name: str) -> Any:
    return numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name))


def stretched(net: Any, name: str, factor: Any, axis: int) -> None:
    """Multiply the weight of one convolution by channel."""
    place, tensor = next((i, t) for i, t in enumerate(net.constants) if t.name == f"{name}.weight")
    shape = [1] * 4
    shape[axis] = -1
    values = numpy_helper.to_array(tensor) * np.reshape(factor, shape)
    net.constants[place] = numpy_helper.from_array(values.astype(np.float32), tensor.name)


def uneven_net(new_net: Any, reader: str = "Conv", group: int = 1, seed: int = 0) -> onnx.ModelProto:
    """Two convolutions whose channels between differ by a thousand."""
    net = new_net(seed)
    factor = np.logspace(-2, 1, 8)
    net.relu(net.conv("x", "trunk.a", 2, 8))
    stretched(net, "trunk.a", factor, 0)
    if group == 1:
        net.conv("trunk.a.relu", "trunk.b", 8, 4)
        stretched(net, "trunk.b", 1 / factor, 1)
    else:
        net.constant("trunk.b.weight", net.random.normal(size=(4, 8 // group, 3, 3)))
        net.add("Conv", ["trunk.a.relu", "trunk.b.weight"], "trunk.b", pads=[1] * 4, group=group)
    value = TensorProto.FLOAT
    return net.model({"x": (value, [1, 2, 6, 6])}, {"trunk.b": (value, [1, 4, 6, 6])})


def feeds_of(count: int = 6) -> Feeds:
    random = np.random.default_rng(3)
    return [{"x": random.normal(size=(1, 2, 6, 6)).astype(np.float32)} for _ in range(count)]


def test_a_pair_ends_at_equal_reach(new_net: Any) -> None:
    model = uneven_net(new_net)
    found = factors(model)
    assert list(found) == ["trunk.a.relu"]
    even = apply(model, found)
    given = np.abs(weight(even, "trunk.a.weight")).max(axis=(1, 2, 3))
    read = np.abs(weight(even, "trunk.b.weight")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(given, read, rtol=1e-3)
    before = np.abs(weight(model, "trunk.a.weight")).max(axis=(1, 2, 3))
    np.testing.assert_allclose(before / found["trunk.a.relu"], given, rtol=1e-5)


def test_with_recordings_it_is_the_channels_that_end_at_the_reach_of_the_weights(new_net: Any) -> None:
    model = uneven_net(new_net)
    even = apply(model, factors(model, reach=reaches(model, feeds_of())))
    channels = reaches(even, feeds_of())["trunk.a.relu"]
    read = np.abs(weight(even, "trunk.b.weight")).max(axis=(0, 2, 3))
    alive = channels > 0.0
    assert alive.sum() >= 6
    np.testing.assert_allclose(channels[alive], read[alive], rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_computes_what_it_did(new_net: Any, seed: int) -> None:
    net = new_net(seed)
    x = "x"
    for place, (inputs, outputs) in enumerate([(2, 6), (6, 5), (5, 7), (7, 3)]):
        x = net.conv(x, f"trunk.{place}", inputs, outputs)
        stretched(net, f"trunk.{place}", np.exp(net.random.normal(0, 2, outputs)), 0)
        x = net.relu(x) if place % 2 else x
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    model = net.model({"x": shape}, {x: shape})
    found = factors(model)
    assert list(found) == ["trunk.0", "trunk.1.relu", "trunk.2"]
    for feed in feeds_of(3):
        expected = run(model, feed)
        error = np.abs(run(apply(model, found), feed) - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("skip_first", [False, True])
def test_a_residual_net_computes_what_it_did(residual: Any, faces: Feeds, skip_first: bool) -> None:
    model = residual(skip_first)
    found = factors(model, reach=reaches(model, faces))
    # What a sum or a projection beside reads is shared with them.
    assert set(found) == {"trunk.0.conv1.relu", "trunk.1.conv1.relu"}
    for feed in faces:
        np.testing.assert_allclose(run(apply(model, found), feed), run(model, feed), rtol=1e-5, atol=1e-5)


def test_all_that_read_a_tensor_are_multiplied(new_net: Any) -> None:
    net = new_net()
    x = net.relu(net.conv("x", "trunk.a", 2, 6))
    net.add("Add", [net.conv(x, "trunk.b", 6, 3), net.conv(x, "trunk.c", 6, 3, 1)], "sum")
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    model = net.model({"x": shape}, {"sum": shape})
    found = factors(model)
    assert list(found) == ["trunk.a.relu"]
    feed = feeds_of(1)[0]
    np.testing.assert_allclose(run(apply(model, found), feed), run(model, feed), rtol=1e-5, atol=1e-5)


def test_products_of_matrices_are_equalised_too(new_net: Any) -> None:
    net = new_net()
    scale = np.logspace(-1, 1, 6)
    net.add("MatMul", ["x", net.constant("trunk.a", net.random.normal(size=(4, 6)) * scale)], "y")
    net.add("Relu", ["y"], "y.relu")
    bias = net.constant("trunk.c", net.random.normal(size=5))
    net.add("Gemm", ["y.relu", net.constant("trunk.b", net.random.normal(size=(5, 6))), bias], "z", transB=1)
    net.add("Gemm", ["z", net.constant("trunk.d", net.random.normal(size=(5, 2)))], "o", alpha=0.5)
    model = net.model({"x": (TensorProto.FLOAT, ["N", 4])}, {"o": (TensorProto.FLOAT, ["N", 2])})
    found = factors(model)
    assert {name: len(divisors) for name, divisors in found.items()} == {"y.relu": 6, "z": 5}
    feed = {"x": np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(apply(model, found), feed), run(model, feed), rtol=1e-5, atol=1e-5)


def test_a_dead_channel_is_left_alone(new_net: Any) -> None:
    net = new_net()
    net.relu(net.conv("x", "trunk.a", 2, 4))
    stretched(net, "trunk.a", [1, 0, 5, 2], 0)
    net.conv("trunk.a.relu", "trunk.b", 4, 3)
    stretched(net, "trunk.b", [1, 3, 0, 2], 1)
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    divisors = factors(net.model({"x": shape}, {"trunk.b": shape}))["trunk.a.relu"]
    assert divisors[1] == divisors[2] == 1.0
    assert divisors[0] != 1.0


def test_a_grouped_reader_is_skipped_and_a_grouped_writer_is_not(new_net: Any) -> None:
    assert factors(uneven_net(new_net, group=2)) == {}
    net = new_net()
    net.constant("trunk.a.weight", net.random.normal(size=(4, 1, 3, 3)))
    net.add("Conv", ["x", "trunk.a.weight"], "trunk.a", pads=[1] * 4, group=2)
    net.conv("trunk.a", "trunk.b", 4, 3)
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    model = net.model({"x": (TensorProto.FLOAT, [1, 2, 6, 6])}, {"trunk.b": shape})
    found, feed = factors(model), feeds_of(1)[0]
    assert len(found["trunk.a"]) == 4
    np.testing.assert_allclose(run(apply(model, found), feed), run(model, feed), rtol=1e-5, atol=1e-5)


def not_divisible(net: Any, case: str) -> tuple[str, dict[str, Any]]:
    """Two operators between which somebody would notice; the last tensor and more outputs."""
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    if case == "shared weight":
        net.conv("x", "trunk.a", 2, 2)
        return net.add("Conv", ["trunk.a", "trunk.a.weight"], "z", pads=[1] * 4), {}
    if case == "shared bias":
        net.conv("x", "trunk.a", 2, 2)
        net.constant("trunk.b.weight", net.random.normal(size=(2, 2, 1, 1)))
        return net.add("Conv", ["trunk.a", "trunk.b.weight", "trunk.a.bias"], "z"), {}
    net.conv("x", "trunk.a", 2, 2)
    if case == "output":
        return net.conv("trunk.a", "trunk.b", 2, 2), {"trunk.a": shape}
    if case == "another reader":
        net.conv("trunk.a", "trunk.b", 2, 2)
        return net.add("Sub", ["trunk.a", "trunk.b"], "z"), {}
    if case == "another function":
        return net.conv(net.add("Tanh", ["trunk.a"], "t"), "trunk.b", 2, 2), {}
    if case == "outside the trunk":
        return net.conv("trunk.a", "head.b", 2, 2), {}
    product = net.constant("trunk.b", net.random.normal(size=(6, 6)))  # along the width, not the channels
    return net.add("MatMul", ["trunk.a", product], "z"), {}


@pytest.mark.parametrize(
    "case",
    [
        "shared weight",
        "shared bias",
        "output",
        "another reader",
        "another function",
        "outside the trunk",
        "another axis",
    ],
)
def test_nothing_is_divided_where_somebody_would_notice(new_net: Any, case: str) -> None:
    net = new_net()
    last, more = not_divisible(net, case)
    shape = (TensorProto.FLOAT, [1, None, 6, 6])
    assert factors(net.model({"x": (TensorProto.FLOAT, [1, 2, 6, 6])}, {last: shape, **more})) == {}


def test_equalisation_pays_where_channels_differ(new_net: Any, save: Save) -> None:
    path, feeds = save(uneven_net(new_net)), feeds_of(12)
    plain, even = (measure(path, feeds, method="min-max", equalise=on) for on in (False, True))
    gained = output_noise(path, even, feeds)["trunk.b"] - output_noise(path, plain, feeds)["trunk.b"]
    assert gained > 6.0
    assert even.model_sha256 == plain.model_sha256


@pytest.mark.parametrize(
    ("divisors", "message"),
    [
        ({"gone": (1.0,)}, "no 'gone' between operators"),
        ({"trunk.b": (1.0,) * 4}, "no 'trunk.b' between operators"),
        ({"trunk.a.relu": (1.0,) * 3}, "'trunk.a.relu' has 8 channels, the table 3 divisors"),
    ],
)
def test_divisors_that_do_not_fit_are_named(new_net: Any, divisors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply(uneven_net(new_net), divisors)


def test_reaches_need_data(new_net: Any) -> None:
    with pytest.raises(InputError, match="no calibration data"):
        reaches(uneven_net(new_net), [])
