"""GPU times over the doubles of TensorRT and CUDA, whose operations take what a test says."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import edgeemo
from edgeemo.bench.gpu import LIKE, GraphTimes, States, engine_build, gpu_times, time_graph, trtexec
from edgeemo.bench.statistics import summarise
from edgeemo.errors import BackendError, InputError
from edgeemo.inference import onnx_files
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import example
from edgeemo.inference.engines import EngineKey, Stored
from edgeemo.inference.spec import GraphSpec, TensorSpec
from edgeemo.recognition.recognizer import Recognizer
from tests.support import cuda_double, tensorrt_double
from tests.support.tensorrt_opened import VERSIONS, opened
from tests.support.tiny import write_bundle

GRAPHS = ("face", "voice", "fusion")
UP, COMPUTE, DOWN = "cuMemcpyHtoDAsync", "enqueue", "cuMemcpyDtoHAsync"
COSTS = {UP: 0.002, COMPUTE: 0.010, DOWN: 0.001}  # seconds


@dataclass
class Rig:
    """An emulated device with TensorRT, and a tiny bundle."""

    bundle: Path
    cache: Path
    device: cuda_double.Device
    trt: Any

    def load(self, backend: str = "tensorrt") -> Recognizer:
        return edgeemo.load(self.bundle, backend=backend)

    @property
    def sidecars(self) -> list[Path]:
        return sorted((self.cache / "engines").glob(f"*-{16 * '?'}.json"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def rig(
    request: pytest.FixtureRequest, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    version, integrated = getattr(request, "param", (VERSIONS[0], False))
    monkeypatch.setenv("EDGEEMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(onnx_files, "saturates", lambda: False)
    with (
        cuda_double.installed("cuda-python", integrated=integrated) as device,
        tensorrt_double.installed(version, device) as trt,
    ):
        device.costs = dict(COSTS)
        yield Rig(bundle, tmp_path / "cache", device, trt)
        if device.lost is None:
            device.assert_clean()


class Clock:
    """A clock that nothing moves but asking it, by 0.01 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


# --- a model


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize(
    "rig", [(VERSIONS[0], False), (VERSIONS[-1], False), (VERSIONS[0], True)], indirect=True, ids=str
)
def test_what_each_graph_takes(rig: Rig, like: str) -> None:
    with rig.load() as model:
        builds = rig.trt._double.builds
        times = gpu_times(model, like, seconds=0.5, warm_up=0.05, clock=Clock())
        assert rig.trt._double.builds == builds  # found
    assert times is not None and tuple(times.graphs) == GRAPHS and not times.unmeasured
    asked = LIKE[like]
    copies = asked.transfers and not rig.device.integrated
    assert times.states == replace(asked, transfers=copies)
    for name, one in times.graphs.items():
        spec = model.bundle.graphs[name]
        up, down = (2.0 * len(spec.inputs), 1.0 * len(spec.outputs)) if copies else (0.0, 0.0)
        for part, right in (("h2d", up), ("compute", 10.0), ("d2h", down), ("latency", up + 10.0 + down)):
            figures = getattr(one, part)
            assert [figures.min, figures.mean, figures.max] == pytest.approx([right] * 3)
        assert one.launch is not None  # all of a step, however queries are made
        step = 10.0 if rig.device.integrated else 10.0 + 2.0 * len(spec.inputs) + len(spec.outputs)
        assert one.launch.mean == pytest.approx(step)
        assert one.in_place == rig.device.integrated
        assert one.latency.n == 50 and one.walltime == pytest.approx(0.5)
        assert one.throughput == pytest.approx(100)
        assert one.total_compute == pytest.approx(0.5)


def test_at_least_ten_queries(rig: Rig) -> None:
    with rig.load() as model:
        times = gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
    assert times is not None
    assert {one.latency.n for one in times.graphs.values()} == {10}


def test_the_model_answers_after(rig: Rig) -> None:
    with rig.load() as model:
        graph = model.graphs["face"]
        before = graph.run(example(graph.spec))["tokens"].copy()
        gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
        assert (graph.run(example(graph.spec))["tokens"] == before).all()


def test_graphs_of_onnx_runtime_have_no_gpu_times(rig: Rig) -> None:
    with rig.load("onnx") as model:
        calls = rig.device.calls.copy()
        assert gpu_times(model) is None and engine_build(model) is None
        assert rig.device.calls == calls


def test_an_unknown_name(rig: Rig) -> None:
    with (
        rig.load("onnx") as model,
        pytest.raises(
            InputError, match="like is 'trtexec 9'; it must be one of edgeemo, trtexec 10, trtexec"
        ),
    ):
        gpu_times(model, "trtexec 9")


