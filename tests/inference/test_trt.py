from __future__ import annotations

import itertools
import logging
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference import trt
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import OrtGraph
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.inference.trt import TensorRt, Timing, TrtGraph
from edgeemo.inference.trt_library import PlanRefused
from tests.support import cuda_double, tensorrt_double
from tests.support.tensorrt_opened import BINDINGS, VERSIONS, Opened, opened
from tests.support.tiny import Tiny, write_bundle

ILLEGAL = "CUDA_ERROR_ILLEGAL_ADDRESS"


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.read(request.getfixturevalue("default_bundle"))


@pytest.fixture(params=VERSIONS)
def rig(request: pytest.FixtureRequest) -> Iterator[Opened]:
    with opened(request.param) as made:
        yield made


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_of_ids_is_run_and_held_to_its_spec(version: str, tmp_path: Path) -> None:
    tiny = Tiny(modalities=("text",))
    bundle = Bundle.read(write_bundle(tmp_path, tiny))
    with opened(version) as rig:
        graph = rig.open(bundle, "text")
        ids = np.array([[2, 6, 5, 3, 0]], np.int32)
        same(graph.run({"text": ids}), {"tokens": tiny.text_tokens(ids)})
        graph.close()
        floats = {"text": TensorSpec("text", "float32", (1, tiny.slots))}
        plan = rig.build(bundle, "text").plan
        with pytest.raises(PlanRefused, match=r"the manifest says float32 \[1, 5\]"):
            TrtGraph(plan, replace(bundle.graphs["text"], inputs=floats), rig.library, encoding="fp32")


@pytest.fixture
def lossy() -> Iterator[Opened]:
    """A device that need not be clean at the end: its context may be lost."""
    with opened(clean=False) as made:
        yield made


def feeds_of(spec: GraphSpec, size: int, seed: int = 0) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for tensor in spec.inputs.values():
        shape = [axis if isinstance(axis, int) else size for axis in tensor.shape]
        if tensor.dtype == "uint8":
            feeds[tensor.name] = chance.integers(0, 256, shape, np.uint8)
        elif "mask" in tensor.name:
            feeds[tensor.name] = (chance.random(shape) < 0.7).astype(np.float32)
        else:
            feeds[tensor.name] = chance.standard_normal(shape, np.float32)
    return feeds


def same(given: dict[str, Any], right: dict[str, Any]) -> None:
    assert given.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(given[name], value, rtol=1e-5, atol=1e-6)


