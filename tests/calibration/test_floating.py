from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgeemo.errors import InputError
from edgeemo_calibration import CPU, TENSORRT, Activation, Table, lint, measure
from edgeemo_calibration.encode import encode
from edgeemo_calibration.floating import choose
from edgeemo_calibration.noise import output_noise
from edgeemo_calibration.ranges import keep_floating

Save = Callable[[onnx.ModelProto], Path]
Feeds = list[dict[str, Any]]
OPERATORS = (
    "trunk.stem",
    "trunk.0.conv1",
    "trunk.0.conv2",
    "trunk.1.conv1",
    "trunk.1.conv2",
    "trunk.1.skip",
)


def kinds(model: onnx.ModelProto) -> dict[str, set[int]]:
    """The types that every operator of the trunk reads."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in typed.graph.initializer})
    return {
        node.output[0]: {types[name] for name in node.input}
        for node in typed.graph.node
        if node.op_type == "Conv"
    }


def run(model: onnx.ModelProto, feeds: Feeds) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def spoiled(table: Table, name: str) -> Table:
    """The scale of one tensor is eight times too small."""
    found = table.activations[name]
    return dataclasses.replace(
        table, activations={**table.activations, name: Activation(found.absmax, found.scale / 8)}
    )


@pytest.mark.parametrize(
    "names", [*itertools.combinations(OPERATORS, 1), *itertools.combinations(OPERATORS, 2)]
)
@pytest.mark.parametrize("skip_first", [False, True])
def test_tensorrt_takes_every_mixture(
    residual: Any, save: Save, faces: Feeds, names: tuple[str, ...], skip_first: bool
) -> None:
    model = residual(skip_first)
    table = keep_floating(model, measure(save(model), faces[:1]), names)
    encoded = encode(model, table, TENSORRT)
    assert lint(encoded) == []
    found = kinds(encoded)
    half = {name for name, types in found.items() if TensorProto.FLOAT16 in types}
    assert half == set(names)
    assert all(types == {TensorProto.FLOAT16} for name, types in found.items() if name in names)


def test_the_cpu_keeps_fp32(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    table = keep_floating(model, measure(save(model), faces), ["trunk.1.conv2", "trunk.stem"])
    encoded = encode(model, table, CPU)
    held = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in encoded.graph.initializer}
    for name in OPERATORS:
        floating = name in table.floating
        assert held.get(f"{name}.weight") == (np.float32 if floating else None)
        assert (f"{name}.weight.quantised" in held) is not floating
    assert TensorProto.FLOAT16 not in set().union(*kinds(encoded).values())


@pytest.mark.parametrize("encoding", [CPU, TENSORRT], ids=lambda encoding: encoding.suffix)
def test_what_stays_in_floating_point_is_not_rounded(
    residual: Any, save: Save, faces: Feeds, encoding: Any
) -> None:
    """With a spoiled scale at its result, an operator is right only when it is left alone."""
    model = residual()
    table = spoiled(measure(save(model), faces), "trunk.1.conv2")
    expected = run(model, faces)
    for kept, most in ((False, np.inf), (True, 0.05)):
        chosen = keep_floating(model, table, ["trunk.1.conv2"]) if kept else table
        error = np.abs(run(encode(model, chosen, encoding), faces) - expected).max()
        assert error < most * np.abs(expected).max()
    assert "trunk.1.conv2" not in chosen.activations
    if encoding.results:
        assert np.abs(run(encode(model, table, encoding), faces) - expected).max() > 2 * error


@pytest.mark.parametrize("names", [["trunk.stem"], ["trunk.1.skip", "trunk.0.conv1"]])
def test_leaving_out_is_as_if_it_had_been_measured_so(
    residual: Any, save: Save, faces: Feeds, names: list[str]
) -> None:
    model = residual()
    path = save(model)
    left = keep_floating(model, measure(path, faces, equalise=True), names)
    assert left == measure(path, faces, equalise=True, floating=names)
    assert left.floating == tuple(name for name in OPERATORS if name in names)


def test_the_operator_that_spoils_the_output_is_chosen(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    path = save(model)
    good = measure(path, faces, method="min-max")
    target = output_noise(path, good, faces)["tokens"] - 1.0
    table = spoiled(good, "trunk.1.conv2")
    choice = choose(path, table, faces, target_db=target, budget=1e6, rounds=5)
    assert "trunk.1.conv2" in choice.floating
    assert choice.before_db < target <= choice.after_db
    assert choice.before_db == pytest.approx(output_noise(path, table, faces)["tokens"])
    kept = keep_floating(model, table, choice.floating)
    assert choice.after_db == pytest.approx(output_noise(path, kept, faces)["tokens"])
    gains = {one.operator: one.gain_db for one in choice.candidates}
    assert gains.keys() == table.operators.keys()
    assert max(gains, key=lambda name: gains[name]) == "trunk.1.conv2"
    for one in choice.candidates:
        assert one.per_ms == pytest.approx(one.gain_db / max(one.cost_ms, choice.floor_ms))
    json.dumps(choice.to_dict(), allow_nan=False)
    endless = dataclasses.replace(choice.candidates[0], gain_db=math.inf, per_ms=math.inf)
    told = dataclasses.replace(choice, after_db=math.inf, candidates=(endless,)).to_dict()
    assert told["after_db"] is None and told["candidates"][0]["gain_db"] is None


Costs = dict[tuple[str, ...], float]


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Costs], None]:
    """Gives choices of operators a price in ms, 0.05 else; a run takes 1 ms and the noise floor is 0.01."""

    def price(costs: Costs) -> None:
        monkeypatch.setattr(
            "edgeemo_calibration.floating._Timer.costs",
            lambda _, variants: ([costs.get(names, 0.05) for names in variants], 0.01, 1.0),
        )

    return price


@pytest.mark.parametrize(("target_db", "budget"), [(10.0, 100.0), (1000.0, 0.0), (1000.0, 0.04)])
def test_nothing_is_chosen_where_it_is_good_already_or_no_time_is_left(
    residual: Any, save: Save, faces: Feeds, priced: Any, target_db: float, budget: float
) -> None:
    path = save(residual())
    priced({})
    choice = choose(path, measure(path, faces), faces, target_db=target_db, budget=budget)
    assert choice.floating == ()
    assert choice.after_db == choice.before_db
    assert choice.after_ms == choice.before_ms == 1.0


def test_one_operator_at_least_stays_quantised(residual: Any, save: Save, faces: Feeds, priced: Any) -> None:
    path = save(residual())
    priced({})
    choice = choose(path, measure(path, faces), faces, target_db=1000.0, budget=1e9)
    assert 1 <= len(choice.floating) < len(OPERATORS)


def test_the_cheap_comes_before_the_dear(residual: Any, save: Save, faces: Feeds, priced: Any) -> None:
    path = save(residual())
    table = measure(path, faces)
    gains = {one.operator: one.gain_db for one in choose(path, table, faces, rounds=1).candidates}
    first, second = sorted(gains, key=lambda name: gains[name])[-2:]  # both gain; the better one is dear
    assert 0.0 < gains[first] < gains[second]
    ratio = gains[second] / gains[first]
    priced({(name,): 50.0 for name in gains} | {(first,): 0.02, (second,): 0.03 * ratio})
    choice = choose(path, table, faces, target_db=1000.0, budget=0.025)
    assert [one.operator for one in choice.candidates][:2] == [first, second]
    assert choice.floating == (first,)  # the second no longer fits


def test_what_makes_a_run_faster_is_chosen_in_any_case(
    residual: Any, save: Save, faces: Feeds, priced: Any
) -> None:
    path = save(residual())
    table = measure(path, faces)
    gains = {one.operator: one.gain_db for one in choose(path, table, faces, rounds=1).candidates}
    best, worst = max(gains, key=lambda name: gains[name]), min(gains, key=lambda name: gains[name])
    priced({(best,): -0.2, (worst,): -0.005})
    choice = choose(path, table, faces, target_db=1.0, budget=0.0)
    assert choice.floating == (best,)  # the other one is no faster than the noise
    assert choice.after_ms == 0.8
    assert choice.candidates[0].operator == best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_db": 0.0}, "each must be positive"),
        ({"budget": -1.0}, "each must be positive"),
        ({"rounds": 0}, "each must be positive"),
    ],
)
def test_wrong_arguments_are_named(
    residual: Any, save: Save, faces: Feeds, arguments: dict[str, Any], message: str
) -> None:
    path = save(residual())
    with pytest.raises(InputError, match=message):
        choose(path, measure(path, faces), faces, **arguments)


def test_only_operators_of_the_trunk_can_be_left(residual: Any, save: Save, faces: Feeds) -> None:
    model = residual()
    path = save(model)
    with pytest.raises(
        InputError, match=r"'tokens' cannot stay in floating point; the trunk's operators are"
    ):
        measure(path, faces, floating=["tokens"])
    with pytest.raises(InputError, match="'gone' is not quantised"):
        keep_floating(model, measure(path, faces), ["gone"])
    with pytest.raises(InputError, match="no constant weight"):
        measure(path, faces, floating=OPERATORS)
    with pytest.raises(InputError, match="reads the data more than once"):
        choose(path, measure(path, faces), iter(faces))
