from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeemo_calibration import CPU, TENSORRT, lint, measure
from edgeemo_calibration.encode import encode
from edgeemo_calibration.half import halve
from edgeemo_calibration.lint import RULES
from edgeemo_calibration.operators import TENSORRT_10_3

Break = Callable[[ModelProto], None]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def trunk_and(*others: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(("trunk.", *others))


@pytest.fixture
def good(residual: Any, save: Any, faces: Any) -> Callable[[str], ModelProto]:
    """One graph in every form; 'int8+front.' quantises what no trunk holds, too."""

    def make(kind: str) -> ModelProto:
        form, _, more = kind.partition("+")
        trunk = trunk_and(more) if more else "trunk."
        if form == "fp16":
            return halve(residual(), trunk)
        if form == "fp32":
            return residual()
        path = save(residual())
        return encode(onnx.load(path), measure(path, faces, trunk=trunk), CPU if form == "cpu" else TENSORRT)

    return make


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_what_is_written_here_has_no_findings(good: Callable[[str], ModelProto], kind: str) -> None:
    assert lint(good(kind)) == []
    names = {tensor.name for tensor in good("fp32").graph.initializer if tensor.name.startswith("trunk.")}
    assert lint(good(kind), trunk=names.__contains__) == []


@pytest.mark.parametrize(("kind", "rules"), [("fp32", set()), ("fp16", {"half"}), ("int8", {"head"})])
def test_without_a_trunk_everything_is_fp32(
    good: Callable[[str], ModelProto], kind: str, rules: set[str]
) -> None:
    assert {finding.rule for finding in lint(good(kind), trunk="body.")} == rules


def test_the_encoding_of_the_cpu_is_not_for_tensorrt(good: Callable[[str], ModelProto]) -> None:
    assert {finding.rule for finding in lint(good("cpu"))} >= {"zero point", "residual"}


# How graphs are broken


def node(model: ModelProto, output: str) -> NodeProto:
    return next(found for found in model.graph.node if output in found.output)


def rewire(model: ModelProto, reader: str, old: str, new: str) -> None:
    found = node(model, reader)
    found.input[list(found.input).index(old)] = new


def insert(model: ModelProto, reader: str | None, *nodes: NodeProto) -> None:
    """Put nodes straight before the one that writes `reader`, or at the end."""
    order = list(model.graph.node)
    place = len(order) if reader is None else order.index(node(model, reader))
    order[place:place] = nodes
    del model.graph.node[:]
    model.graph.node.extend(order)


def constant(model: ModelProto, name: str, value: Any) -> str:
    """Add a constant, or put another in its place."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(np.asarray(value), name)])
    return name


def between(reader: str, source: str, kind: str, **attributes: Any) -> Break:
    """Put one operator between a tensor and its reader."""

    def change(model: ModelProto) -> None:
        insert(model, reader, helper.make_node(kind, [source], ["moved"], **attributes))
        rewire(model, reader, source, "moved")

    return change


def wire(reader: str, old: str, new: str) -> Break:
    return lambda model: rewire(model, reader, old, new)


def put(name: str, value: Any) -> Break:
    def change(model: ModelProto) -> None:
        constant(model, name, value)

    return change


def extra_output(kind: str, source: str) -> Break:
    def change(model: ModelProto) -> None:
        insert(model, None, helper.make_node(kind, [source], ["extra"]))
        model.graph.output.append(helper.make_tensor_value_info("extra", FLOAT, None))

    return change


def output(name: str) -> Break:
    return lambda model: model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))


def both(*changes: Break) -> Break:
    def change(model: ModelProto) -> None:
        for each in changes:
            each(model)

    return change


def round_result(name: str, reader: str) -> Break:
    """Round what an operator writes before one reader."""

    def change(model: ModelProto) -> None:
        names = [constant(model, "s", np.float32(0.02)), constant(model, "z", np.int8(0))]
        insert(
            model,
            reader,
            helper.make_node("QuantizeLinear", [name, *names], ["q"]),
            helper.make_node("DequantizeLinear", ["q", *names], ["dq"]),
        )
        rewire(model, reader, name, "dq")

    return change


def another_scale(model: ModelProto) -> None:
    found = node(model, "trunk.stem.relu.dequantised")
    found.input[1] = constant(model, "other", np.float32(0.5))


def int32_bias(model: ModelProto) -> None:
    scale = constant(model, "bias.scale", np.full(8, 1e-3, np.float32))
    steps = constant(model, "bias.steps", np.arange(8, dtype=np.int32))
    insert(model, "trunk.stem", helper.make_node("DequantizeLinear", [steps, scale], ["bias"], axis=0))
    rewire(model, "trunk.stem", "trunk.stem.bias", "bias")


def float_operator(model: ModelProto) -> None:
    constant(model, "trunk.stem.weight", np.ones((8, 2, 3, 3), np.float32))
    rewire(model, "trunk.stem", "trunk.stem.weight.dequantised", "trunk.stem.weight")
    rewire(model, "trunk.stem", "front.basis.dequantised", "front.basis")


def per_tensor(model: ModelProto) -> None:
    constant(model, "trunk.stem.weight.scale", np.float32(0.01))
    constant(model, "trunk.stem.weight.zero_point", np.int8(0))


def by_input_channel(model: ModelProto) -> None:
    node(model, "trunk.0.conv1.weight.dequantised").attribute[0].i = 1


def vector_scale(model: ModelProto) -> None:
    constant(model, "trunk.stem.relu.scale", np.full(8, 0.1, np.float32))
    constant(model, "trunk.stem.relu.zero_point", np.zeros(8, np.int8))


def unsigned(model: ModelProto) -> None:
    constant(model, "trunk.stem.relu.zero_point", np.uint8(128))


def skewed_weight(model: ModelProto) -> None:
    constant(model, "trunk.stem.weight.zero_point", np.eye(1, 8, 3, dtype=np.int8)[0])


def computed_scale(model: ModelProto) -> None:
    for name in ("trunk.stem.relu.quantised", "trunk.stem.relu.dequantised"):
        rewire(model, name, "trunk.stem.relu.scale", "scale")
    made = helper.make_node("Sqrt", ["trunk.stem.relu.scale"], ["scale"])
    insert(model, "trunk.stem.relu.quantised", made)


def pooled_in_half(model: ModelProto) -> None:
    model.graph.node.remove(node(model, "trunk.1.sum.relu.float"))
    rewire(model, "pooled", "trunk.1.sum.relu.float", "trunk.1.sum.relu")
    between("flat", "pooled", "Cast", to=FLOAT)(model)


def there_and_back(first: int, second: int, reader: str, source: str) -> Break:
    def change(model: ModelProto) -> None:
        insert(
            model,
            reader,
            helper.make_node("Cast", [source], ["there"], to=first),
            helper.make_node("Cast", ["there"], ["back"], to=second),
        )
        rewire(model, reader, source, "back")

    return change


def opset(version: int) -> Break:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def newer_ir(model: ModelProto) -> None:
    model.ir_version = 11


STEM, CONV2 = "trunk.stem.relu", "trunk.1.conv1.relu"
BROKEN = [
    ("fp32", opset(16), "version", "", "the opset is 16; right is 17 or 18"),
    ("fp32", newer_ir, "version", "", "the IR version is 11; right is 10 at most"),
    ("fp32", put("trunk.stem.weight", np.ones((8, 2, 3, 3))), "valid", "", "infer"),
    ("fp32", between("float", "face", "Identity"), "uint8", "moved", "Identity works on UINT8"),
    (
        "fp32",
        there_and_back(TensorProto.UINT8, FLOAT, "flat", "pooled"),
        "uint8",
        "there",
        "Cast works on UINT8",
    ),
    (
        "fp32",
        there_and_back(TensorProto.INT64, FLOAT, "flat", "pooled"),
        "integers",
        "there",
        "Cast computes INT64",
    ),
    (
        "fp32",
        there_and_back(TensorProto.DOUBLE, FLOAT, "flat", "pooled"),
        "type",
        "there",
        "Cast computes DOUBLE",
    ),
    ("int8", unsigned, "zero point", f"{STEM}.quantised", "steps are UINT8"),
    ("int8", put(f"{STEM}.zero_point", np.int8(3)), "zero point", f"{STEM}.quantised", "the zero point is 3"),
    ("int8", skewed_weight, "zero point", "trunk.stem.weight.dequantised", "the zero point is 1"),
    (
        "int8",
        put("trunk.stem.weight.scale", np.linspace(0, 1, 8, dtype=np.float32)),
        "scale",
        "trunk.stem.weight.dequantised",
        "a scale is 0",
    ),
    ("int8", put(f"{STEM}.scale", np.float32(-1)), "scale", f"{STEM}.quantised", "a scale is -1"),
    ("int8", put(f"{STEM}.scale", np.float32("inf")), "scale", f"{STEM}.quantised", "a scale is inf"),
    ("int8", computed_scale, "scale", f"{STEM}.quantised", "the scale is computed"),
    ("int8", another_scale, "pair", f"{STEM}.dequantised", f"differ from those of '{STEM}.quantised'"),
    (
        "int8",
        per_tensor,
        "channels",
        "trunk.stem.weight.dequantised",
        "the weight [8, 2, 3, 3] has scales [] on axis 0",
    ),
    ("int8", by_input_channel, "channels", "trunk.0.conv1.weight.dequantised", "has scales [8] on axis 1"),
    ("int8", vector_scale, "channels", f"{STEM}.quantised", "an activation has 8 scales"),
    (
        "int8",
        between("trunk.1.conv2", f"{CONV2}.dequantised", "Transpose", perm=[0, 1, 3, 2]),
        "adjacent",
        "moved",
        "Transpose lies between DequantizeLinear and what runs in INT8",
    ),
    (
        "int8",
        between(f"{CONV2}.dequantised", f"{CONV2}.quantised", "Transpose", perm=[0, 1, 3, 2]),
        "adjacent",
        f"{CONV2}.dequantised",
        "it reads Transpose",
    ),
    (
        "int8",
        between("trunk.0.conv1.weight.dequantised", "trunk.0.conv1.weight.quantised", "Identity"),
        "adjacent",
        "trunk.0.conv1.weight.dequantised",
        "it reads Identity",
    ),
    (
        "int8",
        both(
            lambda model: insert(
                model, None, helper.make_node("Cast", [f"{STEM}.quantised"], ["extra"], to=FLOAT)
            ),
            output("extra"),
        ),
        "adjacent",
        "extra",
        "Cast reads steps",
    ),
    (
        "int8",
        wire("trunk.1.conv2", f"{CONV2}.dequantised", CONV2),
        "operands",
        "trunk.1.conv2",
        f"Conv reads '{CONV2}' in float",
    ),
    (
        "int8",
        float_operator,
        "operands",
        "trunk.stem",
        "Conv reads 'front.basis' and 'trunk.stem.weight' in float",
    ),
    (
        "int8",
        extra_output("Sigmoid", f"{CONV2}.dequantised"),
        "readers",
        "extra",
        f"Sigmoid reads the rounded '{CONV2}.dequantised'",
    ),
    (
        "int8",
        output(f"{CONV2}.dequantised"),
        "readers",
        f"{CONV2}.dequantised",
        "writes an output of the graph",
    ),
    ("int8", round_result("trunk.0.conv2", "trunk.0.sum"), "residual", "trunk.0.sum", "both inputs"),
    ("int8", wire("trunk.0.sum", f"{STEM}.dequantised", STEM), "residual", "trunk.0.sum", "no input"),
    (
        "int8",
        both(
            wire("trunk.0.sum", f"{STEM}.dequantised", STEM),
            round_result("trunk.0.conv2", "trunk.0.sum"),
        ),
        "residual",
        "trunk.0.sum",
        "the input that comes from the block's own convolution is rounded",
    ),
    (
        "int8",
        both(
            wire("trunk.1.sum", "trunk.1.skip.dequantised", "trunk.1.skip"),
            round_result("trunk.1.conv2", "trunk.1.sum"),
        ),
        "residual",
        "trunk.1.sum",
        "the input that comes from the block's own convolution is rounded",
    ),
    ("int8", int32_bias, "bias", "trunk.stem", "the bias 'bias' comes from DequantizeLinear"),
    (
        "int8",
        between("trunk.stem", "trunk.stem.bias", "Neg"),
        "bias",
        "trunk.stem",
        "the bias 'moved' comes from Neg",
    ),
    (
        "int8+front.",
        lambda model: None,
        "front end",
        "front.basis",
        "Conv of the front end is quantised",
    ),
    ("int8+head.", lambda model: None, "head", "tokens", "Gemm behind the trunk is quantised"),
    (
        "fp16+front.",
        lambda model: None,
        "front end",
        "x.half",
        "FP16 begins in the front end, at Cast",
    ),
    ("fp16+head.", lambda model: None, "half", "tokens.half", "Gemm works on FP16"),
    ("fp16", pooled_in_half, "half", "pooled", "GlobalAveragePool works on FP16"),
    (
        "fp16",
        there_and_back(FLOAT, HALF, "trunk.1.conv2", CONV2),
        "cast",
        "there",
        "the next Cast undoes this one",
    ),
    (
        "fp16",
        there_and_back(HALF, FLOAT, "flat", "pooled"),
        "cast",
        "there",
        "the next Cast undoes this one",
    ),
    ("fp16", between("flat", "pooled", "Cast", to=FLOAT), "cast", "moved", "it casts FLOAT to itself"),
    (
        "fp16",
        lambda model: insert(model, None, helper.make_node("Cast", ["flat"], ["idle"], to=HALF)),
        "cast",
        "idle",
        "nothing that runs in FP16 reads it",
    ),
]


@pytest.mark.parametrize(
    ("kind", "change", "rule", "place", "wrong"),
    BROKEN,
    ids=[f"{kind} {rule} {place}" for kind, _, rule, place, _ in BROKEN],
)
def test_a_broken_graph_has_its_finding_and_no_other(
    good: Callable[[str], ModelProto], kind: str, change: Break, rule: str, place: str, wrong: str
) -> None:
    model = good(kind)
    change(model)
    (finding,) = lint(model)
    assert (finding.rule, finding.node) == (rule, place)
    assert wrong in str(finding)


# Small graphs


def graph(
    nodes: Iterable[NodeProto],
    inputs: dict[str, Any],
    outputs: Iterable[str] = ("y",),
    kind: int = FLOAT,
    **constants: Any,
) -> ModelProto:
    made = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, *entry) for name, entry in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def branch() -> NodeProto:
    value = helper.make_tensor_value_info("b", FLOAT, None)
    body = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "body", [], [value])
    return helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)


VECTOR = {"x": (FLOAT, ["N", 8])}
IDS = {"x": (TensorProto.INT32, [1, 8])}
SMALL = [
    (
        graph(
            [helper.make_node("STFT", ["x", "step", "window"], ["y"])],
            {"x": (FLOAT, [1, 400, 1])},
            step=np.int64(160),
            window=np.ones(400, np.float32),
        ),
        "operator",
        "y",
        "the parser of TensorRT 10.3 has no STFT",
    ),
    (
        graph([helper.make_node("DFT", ["x"], ["y"], axis=1)], {"x": (FLOAT, [1, 400, 1])}),
        "operator",
        "y",
        "has no DFT",
    ),
    (
        graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], VECTOR),
        "operator",
        "y",
        "has no com.microsoft.Gelu",
    ),
    (graph([branch()], VECTOR, yes=np.bool_(True)), "operator", "y", "If holds a graph"),
    (
        graph([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], {"x": (TensorProto.INT64, ["N", 8])}),
        "input or output",
        "x",
        "is INT64; right is FLOAT or UINT8 or INT32",
    ),
    (
        graph([helper.make_node("Add", ["x", "one"], ["y"])], IDS, kind=TensorProto.INT32, one=np.int32([1])),
        "input or output",
        "y",
        "is INT32; right is FLOAT or UINT8",
    ),
    (
        graph(
            [
                helper.make_node("Add", ["x", "one"], ["shifted"]),
                helper.make_node("Cast", ["shifted"], ["y"], to=FLOAT),
            ],
            IDS,
            one=np.int32([1]),
        ),
        "integers",
        "shifted",
        "Add computes INT32",
    ),
    (
        graph([helper.make_node("Cast", ["x"], ["y"], to=HALF)], VECTOR, kind=HALF),
        "input or output",
        "y",
        "is FLOAT16",
    ),
    (
        # One voice repeated for as many faces as there are.
        graph(
            [
                helper.make_node("Shape", ["x"], ["rows"], end=1),
                helper.make_node("Concat", ["rows", "width"], ["shape"], axis=0),
                helper.make_node("Expand", ["one", "shape"], ["y"]),
            ],
            {**VECTOR, "one": (FLOAT, [1, 4])},
            width=np.array([4]),
        ),
        "integers",
        "rows",
        "Shape computes INT64",
    ),
]


@pytest.mark.parametrize(("model", "rule", "place", "wrong"), SMALL, ids=[f"{s[1]} {s[3]}" for s in SMALL])
def test_a_small_graph_has_its_finding(model: ModelProto, rule: str, place: str, wrong: str) -> None:
    beside = {"cast", "integers"} if rule == "input or output" else set()
    findings = [found for found in lint(model) if found.rule not in beside]
    assert [(found.rule, found.node) for found in findings] == [(rule, place)]
    assert wrong in str(findings[0])


def test_every_rule_has_a_broken_graph() -> None:
    assert {entry[2] for entry in BROKEN} | {entry[1] for entry in SMALL} == {*RULES, "valid"}


def test_ids_may_come_in_and_choose_rows() -> None:
    gather = helper.make_node("Gather", ["table", "x"], ["y"])
    table = np.zeros((5, 3), np.float32)
    assert lint(graph([gather], IDS, table=table)) == []


def test_uint8_may_leave_by_a_cast() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8)
    assert lint(graph([cast], VECTOR, kind=TensorProto.UINT8)) == []


@pytest.mark.parametrize(
    ("kind", "transposed", "found"),
    [
        ("Gemm", 1, []),
        ("Gemm", 0, [("channels", "y", "Gemm has its output channels on axis 1 of the weight")]),
        ("MatMul", 0, [("channels", "y", "MatMul has its output channels on axis 1 of the weight")]),
    ],
)
def test_matrix_products_have_their_output_channels_on_axis_0(
    new_net: Any, save: Any, kind: str, transposed: int, found: list[tuple[str, str, str]]
) -> None:
    net = new_net()
    weight = net.constant("trunk.weight", net.random.normal(size=(8, 8)))
    net.add(kind, ["x", weight], "y", **({"transB": transposed} if kind == "Gemm" else {}))
    path = save(net.model({"x": (FLOAT, ["N", 8])}, {"y": (FLOAT, ["N", 8])}))
    feeds = [{"x": net.random.normal(size=(4, 8)).astype(np.float32)}]
    findings = lint(encode(onnx.load(path), measure(path, feeds), TENSORRT))
    assert [(finding.rule, finding.node, finding.wrong) for finding in findings] == found


def test_the_list_of_operators() -> None:
    assert len(TENSORRT_10_3) == 148  # 147 of the matrix, and DeformConv
    assert all(onnx.defs.has(name) for name in TENSORRT_10_3 - LEGACY)
    assert not TENSORRT_10_3 & {"STFT", "DFT", "HannWindow", "QLinearConv", "DynamicQuantizeLinear", "Gelu"}


LEGACY = {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample"}
"""Operators of old opsets that the parser still knows."""


def test_every_file_for_tensorrt_of_the_default_bundle(default_bundle: Path) -> None:
    graphs = json.loads((default_bundle / "manifest.json").read_text("utf-8"))["graphs"]
    linted = []
    for name, entry in graphs.items():
        for encoding in {"fp32", "fp16", "int8"} & entry["files"].keys():
            model = onnx.load(default_bundle / entry["files"][encoding])
            assert [str(finding) for finding in lint(model)] == [], (name, encoding)
            linted.append((name, encoding))
    assert len(linted) == 7