# Opening.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("binding", BINDINGS)
def test_what_a_library_offers(version: str, binding: str) -> None:
    with opened(version, binding) as rig:
        assert rig.library.version == version
        assert rig.library.strong and rig.library.shares_memory
        assert rig.library.weak == (version == "10.3.0")
        assert rig.library.dla_cores == 0
        rig.knobs.num_DLA_cores = 2
        assert rig.library.dla_cores == 2


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (None, "TensorRT's Python module is not installed; JetPack has it as python3-libnvinfer"),
        ("import tensorrt_libs_of_nobody", "TensorRT's Python module cannot be imported: No module named"),
        (
            "raise OSError('libnvinfer.so.10: cannot open shared object file')",
            r"TensorRT's libraries cannot be loaded: libnvinfer\.so\.10: cannot open shared object file",
        ),
        ("raise ImportError('libcudart.so.12')", r"TensorRT's libraries cannot be loaded: libcudart\.so\.12"),
        (
            "__version__ = '8.4.1'",
            r"TensorRT 8\.4\.1 has no IExecutionContext\.execute_async_v3; 10\.3 or later is needed",
        ),
    ],
)
def test_a_module_that_cannot_be_used(
    text: str | None, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # put back in the end, whatever is imported here
    if text is not None:
        del sys.modules["tensorrt"]
        (tmp_path / "tensorrt.py").write_text(text, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    with cuda_double.installed("cuda-python"), pytest.raises(BackendError, match=wrong):
        TensorRt.open()


@pytest.mark.parametrize(
    ("binding", "options", "wrong"),
    [
        (None, {}, "cuda-python|pycuda"),
        ("cuda-python", {"driver": False}, "driver"),
        ("cuda-python", {"count": 0}, "device"),
    ],
)
def test_no_cuda(binding: str | None, options: dict[str, Any], wrong: str) -> None:
    with (
        cuda_double.installed(binding, **options) as device,
        tensorrt_double.installed("10.3.0", device),
        pytest.raises(BackendError, match=wrong),
    ):
        TensorRt.open()


def test_a_library_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(logger: Any) -> None:
        logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with cuda_double.installed("cuda-python") as device, tensorrt_double.installed("10.3.0", device) as trt:
        monkeypatch.setattr(trt, "Runtime", refuse)
        with pytest.raises(
            BackendError,
            match=r"TensorRT 10\.3\.0 does not start on Emulated GPU \(.*nullptr\): TensorRT 10\.3\.0 says: "
            "CUDA initialization failure with error: 35",
        ):
            TensorRt.open()
        device.assert_clean()


def test_closing_twice(rig: Opened) -> None:
    rig.library.close()
    rig.library.close()


def test_a_graph_of_a_closed_library(lossy: Opened, bundle: Bundle) -> None:
    graph = lossy.open(bundle, "face")
    lossy.library.close()
    with pytest.raises(BackendError, match="closed; open it again"):
        graph.run(feeds_of(bundle.graphs["face"], 1))
    graph.close()


# Running.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("face", "fp32"),
        ("face", "fp16"),
        ("face", "int8"),
        ("voice", "fp32"),
        ("voice", "fp16"),
        ("voice", "int8"),
        ("fusion", "fp32"),
    ],
)
def test_the_bundle_s_graphs_answer_as_in_onnx_runtime(
    bundle: Bundle, version: str, binding: str, integrated: bool, name: str, encoding: str
) -> None:
    spec = bundle.graphs[name]
    right = OrtGraph(bundle.read_file(spec.files[encoding]), spec, encoding=encoding)
    sizes = [1] if name == "voice" else [1, 3, 16, 3, 1, 1]
    with opened(version, binding, integrated=integrated) as rig:
        graph = rig.open(bundle, name, encoding)
        assert (graph.spec, graph.encoding) == (spec, encoding)
        assert graph.engine == f"tensorrt {version} on {rig.library.cuda.name}"
        for seed, size in enumerate(sizes * 2):
            feeds = feeds_of(spec, size, seed)
            same(graph.run(feeds), right.run(feeds))
        graph.close()


def test_feeds_may_be_views(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    picture = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1), np.uint8)
    view = picture[:, ::2, ::-2]
    answer = graph.run({"face": view})["tokens"].copy()
    np.testing.assert_array_equal(graph.run({"face": view.copy()})["tokens"], answer)
    graph.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_outputs_are_reused(rig: Opened, bundle: Bundle, asynchronous: bool) -> None:
    rig.device.asynchronous = asynchronous
    spec = bundle.graphs["face"]
    graph = rig.open(bundle, "face")
    first = graph.run(feeds_of(spec, 3))
    kept = first["tokens"].copy()
    second = graph.run(feeds_of(spec, 3, seed=1))
    assert second is first and second["tokens"] is first["tokens"]
    assert not np.array_equal(kept, second["tokens"])
    assert second["tokens"].shape == (3, 128) and second["tokens"].dtype == np.float32
    graph.close()


def test_steps_are_captured_and_replayed(rig: Opened, bundle: Bundle) -> None:
    spec = bundle.graphs["fusion"]
    plan = rig.build(bundle, "fusion").plan
    contexts, calls = rig.knobs.contexts, rig.device.calls
    graph = TrtGraph(plan, spec, rig.library, encoding="fp32")
    assert (calls["cuStreamBeginCapture"], calls["cuGraphLaunch"]) == (1, 0)  # the run on zeros
    for size in (1, 2, 2, 1, 2):
        graph.run(feeds_of(spec, size))
    # N = 2 ran once, was captured then, and is replayed twice; N = 1 twice.
    assert (calls["cuStreamBeginCapture"], calls["cuGraphLaunch"]) == (2, 4)
    assert rig.knobs.contexts == contexts + 2
    graph.close()


