from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeemo_calibration.operators import TENSORRT_10_3
from tests.support import cuda_double, real_tensorrt, tensorrt_double
from tests.support.tensorrt_double.operators import KNOWN_UNSUPPORTED, SUPPORTED
from tests.support.tensorrt_double.surface import Overload, load_surface

OLD, NEW = real_tensorrt.VERSIONS
FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8
INT32, INT64 = TensorProto.INT32, TensorProto.INT64


@pytest.fixture(params=real_tensorrt.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device() -> Iterator[Any]:
    with cuda_double.installed("cuda-python") as device:
        device.cuInit(0)
        device.cuCtxPushCurrent(device.cuDevicePrimaryCtxRetain(device.cuDeviceGet(0)))
        yield device


@pytest.fixture
def trt(version: str, device: Any) -> Iterator[Any]:
    with tensorrt_double.installed(version, device) as module:
        yield module


def library(version: str, device: Any) -> Any:
    return tensorrt_double.installed(version, device)


# Held to the real modules.


def test_committed_surface_is_that_of_the_real_module(version: str) -> None:
    try:
        surface = real_tensorrt.read_surface(version)
    except real_tensorrt.Unavailable as reason:
        pytest.skip(str(reason))
    committed = (real_tensorrt.SURFACES / f"{version}.json").read_text("utf-8")
    assert real_tensorrt.surface_text(surface) == committed


def test_every_public_name_of_the_double_is_real(trt: Any, version: str) -> None:
    surface = load_surface(version)
    names = {name for name in vars(trt) if not name.startswith("_")}
    assert names <= {*surface["classes"], *surface["enums"], *surface["functions"], *surface["constants"]}
    for name, entry in surface["classes"].items():
        offered = {key for key in vars(getattr(trt, name)) if not key.startswith("_")}
        real = {
            *entry["methods"],
            *entry["properties"],
            *entry.get("nested", ()),
            *entry.get("constants", ()),
        }
        assert offered == real, name


def test_every_method_of_the_double_takes_what_the_real_one_takes(version: str) -> None:
    """A behaviour whose argument has another name would fail a call that the real module accepts."""
    classes = load_surface(version)["classes"]
    seen = 0
    for name, behaviour in tensorrt_double.BEHAVIOUR.items():
        for key, signatures in classes.get(name, {}).get("methods", {}).items():
            if key not in vars(behaviour):
                continue
            for signature in map(Overload.read, signatures):
                named = {argument.name: None for argument in signature.arguments}
                inspect.signature(vars(behaviour)[key]).bind(None, **named)
                needed = {argument.name: None for argument in signature.arguments if not argument.optional}
                inspect.signature(vars(behaviour)[key]).bind(None, **needed)
                seen += 1
    assert seen > 80


def test_every_behaviour_is_of_a_real_class_in_one_version() -> None:
    surfaces = [load_surface(version) for version in real_tensorrt.VERSIONS]
    for name, behaviour in tensorrt_double.BEHAVIOUR.items():
        if any(name in surface["enums"] for surface in surfaces):
            continue
        real = {
            key
            for surface in surfaces
            for key in (
                *surface["classes"].get(name, {}).get("methods", ()),
                *surface["classes"].get(name, {}).get("properties", ()),
            )
        }
        assert {key for key in vars(behaviour) if not key.startswith("_")} <= real, name
        if issubclass(behaviour, bytes):  # its sequence methods are there to refuse
            continue
        sequence = {"__len__", "__getitem__", "__setitem__"} & vars(behaviour).keys()
        assert all(sequence <= set(surface["classes"][name]["odd"]) for surface in surfaces if sequence), name


def config(trt: Any) -> Any:
    return trt.Builder(trt.Logger()).create_builder_config()


def write(thing: Any, name: str, value: Any) -> None:
    setattr(thing, name, value)


MISSPELT: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    ("class", lambda trt: trt.BuilderConfig, AttributeError, "BuilderConfig"),
    (
        "method",
        lambda trt: trt.Builder(trt.Logger()).create_build_config(),
        AttributeError,
        "create_build_config",
    ),
    ("function", lambda trt: trt.init_plugins(None, ""), AttributeError, "init_plugins"),
    ("constructor", lambda trt: trt.Builder(), TypeError, r"Builder|constructor"),
    ("constructor of none", lambda trt: trt.ICudaEngine(), TypeError, "No constructor defined"),
    (
        "argument",
        lambda trt: trt.Builder(trt.Logger()).create_network(flag=1),
        TypeError,
        r"(?s)incompatible function arguments.*flags",
    ),
    (
        "one argument too many",
        lambda trt: config(trt).set_flag(trt.BuilderFlag.TF32, True),
        TypeError,
        "incompatible function arguments",
    ),
    (
        "one argument twice",
        lambda trt: config(trt).set_flag(trt.BuilderFlag.TF32, flag=trt.BuilderFlag.TF32),
        TypeError,
        "incompatible function arguments",
    ),
    ("type", lambda trt: config(trt).set_flag(6), TypeError, "incompatible function arguments"),
    (
        "type of a number",
        lambda trt: config(trt).set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e9),
        TypeError,
        "incompatible function arguments",
    ),
    (
        "more than a size_t",
        lambda trt: config(trt).set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 2**64),
        TypeError,
        "incompatible function arguments",
    ),
    (
        "type of a property",
        lambda trt: write(config(trt), "progress_monitor", print),
        TypeError,
        "IProgressMonitor",
    ),
    (
        "attribute",
        lambda trt: write(config(trt), "optimization_level", 3),
        AttributeError,
        "optimization_level",
    ),
    (
        "read only",
        lambda trt: write(config(trt), "num_optimization_profiles", 1),
        AttributeError,
        "setter|can't set",
    ),
    ("member", lambda trt: trt.BuilderFlag.FP61, AttributeError, "FP61"),
    ("shift by a member", lambda trt: 1 << trt.BuilderFlag.TF32, TypeError, "<<"),
    (
        "logger without its constructor",
        lambda trt: type("Mine", (trt.ILogger,), {"__init__": lambda self: None})(),
        TypeError,
        r"__init__\(\) must be called",
    ),
    (
        "what the double lacks",
        lambda trt: config(trt).get_preview_feature,
        NotImplementedError,
        "get_preview_feature",
    ),
    (
        "what the double lacks",
        lambda trt: config(trt).plugins_to_serialize,
        NotImplementedError,
        "plugins_to_serialize",
    ),
]


