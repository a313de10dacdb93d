from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from onnx import TensorProto, helper

from edgeemo.errors import BackendError, InputError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.inference.trt_builder import Settings, build, profiles
from edgeemo.inference.trt_progress import Phases
from tests.support.tensorrt_double.plan import Plan, unpack
from tests.support.tensorrt_opened import VERSIONS, Opened, opened

MEMORY = "IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)"


@pytest.fixture(params=VERSIONS)
def rig(request: pytest.FixtureRequest) -> Iterator[Opened]:
    with opened(request.param) as made:
        yield made


@pytest.fixture
def ten() -> Iterator[Opened]:
    with opened("10.3.0") as made:
        yield made


@pytest.fixture
def eleven() -> Iterator[Opened]:
    with opened("11.4.0.106") as made:
        yield made


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.read(request.getfixturevalue("default_bundle"))


def unpacked(rig: Opened, plan: bytes) -> Plan:
    return unpack(plan, rig.library.version, rig.knobs.capability)


def flags(rig: Opened, plan: Plan) -> set[str]:
    names = rig.trt.BuilderFlag.__members__
    return {name for name, flag in names.items() if plan.config["flags"] >> int(flag) & 1}


def test_an_engine_is_strongly_typed_and_has_no_tf32(rig: Opened, bundle: Bundle) -> None:
    built = rig.build(bundle, "face", "int8")
    plan = unpacked(rig, built.plan)
    assert built.typing == "strong" and plan.config["strong"]
    assert flags(rig, plan) == set()
    assert plan.config["verbosity"] == "DETAILED"


def test_settings_reach_the_builder(rig: Opened, bundle: Bundle) -> None:
    settings = {"optimization_level": 5, "workspace": 2**28, "most": 4}
    plan = unpacked(rig, rig.build(bundle, "face", **settings).plan)
    assert plan.config["level"] == 5
    assert plan.config["pools"] == {"WORKSPACE": 2**28}
    assert plan.profiles == [{"face": [[1, 48, 48, 1], [1, 48, 48, 1], [4, 48, 48, 1]]}]


