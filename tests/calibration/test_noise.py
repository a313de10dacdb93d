from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgeemo.errors import InputError
from edgeemo_calibration import Activation, measure
from edgeemo_calibration.noise import output_noise, tensor_noise

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]


def test_every_result_is_there_and_the_worst_first(residual: Any, save: Save, faces: Feeds) -> None:
    path = save(residual())
    table = measure(path, faces)
    found = tensor_noise(path, table, iter(faces))
    assert {one.tensor for one in found} == {operator.result for operator in table.operators.values()}
    ratios = [one.sqnr_db for one in found]
    assert ratios == sorted(ratios)
    assert 15.0 < ratios[0] < ratios[-1] < 60.0
    assert all(one.kind == "Conv" and 0.0 <= one.clipped < 0.01 for one in found)


def test_the_ratio_is_that_of_rounding_by_hand(new_net: Any, save: Save) -> None:
    net = new_net()
    net.add("Conv", ["x", net.constant("trunk.w", [[[[1.0]]]])], "y")
    value = (TensorProto.FLOAT, [1, 1, 40, 40])
    path = save(net.model({"x": value}, {"y": value}))
    x = np.random.default_rng(0).normal(size=(1, 1, 40, 40)).astype(np.float32)
    table = measure(path, [{"x": x}], method="min-max")
    step = np.float32(table.activations["x"].scale)
    rounded = np.rint(x / step) * step  # the weight is exact, so is rounding a second time
    expected = 10 * np.log10(np.sum(x**2) / np.sum((x - rounded) ** 2))
    (found,) = tensor_noise(path, table, [{"x": x}])
    assert found.sqnr_db == pytest.approx(expected, abs=0.01)
    assert found.rounding_db == pytest.approx(expected, abs=0.01)
    assert found.clipped == 0.0
    assert output_noise(path, table, [{"x": x}])["y"] == pytest.approx(expected, abs=0.01)


def test_the_layer_with_a_bad_scale_is_the_worst(residual: Any, save: Save, faces: Feeds) -> None:
    path = save(residual())
    table = measure(path, faces, method="min-max")
    bad = table.activations["trunk.1.skip"]
    activations = {**table.activations, "trunk.1.skip": Activation(bad.absmax, bad.scale / 8)}
    worst = tensor_noise(path, dataclasses.replace(table, activations=activations), faces)[0]
    assert worst.tensor == "trunk.1.skip"
    assert worst.clipped > 0.1


def test_what_is_computed_exactly_has_no_noise(new_net: Any, save: Save) -> None:
    net = new_net()
    net.add("Conv", ["x", net.constant("trunk.w", [[[[127.0]]]])], "y")
    value = (TensorProto.FLOAT, [1, 1, 1, 255])
    path = save(net.model({"x": value}, {"y": value}))
    x = np.arange(-127, 128, dtype=np.float32).reshape(1, 1, 1, 255)
    assert output_noise(path, measure(path, [{"x": x}], method="min-max"), [{"x": x}]) == {"y": math.inf}


def test_data_and_the_right_file_are_needed(residual: Any, save: Save, faces: Feeds, tmp_path: Path) -> None:
    path = save(residual())
    table = measure(path, faces)
    with pytest.raises(InputError, match="no data to compare on"):
        tensor_noise(path, table, [])
    with pytest.raises(InputError, match="the table was measured on"):
        output_noise(save(residual(skip_first=True)), table, faces)