@pytest.mark.parametrize(("what", "call", "error", "message"), MISSPELT, ids=[row[0] for row in MISSPELT])
def test_a_misspelt_call_fails(
    trt: Any, what: str, call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answer = call(trt)
        if callable(answer):  # a method that the double lacks fails when it is called
            answer(next(iter(trt.PreviewFeature.__members__.values())))


GONE = [
    ("BuilderFlag", "FP16"),
    ("BuilderFlag", "INT8"),
    ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("IBuilderConfig", "int8_calibrator"),
    ("ICudaEngine", "device_memory_size"),
    ("ICudaEngine", "create_execution_context_without_device_memory"),
    ("ILayer", "precision"),
    ("ILayer", "set_output_type"),
    ("Builder", "platform_has_fast_int8"),
]


@pytest.mark.parametrize(("owner", "name"), GONE)
def test_what_11_removed_is_in_10_alone(device: Any, owner: str, name: str) -> None:
    for version, there in ((OLD, True), (NEW, False)):
        with library(version, device) as trt:
            assert hasattr(getattr(trt, owner), name) is there, version


def test_names_of_11_are_not_in_10(device: Any) -> None:
    for version, there in ((OLD, False), (NEW, True)):
        with library(version, device) as trt:
            assert hasattr(trt, "IRuntimeConfig") is there
            assert hasattr(trt.ICudaEngine, "create_runtime_config") is there
    with library(OLD, device) as trt:
        engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan_of(trt, relu()))
        with pytest.raises(TypeError, match="strategy"):
            engine.create_execution_context(runtime_config=None)


def test_members_are_those_of_pybind11(trt: Any, version: str) -> None:
    kind = trt.DataType.HALF
    assert (kind.name, kind.value, int(kind), str(kind)) == ("HALF", 1, 1, "DataType.HALF")
    assert repr(kind) == "<DataType.HALF: 1>" and kind.itemsize == 2
    assert trt.DataType(1) is kind is trt.float16 and {kind: 0}[trt.float16] == 0
    assert kind != 1 and kind != trt.BuilderFlag(1 if version == OLD else 2)
    # TensorRT 10.3 has a method where every other member has its name.
    assert callable(trt.ErrorCode.SUCCESS.name) is (version == OLD)


def test_the_module_is_gone_afterwards(device: Any) -> None:
    import sys

    before = sys.modules.get("tensorrt")
    with library(OLD, device) as trt:
        assert sys.modules["tensorrt"] is trt and trt.__version__ == OLD
    assert sys.modules.get("tensorrt") is before


# The parser.