def test_an_engine_computes_on_one_stream(
    rig: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    real = rig.trt.Builder.create_builder_config

    def note(builder: Any) -> Any:
        configs.append(real(builder))
        return configs[-1]

    monkeypatch.setattr(rig.trt.Builder, "create_builder_config", note)
    rig.build(bundle, "face")
    assert [config.max_aux_streams for config in configs] == [0]


def test_free_sizes_alone_get_a_profile(rig: Opened, bundle: Bundle) -> None:
    (fusion,) = unpacked(rig, rig.build(bundle, "fusion").plan).profiles
    assert set(fusion) == {"face_tokens", "face_mask", "voice_mask"}
    assert fusion["face_mask"] == [[1, 40], [1, 40], [16, 40]]
    assert unpacked(rig, rig.build(bundle, "voice").plan).profiles == []
    assert profiles(bundle.graphs["voice"], Settings()) == {}


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"most": 0}, "most is 0; it must be a whole number of at least 1"),
        ({"most": True}, "most is True"),
        ({"optimization_level": 6}, "optimization_level is 6; it must be a whole number from 0 to 5"),
        ({"workspace": 2.0**30}, r"workspace is 1073741824\.0"),
        ({"workspace": 1024}, "workspace is 1024; it must be a whole number from 1048576 to 1099511627776"),
        ({"workspace": 2**40 + 1}, "workspace is 1099511627777; it must"),
        ({"dla_core": -1}, "dla_core is -1"),
        ({"typing": "implicit"}, "typing is 'implicit'; it must be one of strong, weak"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        Settings(**settings)


# Weak typing.


@pytest.mark.parametrize(
    ("name", "encoding", "allowed"),
    [
        ("voice", "int8", {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("voice", "fp32", set()),
        ("fusion", "fp32", set()),
    ],
)
def test_weak_typing(ten: Opened, bundle: Bundle, name: str, encoding: str, allowed: set[str]) -> None:
    built = ten.build(bundle, name, encoding, typing="weak")
    plan = unpacked(ten, built.plan)
    assert built.typing == "weak" and not plan.config["strong"]
    assert flags(ten, plan) == allowed


def test_weak_typing_holds_the_front_end_to_fp32(
    ten: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {}
    real = ten.trt.ILayer.set_output_type

    def note(layer: Any, index: int, dtype: Any) -> None:
        held[layer.name] = (layer.precision, dtype)
        real(layer, index, dtype)

    monkeypatch.setattr(ten.trt.ILayer, "set_output_type", note)
    ten.build(bundle, "voice", "int8", typing="weak")
    products = {f"node_matmul{which}" for which in ("", "_1", "_2")}  # cosines, sines, mel filters
    squares = {"node_mul_1", "node_mul_2"}  # of cosines and sines, which leave the range of FP16
    assert {*products, *squares, "node_log", "node_conv2d", "node_relu"} <= held.keys()
    assert set(held.values()) == {(ten.trt.DataType.FLOAT, ten.trt.DataType.FLOAT)}
    trunk = {"node_conv2d_1", "node_relu_1", "relu.quantise", "trunk.0.conv1.weight.dequantise"}
    assert not trunk & held.keys()


def test_weak_typing_where_there_is_none(eleven: Opened, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"graph 'face': TensorRT 11\.4\.0\.106 has no weak typing"):
        eleven.build(bundle, "face", typing="weak")


def test_strong_typing_that_misbehaves_gives_way(
    ten: Opened, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    ten.knobs.refuse_strong = True
    with caplog.at_level(logging.WARNING, "edgeemo"):
        built = ten.build(bundle, "face", "int8")
    assert built.typing == "weak"
    assert flags(ten, unpacked(ten, built.plan)) >= {"INT8", "FP16"}
    (record,) = caplog.records
    assert "graph 'face': TensorRT built no engine (strong typing)" in record.message
    assert "TensorRT 10.3.0 says: " in record.message
    assert "it is built weakly typed instead" in record.message


def test_nothing_gives_way_where_there_is_strong_typing_alone(eleven: Opened, bundle: Bundle) -> None:
    eleven.knobs.refuse_build = (
        "Error Code 10: Internal Error (Could not find any implementation for node conv.)"
    )
    with pytest.raises(BackendError, match=r"Could not find any implementation for node conv\."):
        eleven.build(bundle, "face", "int8")


# What goes wrong.


def test_a_build_that_fails_is_quoted(rig: Opened, bundle: Bundle) -> None:
    rig.knobs.refuse_build = (
        "Error Code 10: Internal Error (Could not find any implementation for node conv.)"
    )
    with pytest.raises(
        BackendError,
        match=r"graph 'face': TensorRT built no engine \(\w+ typing\): TensorRT .* says: .*for node conv\.\)"
        "; try another precision or optimisation level",
    ):
        rig.build(bundle, "face")


def test_too_little_workspace_is_named(rig: Opened, bundle: Bundle) -> None:
    rig.knobs.refuse_build = "Error Code 10: no implementation for node conv due to insufficient workspace."
    with pytest.raises(BackendError, match="give it more workspace than 256 MiB"):
        rig.build(bundle, "face", workspace=2**28)
    with pytest.raises(BackendError, match="give it more workspace than 1048576 MiB"):
        rig.build(bundle, "face", workspace=2**40)


def test_out_of_memory_is_named_and_not_tried_again(
    rig: Opened, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rig.knobs.refuse_build = MEMORY
    with pytest.raises(
        BackendError,
        match=r"graph 'face': out of memory while TensorRT built it .*OutOfMemory.*close what else uses",
    ):
        rig.build(bundle, "face", "int8")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_gpu_that_this_tensorrt_does_not_know(
    version: str, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(version) as rig:
        # NVIDIA/TensorRT#4359
        rig.knobs.refuse_build = (
            "Error Code 9: API Usage Error (Target GPU SM 86 is not supported by this TensorRT release.)"
        )
        with pytest.raises(
            BackendError, match=r"SM 86 .*; install a TensorRT for Emulated GPU \(compute capability 8\.6\)"
        ):
            rig.build(bundle, "face", "int8")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # not tried again


def test_a_library_that_makes_no_builder(
    rig: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(logger: Any) -> None:
        logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 2")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rig.trt, "Builder", refuse)
    with pytest.raises(BackendError, match=r"does not start on Emulated GPU .*failure with error: 2"):
        rig.build(bundle, "face")


def test_an_error_of_an_earlier_build_is_not_quoted(rig: Opened, bundle: Bundle) -> None:
    rig.knobs.refuse_build = MEMORY
    for _ in range(2):
        with pytest.raises(BackendError) as caught:
            rig.build(bundle, "face", typing="strong")
        assert str(caught.value).count("OutOfMemory") == 1


def fft() -> bytes:
    nodes = [
        helper.make_node("STFT", ["voice", "step"], ["spectrum"], name="front"),
        helper.make_node("ReduceMean", ["spectrum"], ["tokens"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("voice", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [])],
        [helper.make_tensor("step", TensorProto.INT64, [], [16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (
            fft(),
            r"TensorRT [\d.]+ cannot read the file: node 0 'front' \(STFT\): .* says: While parsing node",
        ),
        (
            b"not a graph",
            r"TensorRT [\d.]+ cannot read the file: Failed to parse the ONNX model: TensorRT [\d.]+ says: ",
        ),
    ],
)
def test_a_file_that_tensorrt_cannot_read(rig: Opened, model: bytes, wrong: str) -> None:
    spec = GraphSpec("voice", "append", 1, {"voice": TensorSpec("voice", "float32", (1, 64))}, {}, {})
    with pytest.raises(BackendError, match=f"graph 'voice': {wrong}"):
        build(rig.library, model, spec, Settings())
    with pytest.raises(BackendError, match=r"graph 'voice': TensorRT [\d.]+ cannot read tiny/v\.onnx: "):
        build(rig.library, model, spec, Settings(), name="tiny/v.onnx")


def test_a_file_with_other_inputs(rig: Opened, bundle: Bundle) -> None:
    model = bundle.read_file("voice.fp32.onnx")
    with pytest.raises(
        BackendError, match="graph 'face': the file's inputs are voice; the manifest says face"
    ):
        build(rig.library, model, bundle.graphs["face"], Settings())


# Timing cache.


def test_a_timing_cache_grows_from_build_to_build(rig: Opened, bundle: Bundle) -> None:
    face = rig.build(bundle, "face")
    both = rig.build(bundle, "voice", timing_cache=face.timing_cache)
    assert len(both.timing_cache) > len(face.timing_cache) > 0


def test_a_timing_cache_of_another_device_is_left_aside(
    rig: Opened, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgeemo"):
        built = rig.build(bundle, "face", timing_cache=b"of another device")
    assert built.timing_cache == rig.build(bundle, "face").timing_cache
    assert "the timing cache is of another device or version" in caplog.text


# Progress.


def test_progress(rig: Opened, bundle: Bundle) -> None:
    rig.knobs.phases = [("Building", None, 2), ("Tactics", "Building", 4)]
    told: list[tuple[str, float]] = []
    rig.build(bundle, "face", progress=lambda phase, fraction: told.append((phase, fraction)))
    fractions = [fraction for _, fraction in told]
    assert told[0] == ("Building", 0.0)
    assert ("Tactics", 0.25) in told
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_the_fraction_of_phases_within_phases() -> None:
    told: list[float] = []
    phases = Phases(lambda phase, fraction: told.append(fraction))
    phases.start("a", None, 2)
    phases.start("b", "a", 2)
    phases.start("c", "b", 2)
    assert phases.step("c", 0)
    phases.finish("c")
    phases.step("b", 0)
    phases.finish("b")
    phases.step("a", 0)
    phases.start("b", "a", 1)  # a name may come again
    phases.finish("b")
    phases.step("a", 1)
    phases.finish("a")
    assert told == [0, 0, 0, 0.125, 0.25, 0.25, 0.5, 0.5, 0.5, 1, 1, 1]


def test_the_fraction_never_falls() -> None:
    told: list[float] = []
    phases = Phases(lambda phase, fraction: told.append(fraction))
    for name in ("first", "second"):  # phases without a parent may follow each other
        phases.start(name, None, 2)
        phases.step(name, 0)
        phases.finish(name)
    assert told == [0, 0.5, 1, 1, 1, 1]


def test_a_phase_that_outlives_the_one_around_it() -> None:
    told: list[float] = []
    phases = Phases(lambda phase, fraction: told.append(fraction))
    phases.start("a", None, 2)
    phases.start("b", "a", 2)
    phases.finish("a")
    assert phases.step("b", 0)
    phases.finish("b")
    assert told == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "raised", [ValueError("no terminal"), KeyboardInterrupt(), BackendError("no robot any more")]
)
def test_what_progress_raises_ends_the_build(
    rig: Opened, bundle: Bundle, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def fail(phase: str, fraction: float) -> None:
        told.append(phase)
        raise raised

    with pytest.raises(type(raised)):
        rig.build(bundle, "face", progress=fail)
    assert len(told) == 1
    assert rig.knobs.builds == 0
    assert "weakly typed" not in caplog.text


@pytest.fixture
def keyboard() -> Iterator[None]:
    """SIGINT as in a terminal: a shell starts what runs in its background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_between_two_callbacks_ends_the_build(
    rig: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, keyboard: None
) -> None:
    """Python raises it when the next callback begins, where TensorRT's binding would swallow it."""
    real = Phases.start

    def start(phases: Phases, *given: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(phases, *given)

    monkeypatch.setattr(Phases, "start", start)
    with pytest.raises(KeyboardInterrupt):
        rig.build(bundle, "face")
    assert rig.knobs.builds == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_raises_ends_the_build_and_nothing_gives_way(
    rig: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that is told to stop: to TensorRT's binding it looks like a build that failed."""
    real = Phases.step

    def step(phases: Phases, *given: Any) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return real(phases, *given)

    def stop(number: int, frame: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Phases, "step", step)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(SystemExit):
            rig.build(bundle, "face")
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert rig.knobs.builds == 0
    assert "weakly typed" not in caplog.text


@pytest.mark.parametrize("place", ["another thread", "a handler of the program's own"])
def test_ctrl_c_that_is_not_ours(place: str, rig: Opened, bundle: Bundle) -> None:
    seen = []

    def handle(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.getsignal(signal.SIGINT)
    try:
        if place == "another thread":
            thread = threading.Thread(target=rig.build, args=(bundle, "face"))
            thread.start()
            thread.join()
        else:
            signal.signal(signal.SIGINT, handle)
            rig.build(bundle, "face", progress=lambda *told: signal.raise_signal(signal.SIGINT))
            assert seen and signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)
    assert rig.knobs.builds == 1


# DLA.


@pytest.mark.parametrize(
    ("encoding", "cores", "settings", "wrong"),
    [
        ("int8", 2, {"dla_core": 0}, "is quantised, and a DLA takes no Q/DQ; use precision 'fp16'"),
        ("fp32", 2, {"dla_core": 0}, "a DLA runs FP16 graphs alone; this one is FP32"),
        ("fp32", 0, {"dla_core": 0}, "dla_core is 0; TensorRT .* has no DLA cores"),
        ("fp32", 2, {"dla_core": 2}, "dla_core is 2; TensorRT .* has 2 DLA cores"),
    ],
)
def test_what_a_dla_does_not_run(
    rig: Opened, bundle: Bundle, encoding: str, cores: int, settings: dict[str, Any], wrong: str
) -> None:
    rig.knobs.num_DLA_cores = cores
    with pytest.raises(BackendError, match=f"graph 'face': .*{wrong}"):
        rig.build(bundle, "face", encoding, **settings)


def half(*sizes: Any) -> tuple[bytes, GraphSpec]:
    """A graph in FP16 between FP32 ends."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["power"], name="front"),
        helper.make_node("Cast", ["power"], ["h"], to=TensorProto.FLOAT16, name="down"),
        helper.make_node("Relu", ["h"], ["r"], name="trunk"),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT, name="up"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tensors = {name: {name: TensorSpec(name, "float32", sizes)} for name in "xy"}
    return bytes(model.SerializeToString()), GraphSpec("half", "append", 1, tensors["x"], tensors["y"], {})


def test_a_dla_with_gpu_fallback(rig: Opened) -> None:
    rig.knobs.num_DLA_cores = 2
    model, spec = half(1, 8)
    built = build(rig.library, model, spec, Settings(dla_core=1))
    plan = unpacked(rig, built.plan)
    assert (plan.config["core"], plan.config["device"]) == (1, "DLA")
    # TensorRT 10 takes a DLA's precision from its flags; 11 has none.
    asked = {"FP16", "OBEY_PRECISION_CONSTRAINTS"} if rig.library.weak else set()
    assert flags(rig, plan) == {"GPU_FALLBACK"} | asked


def test_the_bundle_on_a_dla(rig: Opened, bundle: Bundle) -> None:
    rig.knobs.num_DLA_cores = 1
    for name, most in (("voice", 16), ("face", 1)):
        plan = unpacked(rig, rig.build(bundle, name, "fp16", most=most, dla_core=0).plan)
        assert plan.config["device"] == "DLA"


def test_a_dla_takes_fixed_shapes(rig: Opened) -> None:
    rig.knobs.num_DLA_cores = 2
    model, spec = half("N", 8)
    with pytest.raises(
        BackendError, match=r"a DLA takes fixed shapes alone; build it for one face \(most=1\)"
    ):
        build(rig.library, model, spec, Settings(dla_core=0))
    build(rig.library, model, spec, Settings(dla_core=0, most=1))


def test_a_report_goes_to_json(rig: Opened, bundle: Bundle) -> None:
    report = rig.build(bundle, "face", "int8").report
    assert json.loads(json.dumps(report.to_dict()))["findings"] == []