def test_an_engine_that_is_gone_is_told_and_not_built(rig: Rig) -> None:
    with rig.load() as model:
        for path in (rig.cache / "engines").glob("tiny-voice-*"):
            path.unlink()
        times = gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
        assert times is not None and tuple(times.graphs) == ("face", "fusion")
        assert times.unmeasured == {"voice": "its engine was not kept; 'edgeemo build' keeps it"}
        assert "voice: not measured, its engine was not kept" in str(times)
        assert engine_build(model).keys() == {"face", "fusion"}  # type: ignore[union-attr]
        assert rig.trt._double.builds == len(GRAPHS)


def test_a_context_that_is_lost(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with rig.load() as model:
        rig.device.fail("cuEventSynchronize", "CUDA_ERROR_LAUNCH_FAILED", after=3)
        with pytest.raises(
            BackendError, match=r"graph 'face' failed in CUDA: cuEventSynchronize failed: .*context is lost"
        ):
            gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
    assert not [record for record in caplog.records if "closing" in record.message]


def test_a_failure_leaves_nothing(rig: Rig) -> None:
    with rig.load() as model:
        before = rig.device.live
        rig.device.fail("cuEventRecord", "CUDA_ERROR_OUT_OF_MEMORY", after=5)
        with pytest.raises(BackendError, match="graph 'face' is out of memory on the device"):
            gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
        assert rig.device.live == before


def test_building_is_told_from_what_is_kept(rig: Rig) -> None:
    with rig.load() as model:
        for number, path in enumerate(rig.sidecars):
            sidecar = json.loads(path.read_text("utf-8"))
            assert sidecar["report"]["seconds"] >= 0
            sidecar["report"]["seconds"] = 1.5 + number
            path.write_text(json.dumps(sidecar), "utf-8")
        builds = rig.trt._double.builds
        assert engine_build(model) == {"face": 1.5, "fusion": 2.5, "voice": 3.5}  # in the order of the files
        assert rig.trt._double.builds == builds


# --- what is written


def graph_times(
    states: States = LIKE["edgeemo"],
    *,
    enqueue: float = 0.1,
    h2d: float = 0.2,
    compute: float = 1.0,
    **other: Any,
) -> GraphTimes:
    """Ten queries in 0.02 s, the last of which computes for `last`, in milliseconds."""
    last, d2h = other.pop("last", compute), other.pop("d2h", 0.1)
    computes = [*[compute] * 9, last]
    return GraphTimes(
        engine="tensorrt 10.3.0 on Orin",
        encoding="int8",
        states=states,
        in_place=other.pop("in_place", False),
        latency=summarise([h2d + one + d2h for one in computes]),
        enqueue=summarise([enqueue] * 10),
        h2d=summarise([h2d] * 10),
        compute=summarise(computes),
        d2h=summarise([d2h] * 10),
        launch=None,
        walltime=0.02,
        **other,
    )


@pytest.mark.parametrize(
    ("times", "warns"),
    [
        ({}, []),
        ({"enqueue": 0.8}, []),
        ({"enqueue": 0.81}, [r"bound by enqueueing: its median, 0\.810 ms"]),
        ({"h2d": 0.99}, []),
        ({"h2d": 1.0}, ["bound by host-to-device copies"]),
        (
            {"h2d": 1.0, "d2h": 1.2},
            ["host-to-device", "bound by device-to-host copies: their median, 1.200 ms"],
        ),
        ({"last": 1.08}, []),  # 2.38 %
        ({"last": 1.09}, ["unstable: the coefficient of variation of the computation is 2.7%"]),
    ],
)
def test_warnings(times: dict[str, Any], warns: list[str]) -> None:
    given = graph_times(**times).warnings
    assert len(given) == len(warns)
    for one, right in zip(given, warns, strict=True):
        assert re.search(right, one)


def test_remedies_name_what_is_not_done_yet() -> None:
    off, on = States(True, False, False), States(True, True, True)
    first, _ = graph_times(off, enqueue=2.0, last=2.0).warnings
    assert first.endswith("a CUDA graph takes less")
    first, second = graph_times(on, enqueue=2.0, last=2.0).warnings
    assert "CUDA graph" not in first and "spin-wait" not in second


def test_the_summary_is_trtexec_s() -> None:
    lines = str(graph_times(LIKE["trtexec 10"])).splitlines()
    assert lines[0] == "int8 on tensorrt 10.3.0 on Orin: transfers on, CUDA graph off, spin-wait off"
    assert lines[1:] == [
        "Throughput: 500 qps",
        "Latency: " + SEVEN.format(*[1.3] * 7),
        "Enqueue Time: " + SEVEN.format(*[0.1] * 7),
        "H2D Latency: " + SEVEN.format(*[0.2] * 7),
        "GPU Compute Time: " + SEVEN.format(*[1] * 7),
        "D2H Latency: " + SEVEN.format(*[0.1] * 7),
        "Total Host Walltime: 0.02 s",
        "Total GPU Compute Time: 0.01 s",
    ]


SEVEN = (
    "min = {} ms, max = {} ms, mean = {} ms, median = {} ms, percentile(90%) = {} ms, "
    "percentile(95%) = {} ms, percentile(99%) = {} ms"
)


def test_zero_copy_is_told() -> None:
    text = str(graph_times(States(False, True, False), in_place=True, h2d=0.0, d2h=0.0))
    assert "nothing is copied, the GPU reads and writes the host's memory in place" in text.splitlines()[0]


def test_json_holds_the_three_facts_and_every_part(rig: Rig) -> None:
    with rig.load() as model:
        times = gpu_times(model, "trtexec 11", seconds=0.0, warm_up=0.0, clock=Clock())
    assert times is not None
    written = json.loads(json.dumps(times.to_dict()))
    assert list(written) == ["timing", "transfers", "graph", "spin_wait", "graphs", "unmeasured"]
    assert written["timing"] == "cuda events"
    assert (written["transfers"], written["graph"], written["spin_wait"]) == (False, True, True)
    face = written["graphs"]["face"]
    assert face["compute"]["p50"] == pytest.approx(10.0) and face["compute"]["n"] == 10
    assert face["h2d"]["p99"] == 0.0 and face["h2d"]["cv"] is None
    assert face["total_compute"] == pytest.approx(0.1) and face["throughput"] == pytest.approx(100)
    assert face["trtexec"].startswith("trtexec --loadEngine=")


def test_what_one_graph_could_not_do_is_off(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with rig.load() as model:
        rig.device.fail("cuGraphInstantiate", "CUDA_ERROR_NOT_SUPPORTED", times=2)
        with caplog.at_level(logging.WARNING, "edgeemo"):
            times = gpu_times(model, seconds=0.0, warm_up=0.0, clock=Clock())
    assert times is not None
    assert {name: one.states.graph for name, one in times.graphs.items()} == {
        "face": False,
        "voice": False,
        "fusion": True,
    }
    assert not times.states.graph and times.graphs["face"].launch is None
    assert "runs without CUDA graphs" in caplog.text


# --- trtexec

SPEC = GraphSpec(
    "fusion",
    "fuse",
    1,
    {
        "face": TensorSpec("face", "float32", ("N", 40, 128)),
        "mask": TensorSpec("mask", "float32", ("N", 40)),
        "voice": TensorSpec("voice", "float32", (1, 40, 128)),
    },
    {},
    {},
)
REST = ["--warmUp=200", "--duration=3", "--iterations=10", "--percentile=90,95,99"]


def stored(version: str = "10.3.0", path: str | None = "/c/e.engine", dla_core: int | None = None) -> Stored:
    settings = {"dla_core": dla_core}
    key = EngineKey("b", "fusion", "0", "int8", {}, version, 12, "8.7", "Orin", settings)
    return Stored(key, b"", {}, None if path is None else Path(path))


@pytest.mark.parametrize(
    ("version", "states", "flags"),
    [
        ("10.3.0", LIKE["trtexec 10"], []),
        ("11.4.0.106", LIKE["trtexec 11"], []),
        ("10.3.0", LIKE["trtexec 11"], ["--noDataTransfers", "--useCudaGraph", "--useSpinWait"]),
        ("11.4.0.106", LIKE["trtexec 10"], ["--includeDataTransfers", "--noCudaGraph", "--noSpinWait"]),
        ("10.3.0", LIKE["edgeemo"], ["--useCudaGraph"]),
        ("11.4.0.106", LIKE["edgeemo"], ["--includeDataTransfers", "--noSpinWait"]),
    ],
)
def test_the_command_says_what_is_not_trtexec_s_default(
    version: str, states: States, flags: list[str]
) -> None:
    written = trtexec(stored(version), SPEC, states)
    assert written is not None
    assert shlex.split(written) == [
        "trtexec",
        "--loadEngine=/c/e.engine",
        "--shapes=face:1x40x128,mask:1x40",
        *flags,
        *REST,
    ]


def test_commands_of_other_engines() -> None:
    fixed = replace(SPEC, inputs={"voice": SPEC.inputs["voice"]})
    written = trtexec(stored(dla_core=1, path="/my cache/e.engine"), fixed, States(True, False, False))
    assert shlex.split(written or "") == [
        "trtexec",
        "--loadEngine=/my cache/e.engine",
        "--useDLACore=1",
        *REST,
    ]
    assert trtexec(stored(path=None), SPEC, LIKE["edgeemo"]) is None


def test_a_graph_that_is_open_is_measured_as_it_is(bundle: Path) -> None:
    with opened(binding="pycuda") as rig:
        rig.device.costs = dict(COSTS)
        graph = rig.open(Bundle.read(bundle), "face")
        times = time_graph(graph, LIKE["edgeemo"], seconds=0.0, warm_up=0.0, clock=Clock())
        assert times.states == States(True, False, False)  # pycuda cannot capture
        assert times.launch is None and times.trtexec is None
        assert times.latency.mean == pytest.approx(13.0)
        graph.close()
