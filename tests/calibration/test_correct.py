from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgeemo.errors import InputError
from edgeemo_calibration import CPU, TENSORRT, Table, measure
from edgeemo_calibration.correct import corrections
from edgeemo_calibration.encode import encode, raw
from edgeemo_calibration.equalise import apply
from edgeemo_calibration.probe import values

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]


def shifts(model: onnx.ModelProto, table: Table, feeds: Feeds) -> dict[str, Any]:
    """How far the mean of every channel is off, before the ReLU, by operator."""
    names = [name for name, operator in table.operators.items() if operator.kind == "Conv"]
    quantised = encode(model, table, CPU)
    found = {}
    for name in names:
        (expected,), (rounded,) = (
            [np.concatenate(parts) for parts in zip(*(arrays for _, _, arrays in run), strict=True)]
            for run in (
                values(apply(model, table.equalisation), feeds, [name]),
                values(quantised, feeds, [raw(model.graph, table, name)], exact=True),
            )
        )
        found[name] = (expected - rounded).mean(axis=(0, 2, 3))
    return found


@pytest.mark.parametrize("equalise", [False, True])
def test_no_channel_is_shifted_afterwards(residual: Any, save: Save, faces: Feeds, equalise: bool) -> None:
    model = residual()
    path = save(model)
    plain = measure(path, faces, method="min-max", equalise=equalise)
    table = measure(path, faces, method="min-max", equalise=equalise, correct=True)
    assert table.corrections.keys() == table.operators.keys()
    before, after = shifts(model, plain, faces), shifts(model, table, faces)
    for name, shift in after.items():
        assert np.abs(shift).max() < 1e-5
        assert np.abs(before[name]).max() > 1e-4
    assert dataclasses.replace(table, corrections={}) == plain


def test_what_is_corrected_for_already_does_not_count(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    table = measure(save(model), faces, correct=True)
    assert corrections(model, table, lambda: faces) == table.corrections


def test_both_encodings_are_given_the_same_biases(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    table = measure(save(model), faces, correct=True)
    biases = [
        {
            tensor.name: tensor.raw_data
            for tensor in encode(model, table, encoding).graph.initializer
            if "bias" in tensor.name
        }
        for encoding in (CPU, TENSORRT)
    ]
    assert biases[0] == biases[1]
    assert sum(name.endswith(".corrected_bias") for name in biases[0]) == len(table.operators)


def test_a_convolution_without_a_bias_gets_one_and_a_product_of_matrices_none(
    new_net: Any, save: Save
) -> None:
    net = new_net()
    net.constant("trunk.a.weight", net.random.normal(size=(3, 2, 1, 1)))
    net.add("Conv", ["x", "trunk.a.weight"], "y")
    net.add("MatMul", ["y", net.constant("trunk.b", net.random.normal(size=(6, 4)))], "z")
    shape = (TensorProto.FLOAT, [1, None, 6, None])
    path = save(net.model({"x": (TensorProto.FLOAT, [1, 2, 6, 6])}, {"z": shape}))
    feeds = [{"x": np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)}]
    table = measure(path, feeds, correct=True)
    assert {name: len(added) for name, added in table.corrections.items()} == {"y": 3}
    assert np.abs(shifts(onnx.load(path), table, feeds)["y"]).max() < 1e-6


def test_an_iterator_is_too_little(residual: Any, save: Save, faces: Feeds) -> None:
    path = save(residual())
    for asked in ({"correct": True}, {"equalise": True}):
        with pytest.raises(InputError, match="reads the data more than once; give a list or a callable"):
            measure(path, iter(faces), **asked)
    assert measure(path, lambda: iter(faces), correct=True) == measure(path, faces, correct=True)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"trunk.stem": (1.0,) * 7}, "'trunk.stem' has 8 channels, the table 7 corrections"),
    ],
)
def test_corrections_that_do_not_fit_are_named(
    residual: Any, save: Save, faces: Feeds, added: Any, message: str
) -> None:
    model = residual()
    table = dataclasses.replace(measure(save(model), faces), corrections=added)
    with pytest.raises(InputError, match=message):
        encode(model, table, CPU)
