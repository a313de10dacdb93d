from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeemo.errors import InputError
from edgeemo_calibration import measure
from edgeemo_calibration.histogram import Histogram

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]


def voice_net(new_net: Any, weight: float = 1.0) -> onnx.ModelProto:
    """A front end of one multiplication and a trunk of one convolution, on floats."""
    net = new_net()
    net.add("Mul", ["voice", net.constant("gain", 2.0)], "x")
    net.conv("x", "trunk.conv", 1, 2)
    shape = (TensorProto.FLOAT, ["N", None, 4, 4])
    return net.model({"voice": shape}, {"trunk.conv": shape})


@pytest.mark.parametrize("skip_first", [False, True])
def test_inputs_results_and_skips_are_measured(
    residual: Any, save: Save, faces: Feeds, skip_first: bool
) -> None:
    table = measure(save(residual(skip_first)), faces)
    assert {name: operator.result for name, operator in table.operators.items()} == {
        "trunk.stem": "trunk.stem.relu",
        "trunk.0.conv1": "trunk.0.conv1.relu",
        "trunk.0.conv2": "trunk.0.conv2",
        "trunk.1.conv1": "trunk.1.conv1.relu",
        "trunk.1.conv2": "trunk.1.conv2",
        "trunk.1.skip": "trunk.1.skip",
    }
    assert table.residuals == {"trunk.0.sum": "trunk.stem.relu", "trunk.1.sum": "trunk.1.skip"}
    read = {operator.input for operator in table.operators.values()}
    assert read == {
        "front.basis",
        "trunk.stem.relu",
        "trunk.0.conv1.relu",
        "trunk.0.sum.relu",
        "trunk.1.conv1.relu",
    }
    assert table.activations.keys() == read | {operator.result for operator in table.operators.values()}


def test_the_trunk_can_be_a_predicate(residual: Any, save: Save, faces: Feeds) -> None:
    table = measure(save(residual()), faces, trunk=lambda name: name == "head.weight")
    assert list(table.operators) == ["tokens"]
    assert table.operators["tokens"].kind == "Gemm"
    assert len(table.weights["head.weight"].scales) == 4


def test_min_max_is_the_largest_magnitude_over_all_feeds(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    table = measure(save(model), faces, method="min-max")
    name = "trunk.0.conv2"
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = max(np.abs(session.run([name], feed)[0]).max() for feed in faces)
    assert table.activations[name].absmax == pytest.approx(largest, rel=1e-5)
    assert table.activations[name].scale == pytest.approx(largest / 127, rel=1e-5)


def test_weights_have_one_scale_an_output_channel(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    table = measure(save(model), faces)
    for tensor in model.graph.initializer:
        if tensor.name in table.weights:
            largest = np.abs(numpy_helper.to_array(tensor)).max(axis=(1, 2, 3))
            assert table.weights[tensor.name].axis == 0
            np.testing.assert_allclose(table.weights[tensor.name].scales, largest / 127, rtol=1e-6)


def test_matmul_and_plain_gemm_have_their_output_channels_last(new_net: Any, save: Save) -> None:
    net = new_net()
    first = net.constant("trunk.a", [[1.0, 2.0, 4.0], [-8.0, 1.0, 1.0]])
    second = net.constant("trunk.b", [[1.0, 16.0], [1.0, 1.0], [1.0, -2.0]])
    net.add("Gemm", [net.add("MatMul", ["x", first], "y"), second], "z")
    value = (TensorProto.FLOAT, ["N", 2])
    path = save(net.model({"x": value}, {"z": value}))
    table = measure(path, [{"x": np.ones((3, 2), np.float32)}], method="min-max")
    assert table.weights["trunk.a"].axis == table.weights["trunk.b"].axis == 1
    np.testing.assert_allclose(np.multiply(table.weights["trunk.a"].scales, 127), [8, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(np.multiply(table.weights["trunk.b"].scales, 127), [1, 16], rtol=1e-6)


def test_the_digests_and_the_count_follow_the_data(residual: Any, save: Save, faces: Feeds) -> None:
    path = save(residual())
    table = measure(path, iter(faces))
    assert table.samples == 16
    assert measure(path, faces) == table
    changed = [*faces[:-1], {"face": faces[-1]["face"] ^ np.uint8(1)}]
    assert measure(path, changed).data_sha256 != table.data_sha256
    assert measure(path, faces[::-1]).data_sha256 != table.data_sha256
    assert measure(path, faces[::-1]).activations == table.activations
    assert measure(save(residual(skip_first=True)), faces).model_sha256 != table.model_sha256


def test_feeds_are_taken_one_at_a_time(residual: Any, save: Save) -> None:
    held = np.zeros((1, 1, 12, 12), np.uint8)

    def stream() -> Iterator[dict[str, Any]]:
        for level in (10, 200, 90):  # one buffer, written over: only what is read before the next counts
            held[...] = level
            held[0, 0, 0, 0] = 0
            yield {"face": held}

    copies = [{"face": feed["face"].copy()} for feed in stream()]
    path = save(residual())
    assert measure(path, stream()) == measure(path, copies)


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([], {}, "there is no calibration data"),
        ([1.0, np.nan], {}, "feed 1: tensor 'x' holds values that are not finite"),
        ([np.inf], {}, "feed 0: tensor 'x' holds values that are not finite"),
        ([3e38], {}, "feed 0: tensor 'x' holds values that are not finite"),  # the front end overflows
        ([0.0], {}, "tensor 'x' is zero in all 1 samples"),
        (
            [1.0],
            {"method": "magic"},
            "method 'magic' is unknown; it must be one of min-max, percentile, entropy, mse",
        ),
        ([1.0], {"percentile": 0.0}, "percentile 0.0 is outside (0, 100]"),
        ([1.0], {"percentile": float("nan")}, "percentile nan is outside"),
        ([1.0], {"trunk": "body."}, "no constant weight of a Conv/Gemm/MatMul is in the trunk 'body.'"),
    ],
)
def test_wrong_data_and_arguments_are_named(
    new_net: Any, save: Save, values: list[float], arguments: dict[str, Any], message: str
) -> None:
    path = save(voice_net(new_net))
    feeds = [{"voice": np.full((1, 1, 4, 4), value, np.float32)} for value in values]
    with pytest.raises(InputError) as caught:
        measure(path, feeds, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"face": np.ones((1, 1, 4, 4), np.float32)}, "feed 0 has ['face']; the graph reads ['voice']"),
        ({"voice": np.ones((1, 1, 4), np.float32)}, "does not fit the graph"),
        ({"voice": np.ones((1, 1, 4, 4), np.uint8)}, "does not fit the graph"),
    ],
)
def test_a_feed_that_does_not_fit_is_named(
    new_net: Any, save: Save, feed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        measure(save(voice_net(new_net)), [feed])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"opset": 16}, "opset is 16; it must be 17 or 18"),
        ({"ir": 11}, "IR version is 11; it must be at most 10"),
    ],
)
def test_versions_that_an_engine_cannot_read_are_refused(
    residual: Any, save: Save, faces: Feeds, versions: dict[str, int], message: str
) -> None:
    path = save(residual(**versions))
    with pytest.raises(InputError, match=message):
        measure(path, faces)