def test_a_binding_that_cannot_capture(bundle: Bundle) -> None:
    with opened(binding="pycuda") as rig:
        graph = rig.open(bundle, "face")
        for _ in range(3):
            graph.run(feeds_of(bundle.graphs["face"], 1))
        assert rig.device.calls["cuStreamBeginCapture"] == 0
        graph.close()


def test_a_capture_that_fails_is_told_once(
    rig: Opened, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rig.device.fail("cuGraphInstantiate", "CUDA_ERROR_NOT_SUPPORTED", times=None)
    spec = bundle.graphs["face"]
    right = OrtGraph(bundle.read_file("face.fp32.onnx"), spec)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        graph = rig.open(bundle, "face")
        for size in (1, 2, 2, 1):
            same(graph.run(feeds_of(spec, size)), right.run(feeds_of(spec, size)))
    (record,) = caplog.records
    assert "graph 'face' runs without CUDA graphs" in record.message
    assert "CUDA_ERROR_NOT_SUPPORTED" in record.message
    graph.close()


def test_a_dla_s_engine_is_not_captured(rig: Opened, bundle: Bundle) -> None:
    plan = rig.build(bundle, "face", most=1).plan
    graph = TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32", most=1, dla_core=1)
    assert rig.library._runtime.DLA_core == 1
    assert rig.device.calls["cuStreamBeginCapture"] == 0
    graph.close()


def test_an_integrated_device_copies_nothing(bundle: Bundle) -> None:
    with opened(integrated=True) as rig:
        graph = rig.open(bundle, "fusion")
        graph.run(feeds_of(bundle.graphs["fusion"], 2))
        calls = rig.device.calls
        assert calls["cuMemcpyHtoDAsync"] == calls["cuMemcpyDtoHAsync"] == 0
        assert calls["cuMemAlloc"] == 1  # what the contexts share
        graph.close()


def test_contexts_with_memory_of_their_own(rig: Opened, bundle: Bundle) -> None:
    rig.library.shares_memory = False
    spec = bundle.graphs["face"]
    graph = rig.open(bundle, "face")
    allocated = rig.device.calls["cuMemAlloc"]
    same(
        graph.run(feeds_of(spec, 2)),
        OrtGraph(bundle.read_file("face.fp32.onnx"), spec).run(feeds_of(spec, 2)),
    )
    assert allocated == 2  # input and output
    rig.knobs.out_of_memory = "context"
    with pytest.raises(
        BackendError, match=r"graph 'face': TensorRT makes no execution context: .*OutOfMemory"
    ):
        graph.run(feeds_of(spec, 3))
    graph.close()


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_steady_step_allocates_nothing(
    bundle: Bundle, binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bundle.graphs["face"]
    feeds = feeds_of(spec, 16)
    with opened(binding=binding) as rig:
        graph = rig.open(bundle, "face")
        for _ in range(3):
            graph.run(feeds)
        before = dict(rig.device.calls)
        # The emulated device computes in this process; what it takes for that is not the step's.
        monkeypatch.setattr(rig.device, "_drain", lambda stream: stream.queue.clear())
        monkeypatch.setattr(rig.trt.IExecutionContext, "execute_async_v3", lambda context, stream: True)
        tracemalloc.start()
        try:
            graph.run(feeds)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(100):
                graph.run(feeds)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        smallest = graph.run(feeds)["tokens"].nbytes  # 8 KiB; the input is 36
        assert peak - held < smallest
        # The emulation keeps 47 bytes a step; the tracer itself comes and goes with some hundred.
        assert after - held < smallest
        made = {name for name, count in rig.device.calls.items() if count != before.get(name, 0)}
        assert not made & {"cuMemAlloc", "cuMemHostAlloc", "cuStreamBeginCapture", "cuEventCreate"}
        graph.close()


def test_any_thread_may_run_and_close(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    spec = bundle.graphs["face"]
    answers: list[Any] = []

    def work() -> None:
        answers.append(graph.run(feeds_of(spec, 2))["tokens"].copy())
        graph.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers[0].shape == (2, 128)


def test_nothing_goes_to_standard_error(
    rig: Opened, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = rig.open(bundle, "face")
    graph.close()
    with pytest.raises(BackendError):
        rig.library.deserialise(b"not a plan", "graph 'face'")
    assert capfd.readouterr() == ("", "")


# What goes wrong.


def test_wrong_feeds_leave_the_graph_usable(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    with pytest.raises(BackendError, match="graph 'face': input 'face' is uint8"):
        graph.run({"face": np.zeros((1, 48, 47, 1), np.uint8)})
    with pytest.raises(BackendError, match="graph 'face': N is 17; its engine was built for 1 to 16"):
        graph.run(feeds_of(bundle.graphs["face"], 17))
    graph.run(feeds_of(bundle.graphs["face"], 16))
    graph.close()


def held(rig: Opened) -> list[str]:
    """What the context holds: its stream alone, but for what a graph made."""
    context = rig.device._primary
    assert context is not None
    return sorted(one.kind for one in context.objects.values())


def test_closing_frees_everything(rig: Opened, bundle: Bundle) -> None:
    assert held(rig) == ["stream"]
    graph = rig.open(bundle, "fusion")
    for size in (1, 2, 2):
        graph.run(feeds_of(bundle.graphs["fusion"], size))
    assert held(rig).count("executable graph") == 2
    graph.close()
    assert held(rig) == ["stream"]


def test_a_closed_graph(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    graph.close()
    graph.close()
    with pytest.raises(BackendError, match="graph 'face' was closed; open it again"):
        graph.run(feeds_of(bundle.graphs["face"], 1))


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lambda plan: b"not a plan", "of an unknown version built: TensorRT .* says: .*magicTagRead"),
        (lambda plan: plan[:-1], "Size specified in header does not match archive size"),
    ],
)
def test_a_plan_that_is_refused(rig: Opened, bundle: Bundle, damage: Any, wrong: str) -> None:
    plan = rig.build(bundle, "face").plan
    with pytest.raises(
        PlanRefused,
        match=f"graph 'face': TensorRT {rig.library.version} on Emulated GPU refuses the engine, which "
        f".*{wrong}",
    ):
        TrtGraph(damage(plan), bundle.graphs["face"], rig.library, encoding="fp32")


def test_an_error_of_an_earlier_plan_is_not_quoted(rig: Opened) -> None:
    for _ in range(2):
        with pytest.raises(BackendError) as caught:
            rig.library.deserialise(b"not a plan", "graph 'face'")
        assert str(caught.value).count("magicTagRead") == 1


def test_a_plan_of_another_version_is_named_with_both(bundle: Bundle) -> None:
    with opened("10.3.0") as rig:
        plan = rig.build(bundle, "face").plan
    with (
        opened("11.4.0.106") as rig,
        pytest.raises(BackendError, match=r"expecting library version 11\.4\.0\.106 got 10\.3\.0"),
    ):
        TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32")


@pytest.mark.parametrize(
    ("side", "tensor", "wrong"),
    [
        (
            "inputs",
            TensorSpec("crop", "uint8", ("N", 48, 48, 1)),
            "its inputs are face; the manifest says crop",
        ),
        (
            "inputs",
            TensorSpec("face", "float32", ("N", 48, 48, 1)),
            r"input 'face' is .*UINT8 \[-1, 48, 48, 1\]",
        ),
        (
            "inputs",
            TensorSpec("face", "uint8", ("N", 48, 47, 1)),
            r"the manifest says uint8 \[N, 48, 47, 1\]",
        ),
        ("inputs", TensorSpec("face", "uint8", ("N", 48, 48)), r"the manifest says uint8 \[N, 48, 48\]"),
        (
            "outputs",
            TensorSpec("token", "float32", ("N", 128)),
            "its outputs are tokens; the manifest says token",
        ),
        ("outputs", TensorSpec("tokens", "float32", ("N", 64)), r"output 'tokens' is .*FLOAT \[-1, 128\]"),
        ("outputs", TensorSpec("tokens", "float32", (2, 128)), r"output 'tokens' is \[1, 128\] for N = 1"),
    ],
)
def test_an_engine_that_is_not_what_the_manifest_says(
    rig: Opened, bundle: Bundle, side: str, tensor: TensorSpec, wrong: str
) -> None:
    plan = rig.build(bundle, "face").plan
    spec = replace(bundle.graphs["face"], **{side: {tensor.name: tensor}})
    with pytest.raises(BackendError, match=f"graph 'face': the engine does not fit the manifest: .*{wrong}"):
        TrtGraph(plan, spec, rig.library, encoding="fp32")


def test_an_engine_for_fewer_faces(rig: Opened, bundle: Bundle) -> None:
    plan = rig.build(bundle, "face", most=4).plan
    with pytest.raises(BackendError, match="it was built for N of 1 to 4; 16 must be possible"):
        TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32", most=16)


def test_an_error_that_somebody_keeps_holds_nothing_of_the_device(rig: Opened, bundle: Bundle) -> None:
    plan = rig.build(bundle, "face").plan
    tensor = TensorSpec("tokens", "float32", (2, 128))
    spec = replace(bundle.graphs["face"], outputs={"tokens": tensor})
    with pytest.raises(BackendError, match="for N = 1") as kept:
        TrtGraph(plan, spec, rig.library, encoding="fp32")
    assert held(rig) == ["stream"]
    assert kept.value.__traceback__ is not None


def test_several_free_sizes(rig: Opened, bundle: Bundle) -> None:
    plan = rig.build(bundle, "face").plan
    tensor = TensorSpec("face", "uint8", ("N", "H", 48, 1))
    spec = replace(bundle.graphs["face"], inputs={"face": tensor})
    with pytest.raises(BackendError, match=r"graph 'face' has several free sizes \(N, H\)"):
        TrtGraph(plan, spec, rig.library, encoding="fp32")


@pytest.mark.parametrize(
    ("call", "after"), [("cuMemHostAlloc", 0), ("cuMemHostAlloc", 1), ("cuMemAlloc", 0), ("cuMemAlloc", 2)]
)
def test_no_memory_for_buffers(rig: Opened, bundle: Bundle, call: str, after: int) -> None:
    plan = rig.build(bundle, "face").plan
    rig.device.fail(call, "CUDA_ERROR_OUT_OF_MEMORY", after=after)
    with pytest.raises(BackendError, match=r"graph 'face' is out of memory on the device: .*OUT_OF_MEMORY"):
        TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32")
    assert held(rig) == ["stream"]


def test_an_execution_that_is_refused(rig: Opened, bundle: Bundle) -> None:
    spec = bundle.graphs["face"]
    graph = rig.open(bundle, "face")
    rig.knobs.refuse_execute = 1
    with pytest.raises(
        BackendError, match=r"graph 'face': TensorRT failed to run it: TensorRT .* says: .*Cask convolution"
    ):
        graph.run(feeds_of(spec, 2))
    same(
        graph.run(feeds_of(spec, 2)),
        OrtGraph(bundle.read_file("face.fp32.onnx"), spec).run(feeds_of(spec, 2)),
    )
    graph.close()


def test_an_execution_that_is_refused_in_a_capture(
    rig: Opened, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    plan = rig.build(bundle, "face").plan
    real = rig.trt.IExecutionContext.execute_async_v3

    def refuse(context: Any, stream_handle: int) -> bool:
        if any(getattr(one, "captured", None) is not None for one in rig.device._primary.objects.values()):
            rig.knobs.refuse_execute = 1
        return bool(real(context, stream_handle))

    rig.trt.IExecutionContext.execute_async_v3 = refuse
    with caplog.at_level(logging.WARNING, "edgeemo"):
        graph = TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32")
    assert "runs without CUDA graphs" in caplog.text and "Cask convolution" in caplog.text
    graph.run(feeds_of(bundle.graphs["face"], 1))
    graph.close()


@pytest.mark.parametrize("call", ["cuGraphLaunch", "cuStreamSynchronize"])
def test_a_context_that_is_lost_in_the_middle(lossy: Opened, bundle: Bundle, call: str) -> None:
    face, fusion = lossy.open(bundle, "face"), lossy.open(bundle, "fusion")
    feeds = feeds_of(bundle.graphs["face"], 1)
    for _ in range(3):
        face.run(feeds)
    lossy.device.fail(call, ILLEGAL)
    with pytest.raises(BackendError, match=f"graph 'face' failed in CUDA: .*{ILLEGAL}"):
        face.run(feeds)
    before = dict(lossy.device.calls)
    for graph in (face, fusion):
        name = graph.spec.name
        with pytest.raises(
            BackendError,
            match=rf"graph '{name}': the CUDA context was lost \(.*{ILLEGAL}.*\); open the model again",
        ):
            graph.run(feeds_of(bundle.graphs[name], 1))
    assert dict(lossy.device.calls) == before
    for graph in (face, fusion):
        graph.close()
        graph.close()


def test_an_error_that_passes(rig: Opened, bundle: Bundle) -> None:
    spec = bundle.graphs["face"]
    graph = rig.open(bundle, "face")
    graph.run(feeds_of(spec, 1))
    rig.device.fail("cuGraphLaunch", "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(BackendError, match="graph 'face' is out of memory on the device"):
        graph.run(feeds_of(spec, 1))
    same(
        graph.run(feeds_of(spec, 1)),
        OrtGraph(bundle.read_file("face.fp32.onnx"), spec).run(feeds_of(spec, 1)),
    )
    graph.close()


# Timing.

UP, COMPUTE, DOWN, MARK = "cuMemcpyHtoDAsync", "enqueue", "cuMemcpyDtoHAsync", "cuEventRecord"
COSTS = {UP: 0.002, COMPUTE: 0.005, DOWN: 0.001}  # seconds


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("binding", BINDINGS)
def test_the_parts_of_a_query(bundle: Bundle, version: str, binding: str) -> None:
    with opened(version, binding) as rig:
        graph = rig.open(bundle, "fusion")
        rig.device.asynchronous = True
        rig.device.costs = COSTS
        for transfers, captured in itertools.product([False, True], repeat=2):
            with graph.timed(feeds_of(graph.spec, 2), transfers=transfers, captured=captured) as timing:
                assert (timing.transfers, timing.in_place, timing.spin_wait) == (transfers, False, False)
                assert timing.captured == (captured and rig.library.cuda.captures)
                hold_to_its_parts(rig, graph.spec, timing)
        graph.close()


def hold_to_its_parts(rig: Opened, spec: GraphSpec, timing: Timing) -> None:
    """What one query does, in which order, and what that takes."""
    inputs, outputs = len(spec.inputs), len(spec.outputs)
    launches = rig.device.calls["cuGraphLaunch"]
    rig.device.done = []
    taken = next(timing.queries())
    done, rig.device.done = rig.device.done, None
    assert rig.device.calls["cuGraphLaunch"] == launches + 2 * timing.captured
    middle = [MARK, COMPUTE, MARK]
    if timing.transfers:
        assert done == 2 * [MARK, *[UP] * inputs, *middle, *[DOWN] * outputs, MARK]  # one is ahead
    else:
        assert done == 2 * middle
    right = (2.0 * inputs, 5.0, 1.0 * outputs) if timing.transfers else (0.0, 5.0, 0.0)
    assert (taken.h2d, taken.compute, taken.d2h) == pytest.approx(right)
    assert taken.latency == pytest.approx(sum(right))
    assert taken.enqueue > 0


def test_times_are_those_of_their_queries_and_one_is_ahead(
    rig: Opened, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The n-th query takes n ms to enqueue.
    clock = (moment for number in itertools.count(1) for moment in (0.0, 1e-3 * number))
    rig.device.costs = dict(COSTS)
    graph = rig.open(bundle, "face")
    monkeypatch.setattr(trt, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with graph.timed(feeds_of(graph.spec, 1), captured=False) as timing:
        queries, given = timing.queries(), []
        for milliseconds in (1, 2, 3, 4):
            rig.device.costs[COMPUTE] = 1e-3 * milliseconds
            given.append(next(queries))
    assert [one.compute for one in given] == pytest.approx([1, 1, 2, 3])
    assert [one.enqueue for one in given] == pytest.approx([1, 2, 3, 4])
    graph.close()


def test_a_query_that_is_on_its_way_is_waited_for(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    rig.device.asynchronous = True
    stream = rig.device._stream("a test", rig.library.cuda.stream)
    with graph.timed(feeds_of(graph.spec, 1)) as timing:
        queries = timing.queries()
        for _ in range(2):
            next(queries)
        assert stream.queue
    assert not stream.queue
    graph.close()


@pytest.mark.parametrize("captured", [False, True])
def test_queries_compute_the_feeds(rig: Opened, bundle: Bundle, captured: bool) -> None:
    spec = bundle.graphs["face"]
    feeds = feeds_of(spec, 3)
    right = OrtGraph(bundle.read_file("face.fp32.onnx"), spec).run(feeds)
    graph = rig.open(bundle, "face")
    outputs = graph.run(feeds)
    with graph.timed(feeds, captured=captured) as timing:
        for times in (timing.queries(), timing.launches()):
            outputs["tokens"].fill(0)
            next(times)  # type: ignore[call-overload]
            same(outputs, right)
    graph.close()


def test_the_time_of_a_run_s_one_launch(rig: Opened, bundle: Bundle) -> None:
    rig.device.costs = COSTS
    graph = rig.open(bundle, "face")
    with graph.timed(feeds_of(graph.spec, 1), transfers=False, captured=False) as timing:
        assert next(timing.launches()) == pytest.approx(
            8.0
        )  # both copies and the computation, whatever is split
    graph.close()


@pytest.mark.parametrize("spin_wait", [False, True])
def test_the_host_waits_as_it_was_told(
    rig: Opened, bundle: Bundle, spin_wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    real = rig.device.cuEventSynchronize

    def wait(event: int) -> None:
        waited.append(rig.device._primary.objects[event].flags)  # type: ignore[union-attr]
        real(event)

    monkeypatch.setattr(rig.device, "cuEventSynchronize", wait)
    graph = rig.open(bundle, "face")
    with graph.timed(feeds_of(graph.spec, 1), spin_wait=spin_wait) as timing:
        assert timing.spin_wait == spin_wait
        next(timing.queries())
    assert waited == [0 if spin_wait else 1]  # CU_EVENT_BLOCKING_SYNC
    graph.close()


def test_on_an_integrated_device_there_is_nothing_to_copy(bundle: Bundle) -> None:
    with opened(integrated=True) as rig:
        rig.device.costs = COSTS
        graph = rig.open(bundle, "face")
        with graph.timed(feeds_of(graph.spec, 1)) as timing:
            assert (timing.transfers, timing.in_place, timing.captured) == (False, True, True)
            taken = next(timing.queries())
            assert next(timing.launches()) == pytest.approx(5.0)
        assert (taken.h2d, taken.compute, taken.d2h) == pytest.approx((0.0, 5.0, 0.0))
        assert rig.device.calls[UP] == 0
        graph.close()


def test_a_dla_s_engine_is_timed_without_a_cuda_graph(rig: Opened, bundle: Bundle) -> None:
    plan = rig.build(bundle, "face", most=1).plan
    graph = TrtGraph(plan, bundle.graphs["face"], rig.library, encoding="fp32", most=1, dla_core=1)
    with graph.timed(feeds_of(graph.spec, 1)) as timing:
        assert not timing.captured and not list(timing.launches())
        next(timing.queries())
    graph.close()


def test_timing_leaves_nothing_and_runs_go_on(rig: Opened, bundle: Bundle) -> None:
    spec = bundle.graphs["face"]
    graph = rig.open(bundle, "face")
    feeds = feeds_of(spec, 2)
    for _ in range(2):
        graph.run(feeds)
    before, calls = held(rig), rig.device.calls.copy()
    with graph.timed(feeds) as timing:
        next(timing.queries())
        graph.run(feeds)
    assert held(rig) == before
    rig.device.calls.clear()
    same(graph.run(feeds), OrtGraph(bundle.read_file("face.fp32.onnx"), spec).run(feeds))
    assert rig.device.calls["cuGraphLaunch"] == 1 and calls["cuEventCreate"] == 0
    assert not [call for call in rig.device.calls if "Event" in call]  # a run has none
    graph.close()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_event_that_cannot_be_made(rig: Opened, bundle: Bundle, after: int) -> None:
    graph = rig.open(bundle, "face")
    before = held(rig)
    rig.device.fail("cuEventCreate", "CUDA_ERROR_OUT_OF_MEMORY", after=after)
    with (
        pytest.raises(BackendError, match="graph 'face' is out of memory on the device: cuEventCreate"),
        graph.timed(feeds_of(graph.spec, 1)),
    ):
        raise AssertionError("it began")
    assert held(rig) == before
    graph.close()


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_failure_while_timing_frees_what_was_made(bundle: Bundle, binding: str) -> None:
    with opened(binding=binding) as rig:
        graph = rig.open(bundle, "face")
        feeds = feeds_of(graph.spec, 1)
        before = held(rig)
        for call in (MARK, UP, DOWN, "cuEventSynchronize", "cuEventElapsedTime"):
            with (
                pytest.raises(BackendError, match=f"graph 'face' is out of memory on the device: {call}"),
                graph.timed(feeds) as timing,
            ):
                rig.device.fail(call, "CUDA_ERROR_OUT_OF_MEMORY")
                next(timing.queries())
            assert held(rig) == before
        graph.run(feeds)
        graph.close()


def test_an_execution_that_is_refused_while_timing(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    feeds = feeds_of(graph.spec, 1)
    before = held(rig)
    rig.knobs.refuse_execute = 1  # the run is a CUDA graph, which no longer asks
    with (
        pytest.raises(BackendError, match="graph 'face': TensorRT failed to run it"),
        graph.timed(feeds),
    ):
        raise AssertionError("it began")
    assert held(rig) == before
    graph.close()


@pytest.mark.parametrize(
    "call", ["cuEventRecord", "cuGraphLaunch", "cuEventSynchronize", "cuEventElapsedTime"]
)
def test_a_context_that_is_lost_while_timing(lossy: Opened, bundle: Bundle, call: str) -> None:
    graph = lossy.open(bundle, "face")
    feeds = feeds_of(graph.spec, 1)
    with graph.timed(feeds) as timing:
        times = timing.queries()
        next(times)
        lossy.device.fail(call, ILLEGAL)
        with pytest.raises(BackendError, match=f"graph 'face' failed in CUDA: {call} failed: {ILLEGAL}"):
            next(times)
        for again in (
            lambda: next(timing.queries()),
            lambda: next(timing.launches()),
            lambda: graph.run(feeds),
        ):
            with pytest.raises(
                BackendError,
                match=rf"graph 'face': the CUDA context was lost \(.*{ILLEGAL}.*\); open the model",
            ):
                again()
    graph.close()
    lossy.library.close()
    assert not lossy.device.warnings


def test_a_graph_that_is_closed_while_it_is_timed(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    with graph.timed(feeds_of(graph.spec, 1)) as timing:
        graph.close()
        for make in (lambda: next(timing.queries()), timing.launches):
            with pytest.raises(BackendError, match="graph 'face' was closed; open it again"):
                make()
    assert held(rig) == ["stream"]


def test_wrong_feeds_are_not_timed(rig: Opened, bundle: Bundle) -> None:
    graph = rig.open(bundle, "face")
    with (
        pytest.raises(BackendError, match="graph 'face': input 'face' is uint8"),
        graph.timed({"face": np.zeros((1, 48, 47, 1), np.uint8)}),
    ):
        raise AssertionError("it began")
    graph.close()