def graph(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the_{kind}", **attributes)


def relu(shape: list[Any] | None = None) -> bytes:
    shape = shape or [1, 3]
    return graph([node("Relu", "x", "y")], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def one(kind: str, dtype: int, *, count: int = 1, out: int | None = None, **attributes: Any) -> bytes:
    names = "abc"[:count]
    return graph(
        [node(kind, " ".join(names), "y", **attributes)],
        [(name, dtype, [2, 2]) for name in names],
        [("y", dtype if out is None else out, [2, 2])],
    )


def quantised(zero: np.ndarray[Any, Any]) -> bytes:
    return graph(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        [("x", FLOAT, [2])],
        [("y", FLOAT, [2])],
        {"s": np.float32(0.1), "z": zero},
    )


def convolution(bias: str = "b") -> bytes:
    """A quantised convolution whose bias is FP32 ('b') or INT32 behind a DequantizeLinear ('d')."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "p"),
        helper.make_node("DequantizeLinear", ["w", "t", "u"], ["v"], name="weight", axis=0),
        node("Conv", f"p v {bias}", "c", kernel_shape=[1, 1]),
        node("Relu", "c", "r"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["o"], name="again"),
        helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"], name="last"),
    ]
    if bias == "d":
        nodes.insert(0, helper.make_node("DequantizeLinear", ["i", "s", "n"], ["d"], name="bias"))
    constants = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w": np.ones((2, 1, 1, 1), np.int8),
        "t": np.full(2, 0.1, np.float32),
        "u": np.zeros(2, np.int8),
        "b": np.zeros(2, np.float32),
        "i": np.zeros(2, np.int32),
        "n": np.int32(0),
    }
    return graph(nodes, [("x", FLOAT, ["N", 1, 2, 2])], [("y", FLOAT, ["N", 2, 2, 2])], constants)


def stft() -> bytes:
    return graph(
        [node("STFT", "x step window length", "y", onesided=1)],
        [("x", FLOAT, [1, 64, 1])],
        [("y", FLOAT, [1, 7, 9, 2])],
        {"step": np.int64(8), "window": np.ones(16, np.float32), "length": np.int64(16)},
    )


def uint8_within() -> bytes:
    return graph(
        [node("Cast", "x", "u", to=UINT8), helper.make_node("Cast", ["u"], ["y"], name="back", to=FLOAT)],
        [("x", FLOAT, [2])],
        [("y", FLOAT, [2])],
    )


def dft() -> bytes:
    return graph([node("DFT", "x", "y", axis=1)], [("x", FLOAT, [1, 8, 2])], [("y", FLOAT, [1, 8, 2])])


def scale_of_two() -> dict[str, np.ndarray[Any, Any]]:
    return {"s": np.float32(0.1), "z": np.uint8(0)}


FORBIDDEN: dict[str, tuple[bytes, str, str, str]] = {
    # what it is: (file, error code, the node's operator, TensorRT's words)
    "STFT": (stft(), "UNSUPPORTED_NODE", "STFT", "false"),
    "DFT": (dft(), "UNSUPPORTED_NODE", "DFT", "false"),
    "an operator of another domain": (
        one("Swoosh", FLOAT),
        "INVALID_NODE",
        "Swoosh",
        'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
    ),
    "INT32 bias behind a DequantizeLinear": (
        convolution("d"),
        "INVALID_NODE",
        "DequantizeLinear",
        "bias: only activation types allowed as input to this layer.",
    ),
    "zero point that is not 0": (
        quantised(np.int8(3)),
        "INVALID_NODE",
        "QuantizeLinear",
        "TensorRT only supports symmetric quantization. The zero point for the "
        "QuantizeLinear/DequantizeLinear operator must be all zeros.",
    ),
    "UINT8 quantisation": (
        quantised(np.uint8(128)),
        "UNSUPPORTED_NODE",
        "QuantizeLinear",
        "Found unsupported input type of UINT8",
    ),
    "UINT8 quantisation around 0": (
        quantised(np.uint8(0)),
        "UNSUPPORTED_NODE",
        "QuantizeLinear",
        "Found unsupported input type of UINT8",
    ),
    "UINT8 between two nodes": (
        uint8_within(),
        "UNSUPPORTED_NODE",
        "Cast",
        "TensorRT does not support UINT8 types for intermediate tensors!",
    ),
    "UINT8 into a node that is no Cast": (
        one("Transpose", UINT8, perm=[1, 0]),
        "UNSUPPORTED_NODE",
        "Transpose",
        "Found unsupported input type of UINT8",
    ),
    "INT64 power": (
        one("Pow", INT64, count=2),
        "UNSUPPORTED_NODE",
        "Pow",
        "Elementwise layer does not support operator POW with boolean or integer types.",
    ),
    "INT64 matrix product": (
        one("MatMul", INT64, count=2),
        "UNSUPPORTED_NODE",
        "MatMul",
        "Found unsupported input type of INT64",
    ),
    "INT64 unary": (
        one("Floor", INT64),
        "UNSUPPORTED_NODE",
        "Floor",
        "This version of TensorRT does not support the given operator FLOOR with the given input data type "
        "INT64.",
    ),
    "INT64 activation": (
        one("Clip", INT64),
        "UNSUPPORTED_NODE",
        "Clip",
        "Found unsupported input type of INT64",
    ),
}

ALLOWED: dict[str, bytes] = {
    "FP32": relu(),
    "FP16": one("Relu", HALF),
    "UINT8 input through a Cast": one("Cast", UINT8, out=FLOAT, to=FLOAT),
    "UINT8 output through a Cast": one("Cast", FLOAT, out=UINT8, to=UINT8),
    "symmetric Q/DQ": convolution(),
    # TensorRT 9 and later compute with INT64: docs/operators.md names it for the sum, not for the power.
    "INT64 sum": one("Add", INT64, count=2),
    "INT32 product": one("Mul", INT32, count=2),
}


def parse(trt: Any, data: bytes) -> tuple[Any, Any, bool]:
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    return network, parser, parser.parse(data)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_graphs_are_refused_in_tensorrts_words(trt: Any, name: str) -> None:
    data, code, operator, words = FORBIDDEN[name]
    network, parser, parsed = parse(trt, data)
    assert not parsed and parser.num_errors == 1 and network.num_layers == 0
    error = parser.get_error(0)
    assert words in error.desc()
    assert error.code() is getattr(trt.ErrorCode, code)
    assert error.node_operator() == operator
    assert onnx.load_model_from_string(data).graph.node[error.node()].op_type == operator


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_graphs_are_parsed(trt: Any, name: str) -> None:
    network, parser, parsed = parse(trt, ALLOWED[name])
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert network.num_layers >= 1 and network.num_outputs == 1


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_the_bundles_graphs_are_parsed(trt: Any, default_bundle: Path, encoding: str) -> None:
    files = sorted(default_bundle.glob(f"*.{encoding}.onnx"))
    if not files:
        pytest.skip(f"the bundle has no {encoding} graphs")
    for file in files:
        network, parser, parsed = parse(trt, file.read_bytes())
        assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
        model = onnx.load(file)
        assert network.num_inputs == len(model.graph.input)
        kinds = [network.get_layer(index).type.name for index in range(network.num_layers)]
        wanted = sum(node.op_type == "DequantizeLinear" for node in model.graph.node)
        assert kinds.count("DEQUANTIZE") == wanted


def test_the_bundles_unsigned_graphs_are_refused(trt: Any, default_bundle: Path) -> None:
    for file in default_bundle.glob("*.int8-cpu.onnx"):
        assert not parse(trt, file.read_bytes())[2], file.name


def test_all_static_errors_are_told_at_once(trt: Any) -> None:
    nodes = [node("DFT", "x", "a", axis=1), node("Swoosh", "a", "b"), node("Relu", "b", "y")]
    data = graph(nodes, [("x", FLOAT, [1, 8, 2])], [("y", FLOAT, [1, 8, 2])])
    parser = parse(trt, data)[1]
    assert [parser.get_error(index).node_name() for index in range(parser.num_errors)] == [
        "the_DFT",
        "the_Swoosh",
    ]


@pytest.mark.parametrize("data", [b"", b"not a model", relu()[:20]])
def test_what_is_no_onnx_file_is_refused(trt: Any, data: bytes) -> None:
    _, parser, parsed = parse(trt, data)
    assert not parsed and parser.get_error(0).code() is trt.ErrorCode.MODEL_DESERIALIZE_FAILED


def test_a_network_is_parsed_once(trt: Any) -> None:
    _, parser, parsed = parse(trt, relu())
    assert parsed and not parser.parse(relu())


def test_the_list_of_operators_is_that_of_10_3() -> None:
    assert {"Conv", "LayerNormalization", "QuantizeLinear", "Split", "Trilu", "Gelu"} <= SUPPORTED.keys()
    assert {"STFT", "DFT", "HannWindow", "QLinearConv", "MatMulInteger"} <= KNOWN_UNSUPPORTED
    assert not SUPPORTED.keys() & KNOWN_UNSUPPORTED and len(SUPPORTED) == 150
    # The linter's list is of an older table and the changes that were written down: shorter at the most.
    assert SUPPORTED.keys() >= TENSORRT_10_3


# The builder.


class Log:
    """A logger of the test's own, as a user derives it."""

    def __init__(self, trt: Any) -> None:
        said: list[tuple[str, str]] = []
        self.said = said

        class Mine(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                said.append((severity.name, msg))

        self.logger = Mine()

    @property
    def errors(self) -> str:
        return "\n".join(text for severity, text in self.said if severity == "ERROR")


def build(
    trt: Any,
    data: bytes,
    log: Log | None = None,
    *,
    flags: int | None = None,
    change: Callable[[Any], Any] = lambda config: None,
    profile: tuple[int, int, int] | None = (1, 2, 4),
) -> Any:
    log = log or Log(trt)
    builder = trt.Builder(log.logger)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strong if flags is None else flags)
    assert trt.OnnxParser(network, log.logger).parse(data)
    settings = builder.create_builder_config()
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if profile:
        shapes = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if -1 in tuple(tensor.shape):
                shapes.set_shape(
                    tensor.name,
                    *([size if axis == -1 else axis for axis in tensor.shape] for size in profile),
                )
        settings.add_optimization_profile(shapes)
    change(settings)
    return builder.build_serialized_network(network, settings)


def plan_of(trt: Any, data: bytes) -> bytes:
    plan = build(trt, data)
    assert plan is not None
    return bytes(plan)


def on_dla(trt: Any, core: int = 0) -> Callable[[Any], None]:
    def change(settings: Any) -> None:
        settings.default_device_type = trt.DeviceType.DLA
        settings.DLA_core = core

    return change


def test_memory_of_the_library_is_a_buffer_and_nothing_else(trt: Any) -> None:
    plan = build(trt, relu())
    assert bytes(plan) == bytes(memoryview(plan)) and plan.nbytes == len(bytes(plan))
    for use in (len, iter, lambda plan: plan[0], lambda plan: plan + b"", lambda plan: b"" in plan):
        with pytest.raises(TypeError):
            use(plan)
    with pytest.raises(AttributeError):
        plan.hex()


def test_precision_flags_do_not_go_with_strong_typing(device: Any) -> None:
    with library(OLD, device) as trt:
        for name in ("FP16", "INT8"):
            log = Log(trt)
            flag = getattr(trt.BuilderFlag, name)
            assert build(trt, relu(), log, change=lambda settings, flag=flag: settings.set_flag(flag)) is None
            assert f"condition: !config.getFlag(BuilderFlag::k{name})" in log.errors


def test_a_weakly_typed_quantised_network_needs_its_flag(device: Any) -> None:
    with library(OLD, device) as trt:
        log = Log(trt)
        assert build(trt, convolution(), log, flags=0) is None
        assert (
            "Int8 precision has been set for a layer or layer output, but int8 is not configured"
            in log.errors
        )

        def change(settings: Any) -> None:
            settings.set_flag(trt.BuilderFlag.INT8)
            settings.set_flag(trt.BuilderFlag.FP16)

        assert build(trt, convolution(), flags=0, change=change) is not None
        assert trt._double.configs[-1]["strong"] is False


def test_11_types_strongly_whatever_the_flags(device: Any) -> None:
    with library(NEW, device) as trt:
        assert build(trt, convolution(), flags=0) is not None
        assert trt._double.configs[-1]["strong"] is True


def test_precision_of_a_layer_is_weak_typings(device: Any) -> None:
    with library(OLD, device) as trt:
        network = parse(trt, relu())[0]
        with pytest.raises(AssertionError, match="strongly typed"):
            network.get_layer(0).precision = trt.DataType.HALF


@pytest.mark.parametrize(
    ("data", "profile", "words"),
    [
        (
            relu(["N", 3]),
            None,
            "Network has dynamic or shape inputs, but no optimization profile has been defined",
        ),
        (relu(["N", 3]), (1, 2, 4), ""),
        (relu(), None, ""),
    ],
)
def test_free_sizes_need_a_profile(trt: Any, data: bytes, profile: Any, words: str) -> None:
    log = Log(trt)
    assert (build(trt, data, log, profile=profile) is None) is bool(words)
    assert words in log.errors


@pytest.mark.parametrize("shapes", [([4], [2], [8]), ([1], [2], [1]), ([1], [1, 2], [4])])
def test_a_profile_that_is_none_is_refused(trt: Any, shapes: Any) -> None:
    with pytest.raises(RuntimeError, match="inconsistent with other shapes"):
        trt.Builder(trt.Logger()).create_optimization_profile().set_shape("x", *shapes)


def test_dla_takes_no_quantised_graph(trt: Any) -> None:
    log = Log(trt)
    assert build(trt, one("Relu", HALF), log, change=on_dla(trt)) is None and "0 that there are" in log.errors
    trt._double.num_DLA_cores = 2
    assert trt.Builder(log.logger).num_DLA_cores == 2
    assert build(trt, one("Relu", HALF), change=on_dla(trt, 1)) is not None
    assert build(trt, convolution(), log, change=on_dla(trt)) is None
    assert "is not supported on DLA but GPU fallback is not enabled" in log.errors

    def change(settings: Any) -> None:
        on_dla(trt)(settings)
        settings.set_flag(trt.BuilderFlag.GPU_FALLBACK)

    assert build(trt, convolution(), change=change) is not None


KNOBS: list[tuple[str, dict[str, Any], str]] = [
    ("a reason", {"refuse_build": "Error Code 9: Skipping tactic"}, "Skipping tactic"),
    ("strong typing", {"refuse_strong": True}, "Could not find any implementation for node"),
    ("memory", {"out_of_memory": "build"}, "out of memory"),
]


@pytest.mark.parametrize(("name", "state", "words"), KNOBS, ids=[row[0] for row in KNOBS])
def test_a_build_can_be_made_to_fail(trt: Any, name: str, state: dict[str, Any], words: str) -> None:
    log = Log(trt)
    for key, value in state.items():
        setattr(trt._double, key, value)
    assert build(trt, relu(), log) is None and trt._double.builds == 0
    assert words in log.errors


def test_progress_is_told_and_can_cancel(trt: Any) -> None:
    told: list[tuple[Any, ...]] = []

    class Monitor(trt.IProgressMonitor):
        def __init__(self, going: bool) -> None:
            trt.IProgressMonitor.__init__(self)
            self.going = going

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            told.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            told.append(("step", phase_name, step))
            return self.going

        def phase_finish(self, phase_name: str) -> None:
            told.append(("finish", phase_name))

    trt._double.phases = [("a", None, 1), ("b", "a", 1)]
    assert (
        build(trt, relu(), change=lambda settings: write(settings, "progress_monitor", Monitor(True)))
        is not None
    )
    assert told == [
        ("start", "a", None, 1),
        ("start", "b", "a", 1),
        ("step", "b", 0),
        ("finish", "b"),
        ("step", "a", 0),
        ("finish", "a"),
    ]
    assert (
        build(trt, relu(), change=lambda settings: write(settings, "progress_monitor", Monitor(False)))
        is None
    )
    assert trt._double.builds == 1


def test_what_a_monitor_raises_is_swallowed(trt: Any, capfd: pytest.CaptureFixture[str]) -> None:
    class Monitor(trt.IProgressMonitor):
        def __init__(self, step: bool) -> None:
            trt.IProgressMonitor.__init__(self)
            self.step = step

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            raise KeyboardInterrupt

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self.step:
                raise KeyboardInterrupt
            return True

        def phase_finish(self, phase_name: str) -> None:
            raise KeyboardInterrupt

    for step in (False, True):
        monitor = Monitor(step)
        plan = build(trt, relu(), change=lambda settings, m=monitor: write(settings, "progress_monitor", m))
        assert (plan is None) is step
    assert "[ERROR] Exception caught in phase_start(): KeyboardInterrupt()" in capfd.readouterr().err


def test_a_timing_cache_is_of_one_version_and_device(trt: Any, device: Any) -> None:
    kept: list[bytes] = []

    def change(settings: Any) -> None:
        assert settings.create_timing_cache(b"rubbish") is None
        cache = settings.create_timing_cache(b"")
        assert settings.set_timing_cache(cache, ignore_mismatch=False)
        kept.append(bytes(cache.serialize()))
        kept.append(cache)

    assert build(trt, relu(), change=change) is not None
    full = bytes(kept[1].serialize())
    assert len(full) > len(kept[0])
    assert config(trt).set_timing_cache(config(trt).create_timing_cache(full), ignore_mismatch=False)
    trt._double.device_name = "Thor"
    assert not config(trt).set_timing_cache(config(trt).create_timing_cache(full), ignore_mismatch=False)
    assert config(trt).set_timing_cache(config(trt).create_timing_cache(full), True)


# The runtime.


def deserialise(trt: Any, plan: bytes, log: Log) -> Any:
    return trt.Runtime(log.logger).deserialize_cuda_engine(plan)


DAMAGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda plan: b"", "magicTagRead == kMAGIC_TAG failed.Magic tag does not match"),
    ("another file", lambda plan: b"ONNX" + plan[4:], "Magic tag does not match"),
    ("cut", lambda plan: plan[:-9], "Size specified in header does not match archive size"),
    ("a bit", lambda plan: plan[:-9] + bytes([plan[-9] ^ 1]) + plan[-8:], "Engine deserialization failed"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGES, ids=[row[0] for row in DAMAGES])
def test_a_damaged_plan_is_refused(trt: Any, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    log = Log(trt)
    plan = plan_of(trt, relu())
    assert deserialise(trt, plan, log) is not None and not log.errors
    assert deserialise(trt, damage(plan), log) is None
    assert words in log.errors


def test_a_plan_is_of_one_version_and_device(device: Any) -> None:
    with library(NEW, device) as trt:
        plan = plan_of(trt, relu())
    with library(OLD, device) as trt:
        log = Log(trt)
        assert deserialise(trt, plan, log) is None
        assert "expecting library version 10.3.0 got 11.4.0.106, please rebuild" in log.errors
        own = plan_of(trt, relu())
        trt._double.capability = (10, 1)
        assert deserialise(trt, own, log) is None
        assert "incompatible device, expecting compute 10.1 got compute 8.6" in log.errors
        trt._double.capability = (8, 6)
        trt._double.refuse_plan = True
        assert deserialise(trt, own, log) is None


def opened(trt: Any, data: bytes, log: Log) -> tuple[Any, Any]:
    engine = deserialise(trt, plan_of(trt, data), log)
    return engine, engine.create_execution_context()


def feed(device: Any, engine: Any, context: Any, feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, int]:
    """Set shapes and addresses of everything; the addresses."""
    addresses = {}
    for name, value in feeds.items():
        assert context.set_input_shape(name, value.shape)
        addresses[name] = device.alloc(value.nbytes)
        device.write(addresses[name], np.ascontiguousarray(value))
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name not in feeds:
            addresses[name] = device.alloc(4 * int(np.prod(tuple(context.get_tensor_shape(name)))))
    for name, address in addresses.items():
        assert context.set_tensor_address(name, address)
    return addresses


def arrays(model: onnx.ModelProto, size: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [axis.dim_value or size for axis in kind.shape.dim]
        if kind.elem_type == UINT8:
            made[value.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            made[value.name] = rng.random(shape, np.float32)
    return made


@pytest.mark.parametrize("graph_file", ["face.int8", "voice.fp32", "fusion.fp32"])
def test_it_computes_what_onnx_runtime_computes(
    trt: Any, device: Any, default_bundle: Path, graph_file: str
) -> None:
    data = (default_bundle / f"{graph_file}.onnx").read_bytes()
    log, stream = Log(trt), device.cuStreamCreate(0)
    feeds = arrays(onnx.load_model_from_string(data), 2)
    engine, context = opened(trt, data, log)
    addresses = feed(device, engine, context, feeds)
    assert context.execute_async_v3(stream_handle=stream), log.errors
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for output, right in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        read = np.frombuffer(device.read(addresses[output.name], right.nbytes), right.dtype)
        assert np.array_equal(read.reshape(right.shape), right)
        assert tuple(context.get_tensor_shape(output.name)) == right.shape


def test_a_captured_execution_computes_at_each_launch(trt: Any, device: Any) -> None:
    stream = device.cuStreamCreate(0)
    engine, context = opened(trt, relu(), Log(trt))
    value = np.array([[-1, 2, 3]], np.float32)
    addresses = feed(device, engine, context, {"x": value})
    device.cuStreamBeginCapture(stream, 0)
    assert context.execute_async_v3(stream)
    launch = device.cuGraphInstantiate(device.cuStreamEndCapture(stream), 0)
    device.write(addresses["x"], np.array([[5, -5, 7]], np.float32))
    device.cuGraphLaunch(launch, stream)
    assert np.frombuffer(device.read(addresses["y"], 12), np.float32).tolist() == [5, 0, 7]


EXECUTIONS: list[tuple[str, Callable[[Any, Any, Any], Any], str]] = [
    ("no shape", lambda trt, context, engine: None, "not all dimensions are specified: x"),
    (
        "no address",
        lambda trt, context, engine: context.set_input_shape("x", (2, 3)),
        "Neither address or allocator",
    ),
    (
        "a knob",
        lambda trt, context, engine: write(trt._double, "refuse_execute", 1),
        "Error Code 1: Cask",
    ),
]


@pytest.mark.parametrize(("name", "prepare", "words"), EXECUTIONS, ids=[row[0] for row in EXECUTIONS])
def test_an_execution_that_cannot_be_is_refused(
    trt: Any, device: Any, name: str, prepare: Callable[[Any, Any, Any], Any], words: str
) -> None:
    log = Log(trt)
    engine, context = opened(trt, relu(["N", 3]), log)
    prepare(trt, context, engine)
    assert context.execute_async_v3(device.cuStreamCreate(0)) is False
    assert words in log.errors


SHAPES: list[tuple[str, tuple[int, ...], str]] = [
    ("x", (4, 3), ""),
    (
        "x",
        (5, 3),
        "Set dimension [5,3] for tensor x does not satisfy any optimization profiles. Valid range for "
        "profile 0: [1,3]..[4,3].",
    ),
    ("x", (0, 3), "does not satisfy any optimization profiles"),
    ("x", (2, 4), "Static dimension mismatch while setting input shape for x"),
    ("x", (2,), "Static dimension mismatch"),
    ("y", (2, 3), "Given invalid tensor name: y"),
]


@pytest.mark.parametrize(("name", "shape", "words"), SHAPES)
def test_shapes_outside_the_profile_are_refused(
    trt: Any, name: str, shape: tuple[int, ...], words: str
) -> None:
    log = Log(trt)
    _, context = opened(trt, relu(["N", 3]), log)
    assert context.set_input_shape(name, shape) is not bool(words)
    assert words in log.errors


def test_shapes_of_inputs_must_agree(trt: Any, device: Any) -> None:
    data = graph(
        [node("Add", "a b", "y")], [("a", FLOAT, ["N", 3]), ("b", FLOAT, ["N", 3])], [("y", FLOAT, ["N", 3])]
    )
    log = Log(trt)
    engine, context = opened(trt, data, log)
    feed(device, engine, context, {name: np.zeros((2, 3), np.float32) for name in "ab"})
    assert context.set_input_shape("b", (4, 3))
    assert not context.execute_async_v3(device.cuStreamCreate(0)) and "do not agree" in log.errors


def test_a_lost_context_fails_the_execution(trt: Any, device: Any) -> None:
    log, stream = Log(trt), device.cuStreamCreate(0)
    engine, context = opened(trt, relu(), log)
    feed(device, engine, context, {"x": np.zeros((1, 3), np.float32)})
    device.lose()
    assert not context.execute_async_v3(stream)
    assert "Cuda Runtime" in log.errors


def test_an_address_that_is_no_allocation_loses_the_context(trt: Any, device: Any) -> None:
    stream = device.cuStreamCreate(0)
    engine, context = opened(trt, relu(), Log(trt))
    feed(device, engine, context, {"x": np.zeros((1, 3), np.float32)})
    assert context.set_tensor_address("y", 256)
    assert context.execute_async_v3(stream) and device.lost == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_engines_and_contexts_hold_memory_of_the_device(trt: Any, device: Any) -> None:
    before = device.live.get("device memory", 0)
    engine, context = opened(trt, relu(), Log(trt))
    assert device.live["device memory"] == before + 2
    del context
    assert device.live["device memory"] == before + 1
    del engine
    assert device.live.get("device memory", 0) == before


def test_memory_can_run_out_for_a_context(trt: Any, device: Any) -> None:
    log = Log(trt)
    engine = deserialise(trt, plan_of(trt, relu()), log)
    device.memory = 1 << 20
    assert engine.create_execution_context() is None and "out of memory" in log.errors
    user = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert engine.create_execution_context(user) is not None
    trt._double.out_of_memory = "context"
    assert engine.create_execution_context(user) is None


def test_memory_that_the_user_manages_must_be_given(trt: Any, device: Any) -> None:
    log, stream = Log(trt), device.cuStreamCreate(0)
    engine = deserialise(trt, plan_of(trt, relu()), log)
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    feed(device, engine, context, {"x": np.zeros((1, 3), np.float32)})
    assert not context.execute_async_v3(stream)
    address = device.alloc(engine.device_memory_size_v2)
    context.set_device_memory(address, 16)
    context.set_device_memory(address + 8, engine.device_memory_size_v2)
    assert not context.execute_async_v3(stream)
    context.set_device_memory(address, engine.device_memory_size_v2)
    assert context.execute_async_v3(stream)


def test_a_context_of_11_is_made_with_a_configuration(device: Any) -> None:
    with library(NEW, device) as trt:
        engine = deserialise(trt, plan_of(trt, relu()), Log(trt))
        settings = engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        before = device.live["device memory"]
        assert engine.create_execution_context(runtime_config=settings) is not None
        assert device.live["device memory"] == before


# The inspector.


def inspected(trt: Any, data: bytes, size: int | None = None) -> dict[str, Any]:
    engine, context = opened(trt, data, Log(trt))
    inspector = engine.create_engine_inspector()
    if size:
        context.set_input_shape("x", [size if axis == -1 else axis for axis in engine.get_tensor_shape("x")])
        inspector.execution_context = context
    form = trt.LayerInformationFormat.JSON
    whole: dict[str, Any] = json.loads(inspector.get_engine_information(form))
    parts = [json.loads(inspector.get_layer_information(index, form)) for index in range(engine.num_layers)]
    assert whole["Layers"] == parts
    return whole


def test_a_quantised_convolution_is_one_layer_that_reads_int8(trt: Any, version: str) -> None:
    whole = inspected(trt, convolution(), 3)
    layer = next(layer for layer in whole["Layers"] if "the_Conv" in layer["Name"])
    assert layer["Name"] == "the_Conv + the_Relu + again"
    assert layer["Metadata"] == "[ONNX Layer: the_Conv]\x1f[ONNX Layer: the_Relu]\x1f[ONNX Layer: again]"
    assert layer["LayerType"] == "CaskConvolution" and layer["Weights"]["Type"] == "Int8"
    assert "i8i8" in layer["TacticName"]
    (port,) = layer["Inputs"]
    assert port["Name"] == "q" and port["Dimensions"] == [3, 1, 2, 2]
    if version == OLD:
        assert port["Format/Datatype"] == "Row major Int8 format" and whole["Bindings"] == ["x", "y"]
    else:
        assert port["DataType"] == "Int8" and [one["Name"] for one in whole["I/O Tensors"]] == ["x", "y"]


def test_without_a_shape_the_inspector_does_not_say_formats(trt: Any, version: str) -> None:
    key = "Format/Datatype" if version == OLD else "Format"
    for layer in inspected(trt, convolution())["Layers"]:
        for port in layer["Inputs"] + layer["Outputs"]:
            assert port[key] == "N/A due to dynamic shapes" and port["Dimensions"][0] == -1


def test_a_layer_can_be_made_to_stay_in_floating_point(trt: Any) -> None:
    trt._double.float_layers = {"the_Conv"}
    layer = next(layer for layer in inspected(trt, convolution(), 1)["Layers"] if "the_Conv" in layer["Name"])
    assert layer["Weights"]["Type"] == "Float" and "f32f32" in layer["TacticName"]
    assert layer["Inputs"][0]["Name"] == "p"


@pytest.mark.parametrize(("verbosity", "layers"), [("LAYER_NAMES_ONLY", ["the_Relu"]), ("NONE", [])])
def test_the_inspector_says_as_much_as_was_asked_for(trt: Any, verbosity: str, layers: list[str]) -> None:
    kind = getattr(trt.ProfilingVerbosity, verbosity)
    plan = build(trt, relu(), change=lambda settings: write(settings, "profiling_verbosity", kind))
    inspector = deserialise(trt, plan, Log(trt)).create_engine_inspector()
    assert json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"] == layers