def test_files_that_cannot_be_used_are_named(residual: Any, faces: Feeds, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx: cannot be read"):
        measure(tmp_path / "gone.onnx", faces)
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(InputError, match=r"text\.onnx: is not"):
        measure(tmp_path / "text.onnx", faces)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.onnx: opset is 0"):
        measure(tmp_path / "empty.onnx", faces)
    broken = residual()
    broken.graph.node[3].input[0] = "nowhere"
    onnx.save_model(broken, tmp_path / "broken.onnx")
    with pytest.raises(InputError, match=r"broken\.onnx: is not a valid ONNX graph"):
        measure(tmp_path / "broken.onnx", faces)
    onnx.save_model(
        residual(), tmp_path / "apart.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    with pytest.raises(InputError, match=r"apart\.onnx: keeps weights in other files"):
        measure(tmp_path / "apart.onnx", faces)


def test_a_weight_that_is_not_finite_is_named(new_net: Any, save: Save) -> None:
    model = voice_net(new_net)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "trunk.conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    # The result is not finite either, so it may be named first: ranges are measured before weights.
    with pytest.raises(InputError, match=r"'trunk\.conv(\.weight)?' holds values that are not finite"):
        measure(save(model), [{"voice": np.ones((1, 1, 4, 4), np.float32)}])


def fill(*arrays: Any) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(np.asarray(array, np.float32))
    return histogram


def test_a_histogram_does_not_depend_on_the_order_of_the_stream() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(0, reach, 1000) for reach in (1e-3, 1.0, 40.0, 0.2)]
    one, other = fill(*parts), fill(*parts[::-1])
    for method in ("min-max", "percentile", "mse"):
        assert one.clip(method, 99.0) == other.clip(method, 99.0)


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_the_percentile_is_that_of_the_magnitudes_that_are_not_zero(percentile: float) -> None:
    values = np.random.default_rng(0).normal(0, 3.0, 100_000).astype(np.float32)
    histogram = fill(np.concatenate([values, np.zeros(900_000)]))
    found = histogram.clip("percentile", percentile)
    assert found == pytest.approx(np.percentile(np.abs(values), percentile), abs=histogram.limit / 1000)
    assert found <= histogram.absmax


def squared_error(values: Any, clip: float) -> float:
    step = clip / 127
    return float(np.mean((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2))


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_mse_is_within_a_percent_of_the_best_clip(kind: str) -> None:
    values = getattr(np.random.default_rng(0), kind)(size=200_000).astype(np.float32)
    values[0] = 4 * np.abs(values).max()
    best = min(squared_error(values, share * values[0]) for share in np.linspace(0.05, 1.0, 400))
    found = fill(values).clip("mse", 0.0)
    assert squared_error(values, found) <= 1.01 * best
    assert found < values[0]


def test_one_value_alone_is_its_own_range() -> None:
    for method in ("min-max", "percentile", "mse"):
        assert fill([0.0, -0.7]).clip(method, 99.99) == pytest.approx(0.7)
